"""The one exception of an agent whose text the client receives."""

import pytest
from structlog.testing import capture_logs
from support.memory import open_server

from netra_trio import Run
from netra_trio.agents.execution import ERROR_BYTES
from netra_trio.errors import AgentError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Come back tomorrow.", "Come back tomorrow."),
        ("", "The agent failed."),
        ("a\udc80", "a?"),
        ("é" * (ERROR_BYTES // 2), "é" * (ERROR_BYTES // 2)),
        ("é" * (ERROR_BYTES // 2) + "x", "é" * (ERROR_BYTES // 2)),
    ],
)
async def test_its_text_is_sent_and_logged_without_a_traceback(text: str, shown: str) -> None:
    async def closed(run: Run) -> None:
        raise AgentError(text)

    with capture_logs() as logs:
        async with open_server(agents={"closed": closed}) as server, server.connect() as client:
            await client.say("hi")
            end = (await client.until("agent_completed"))[-1]["payload"]
    assert end["status"] == "failed"
    assert (end["error"]["code"], end["error"]["error"]) == ("AGENT_ERROR", shown)
    (line,) = (line for line in logs if line["event"] == "run_failed")
    assert line["error_id"] == end["error"]["error_id"]
    assert line["exc_info"].__traceback__ is None


async def test_one_that_cannot_be_printed() -> None:
    class Broken(AgentError):
        def __str__(self) -> str:
            raise ValueError

    async def closed(run: Run) -> None:
        raise Broken

    async with open_server(agents={"closed": closed}) as server, server.connect() as client:
        await client.say("hi")
        end = (await client.until("agent_completed"))[-1]["payload"]
    assert end["error"]["error"] == "The agent failed."


async def test_a_group_with_it_is_like_any_other_exception() -> None:
    async def closed(run: Run) -> None:
        raise ExceptionGroup("several", [AgentError("a"), ValueError("secret")])

    async with open_server(agents={"closed": closed}) as server, server.connect() as client:
        await client.say("hi")
        end = (await client.until("agent_completed"))[-1]["payload"]
    assert end["error"]["error"] == "The agent failed."
