"""MCP servers, over stdio and HTTP: real processes of the official package."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mcp.client
import pytest
import trio
from models.serving import ask, end_of, of_kind, talking
from structlog.testing import capture_logs
from support.memory import Client, Frame
from support.model_server import calls, open_model_server, results_in, says
from support.ports import kept_port

from netra_trio.errors import ToolError
from netra_trio.models import McpServer
from netra_trio.models.mcp import connection
from netra_trio.models.mcp.tools import open_servers

SCRIPT = Path(__file__).parents[1] / "support" / "mcp_server.py"
COMMAND = shlex.join([sys.executable, str(SCRIPT)])
TIME = shlex.join([str(Path(sys.executable).with_name("mcp-server-time"))])
PATIENCE = 60.0

# The HTTP client of the package `mcp` leaves generators of answers to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BACK_OFF", 0.05)


@pytest.fixture
def legacy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speak the protocol of before 2026, in which a server sends questions as requests."""
    monkeypatch.setattr(connection, "Client", partial(mcp.client.Client, mode="legacy"))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.touch()
    return path


async def until(holds: Callable[[], bool]) -> None:
    """Poll what another process does, or what has no event."""
    with trio.fail_after(PATIENCE):
        while not holds():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def wait_for(journal: Path, line: str, count: int = 1) -> None:
    await until(lambda: journal.read_text().splitlines().count(line) >= count)


def stdio(journal: Path, **options: Any) -> McpServer:
    return McpServer(COMMAND, "test", env={"MCP_JOURNAL": str(journal)}, **options)


