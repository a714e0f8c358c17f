"""Backpressure: agents wait for a full log or feed; no event is lost; no other client waits."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
import trio
from support.memory import Client, Frame, kinds, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.sessions.event_feed import FEED_EVENTS

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
ROOMY: dict[str, Any] = {**NO_HEARTBEAT, "max_message_rate": 10_000, "run_queue": 1000}
EVENTS, BYTES = 1000, 1024 * 1024  # of the log, the default settings
EVENT_BYTES = 32 * 1024  # bytes of a piece of a long text
WRITE_BYTES = 64 * 1024  # bytes of events in one write
RESULT_BYTES = 100 * 1024  # bytes, much more than a shortened result may have
SHORT_RESULT_BYTES = 16 * 1024


class Thinker:
    """An agent that sends many thoughts, and counts them."""

    def __init__(self, total: int, *, size: int = 1) -> None:
        self.total = total
        self.size = size
        self.sent = 0
        self.ended = trio.Event()

    async def __call__(self, run: Run) -> int:
        try:
            for number in range(self.total):
                await run.think(f"{number}".ljust(self.size, "."))
                self.sent += 1
        finally:
            self.ended.set()
        return self.total


async def echo(run: Run) -> str:
    await run.emit(run.content)
    return run.content


async def read_for(client: Client, seconds: float = 0.5) -> list[Frame]:
    """Return the frames that arrive within this time."""
    frames: list[Frame] = []
    with trio.move_on_after(seconds):
        while True:
            frames.append(await client.next())
    return frames


async def ack(client: Client, seq: int) -> None:
    await client.send("ack", {"seq": seq})


async def read_and_acknowledge(client: Client, kind: str) -> list[Frame]:
    """Read up to a frame of this type; acknowledge every 32 numbers."""
    frames = [await client.next()]
    acknowledged = 0
    while frames[-1]["type"] != kind:
        assert "seq" in frames[-1], frames[-1]
        if frames[-1]["seq"] - acknowledged >= 32:
            acknowledged = frames[-1]["seq"]
            await ack(client, acknowledged)
        frames.append(await client.next())
    return frames


def check_numbers(frames: list[Frame]) -> None:
    """Check that the numbers of the events have no gap; events may be merged."""
    events = [frame for frame in frames if "seq" in frame]
    numbers = [(event.get("seq_from", event["seq"]), event["seq"]) for event in events]
    assert all(later[0] == earlier[1] + 1 for earlier, later in pairwise(numbers))


def thoughts(frames: list[Frame]) -> list[int]:
    return [
        int(frame["payload"]["thought"].rstrip("."))
        for frame in frames
        if frame["type"] == "agent_thinking"
    ]


# A client that reads and does not acknowledge.


async def test_an_agent_waits_at_a_thousand_events_until_one_is_acknowledged(
    autojump_clock: MockClock,
) -> None:
    thinker = Thinker(3000)
    async with (
        open_server(agents={"thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k")
        frames = await read_for(client)
        # The confirmation has a reserved place; agent_started is one of the thousand.
        assert kinds(frames[:2]) == ["message_confirmed", "agent_started"]
        assert thinker.sent == EVENTS - 1
        assert [frame["seq"] for frame in frames] == list(range(1, EVENTS + 2))
        frames += await read_for(client, 60)
        assert thinker.sent == EVENTS - 1

        await ack(client, 1)  # the confirmation, whose reserved place makes no room
        assert await read_for(client) == []
        for seq in (2, 3):
            await ack(client, seq)
            more = await read_for(client)
            assert len(more) == 1
            frames += more
        await ack(client, 500)
        frames += await read_for(client)
        assert thinker.sent == EVENTS - 1 + 499
        await ack(client, frames[-1]["seq"])
        frames += await read_and_acknowledge(client, "agent_completed")
        check_numbers(frames)
        assert thoughts(frames) == list(range(3000))
        assert frames[-1]["payload"]["result"] == 3000


@pytest.mark.parametrize("events", [1, 2, 10])
async def test_the_maximum_number_of_events_is_a_setting(
    autojump_clock: MockClock, events: int
) -> None:
    thinker = Thinker(100)
    async with (
        open_server(agents={"thinker": thinker}, replay_events=events, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k")
        frames = await read_for(client)
        assert thinker.sent == events - 1
        while frames[-1]["type"] != "agent_completed":
            await ack(client, frames[-1]["seq"])
            more = await read_for(client)
            assert 1 <= len(more) <= events + 1  # and the end, in its reserved place
            frames += more
        assert thoughts(frames) == list(range(100))
        check_numbers(frames)


async def test_an_agent_waits_at_one_mebibyte(autojump_clock: MockClock) -> None:
    thinker = Thinker(100, size=EVENT_BYTES)
    fits = BYTES // EVENT_BYTES
    async with (
        open_server(agents={"thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k")
        frames = await read_for(client)
        assert thinker.sent == fits == 32
        assert len(thoughts(frames)) == fits
        await ack(client, 2)  # agent_started, which has no bytes
        assert await read_for(client) == []
        await ack(client, 3)
        frames += await read_for(client)
        assert thinker.sent == fits + 1
        frames += await read_and_acknowledge_all(client)
        assert thoughts(frames) == list(range(100))
        check_numbers(frames)


async def read_and_acknowledge_all(client: Client) -> list[Frame]:
    """Acknowledge every event, up to the end of a run."""
    frames: list[Frame] = []
    seq = 4
    while not frames or frames[-1]["type"] != "agent_completed":
        await ack(client, seq)
        more = await read_for(client)
        frames += more
        seq = frames[-1]["seq"] if frames else seq + 1
    return frames


async def test_an_agent_waits_one_byte_beyond_a_mebibyte(autojump_clock: MockClock) -> None:
    reached: list[str] = []

    async def agent(run: Run) -> None:
        for _ in range(31):
            await run.think("x" * EVENT_BYTES)
        await run.think("x" * (EVENT_BYTES - 1))
        await run.think("x")
        reached.append("at the limit")
        await run.think("x")
        reached.append("beyond")

    async with (
        open_server(agents={"agent": agent}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k")
        frames = await read_for(client)
        assert reached == ["at the limit"]
        await ack(client, 3)
        frames += await client.until("agent_completed")
        assert reached == ["at the limit", "beyond"]
        check_numbers(frames)


async def test_an_event_larger_than_the_log_is_sent_alone(autojump_clock: MockClock) -> None:
    thinker = Thinker(3, size=EVENT_BYTES)
    async with (
        open_server(
            agents={"thinker": thinker}, replay_bytes=EVENT_BYTES - 1, **NO_HEARTBEAT
        ) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k")
        frames = await read_for(client)
        for sent in (1, 2, 3):
            assert thinker.sent == sent
            await ack(client, frames[-1]["seq"])
            frames += await read_for(client)
        assert frames[-1]["type"] == "agent_completed"


async def test_every_type_of_event_waits_for_room(autojump_clock: MockClock) -> None:
    steps: list[str] = []

    async def agent(run: Run) -> None:
        await run.emit("a")
        steps.append("emit")
        await run.think("b")
        steps.append("think")
        async with run.tool("t") as tool:
            steps.append("tool")
            tool.result = 1
        steps.append("tool done")

    async with (
        open_server(agents={"agent": agent}, replay_events=1, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k")
        frames = await read_for(client)
        assert kinds(frames) == ["message_confirmed", "agent_started"]
        for step in ("emit", "think", "tool", "tool done"):
            reached = len(steps)
            await ack(client, frames[-1]["seq"])
            frames += await read_for(client)
            assert steps[reached:] == [step]
        assert frames[-1]["type"] == "agent_completed"


async def test_merged_deltas_have_the_same_text(autojump_clock: MockClock) -> None:
    words = [f"wörd{number} " for number in range(5000)]

    async def agent(run: Run) -> None:
        for word in words:
            await run.emit(word)

    async with (
        open_server(agents={"agent": agent}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k")
        frames = await read_for(client)
        await ack(client, frames[-1]["seq"])
        frames += await read_and_acknowledge(client, "agent_completed")
    check_numbers(frames)
    text = "".join(f["payload"]["content"] for f in frames if f["type"] == "partial_result")
    assert text == "".join(words) == frames[-1]["payload"]["result"]


async def test_concurrent_runs_share_the_log_and_lose_no_event(
    autojump_clock: MockClock,
) -> None:
    floods = {f"thinker{number}": Thinker(500) for number in range(8)}
    async with (
        open_server(agents=floods, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        for name in floods:
            await client.say("x", name, agent=name, thread_id=name)
        # Some runs end before the log is full: an agent that never waits gives no control away.
        frames = await read_for(client)
        sent = sum(thinker.sent for thinker in floods.values())
        assert sent + kinds(frames).count("agent_started") == EVENTS
        await ack(client, frames[-1]["seq"])
        while kinds(frames).count("agent_completed") < len(floods):
            frames += await read_and_acknowledge(client, "agent_completed")
            await ack(client, frames[-1]["seq"])
    check_numbers(frames)
    for name in floods:
        of_run = [frame for frame in frames if frame.get("correlation_id") == name]
        assert thoughts(of_run) == list(range(500))
        assert of_run[-1]["type"] == "agent_completed"


async def test_acknowledgements_out_of_order_are_ignored_and_out_of_range_refused(
    autojump_clock: MockClock,
) -> None:
    thinker = Thinker(100)
    async with (
        open_server(agents={"thinker": thinker}, replay_events=10, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await ack(client, 0)
        await ack(client, 1)
        assert (await client.error())["code"] == "VALIDATION_ERROR"
        await client.say("x", "k")
        last = (await read_for(client))[-1]["seq"]
        await ack(client, last + 1)
        refusal = await client.error()
        assert refusal["code"] == "VALIDATION_ERROR"
        assert refusal["error"].startswith("$.payload.seq: ")
        await ack(client, last)
        more = await read_for(client)
        assert len(more) == 10
        await ack(client, 1)  # lower than before: ignored
        await ack(client, last)  # the same number again
        assert await read_for(client) == []


async def test_acknowledgements_without_subprotocol_are_ignored(autojump_clock: MockClock) -> None:
    async with open_server(agents={"echo": echo}) as server, server.connect() as client:
        await ack(client, 1000)
        await client.say("x", "k")
        frames = await client.until("agent_completed")
        assert kinds(frames)[0] == "message_confirmed"
        await ack(client, 1)


# A client that does not read.


async def test_an_agent_waits_for_a_client_that_does_not_read(autojump_clock: MockClock) -> None:
    thinker = Thinker(5000, size=1024)
    buffer = 128 * 1024
    async with (
        open_server(agents={"thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(buffer_bytes=buffer) as client,
    ):
        await client.say("x", "k")
        await trio.testing.wait_all_tasks_blocked()
        # The events in the buffer, in the write that waits, and in the feed.
        most = FEED_EVENTS + (WRITE_BYTES + buffer) // 1024 + 2
        assert FEED_EVENTS <= thinker.sent <= most
        sent = thinker.sent
        await trio.sleep(4)
        assert thinker.sent == sent
        frames = await client.until("agent_completed")
        check_numbers(frames)
        assert thoughts(frames) == list(range(5000))


async def test_a_client_that_does_not_read_uses_at_most_the_bytes_of_the_log(
    autojump_clock: MockClock,
) -> None:
    thinker = Thinker(1000, size=EVENT_BYTES)
    async with (
        open_server(agents={"thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(buffer_bytes=1024) as client,
    ):
        await client.say("x", "k")
        await trio.testing.wait_all_tasks_blocked()
        assert BYTES // EVENT_BYTES <= thinker.sent <= (BYTES + WRITE_BYTES) // EVENT_BYTES + 1
        frames = await client.until("agent_completed")
        assert thoughts(frames) == list(range(1000))


async def test_a_client_that_never_reads_is_dropped_and_the_run_ends(
    autojump_clock: MockClock,
) -> None:
    thinker = Thinker(100_000, size=1024)
    async with open_server(agents={"thinker": thinker}, **NO_HEARTBEAT) as server:
        client = server.start()
        await client.expect("connection_established")
        await client.say("x", "k", thread_id="t")
        await client.done.wait()
        assert trio.current_time() == 5
        await thinker.ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        async with server.connect() as again:
            await again.send("get_thread_history", {"thread_id": "t"})
            message, answer = (await again.expect("thread_history"))["payload"]["messages"]
            assert message["run"]["status"] == "cancelled"
            assert answer["steps"][0]["type"] == "thought"  # without any text


async def test_a_client_that_does_not_read_does_not_delay_other_clients(
    autojump_clock: MockClock,
) -> None:
    thinker = Thinker(100_000, size=1024)
    async with (
        open_server(agents={"echo": echo, "thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(buffer_bytes=1024) as blocked_client,
        server.connect() as same_user,
        server.connect("bob") as other_user,
    ):
        await blocked_client.say("x", agent="thinker")
        await trio.testing.wait_all_tasks_blocked()
        for client in (same_user, other_user):
            await client.say("hello")
            assert (await client.until("agent_completed"))[-1]["payload"]["result"] == "hello"
        assert trio.current_time() == 0


# Control frames before waiting events.


@pytest.mark.parametrize("size", [1, EVENT_BYTES])
async def test_control_frames_are_answered_while_the_log_is_full(
    autojump_clock: MockClock, size: int
) -> None:
    thinker = Thinker(100_000, size=size)
    async with (
        open_server(agents={"thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k")
        frames = await read_for(client)
        await client.send("ping", {"n": 1}, "p")
        pong = await client.expect("pong")
        assert (pong["payload"], pong["correlation_id"]) == ({"n": 1}, "p")
        thread_id = frames[0]["payload"]["thread_id"]
        await client.send("get_thread_history", {"thread_id": thread_id})
        await client.expect("thread_history")
        run_id = frames[0]["payload"]["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        end = await client.expect("agent_completed")
        assert (end["payload"]["run_id"], end["payload"]["status"]) == (run_id, "cancelled")
        assert end["seq"] == frames[-1]["seq"] + 1
        assert thinker.ended.is_set()


async def test_control_frames_are_handled_and_sent_first_while_events_wait(
    autojump_clock: MockClock,
) -> None:
    thinker = Thinker(100_000, size=1024)
    buffer = 16 * 1024
    async with (
        open_server(agents={"thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(buffer_bytes=buffer) as client,
    ):
        await client.say("x", "k")
        run_id = (await client.expect("message_confirmed"))["payload"]["run_id"]
        await trio.testing.wait_all_tasks_blocked()
        await client.send("ping", {"n": 1})
        await client.send("stop_agent", {"run_id": run_id})
        await thinker.ended.wait()  # the client has not read anything of it
        assert trio.current_time() == 0
        ahead = await client.until("pong")
        assert sum(len(orjson.dumps(frame)) for frame in ahead) <= buffer + WRITE_BYTES * 1.3
        rest = await client.until("agent_completed")
        assert rest[-1]["payload"]["status"] == "cancelled"
        frames = ahead + rest
        check_numbers(frames)
        # The cancelled emit had appended its event to the log, and waited for the writer.
        assert thoughts(frames) == list(range(thinker.sent + 1))


# Reserved places.


async def test_confirmations_and_ends_never_wait(autojump_clock: MockClock) -> None:
    thinker = Thinker(100_000)
    async with (
        open_server(agents={"thinker": thinker, "echo": echo}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k")
        first = (await read_for(client))[0]["payload"]["run_id"]
        runs = []
        for number in range(20):
            await client.say("y", f"k{number}", agent="echo")
            confirmed = await client.expect("message_confirmed")
            assert confirmed["payload"]["position"] == number + 1
            runs.append(confirmed["payload"]["run_id"])
        for run_id in [*runs, first]:
            await client.send("stop_agent", {"run_id": run_id})
            end = await client.expect("agent_completed")
            assert (end["payload"]["run_id"], end["payload"]["status"]) == (run_id, "cancelled")
        assert trio.current_time() == 0.5


async def test_128_unacknowledged_messages_and_one_more(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"echo": echo}, **ROOMY) as server,
        server.connect(acknowledging=True) as client,
    ):
        ends: list[int] = []
        for number in range(128):
            await client.say("x", f"k{number}")
            ends.append((await client.until("agent_completed"))[-1]["seq"])
        for _ in range(3):
            await client.say("x", "beyond")
            refusal = await client.expect("error")
            assert refusal["correlation_id"] == "beyond"
            assert refusal["payload"]["code"] == "QUEUE_FULL"
            assert refusal["payload"]["recoverable"] is True
            assert refusal["payload"]["retry_after_ms"] > 0
        await ack(client, 1)  # one place, and a message needs two
        await client.say("x", "beyond")
        assert (await client.error())["code"] == "QUEUE_FULL"
        await ack(client, ends[0])
        await client.say("x", "beyond")
        assert (await client.until("agent_completed"))[0]["type"] == "message_confirmed"
        await client.say("x", "again beyond")
        assert (await client.error())["code"] == "QUEUE_FULL"
        await ack(client, ends[-1])
        await client.say("x", "again beyond")
        await client.expect("message_confirmed")


async def test_a_duplicate_uses_two_reserved_places(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"echo": echo}, **ROOMY) as server,
        server.connect(acknowledging=True) as client,
    ):
        for _ in range(128):
            await client.say("x", "k")
            frames = await client.until("agent_completed")
        assert frames[0]["payload"]["status"] == "duplicate"
        await client.say("x", "k")
        assert (await client.error())["code"] == "QUEUE_FULL"
        await ack(client, frames[-1]["seq"])
        await client.say("x", "k")
        assert (await client.expect("message_confirmed"))["payload"]["status"] == "duplicate"


async def test_a_duplicate_of_a_run_of_the_session_gets_no_second_end(
    autojump_clock: MockClock,
) -> None:
    async def wait_forever(_: Run) -> None:
        await trio.sleep_forever()

    async with (
        open_server(agents={"wait_forever": wait_forever}, **ROOMY) as server,
        server.connect(acknowledging=True) as client,
    ):
        # Two places for the run, and one for each confirmation; the last message needs two.
        for _ in range(254):
            await client.say("x", "k")
            assert (await client.until("message_confirmed"))[-1]["type"] == "message_confirmed"
        await client.say("x", "k")
        assert (await client.error())["code"] == "QUEUE_FULL"


async def test_a_refused_message_releases_its_places(autojump_clock: MockClock) -> None:
    async def wait_forever(_: Run) -> None:
        await trio.sleep_forever()

    async with (
        open_server(agents={"wait_forever": wait_forever, "echo": echo}, **ROOMY) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x", "k", thread_id="t")
        await client.until("agent_started")
        for _ in range(200):
            await client.say("x", "refused", thread_id="t", on_busy="reject")
            assert (await client.error())["code"] == "AGENT_BUSY"
            await client.say("other content", "k", thread_id="t")
            assert (await client.error())["code"] == "VALIDATION_ERROR"
            await client.say("x", "nobody", agent="nobody")
            assert (await client.error())["code"] == "AGENT_NOT_FOUND"
        for number in range(127):
            await client.say("x", f"k{number}", agent="echo")
            await client.until("agent_completed")
        await client.say("x", "beyond", agent="echo")
        assert (await client.error())["code"] == "QUEUE_FULL"


async def test_reading_releases_places_without_subprotocol(autojump_clock: MockClock) -> None:
    async with open_server(agents={"echo": echo}, **ROOMY) as server, server.connect() as client:
        for number in range(400):
            await client.say("x", f"k{number}")
            await client.until("agent_completed")


async def test_128_unread_messages_without_subprotocol_and_one_more(
    autojump_clock: MockClock,
) -> None:
    thinker = Thinker(3000, size=1024)
    async with (
        open_server(agents={"thinker": thinker, "echo": echo}, **ROOMY) as server,
        server.connect(buffer_bytes=1024) as client,
    ):
        await client.say("x", "k")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(200):  # each waits for the run that does not end
            await client.say("x", f"k{number}", agent="echo")
        await trio.testing.wait_all_tasks_blocked()
        frames = await read_for(client, 1)
        confirmed = kinds(frames).count("message_confirmed")
        refused = [f["payload"]["code"] for f in frames if f["type"] == "error"]
        # The confirmation of the first message was sent, so its place is free.
        assert confirmed == 1 + 127
        assert refused == ["QUEUE_FULL"] * 73


# Ends while all bytes of the log are used.


class ResultAgent:
    """An agent that waits for an event, then returns a result of the requested size."""

    def __init__(self) -> None:
        self.go_on = trio.Event()

    async def __call__(self, run: Run) -> str:
        await self.go_on.wait()
        return "x" * int(run.content)


@pytest.mark.parametrize(
    ("length", "kept"),
    [
        (SHORT_RESULT_BYTES - 2, SHORT_RESULT_BYTES - 2),
        (SHORT_RESULT_BYTES - 1, SHORT_RESULT_BYTES - 2),
        (RESULT_BYTES, SHORT_RESULT_BYTES - 2),
    ],
)
async def test_a_result_is_shortened_while_all_bytes_of_the_log_are_used(
    autojump_clock: MockClock, length: int, kept: int
) -> None:
    answer, thinker = ResultAgent(), Thinker(1000, size=EVENT_BYTES)
    async with (
        open_server(agents={"answer": answer, "thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say(str(length), "a", thread_id="a")
        await client.say("x", "f", thread_id="f", agent="thinker")
        await read_for(client)
        assert thinker.sent == BYTES // EVENT_BYTES
        answer.go_on.set()
        end = (await client.expect("agent_completed"))["payload"]
        assert end["status"] == "completed"
        assert end["result"] == "x" * kept
        assert end.get("truncated") is (True if kept < length else None)


async def test_a_result_is_complete_while_the_log_has_free_bytes(autojump_clock: MockClock) -> None:
    answer, thinker = ResultAgent(), Thinker(31, size=EVENT_BYTES)
    async with (
        open_server(agents={"answer": answer, "thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say(str(RESULT_BYTES), "a", thread_id="a")
        await client.say("x", "f", thread_id="f", agent="thinker")
        await read_for(client)
        answer.go_on.set()
        end = (await client.expect("agent_completed"))["payload"]
        assert len(end["result"]) == RESULT_BYTES
        assert "truncated" not in end


async def test_the_result_of_a_copied_end_is_shortened_too(autojump_clock: MockClock) -> None:
    async def object_of(run: Run) -> dict[str, str]:
        return {"text": "x" * int(run.content)}

    thinker = Thinker(1000, size=EVENT_BYTES)
    async with (
        open_server(agents={"object_of": object_of, "thinker": thinker}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        ends = {}
        for length in (10, RESULT_BYTES):
            await client.say(str(length), f"k{length}")
            frames = await client.until("agent_completed")
            ends[length] = frames[-1]["payload"]
        await ack(client, frames[-1]["seq"])
        await client.say("x", "f", thread_id="f", agent="thinker")
        await read_for(client)
        for length in (10, RESULT_BYTES):
            await client.say(str(length), f"k{length}")
            confirmed = await client.expect("message_confirmed")
            assert confirmed["payload"]["status"] == "duplicate"
            copy = (await client.expect("agent_completed"))["payload"]
            if length == RESULT_BYTES:
                assert copy["run_id"] == ends[length]["run_id"]
                assert copy["truncated"] is True
                assert (
                    SHORT_RESULT_BYTES * 0.9
                    < len(orjson.dumps(copy["result"]))
                    <= SHORT_RESULT_BYTES
                )
            else:
                assert copy == ends[length]
