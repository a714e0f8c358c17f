"""Parts of a connection to an MCP server: its error output, its streams, its questions."""

from math import inf
from typing import Any

import anyio
import pytest
import trio
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ListToolsResult,
    ServerCapabilities,
    Tool,
)
from structlog.testing import capture_logs
from trio.testing import memory_stream_one_way_pair

from netra_trio.errors import QuestionExpired, ToolError
from netra_trio.models.mcp import connection, transport
from netra_trio.models.mcp.call import Call
from netra_trio.models.mcp.connection import McpConnection
from netra_trio.models.mcp.open_calls import OpenCalls
from netra_trio.models.mcp.server import McpServer

SCHEMA = {"type": "object", "properties": {"size": {"type": "integer"}}}
FORM = ElicitRequestFormParams(message="Which size?", requested_schema=SCHEMA)


# The error output.


async def output_of(*pieces: bytes | float) -> list[tuple[str, int]]:
    """Return the logged lines, with the number of dropped ones before each.

    Args:
        pieces: What the server writes, and pauses in seconds.
    """
    writing, reading = memory_stream_one_way_pair()
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport._log_lines, reading, "test")
            for piece in pieces:
                if isinstance(piece, bytes):
                    await writing.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()
                else:
                    await trio.sleep(piece)
            await writing.aclose()
    assert {line["server"] for line in logs} <= {"test"}
    return [(line["line"], line["dropped"]) for line in logs]


async def test_lines(autojump_clock: object) -> None:
    assert await output_of(b"a\nb", b"c\n", b"\n \n", b"\xff\n", b"end") == [
        ("a", 0),
        ("bc", 0),
        ("\ufffd", 0),
        ("end", 0),
    ]
    assert await output_of() == []


async def test_a_long_line_is_cut(autojump_clock: object) -> None:
    limit = transport.LINE_BYTES
    assert await output_of(b"x" * limit + b"\n") == [("x" * limit, 0)]
    assert await output_of(b"x" * (limit + 1), b"x" * 10_000, b"\ny\n") == [
        ("x" * limit, 0),
        ("y", 0),
    ]


async def test_the_number_of_lines_in_an_interval(autojump_clock: object) -> None:
    lines = await output_of(
        b"a\n" * transport.LINES, b"b\n" * 3, transport.INTERVAL, b"c\n", b"d\n"
    )
    assert lines == [("a", 0)] * transport.LINES + [("c", 3), ("d", 0)]
    almost = await output_of(b"a\n" * transport.LINES, transport.INTERVAL - 0.1, b"b\n")
    assert almost == [("a", 0)] * transport.LINES


# The streams.


@pytest.mark.parametrize("iterates", [True, False])
async def test_the_end_of_a_stream_is_reported(iterates: bool) -> None:
    ended = trio.Event()
    sending, receiving = anyio.create_memory_object_stream[str](1)
    async with transport._WatchedStream(receiving, OpenCalls(), ended.set) as stream:
        assert stream.last_context is None
        await sending.send("a")
        assert await (stream.__anext__() if iterates else stream.receive()) == "a"
        assert not ended.is_set()
        sending.close()
        with pytest.raises((anyio.EndOfStream, StopAsyncIteration)):
            await (stream.__anext__() if iterates else stream.receive())
        assert ended.is_set()


# Questions.


class Asked:
    """A run whose user answers after a second, or not at all."""

    id = "run_1"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def ask(self, prompt: str, schema: Any) -> Any:
        assert (prompt, schema) == ("Which size?", SCHEMA)
        await trio.sleep(1)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "action", "content"),
    [
        ({"size": 1}, "accept", {"size": 1}),
        ({"size": 1, "more": {"nested": 1}}, "decline", None),
        ("no object", "decline", None),
        (QuestionExpired(), "cancel", None),
        (ValueError("not a valid JSON Schema"), "decline", None),
        (RuntimeError("eight open questions"), "decline", None),
    ],
)
async def test_an_answer(answer: Any, action: str, content: Any, autojump_clock: object) -> None:
    run: Any = Asked(answer)
    async with trio.open_nursery() as nursery:
        result = await Call(run, nursery, 5).elicit(FORM)
    assert (result.action, result.content) == (action, content)


async def test_a_question_whose_schema_is_no_form_is_declined_at_once() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"size": {"$ref": "#/$defs/n0"}}}
    # Each level refers twice to the next one: an answer would be checked 2^40 times.
    twice = {f"n{n}": {"allOf": [{"$ref": f"#/$defs/n{n + 1}"}] * 2} for n in range(40)}
    schema["$defs"] = {**twice, "n40": {"type": "integer"}}
    run: Any = Asked({"size": 1})
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            params = ElicitRequestFormParams(message="Which size?", requested_schema=schema)
            assert (await Call(run, nursery, 5).elicit(params)).action == "decline"
    (line,) = logs
    assert line["event"] == "mcp_question_refused"
    assert line["reason"].startswith("not a form of MCP: ")


