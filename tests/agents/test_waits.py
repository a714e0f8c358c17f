"""The waits of a run, as the live page shows them."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.output import Output
from netra_trio.agents.waits import Waits
from netra_trio.config.settings import Settings
from netra_trio.ids import CorrelationId, RunId
from netra_trio.sessions.event_feed import FEED_EVENTS
from netra_trio.sessions.event_stream import EventStream
from netra_trio.telemetry.metrics import Metrics

RUN = RunId("run_1")


def kinds(waits: Waits) -> list[str]:
    return [wait.kind for wait in waits.all]


def output_with(events: int) -> tuple[EventStream, Output]:
    """Return an output whose log has room for this number of events."""
    settings = Settings(replay_events=events)
    stream = EventStream(settings, acknowledging=True, wall_clock=lambda: 0.0, metrics=Metrics())
    return stream, Output(stream, CorrelationId("c"))


async def test_an_emit_with_room_never_marks_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, output = output_with(events=1000)

    def begin(*_: object, **__: object) -> None:
        raise AssertionError("a wait was marked")

    monkeypatch.setattr(Waits, "begin", begin)
    with stream.attach():
        for _ in range(FEED_EVENTS):
            await output.append_delta(RUN, "token ")


async def test_an_emit_that_waits_for_room_in_the_log_waits_for_the_client(
    autojump_clock: MockClock,
) -> None:
    stream, output = output_with(events=2)
    with stream.attach() as feed:
        for text in ("a", "b"):
            await output.append_delta(RUN, text)
        feed.take(max_bytes=1000)  # written, so that they cannot be merged
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.append_delta, RUN, "c")
            await wait_all_tasks_blocked()
            assert kinds(output.waits) == ["client"]
            stream.acknowledge(2)
        assert kinds(output.waits) == []


async def test_an_emit_that_waits_for_room_in_the_channel_waits_for_the_client() -> None:
    stream, output = output_with(events=1000)
    with stream.attach() as feed, trio.move_on_after(60):
        for _ in range(FEED_EVENTS):
            await output.append_delta(RUN, "token ")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.append_delta, RUN, "last")
            await wait_all_tasks_blocked()
            assert kinds(output.waits) == ["client"]
            feed.take(max_bytes=10**6)
        assert kinds(output.waits) == []


async def test_a_cancelled_emit_waits_no_longer() -> None:
    stream, output = output_with(events=1)
    with stream.attach() as feed:
        await output.append_delta(RUN, "a")
        feed.take(max_bytes=1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.append_delta, RUN, "b")
            await wait_all_tasks_blocked()
            assert kinds(output.waits) == ["client"]
            nursery.cancel_scope.cancel()
    assert kinds(output.waits) == []


def test_the_newest_wait_counts_whatever_ends_first() -> None:
    waits = Waits()
    tool = waits.begin("tool", now=1.0, name="add", call_id="call_1")
    model = waits.begin("model", now=2.0)
    assert waits.newest is model
    tool.end()
    assert waits.newest is model
    model.end()
    model.end()  # no effect
    assert waits.newest is None


def test_the_tools_are_those_in_progress_the_oldest_first() -> None:
    waits = Waits()
    first = waits.begin("tool", now=1.0, name="add", call_id="call_1")
    with waits.begin("tool", now=2.0, name="sub", call_id="call_2"), waits.begin("store", now=3.0):
        assert [(each.name, each.call_id, each.since) for each in waits.tools] == [
            ("add", "call_1", 1.0),
            ("sub", "call_2", 2.0),
        ]
    assert waits.tools == [first]
