"""Sockets of `netra.v2`: compact deltas of interleaved runs, and sockets of both versions in turn.

A socket is read as arrays and objects, and decoded by the decoder of the Python client.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from support.memory import Client, Server, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.client.decoder import FrameDecoder
from netra_trio.client.event import Event
from netra_trio.errors import RetryableAgentError
from netra_trio.protocol.wire_format import COMPACT, JSON_ACKNOWLEDGING, WireFormat

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
BOTH = pytest.mark.parametrize(
    ("first", "second"),
    [(COMPACT, JSON_ACKNOWLEDGING), (JSON_ACKNOWLEDGING, COMPACT), (COMPACT, COMPACT)],
    ids=["v2, then v1", "v1, then v2", "v2, then v2"],
)


async def counter(run: Run) -> str:
    """Emit a word each second, and think once."""
    for number in range(6):
        await run.emit(f"{run.content}{number} ")
        if number == 3:
            await run.think("hm")
        await trio.sleep(1)
    return "done"


async def raw(client: Client) -> Any:
    """Return the next frame that is not a change of a thread."""
    while True:
        frame = orjson.loads(await client.peer.receive())
        if isinstance(frame, list) or frame["type"] != "thread_changed":
            return frame


async def raw_until_end(client: Client, runs: int = 1) -> list[Any]:
    """Return the frames up to the end of so many runs."""
    frames: list[Any] = []
    while runs:
        frames.append(await raw(client))
        is_object = isinstance(frames[-1], dict)
        runs -= is_object and frames[-1]["type"] == "agent_completed"
    return frames


def decoded(client: Client, frames: list[Any]) -> list[Event]:
    """Return the events of all frames of a socket after its first one."""
    decoder = FrameDecoder(lambda: 0.0)
    decoder.decode(orjson.dumps(client.hello).decode())
    return [decoder.decode(orjson.dumps(frame).decode()) for frame in frames]


def texts(events: list[Event]) -> dict[str | None, str]:
    """Return the text of each message, by its key."""
    found: dict[str | None, str] = {}
    for event in events:
        if event.type == "partial_result":
            key = event.correlation_id
            found[key] = found.get(key, "") + event.payload["content"]
    return found


def numbers(events: list[Event]) -> list[int]:
    return [n for e in events if e.seq for n in range(e.first or 0, e.seq + 1)]


def text_of(word: str, numbers: range = range(6)) -> str:
    return "".join(f"{word}{number} " for number in numbers)


@asynccontextmanager
async def resumed(
    server: Server, lost: Client, last_seq: int, wire: WireFormat
) -> AsyncIterator[Client]:
    lost.peer.cut()
    await lost.done.wait()
    session_id = lost.hello["payload"]["session_id"]
    async with server.connect(session_id=session_id, last_seq=last_seq, wire=wire) as client:
        assert client.hello["payload"]["resume"]["verdict"] == "exact"
        yield client


async def test_the_deltas_of_one_run(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"counter": counter}, **NO_HEARTBEAT) as server,
        server.connect(wire=COMPACT) as client,
    ):
        await client.say("a", "k")
        frames = await raw_until_end(client)
    assert frames[1]["payload"]["run"] == 1
    assert [frame for frame in frames if isinstance(frame, list)] == [
        [3, "a0 "],
        [4, "a1 "],
        [5, "a2 "],
        [6, "a3 "],
        [8, "a4 "],
        [9, "a5 "],
    ]
    assert texts(decoded(client, frames)) == {"k": text_of("a")}


async def test_runs_side_by_side(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"counter": counter}, **NO_HEARTBEAT) as server,
        server.connect(wire=COMPACT) as client,
    ):
        await client.say("a", "one", thread_id="one")
        await trio.sleep(0.5)
        await client.say("b", "two", thread_id="two")
        frames = await raw_until_end(client, 2)
    deltas = [frame for frame in frames if isinstance(frame, list)]
    assert [len(delta) for delta in deltas] == [2] + [2, 3] * 5 + [2]
    assert {delta[2] for delta in deltas if len(delta) > 2} == {1}
    events = decoded(client, frames)
    assert texts(events) == {"one": text_of("a"), "two": text_of("b")}
    assert numbers(events) == list(range(1, len(frames) + 1))


async def test_a_retry_keeps_the_number_of_its_run(autojump_clock: MockClock) -> None:
    async def flaky(run: Run) -> None:
        attempts.append(run.id)
        if len(attempts) == 1:
            raise RetryableAgentError
        await run.emit("again")

    attempts: list[str] = []
    async with (
        open_server(agents={"flaky": flaky}, **NO_HEARTBEAT) as server,
        server.connect(wire=COMPACT) as client,
    ):
        await client.say("a", "k")
        frames = await raw_until_end(client)
    starts = [f["payload"] for f in frames if isinstance(f, dict) and f["type"] == "agent_started"]
    assert [(start["attempt"], start["run"]) for start in starts] == [(1, 1), (2, 1)]
    assert [4, "again"] in frames


@BOTH
async def test_resumed_in_the_middle_of_two_runs(
    autojump_clock: MockClock, first: WireFormat, second: WireFormat
) -> None:
    async with (
        open_server(agents={"counter": counter}, **NO_HEARTBEAT) as server,
        server.connect(wire=first) as old,
    ):
        await old.say("a", "one", thread_id="one")
        await trio.sleep(0.5)
        await old.say("b", "two", thread_id="two")
        await trio.sleep(2)
        seen = [await raw(old) for _ in range(7)]
        before = decoded(old, seen)
        async with resumed(server, old, 7, second) as new:
            rest = await raw_until_end(new, 2)
            runs = new.hello["payload"]["resume"]["runs"]
    assert [run["content"] for run in runs] == [texts(before)[key] for key in ("one", "two")]
    expected_numbers = [1, 2] if second is COMPACT else [None, None]
    assert [run.get("run") for run in runs] == expected_numbers
    assert any(isinstance(frame, list) for frame in rest) is (second is COMPACT)
    events = before + decoded(new, rest)
    assert texts(events) == {"one": text_of("a"), "two": text_of("b")}
    assert numbers(events) == list(range(1, 1 + len(numbers(events))))


@BOTH
async def test_deltas_merged_while_no_socket_is_open(
    autojump_clock: MockClock, first: WireFormat, second: WireFormat
) -> None:
    async with (
        open_server(agents={"counter": counter}, **NO_HEARTBEAT) as server,
        server.connect(wire=first) as old,
    ):
        await old.say("a", "k")
        for _ in range(3):
            await raw(old)
        old.peer.cut()
        await old.done.wait()
        await trio.sleep(60)
        async with resumed(server, old, 3, second) as new:
            rest = await raw_until_end(new)
            await new.send("ack", {"seq": 5})  # within the merged range 4 to 6
            await new.sync()
        async with resumed(server, new, 5, second) as last:
            again = await raw_until_end(last)
    if second is COMPACT:
        assert rest[0] == [6, text_of("a", range(1, 4)), 1, 4]
        assert rest[2] == [9, text_of("a", range(4, 6)), 1, 8]
    assert texts(decoded(new, rest)) == {"k": text_of("a", range(1, 6))}
    # No text is merged across the number that the client has.
    assert numbers(decoded(last, again)) == list(range(6, 11))


async def test_a_number_above_the_last_one_is_refused_as_before(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"counter": counter}, **NO_HEARTBEAT) as server,
        server.connect(wire=COMPACT) as client,
    ):
        await client.say("a", "k")
        await raw_until_end(client)
        await client.send("ack", {"seq": 11})
        assert (await client.error())["code"] == "VALIDATION_ERROR"


async def test_a_run_that_is_queued_at_the_resume(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"counter": counter}, **NO_HEARTBEAT) as server,
        server.connect(wire=COMPACT) as old,
    ):
        await old.say("a", "one")
        await old.say("b", "two")
        await trio.sleep(1.5)
        async with resumed(server, old, 0, COMPACT) as new:
            frames = await raw_until_end(new, 2)
            runs = new.hello["payload"]["resume"]["runs"]
    assert [(run["status"], run["run"]) for run in runs] == [("running", 1), ("queued", 2)]
    starts = [f["payload"] for f in frames if isinstance(f, dict) and f["type"] == "agent_started"]
    assert [start["run"] for start in starts] == [1, 2]
    assert texts(decoded(new, frames)) == {"one": text_of("a"), "two": text_of("b")}