async def test_a_question_that_only_a_browser_can_answer() -> None:
    params = ElicitRequestURLParams(message="Sign in", url="https://a.b", elicitation_id="e")
    async with trio.open_nursery() as nursery:
        run: Any = Asked(None)
        assert (await Call(run, nursery, 5).elicit(params)).action == "decline"


async def test_the_time_limit_stands_still_until_all_questions_are_answered(
    autojump_clock: object,
) -> None:
    run: Any = Asked({"size": 1})
    async with trio.open_nursery() as nursery:
        call = Call(run, nursery, 5)
        await trio.sleep(2)
        async with trio.open_nursery() as questions:
            questions.start_soon(call.elicit, FORM)
            await trio.sleep(0.5)
            questions.start_soon(call.elicit, FORM)
            await trio.sleep(0.9)
            assert call.scope.deadline == inf
        assert call.scope.deadline == trio.current_time() + 3


async def test_the_end_of_a_call_ends_its_question(autojump_clock: object) -> None:
    run: Any = Asked({"size": 1})
    results: list[str] = []
    async with trio.open_nursery() as server, trio.open_nursery() as nursery:
        call = Call(run, nursery, 5)

        async def question() -> None:
            results.append((await call.elicit(FORM)).action)

        server.start_soon(question)
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    assert results == ["cancel"]


# The connection.


class Pages:
    """A server whose list of tools has no end."""

    protocol_version = "2026-07-28"
    server_capabilities = ServerCapabilities()

    def __init__(self, *, endless: bool = True) -> None:
        self.asked = 0
        self.endless = endless

    async def list_tools(self, cursor: str | None) -> ListToolsResult:
        assert cursor == ("next" if self.asked else None)
        self.asked += 1
        tools = [Tool(name=f"t{self.asked}_{n}", input_schema={}) for n in range(20)]
        return ListToolsResult(tools=tools, next_cursor="next" if self.endless else None)


async def test_a_list_of_tools_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: Any = Pages()
    listed = await connection._list(pages)
    assert (pages.asked, len(listed)) == (connection.PAGES_MAX, connection.TOOLS_MAX)
    assert listed[0].parameters == {"type": "object", "properties": {}}
    assert len(await connection._list(Pages(endless=False))) == 20  # type: ignore[arg-type]


async def test_a_server_that_does_not_tell_of_changes_is_not_listened_to() -> None:
    pages: Any = Pages()
    await McpConnection(McpServer("x"))._listen(pages)


class Failing:
    """A client whose calls fail."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def call_tool(self, name: str, arguments: Any) -> Any:
        assert (name, arguments) == ("t", {})
        raise self.error


@pytest.mark.parametrize(
    ("error", "text", "is_lost"),
    [
        (MCPError(INTERNAL_ERROR, "no"), "the MCP server x: no", False),
        (MCPError(INVALID_REQUEST, "no"), "the MCP server x: no", False),
        (MCPError(INVALID_REQUEST, "Session terminated"), "Session terminated", True),
        (ValueError("secret"), "the MCP server x gave no valid answer", False),
    ],
)
async def test_a_call_that_fails(error: Exception, text: str, is_lost: bool) -> None:
    made = McpConnection(McpServer("x"))
    run: Any = Asked(None)
    with pytest.raises(ToolError, match="the MCP server x is not connected"):
        await made.call(run, "t", {})
    made._client = Failing(error)  # type: ignore[assignment]
    with pytest.raises(ToolError, match=text) as caught:
        await made.call(run, "t", {})
    assert "secret" not in str(caught.value)
    assert made._lost.is_set() is is_lost


async def test_the_pauses_between_connections(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    made = McpConnection(McpServer("x"))
    durations = [0.0] * 9 + [connection.STABLE_SECONDS - 1, connection.STABLE_SECONDS, 0.0]

    async def connect() -> str:
        if not durations:
            await trio.sleep_forever()
        await trio.sleep(durations.pop(0))
        return "gone"

    monkeypatch.setattr(made, "_connect", connect)
    with capture_logs() as logs, trio.move_on_after(10_000):
        await made.run()
    highest = [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 1, 2]
    pauses = [line["pause"] for line in logs]
    assert len(pauses) == len(highest)
    for pause, high in zip(pauses, highest, strict=True):
        assert high / 2 <= pause <= high
    assert made.tried.is_set()
