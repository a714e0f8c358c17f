"""`assert_nothing_lost`: traces that it accepts, and every violation that it finds."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.client import Event
from netra_trio.testing import Trace, assert_nothing_lost, losses, open_network

RUN, KEY, SESSION = "run_1", "k", "s1"


def connected(verdict: str = "new", session: str = SESSION) -> Event:
    return Event("connected", {"verdict": verdict, "session_id": session})


def event(kind: str, seq: int, *, first: int | None = None, run: str = RUN, **more: Any) -> Event:
    return Event(kind, {"run_id": run, **more}, seq, first, correlation_id=KEY)


def confirmed(seq: int, status: str = "accepted", **more: Any) -> Event:
    return event("message_confirmed", seq, status=status, **more)


def started(seq: int) -> Event:
    return event("agent_started", seq, attempt=1)


def delta(seq: int, content: str, *, first: int | None = None) -> Event:
    return event("partial_result", seq, first=first, content=content)


def end(seq: int, status: str = "completed", **more: Any) -> Event:
    return event("agent_completed", seq, status=status, **more)


def gap(last_seq: int, *runs: dict[str, Any]) -> Event:
    return Event("gap", {"last_seq": last_seq, "runs": list(runs)})


def state(content: str, **more: Any) -> dict[str, Any]:
    return {"run_id": RUN, "correlation_id": KEY, "content": content, **more}


RESET = Event("reset", {"reason": "unknown"})
LAGGED = Event("lagged", {"dropped": 1, "cut_bytes": 2})
LOST = Event("lost", {"run_id": RUN, "reason": "forgotten"})
BEGUN = [connected(), confirmed(1), started(2)]
WHOLE = [*BEGUN, delta(3, "Hel"), delta(4, "lo"), end(5)]


def trace_of(*events: Event, emitted: str = "Hello") -> Trace:
    trace = Trace()
    trace.emit(RUN, emitted)
    for each in events:
        trace.deliver(each)
    return trace


@pytest.mark.parametrize(
    "events",
    [
        [],
        WHOLE,
        [*BEGUN, delta(4, "Hello", first=3), end(5)],
        [*BEGUN, connected("exact"), delta(3, "Hello"), end(4)],
        # A duplicate after the end of its run, and one before.
        [*WHOLE, confirmed(6, "duplicate", run_status="completed"), end(7)],
        [*BEGUN, confirmed(3, "duplicate", run_status="running"), delta(4, "Hello"), end(5)],
        # What was announced.
        [*BEGUN, delta(3, "Hel"), connected("reset", "s2"), RESET, LOST],
        [
            *BEGUN,
            *[delta(3, "Hel"), connected("reset", "s2"), RESET],
            *[confirmed(1, "duplicate", run_status="interrupted"), end(2, "interrupted")],
        ],
        [*BEGUN, connected("gap"), gap(7, state("Hell")), delta(8, "o"), end(9)],
        [connected(), connected("gap"), gap(7, state("Hell")), delta(8, "o"), end(9)],
        [
            connected(),
            connected("gap"),
            gap(7, state("")),
            confirmed(8),
            started(9),
            delta(10, "Hello"),
            end(11),
        ],
        [*BEGUN, connected("gap"), gap(7, state("ell", truncated=True)), delta(8, "o"), end(9)],
        [
            *BEGUN,
            delta(3, "Hel"),
            connected("gap"),
            gap(7),
            confirmed(8, "duplicate", run_status="completed"),
            end(9),
        ],
        [*WHOLE, connected("gap"), gap(7), end(8)],  # a copy: who asked for it is gone
        [*BEGUN, delta(3, "H"), LAGGED, delta(90, "o"), end(91)],
    ],
)
def test_accepted_traces(events: list[Event]) -> None:
    assert_nothing_lost(trace_of(*events))


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        # Numbers.
        ([*BEGUN, delta(4, "Hello"), end(5)], "number 3 never came"),
        ([*BEGUN, delta(7, "Hello"), end(8)], "numbers 3 to 6 never came"),
        ([*WHOLE, delta(4, "")], "number 4 came twice or too late: 6 was expected"),
        ([*BEGUN, delta(4, "Hello", first=2), end(5)], "number 2 came twice"),
        ([*WHOLE, Event("gap", {"from": 6, "to": 9})], "numbers 6 to 9 never came; the client"),
        ([*BEGUN, connected("exact"), delta(5, "Hello"), end(6)], "numbers 3 to 4 never came"),
        # Verdicts.
        (
            [*WHOLE, connected("reset", "s2"), LOST],
            "the verdict was reset, and no reset was announced",
        ),
        ([*WHOLE, connected("gap"), LOST], "the verdict was gap, and no gap was announced"),
        ([*WHOLE, connected("new", "s2")], "session s2 began, and no reset was announced"),
        ([*WHOLE, connected("exact", "s2")], "the verdict is exact, but the session is another"),
        ([*WHOLE, connected("gap"), gap(5)], "a gap was announced before number 6, and nothing is"),
        # Text.
        ([*BEGUN, delta(3, "Hel"), end(4)], "the last 2 characters are missing: 'lo'"),
        ([*BEGUN, delta(3, "Heo"), end(4)], "after 2 characters expected 'llo', got 'o'"),
        ([*BEGUN, delta(3, "HelHello"), end(4)], "expected 'lo', got 'Hello' (emitted 5 char"),
        ([*BEGUN, delta(3, "Hello!"), end(4)], "after 5 characters expected '', got '!'"),
        ([*BEGUN, delta(3, "x" * 21), end(4)], f"got '{'x' * 20}'…"),
        (
            [*BEGUN, delta(3, "Ho"), connected("reset", "s2"), RESET, LOST],
            "got 'Ho', which was never emitted",
        ),
        (
            [*BEGUN, connected("gap"), gap(7, state("Hel")), delta(8, "o"), end(9)],
            "after 3 characters expected 'lo', got 'o'",
        ),
        # Runs.
        (BEGUN, "run run_1 (message k) has no end"),
        ([connected(), confirmed(1)], "run run_1 (message k) has no end"),
        ([*WHOLE, end(6)], "run run_1 has 2 ends"),
        ([*WHOLE, confirmed(6, "duplicate", run_status="running"), end(7)], "has 2 ends"),
        ([*WHOLE, delta(6, "")], "event 6 (partial_result) of run run_1 came after the run's end"),
        ([*WHOLE, confirmed(6)], "run run_1 (message k) was confirmed as new twice"),
        ([connected(), started(1), end(2)], "event 1 (agent_started) is of run run_1, which was n"),
        ([connected(), confirmed(1), delta(2, "Hello"), end(3)], "came before the run's agent_st"),
        (
            [*WHOLE, confirmed(6, run="run_2"), end(7, run="run_2")],
            "message k has 2 runs: run_1, run_2",
        ),
        (
            [*WHOLE, confirmed(6, "duplicate", run_status="failed"), end(7, "failed")],
            "run run_1 (message k) ended completed and failed",
        ),
        ([*WHOLE, Event("agent_thinking", {}, 6)], "event 6 (agent_thinking) belongs to no run"),
    ],
)
def test_violations(events: list[Event], fault: str) -> None:
    trace = trace_of(*events)
    with pytest.raises(AssertionError) as caught:
        assert_nothing_lost(trace)
    assert fault in str(caught.value)
    assert str(caught.value).startswith(f"{len(list(losses(trace)))} violations:\n- ")


def test_an_unfinished_conversation() -> None:
    trace = trace_of(*BEGUN, delta(3, "Hel"))
    assert_nothing_lost(trace, is_over=False)
    trace.deliver(delta(4, "x"))
    with pytest.raises(AssertionError, match="1 violations"):
        assert_nothing_lost(trace, is_over=False)


def test_an_end_may_be_received_by_another_client() -> None:
    trace = trace_of(*BEGUN)
    for each in (connected(session="s2"), confirmed(1, "duplicate", run_status="running"), end(2)):
        trace.deliver(each, "another")
    assert_nothing_lost(trace)
    trace.deliver(end(3, "failed"), "another")
    assert [fault.partition(":")[2] or fault for fault in losses(trace)] == [
        " run run_1 has 2 ends",
        "- run run_1 (message k) ended completed and failed",
    ]


def test_announced_losses() -> None:
    trace = trace_of(*BEGUN, connected("reset", "s2"), RESET, LOST)
    assert trace.announced == [RESET, LOST]


async def test_an_agent_is_recorded_piece_by_piece(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        """Say things."""
        await run.emit("")
        await run.emit("short ")
        await run.emit("x" * 100_000)
        with pytest.raises(TypeError):
            await run.emit(5)  # type: ignore[arg-type]
        with trio.CancelScope() as scope:
            scope.cancel()
            await run.emit("never")

    assert Trace().recording(agent).__doc__ == agent.__doc__
    async with open_network({"agent": agent}) as network, network.connect() as client:
        run = await client.send("go")
        assert await run.text() == network.trace.emitted[run.run_id] == "short " + "x" * 100_000
    assert_nothing_lost(network.trace)


@pytest.mark.parametrize("text", ["Hel", "Help"])
def test_a_run_that_was_killed_may_lack_its_last_text(text: str) -> None:
    trace = trace_of(*BEGUN, delta(3, text), end(4, "interrupted"))
    assert len(list(losses(trace))) == 1
    assert len(list(losses(trace, cut_off={RUN}))) == (text != "Hel")
