"""The client in an asyncio program: the example of `docs/client.md`."""

import asyncio
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from support.server import SOON, serving, sign, write_agents

from netra_trio.client import ConnectionRefused

pytestmark = pytest.mark.unmeasured

PAGE = Path(__file__).parent.parent.parent / "docs" / "client.md"
WAIT = """
import trio


async def wait(run):
    await run.emit("begun")
    await trio.sleep_forever()
"""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the example of the page as a module."""
    (example,) = [
        block.partition("```")[0]
        for block in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
        if "start_guest_run" in block
    ]
    module = types.ModuleType("documented_asyncio")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(example, str(PAGE), "exec"), module.__dict__)  # noqa: S102 - our own page
    return module


def test_an_answer(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as server:

        async def main() -> str:
            answer: str = await asyncio.wait_for(page.main(server.url, sign()), SOON)
            return answer

        assert asyncio.run(main()).startswith("Hello!")


def test_a_refusal_is_raised(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as server:

        async def main() -> None:
            with pytest.raises(ExceptionGroup) as caught:
                await asyncio.wait_for(page.main(server.url, "wrong"), SOON)
            assert caught.group_contains(ConnectionRefused, match="three parts")

        asyncio.run(main())


def test_a_cancelled_program_closes_its_client(page: Any, tmp_path: Path) -> None:
    write_agents(tmp_path, WAIT)
    with serving(tmp_path, "--agent=outside_agents:wait") as server:

        async def main() -> None:
            events: asyncio.Queue[Any] = asyncio.Queue()
            talking = asyncio.create_task(
                page.in_trio(page.talk, server.url, sign(), "hello", events)
            )
            while (await asyncio.wait_for(events.get(), SOON)).type != "partial_result":
                pass
            talking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(talking, SOON)

        asyncio.run(main())
        (line,) = server.process.wait_log("connection_ended")
        assert (line["reason"], line["peer_code"]) == ("peer_closed", 1000)