@contextmanager
def serving_http(port: int, journal: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server over HTTP, until the end of the block."""
    output = journal.with_suffix(".output")
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, str(SCRIPT), str(port)],
            env={"MCP_JOURNAL": str(journal)},
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while "Uvicorn running" not in output.read_text():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["stdio", "http"])
def server(request: pytest.FixtureRequest, journal: Path) -> Iterator[McpServer]:
    """Return a server over each transport."""
    if request.param == "stdio":
        yield stdio(journal)
        return
    with kept_port() as port, serving_http(port, journal):
        yield McpServer(f"http://127.0.0.1:{port}/mcp", "test")


@asynccontextmanager
async def connected(*servers: McpServer) -> AsyncIterator[dict[str, Any]]:
    """Return the tools of servers by name."""
    with trio.fail_after(PATIENCE):
        async with open_servers(servers) as toolbox:
            yield {tool.name: tool for tool in toolbox.tools(taken=())}


async def test_a_model_calls_tools_of_two_servers_and_a_function(server: McpServer) -> None:
    async def double(number: int) -> int:
        return 2 * number

    async with open_model_server() as models:
        models.will(
            calls(
                ("add", {"a": 1, "b": 2}),
                ("get_current_time", {"timezone": "Europe/Oslo"}),
                ("double", {"number": 4}),
                ("fail", {"text": "no"}),
                ("add", {"a": "x"}),
            ),
            says("ok"),
        )
        async with talking(models, tools=[double], mcp=[server, TIME]) as client:
            frames = await ask(client, "go")
    names = [each["function"]["name"] for each in models.requests[0].body["tools"]]
    assert names[:3] == ["double", "echo", "add"]
    assert "get_current_time" in names
    assert "dotted_name" in names
    results = results_in(models.requests[1].body["messages"])
    assert results[0] == '{"sum":3}'
    assert '"timezone":"Europe/Oslo"' in results[1]
    assert results[2] == "8"
    assert results[3] == "Error: Error executing tool fail"
    assert results[4].startswith("Error: Error executing tool add: 2 validation errors")
    assert end_of(frames)["status"] == "completed"
    assert len(of_kind(frames, "tool_completed", "success")) == 5


async def test_results(server: McpServer) -> None:
    async with connected(server) as tools:
        run: Any = None
        assert await tools["echo"].call(run, {"text": "é"}) == "é"
        assert await tools["dotted_name"].call(run, {}) == "dotted"
        assert await tools["many"].call(run, {}) == "a text\n[image]\nin a resource"
        assert tools["add"].description == "Add two numbers."
        assert tools["add"].parameters["properties"]["a"]["type"] == "integer"


async def test_an_argument_whose_name_has_a_meaning_does_not_ask(journal: Path) -> None:
    async with open_model_server() as models:
        models.will(calls(("approve", {"approve": True})), says("ok"))
        async with talking(models, mcp=[stdio(journal)]) as client:
            frames = await ask(client, "go")
    assert of_kind(frames, "tool_executing", "arguments") == [{"arguments": {"approve": True}}]
    assert results_in(models.requests[1].body["messages"]) == ["true"]
    assert of_kind(frames, "agent_asking", "kind") == []


async def answer(client: Client, **payload: Any) -> list[Frame]:
    """Answer the next question, and return the frames up to the end of the run."""
    frames = await client.until("agent_asking")
    question = frames[-1]["payload"]["question_id"]
    await client.send("answer", {"question_id": question, **payload})
    return frames + await client.until("agent_completed")


@pytest.mark.parametrize("approve", [True, False])
async def test_an_approval(journal: Path, approve: bool) -> None:
    server = stdio(journal, approve=["echo"])
    async with open_model_server() as models:
        models.will(calls(("echo", {"text": "a"})), says("ok"))
        async with talking(models, mcp=[server]) as client:
            await client.say("go")
            frames = await answer(client, approve=approve)
    asked = next(frame["payload"] for frame in frames if frame["type"] == "agent_asking")
    assert (asked["kind"], asked["tool_name"]) == ("approval", "echo")
    assert asked["arguments"] == {"text": "a"}
    (result,) = results_in(models.requests[1].body["messages"])
    assert result == ("a" if approve else "Error: the call of echo was not approved: denied")
    assert len(of_kind(frames, "tool_executing", "tool_name")) == int(approve)


async def question(server: McpServer, journal: Path) -> None:
    """Check that a question of a server reaches the user, and the answer the server."""
    async with open_model_server() as models:
        models.will(calls(("ask", {"question": "Which size?"})), says("ok"))
        async with talking(models, mcp=[server]) as client:
            await client.say("go")
            frames = await answer(client, answer={"size": 7})
    asked = next(frame["payload"] for frame in frames if frame["type"] == "agent_asking")
    assert (asked["kind"], asked["prompt"]) == ("question", "Which size?")
    assert asked["schema"]["properties"]["size"]["type"] == "integer"
    assert results_in(models.requests[1].body["messages"]) == ["accept 7"]
    await wait_for(journal, "ask: accept")


async def test_a_question_of_a_server(server: McpServer, journal: Path) -> None:
    await question(server, journal)


@pytest.mark.usefixtures("legacy")
async def test_a_question_of_a_server_in_the_old_protocol(server: McpServer, journal: Path) -> None:
    await question(server, journal)


@pytest.mark.usefixtures("legacy")
async def test_a_question_that_may_belong_to_two_calls_reaches_no_user(journal: Path) -> None:
    with capture_logs() as logs:
        async with open_model_server() as models:
            models.will(calls(("slow", {"seconds": 30}), ("ask", {"question": "?"})), says("ok"))
            async with talking(models, mcp=[stdio(journal)]) as client:
                await client.say("go")
                run = (await client.until("tool_completed"))[-1]["payload"]
                assert run["result"] == "decline"
                await client.send("stop_agent", {"run_id": run["run_id"]})
                await client.until("agent_completed")
    assert [line["calls"] for line in logs if line["event"] == "mcp_question_declined"] == [2]


class Answering:
    """A run whose user answers every question at once."""

    id = "run_1"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    async def ask(self, prompt: str, schema: Any) -> Any:
        assert schema["properties"].keys() == {"size"}
        self.prompts.append(prompt)
        return {"size": 7}


@pytest.mark.usefixtures("legacy")
async def test_a_late_question_of_a_stopped_call_reaches_no_user(journal: Path) -> None:
    first, second = Answering(), Answering()
    async with connected(stdio(journal)) as tools, trio.open_nursery() as nursery:
        nursery.start_soon(tools["slow"].call, first, {"seconds": 300})
        await wait_for(journal, "slow began")
        async with trio.open_nursery() as stopped:
            stopped.start_soon(tools["ask_late"].call, second, {"question": "secret?"})
            await wait_for(journal, "ask_late began")
            stopped.cancel_scope.cancel()
        await wait_for(journal, "ask_late: decline")
        nursery.cancel_scope.cancel()
    assert first.prompts == second.prompts == []


@pytest.mark.usefixtures("legacy")
async def test_questions_after_a_stop_reach_a_user_on_the_next_connection(journal: Path) -> None:
    run: Any = Answering()
    with capture_logs() as logs:
        async with connected(stdio(journal, timeout=20)) as tools:
            assert await tools["ask"].call(run, {"question": "1?"}) == "accept 7"
            async with trio.open_nursery() as stopped:
                stopped.start_soon(tools["slow"].call, run, {"seconds": 300})
                await wait_for(journal, "slow began")
                stopped.cancel_scope.cancel()
            assert await tools["ask"].call(run, {"question": "2?"}) == "decline"
            with pytest.raises(ToolError, match="Connection closed"):
                await tools["die"].call(run, {})
            await until(lambda: [line["event"] for line in logs].count("mcp_connected") == 2)
            assert await tools["ask"].call(run, {"question": "3?"}) == "accept 7"
    assert run.prompts == ["1?", "3?"]


@pytest.mark.parametrize("protocol", ["new", "old"])
async def test_a_stop_within_a_question(
    journal: Path, protocol: str, request: pytest.FixtureRequest
) -> None:
    if protocol == "old":
        request.getfixturevalue("legacy")
    async with open_model_server() as models:
        models.will(calls(("ask", {"question": "?"})), calls(("echo", {"text": "a"})), says("ok"))
        async with talking(models, mcp=[stdio(journal)]) as client:
            await client.say("go")
            asked = (await client.until("agent_asking"))[-1]["payload"]
            await client.send("stop_agent", {"run_id": asked["run_id"]})
            frames = await client.until("agent_completed")
            assert end_of(frames)["status"] == "cancelled"
            assert of_kind(frames, "agent_answered", "outcome") == ["cancelled"]
            assert end_of(await ask(client, "again"))["status"] == "completed"


async def test_a_stop_cancels_the_call_at_the_server(server: McpServer, journal: Path) -> None:
    async with open_model_server() as models:
        models.will(calls(("slow", {"seconds": 300})))
        async with talking(models, mcp=[server]) as client:
            await client.say("go")
            run = (await client.until("tool_executing"))[-1]["payload"]
            await wait_for(journal, "slow began")
            began = time.monotonic()
            await client.send("stop_agent", {"run_id": run["run_id"]})
            assert end_of(await client.until("agent_completed"))["status"] == "cancelled"
            await wait_for(journal, "slow was cancelled")
            assert time.monotonic() - began < 30


async def test_the_time_limit_of_a_call(journal: Path) -> None:
    async with open_model_server() as models:
        models.will(calls(("slow", {"seconds": 300})), says("ok"))
        async with talking(models, mcp=[stdio(journal, timeout=0.3)]) as client:
            frames = await ask(client, "go")
            await wait_for(journal, "slow was cancelled")
    assert of_kind(frames, "tool_completed", "error") == ["no answer within 0.3 s"]
    assert end_of(frames)["status"] == "completed"


async def test_the_time_limit_stands_still_while_the_user_is_asked(journal: Path) -> None:
    async with open_model_server() as models:
        models.will(calls(("ask", {"question": "?"})), says("ok"))
        async with talking(models, mcp=[stdio(journal, timeout=1.0)]) as client:
            await client.say("go")
            asked = (await client.until("agent_asking"))[-1]["payload"]
            await trio.sleep(1.5)
            await client.send(
                "answer", {"question_id": asked["question_id"], "answer": {"size": 1}}
            )
            await client.until("agent_completed")
    assert results_in(models.requests[1].body["messages"]) == ["accept 1"]


async def test_a_server_that_dies_fails_its_tools_and_is_started_again(journal: Path) -> None:
    with capture_logs() as logs:
        async with open_model_server() as models:
            models.will(
                calls(("die", {}), ("slow", {"seconds": 300})),
                says("ok"),
                calls(("echo", {"text": "back"})),
                says("ok"),
            )
            async with talking(models, mcp=[stdio(journal)]) as client:
                frames = await ask(client, "go")
                await wait_for(journal, "started", 2)
                await until(lambda: [line["event"] for line in logs].count("mcp_connected") == 2)
                again = await ask(client, "again")
    assert end_of(frames)["status"] == end_of(again)["status"] == "completed"
    errors = of_kind(frames, "tool_completed", "error")
    assert errors == ["the MCP server test: Connection closed"] * 2
    assert of_kind(again, "tool_completed", "result") == ["back"]
    (lost,) = (line for line in logs if line["event"] == "mcp_lost")
    assert (lost["server"], lost["reason"]) == ("test", "it ended")


async def test_a_server_over_http_that_is_restarted(journal: Path) -> None:
    with kept_port() as port:
        server = McpServer(f"http://127.0.0.1:{port}/mcp", "test")
        with serving_http(port, journal) as process:
            async with connected(server) as tools:
                run: Any = None
                assert await tools["echo"].call(run, {"text": "a"}) == "a"
                process.kill()
                process.wait()
                with pytest.raises(Exception, match="the MCP server test"):
                    await tools["echo"].call(run, {"text": "a"})
                with serving_http(port, journal):
                    await until_it_answers(tools["echo"])


async def until_it_answers(tool: Any) -> None:
    while True:
        try:
            assert await tool.call(None, {"text": "b"}) == "b"
        except Exception:
            await trio.sleep(0.02)
        else:
            return


async def test_servers_that_cannot_be_reached_do_not_stop_the_start(journal: Path) -> None:
    with kept_port() as port, capture_logs() as logs:
        servers = [
            McpServer("/nowhere/program --key=secret", "first"),
            McpServer(f"http://127.0.0.1:{port}/mcp?key=secret", "second"),
            McpServer("true", "third"),
            stdio(journal),
        ]
        async with connected(*servers) as tools:
            assert await tools["echo"].call(None, {"text": "a"}) == "a"
    reasons = {line["server"]: line["reason"] for line in logs if line["event"] == "mcp_lost"}
    assert reasons.keys() == {"first", "second", "third"}
    assert reasons["first"].startswith("there is no command ")
    assert "secret" not in str(logs)


async def test_an_error_during_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting = trio.Event()

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise trio.BrokenResourceError

    @asynccontextmanager
    async def broken(*_: object) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            connecting.set()
            await trio.Event().wait()
            yield

    monkeypatch.setattr(connection, "open_transport", broken)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.McpConnection(McpServer("a-command")).run)
        await connecting.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "START_SECONDS", 0.3)
    with capture_logs() as logs:
        async with connected(McpServer("sleep 300")) as tools:
            assert tools == {}
    assert {line["reason"] for line in logs} == {"no answer within 0.3 s"}


@pytest.mark.parametrize("protocol", ["new", "old"])
async def test_the_tools_change(
    journal: Path, protocol: str, request: pytest.FixtureRequest
) -> None:
    if protocol == "old":
        request.getfixturevalue("legacy")
    async with open_servers([stdio(journal)]) as toolbox:
        tools = {tool.name: tool for tool in toolbox.tools(())}
        assert await tools["grow"].call(None, {}) == "ok"  # type: ignore[arg-type]
        await until(lambda: "grown" in {tool.name for tool in toolbox.tools(())})


async def test_the_environment_of_a_command(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("JWT_SECRET_KEY", "secret")
    monkeypatch.setenv("UV_INDEX_URL", "http://127.0.0.1/simple")
    async with connected(stdio(journal)) as tools:
        names = await tools["environment"].call(None, {})
    assert {"PATH", "UV_INDEX_URL", "MCP_JOURNAL"} <= set(names)
    assert not {"OPENAI_API_KEY", "JWT_SECRET_KEY"} & set(names)


async def test_urls_with_a_user_are_not_given_to_a_command(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = {
        "HTTP_PROXY": "http://me:secret@127.0.0.1:9",
        "https_proxy": "me:secret@127.0.0.1:9",
        "UV_DEFAULT_INDEX": "own=https://token@127.0.0.1/simple",
        "PIP_INDEX_URL": "https://me:secret@127.0.0.1/simple",
        "NPM_CONFIG_REGISTRY": "https://127.0.0.1/npm",
    }
    for name, url in urls.items():
        monkeypatch.setenv(name, url)
    server = stdio(journal)
    server = McpServer(server.where, "test", env={**server.env, "PIP_INDEX_URL": "x@y"})
    with capture_logs() as logs:
        async with connected(server) as tools:
            names = await tools["environment"].call(None, {})
    assert urls.keys() & set(names) == {"PIP_INDEX_URL", "NPM_CONFIG_REGISTRY"}
    left_out = [line["variable"] for line in logs if line["event"] == "mcp_variable_left_out"]
    assert left_out == ["HTTP_PROXY", "https_proxy", "UV_DEFAULT_INDEX"]
    assert "secret" not in str(logs)


async def test_the_error_output_is_logged(journal: Path) -> None:
    with capture_logs() as logs:
        async with connected(stdio(journal)) as tools:
            await tools["noise"].call(None, {"lines": 1, "text": "a word"})
            await until(lambda: any(line.get("line") == "a word" for line in logs))
    (line,) = (line for line in logs if line.get("line") == "a word")
    assert (line["event"], line["server"]) == ("mcp_output", "test")


async def test_no_process_is_left_behind(journal: Path) -> None:
    async with connected(stdio(journal)):
        pass
    (process,) = re.findall(r"process (\d+)", journal.read_text())  # noqa: ASYNC240 - a short file
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)
