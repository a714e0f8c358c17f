"""The connection of a door, and the events of a run that it reads."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio
from support.memory import EPOCH, Server, kinds, open_server
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.auth.identity import Identity
from netra_trio.endpoints.checks import AcceptedUpgrade
from netra_trio.endpoints.doors.connection import DoorConnection, open_connection
from netra_trio.endpoints.doors.runs import ConnectionEnded, Frame, RunReader
from netra_trio.endpoints.entrance import Entrance
from netra_trio.endpoints.opening_rate import OpeningRate
from netra_trio.endpoints.request import Request
from netra_trio.errors import TransportClosed
from netra_trio.ids import SessionId, ThreadId, UserId
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.problem import Refused, problem
from netra_trio.protocol.rooms import RoomGap, thread_room
from netra_trio.protocol.wire_format import JSON_ACKNOWLEDGING

REQUEST = Request({}, {}, (), "")


@asynccontextmanager
async def connected(server: Server, user: str = "alice") -> AsyncIterator[DoorConnection]:
    entrance = Entrance(server.node, OpeningRate(1000, 1000))

    async def check() -> AcceptedUpgrade:
        return AcceptedUpgrade(Identity(UserId(user), EPOCH + 1e9), JSON_ACKNOWLEDGING, None)

    async with open_connection(entrance, REQUEST, check) as connection:
        yield connection


class Steps:
    """An agent whose steps a test starts one by one."""

    def __init__(self) -> None:
        self._permits = trio.Semaphore(0)
        self._done = trio.Semaphore(0)

    async def __call__(self, run: Run) -> str | None:
        for step in run.content.split():
            await self._permits.acquire()
            await self._step(run, step)
            self._done.release()
        return None

    async def _step(self, run: Run, step: str) -> None:
        kind, _, value = step.partition(":")
        if kind == "think":
            await run.think(value)
        elif kind == "tool":
            async with run.tool(value, number=1) as tool:
                tool.result = value.upper()
        elif kind == "ask":
            run.nursery.start_soon(self._ask, run, value)
            await wait_all_tasks_blocked()
        else:
            await run.emit(value)

    async def _ask(self, run: Run, prompt: str) -> None:
        await run.emit(f"[{await run.ask(prompt)}]")

    async def go(self, times: int = 1) -> None:
        for _ in range(times):
            self._permits.release()
            await self._done.acquire()
        await wait_all_tasks_blocked()


async def returning(run: Run) -> Any:
    return run.content if run.content != "a number" else 7


def shown(frames: list[Frame]) -> list[tuple[str, Any]]:
    """Return the type and the main field of each event; adjacent texts are one."""
    fields = {
        "agent_thinking": "thought",
        "partial_result": "content",
        "tool_executing": "tool_name",
        "tool_completed": "result",
        "agent_asking": "prompt",
        "agent_answered": "outcome",
        "agent_completed": "status",
    }
    events: list[tuple[str, Any]] = []
    for frame in frames:
        kind = frame["type"]
        if kind not in fields:
            continue
        value = frame["payload"][fields[kind]]
        if kind == "partial_result" and events and events[-1][0] == kind:
            value = events.pop()[1] + value
        events.append((kind, value))
    return events


async def read(frames: AsyncGenerator[Frame, None], into: list[Frame]) -> None:
    into.extend([frame async for frame in frames])


STORY = "think:hm text:one tool:add text:two think:so text:three"
TOLD = [
    ("agent_thinking", "hm"),
    ("partial_result", "one"),
    ("tool_executing", "add"),
    ("tool_completed", "ADD"),
    ("partial_result", "two"),
    ("agent_thinking", "so"),
    ("partial_result", "three"),
    ("agent_completed", "completed"),
]


async def test_a_run_is_read_to_its_end(autojump_clock: MockClock) -> None:
    steps = Steps()
    async with open_server(agents={"steps": steps}) as server, connected(server) as connection:
        runs = RunReader(connection)
        started = await runs.start({"content": STORY, "thread_id": "t"}, "k-1")
        assert (started.thread_id, started.is_duplicate) == ("t", False)
        frames: list[Frame] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, runs.events(started), frames)
            await steps.go(6)
        assert shown(frames) == TOLD
        connection.end_session()
        assert server.node.sessions.get(connection.session_id) is None
        connection.end_session()  # without effect


@pytest.mark.parametrize("before", range(7))
async def test_a_duplicate_reads_the_run_from_its_start(
    before: int, autojump_clock: MockClock
) -> None:
    steps = Steps()
    message = {"content": STORY, "thread_id": "t"}
    async with open_server(agents={"steps": steps}) as server, connected(server) as first:
        started = await RunReader(first).start(message, "k-1")
        await steps.go(before)
        async with connected(server) as second:
            again = RunReader(second)
            duplicate = await again.start(message, "k-1")
            assert (duplicate.is_duplicate, duplicate.run_id) == (True, started.run_id)
            frames: list[Frame] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, again.events(duplicate), frames)
                await wait_all_tasks_blocked()
                await steps.go(6 - before)
            assert shown(frames) == TOLD


async def test_a_run_that_ended_long_ago_is_read_from_the_history(
    autojump_clock: MockClock,
) -> None:
    steps = Steps()
    message = {"content": STORY, "thread_id": "t"}
    async with open_server(agents={"steps": steps}) as server:
        async with connected(server) as first:
            runs = RunReader(first)
            started = await runs.start(message, "k-1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, runs.events(started), [])
                await steps.go(6)
        async with connected(server) as second:
            frames: list[Frame] = []
            await read(RunReader(second).follow("t", started.run_id), frames)
            assert shown(frames) == TOLD
            again = RunReader(second)
            duplicate = await again.start(message, "k-1")
            frames = []
            await read(again.events(duplicate), frames)
            assert shown(frames) == TOLD


async def test_an_unknown_run_ends_interrupted(autojump_clock: MockClock) -> None:
    async with open_server() as server, connected(server) as connection:
        runs = RunReader(connection)
        await read(runs.events(await runs.start({"content": "a", "thread_id": "t"})), [])
        frames: list[Frame] = []
        await read(runs.follow("t", "run_unknown"), frames)
        assert shown(frames) == [("agent_completed", "interrupted")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a text", [("partial_result", "a text"), ("agent_completed", "completed")]),
        ("a number", [("agent_completed", "completed")]),
    ],
)
async def test_an_agent_that_only_returns(
    content: str, told: list[tuple[str, str]], autojump_clock: MockClock
) -> None:
    async with open_server(agents={"returning": returning}) as server:
        for _ in range(2):  # the second time it is a duplicate
            async with connected(server) as connection:
                runs = RunReader(connection)
                started = await runs.start({"content": content, "thread_id": "t"}, "k-1")
                frames: list[Frame] = []
                await read(runs.events(started), frames)
                assert shown(frames) == told


async def test_only_what_follows_a_question_is_read(autojump_clock: MockClock) -> None:
    steps = Steps()
    async with open_server(agents={"steps": steps}) as server:
        async with connected(server) as first:
            runs = RunReader(first)
            message = {"content": "text:one ask:Which? text:two", "thread_id": "t"}
            started = await runs.start(message, "k-1")
            await steps.go(3)
            frames: list[Frame] = []
            async with aclosing(runs.events(started)) as events:
                async for frame in events:
                    frames.append(frame)
                    if len(shown(frames)) == 3:
                        break
            question = next(f for f in frames if f["type"] == "agent_asking")["payload"]
        async with connected(server) as second:
            runs, rest = RunReader(second), []
            follow = runs.follow("t", started.run_id, after=question["question_id"])
            answer = {"question_id": question["question_id"], "answer": "this"}
            async with aclosing(follow) as events:
                async for frame in events:
                    rest.append(frame)
                    if len(rest) == 1:
                        await second.send("answer", answer, "a-1")
            assert shown(rest)[0] == ("partial_result", "two")
            assert shown(rest)[-1] == ("agent_completed", "completed")
            assert ("agent_answered", "answered") in shown(rest)


async def test_a_loss_in_the_room_is_made_good(autojump_clock: MockClock) -> None:
    steps = Steps()
    texts = [f"{number}," for number in range(40)]
    content = " ".join(f"text:{text}" for text in texts)
    async with (
        open_server(agents={"steps": steps}) as server,
        connected(server) as first,
        connected(server) as second,
    ):
        started = await RunReader(first).start({"content": content, "thread_id": "t"}, "k")
        await steps.go(3)
        frames: list[Frame] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, RunReader(second).follow("t", started.run_id), frames)
            await wait_all_tasks_blocked()
            await steps.go(2)
            connection = server.node.newest_connection(second.session_id)
            assert connection is not None
            gap = RoomGap(thread_room(UserId("alice"), ThreadId("t")), 1, 5)
            await connection.outgoing.put(connection.wire.encode_control(gap, 0.0))
            await steps.go(35)
        assert shown(frames) == [
            ("partial_result", "".join(texts)),
            ("agent_completed", "completed"),
        ]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"content": ""}, ErrorCode.VALIDATION_ERROR),
        ({"content": "x", "agent": "nobody"}, ErrorCode.AGENT_NOT_FOUND),
        ({"content": "x" * 10_240}, ErrorCode.MESSAGE_TOO_LARGE),
    ],
)
async def test_a_refused_message(
    message: dict[str, Any], code: ErrorCode, autojump_clock: MockClock
) -> None:
    async with open_server() as server, connected(server) as connection:
        runs = RunReader(connection)
        with pytest.raises(Refused) as refused:
            await runs.start(message, "k-1")
        assert refused.value.problem.code is code


async def test_the_stop_of_a_run_that_has_ended_refuses_nothing_else(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, connected(server) as connection:
        runs = RunReader(connection)
        started = await runs.start({"content": "a", "thread_id": "t"})
        await read(runs.events(started), [])
        await runs.stop(started.run_id)
        assert await runs.watch("t") == []


async def test_a_thread_that_does_not_exist(autojump_clock: MockClock) -> None:
    async with open_server() as server, connected(server) as connection:
        with pytest.raises(Refused) as refused:
            await RunReader(connection).history("no-thread")
        assert refused.value.problem.code is ErrorCode.THREAD_NOT_FOUND


async def test_a_drain_ends_a_run_of_the_connection(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"steps": Steps()}, drain_timeout_ms=1000) as server,
        connected(server) as connection,
    ):
        runs, frames = RunReader(connection), list[Frame]()
        started = await runs.start({"content": "text:one", "thread_id": "t"}, "k-1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, runs.events(started), frames)
            await wait_all_tasks_blocked()
            nursery.start_soon(server.node.drain)
        assert "server_draining" in kinds(frames)
        assert shown(frames) == [("agent_completed", "interrupted")]
        with pytest.raises(ConnectionEnded) as ended:
            await runs.watch("t")
        assert ended.value.code == 1012


async def test_the_connection_ends_before_the_run_of_another_one(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"steps": Steps()}) as server,
        connected(server) as first,
        connected(server) as second,
    ):
        started = await RunReader(first).start({"content": "text:one", "thread_id": "t"}, "k-1")
        connection = server.node.newest_connection(second.session_id)
        assert connection is not None
        connection.end(EndReason.EVICTED)
        with pytest.raises(ConnectionEnded) as ended:
            await read(RunReader(second).follow("t", started.run_id), [])
        assert ended.value.code == 4429


async def test_an_error_that_ends_the_connection(autojump_clock: MockClock) -> None:
    async with open_server(agents={"steps": Steps()}) as server, connected(server) as first:
        runs = RunReader(first)
        started = await runs.start({"content": "text:one", "thread_id": "t"}, "k-1")
        connection = server.node.newest_connection(first.session_id)
        assert connection is not None
        fault = problem(ErrorCode.TOKEN_EXPIRED, "The token has expired.")
        connection.end(EndReason.TOKEN_EXPIRED, fault)
        with pytest.raises(Refused) as refused:
            await read(runs.events(started), [])
        assert refused.value.problem.code is ErrorCode.TOKEN_EXPIRED


async def test_a_refused_connection(autojump_clock: MockClock) -> None:
    async with open_server() as server:
        await server.node.drain()
        with pytest.raises(Refused) as refused:
            async with connected(server):
                raise AssertionError
        assert refused.value.problem.code is ErrorCode.SERVER_DRAINING


async def test_a_door_that_takes_nothing_loses_its_connection(autojump_clock: MockClock) -> None:
    async def flood(run: Run) -> None:
        for _ in range(200):
            await run.emit("x" * 4096)

    async with open_server(agents={"flood": flood}) as server, connected(server) as connection:
        await RunReader(connection).start({"content": "go"}, "k-1")
        session = server.node.sessions.get(SessionId(connection.session_id))
        assert session is not None
        await trio.sleep(10)
        assert server.node.newest_connection(connection.session_id) is None
        with pytest.raises(TransportClosed):
            await connection.receive()


async def test_the_frames_of_a_connection(autojump_clock: MockClock) -> None:
    async with open_server() as server, connected(server) as connection:
        pending = [connection.has_pending]
        await connection.send_text('{"type": "ping", "payload": {"n": 1}}')
        await wait_all_tasks_blocked()
        assert [*pending, connection.has_pending] == [False, True]
        assert b'"pong"' in await connection.receive_bytes()
        await trio.sleep(65)
        await connection.note_alive()
        await trio.sleep(65)  # without a sign of life the server ends it after 75 s
        assert (await connection.receive())["type"] == "heartbeat"
