"""One thread in several sessions of a user: one run at a time, in the order of admission."""

import logging
from typing import Any

import pytest
import trio
from support.memory import Client, Frame, open_server
from support.stores import ScriptedStore
from support.threads import end_of, say, shielded
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}


async def one_second(run: Run) -> str:
    await trio.sleep(1)
    return run.content


async def wait_forever(run: Run) -> None:
    await run.emit("going on")
    await trio.sleep_forever()


async def ask(run: Run) -> None:
    await run.ask("Which one?")


async def wait_or_fail(run: Run) -> None:
    await trio.sleep(2)
    raise ValueError(run.content)


AGENTS = {
    "one_second": one_second,
    "wait_forever": wait_forever,
    "shielded": shielded,
    "ask": ask,
    "wait_or_fail": wait_or_fail,
}


def queued(confirmed: Frame) -> int | None:
    """Return the position of a queued message; None for an accepted one."""
    assert confirmed["status"] == ("queued" if "position" in confirmed else "accepted")
    return confirmed.get("position")


async def test_the_runs_of_two_sessions_are_in_order(autojump_clock: MockClock) -> None:
    ends: list[tuple[str, float]] = []

    async def note_ends(client: Client, *expected: str) -> None:
        for key in expected:
            await end_of(client, key)
            ends.append((key, trio.current_time()))

    async with (
        open_server(agents=AGENTS) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        assert queued(await say(one, "a")) is None
        assert queued(await say(two, "b")) == 1
        assert queued(await say(one, "c")) == 2
        assert queued(await say(two, "d")) == 3
        assert queued(await say(two, "elsewhere", thread_id="u")) is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note_ends, one, "a", "c")
            nursery.start_soon(note_ends, two, "elsewhere", "b", "d")
    assert sorted(ends, key=lambda end: end[1])[2:] == [("b", 2), ("c", 3), ("d", 4)]
    assert {end for end in ends if end[1] == 1} == {("a", 1), ("elsewhere", 1)}


async def test_reject_is_refused_while_another_session_has_a_run_in_the_thread(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents=AGENTS) as server,
        server.connect() as one,
        server.connect() as two,
        server.connect("bob") as bob,
    ):
        await say(one, "a")
        await two.say("b", "b", thread_id="t", on_busy="reject")
        assert (await two.error())["code"] == "AGENT_BUSY"
        assert queued(await say(bob, "b", on_busy="reject")) is None  # another user's thread
        await end_of(one, "a")
        assert queued(await say(two, "b", on_busy="reject")) is None


async def test_interrupt_stops_the_run_of_another_session_and_comes_next(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents=AGENTS) as server,
        server.connect() as one,
        server.connect() as two,
        server.connect() as three,
    ):
        await say(one, "a", agent="wait_forever")
        await say(one, "waits")
        await trio.sleep(0.5)
        assert queued(await say(two, "b", on_busy="interrupt")) == 1
        end = await end_of(one, "a")
        assert (end["status"], end["duration_ms"]) == ("cancelled", 500)
        started = (await two.until("agent_started"))[-1]
        assert (started["correlation_id"], trio.current_time()) == ("b", 0.5)
        await say(three, "c", on_busy="interrupt")
        assert (await end_of(two, "b"))["status"] == "cancelled"
        assert (await end_of(three, "c"))["status"] == "completed"
        assert (await end_of(one, "waits"))["status"] == "completed"
        assert trio.current_time() == 2.5


async def test_the_newest_interrupt_of_three_sessions_goes_first(
    autojump_clock: MockClock,
) -> None:
    ends: list[str] = []

    async def note_end(client: Client, key: str, status: str) -> None:
        assert (await end_of(client, key))["status"] == status
        ends.append(key)

    async with (
        open_server(agents=AGENTS) as server,
        server.connect() as one,
        server.connect() as two,
        server.connect() as three,
    ):
        await say(one, "a", agent="shielded")  # abandoned after two seconds
        await say(two, "b", on_busy="interrupt")
        await say(three, "c", on_busy="interrupt")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note_end, one, "a", "cancelled")
            nursery.start_soon(note_end, two, "b", "completed")
            nursery.start_soon(note_end, three, "c", "completed")
    assert ends == ["a", "c", "b"]


async def test_an_interrupt_delayed_by_the_rate_stops_the_run_when_it_is_due(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents=AGENTS, max_message_rate=1, **QUIET) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await say(one, "a", agent="wait_forever")
        await say(two, "b", on_busy="interrupt")
        assert (await end_of(one, "a"))["status"] == "cancelled"
        assert trio.current_time() == 60
        await end_of(two, "b")


@pytest.mark.parametrize("agent", ["wait_forever", "shielded", "ask"])
async def test_the_next_run_starts_when_the_session_of_the_active_one_is_closed(
    autojump_clock: MockClock, agent: str
) -> None:
    async with (
        open_server(agents=AGENTS, resume_window_ms=0, **QUIET) as server,
        server.connect() as two,
    ):
        one = server.start()
        await say(one, "a", agent=agent)
        assert queued(await say(one, "gone")) == 1
        assert queued(await say(two, "b")) == 2
        await trio.sleep(10)
        one.peer.cut()
        await end_of(two, "b")
        # A run that ignores its cancellation is abandoned after two seconds, found each second.
        latest = 14 if agent == "shielded" else 11
        assert latest - 1 <= trio.current_time() <= latest


async def test_a_detached_run_keeps_its_thread_busy_until_its_window_has_passed(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents=AGENTS, resume_window_ms=5000) as server,
        server.connect() as two,
    ):
        one = server.start()
        await say(one, "a", agent="wait_forever")
        one.peer.cut()
        await one.done.wait()
        assert queued(await say(two, "b")) == 1
        await end_of(two, "b")
        assert trio.current_time() == 6


async def test_a_waiting_session_is_not_suspended(autojump_clock: MockClock) -> None:
    """Its run waits for a run of another session, so nothing of it is at work for a while."""
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        run_id = (await say(one, "a", agent="wait_forever"))["run_id"]
        await say(two, "b")
        await trio.sleep(200)
        await one.send("stop_agent", {"run_id": run_id})
        assert (await end_of(one, "a"))["status"] == "cancelled"
        await end_of(two, "b")
        assert trio.current_time() == 201


async def test_a_waiting_run_of_another_session_can_be_stopped(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS) as server,
        server.connect() as one,
        server.connect() as two,
        server.connect() as three,
    ):
        await say(one, "a")
        run_id = (await say(two, "b"))["run_id"]
        assert queued(await say(three, "c")) == 2
        await one.send("stop_agent", {"run_id": run_id})
        assert (await end_of(two, "b"))["status"] == "cancelled"
        assert trio.current_time() == 0
        await end_of(three, "c")
        assert trio.current_time() == 2


async def test_a_stopped_first_run_makes_way_at_once(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS, max_message_rate=2, **QUIET) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        first = (await say(one, "a", agent="wait_forever"))["run_id"]
        await say(two, "b")
        delayed = (await say(one, "c", on_busy="interrupt"))["run_id"]  # due at second 60
        await one.send("stop_agent", {"run_id": first})
        await end_of(one, "a")
        await trio.sleep(1)
        await one.send("stop_agent", {"run_id": delayed})
        await end_of(one, "c")
        await end_of(two, "b")
        assert trio.current_time() == 2


async def test_the_next_run_starts_after_a_run_that_failed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with (
        open_server(agents=AGENTS) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await say(one, "a", agent="wait_or_fail")
        await say(two, "b")
        assert (await end_of(one, "a"))["status"] == "failed"
        await end_of(two, "b")
        assert trio.current_time() == 3


async def test_a_run_starts_when_its_session_has_a_free_place(autojump_clock: MockClock) -> None:
    """The runs behind it wait, although their own sessions have free places."""
    async with (
        open_server(agents=AGENTS) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await say(two, "a")
        for number in range(8):
            await say(one, f"k{number}", thread_id=f"t{number}", agent="wait_or_fail")
        assert queued(await say(one, "b")) == 1
        assert queued(await say(two, "c")) == 2
        await end_of(two, "a")
        for _ in range(8):
            await one.until("agent_completed")
        assert trio.current_time() == 2
        await end_of(one, "b")
        await end_of(two, "c")
        assert trio.current_time() == 4


async def test_each_session_has_a_run_queue_of_its_own_in_a_shared_thread(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents=AGENTS, run_queue=1) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await say(one, "a")
        await say(one, "b")
        assert queued(await say(two, "c")) == 2
        await two.say("d", "d", thread_id="t")
        assert (await two.error())["code"] == "QUEUE_FULL"
        await one.say("e", "e", thread_id="t")
        assert (await one.until("error"))[-1]["payload"]["code"] == "QUEUE_FULL"


async def test_no_run_of_another_session_starts_in_a_drain(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, max_message_rate=1, burst_queue=9, **QUIET) as server:
        one, two = server.start(), server.start()
        await say(one, "a", thread_id="u")  # uses the rate of this minute
        await say(one, "b")
        await say(two, "c")
        await trio.sleep(30)
        # The run of the session that is stopped first was the first one of the thread.
        await server.node.drain()
        frames = [frame for client in (one, two) for frame in (await client.rest())[0]]
    assert not [f for f in frames if f["type"] == "agent_started" and f["correlation_id"] != "a"]
    ends = {
        f["correlation_id"]: f["payload"]["status"]
        for f in frames
        if f["type"] == "agent_completed"
    }
    assert ends == {"a": "completed", "b": "interrupted", "c": "interrupted"}


async def test_a_message_that_is_being_recorded_has_its_place(autojump_clock: MockClock) -> None:
    """Two sessions that ask at once for an idle thread: only one of them finds it free."""
    store = ScriptedStore()
    async with (
        open_server(agents=AGENTS, store=store) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        store.hold()
        await one.say("a", "a", thread_id="t", on_busy="reject")
        await wait_all_tasks_blocked()
        await two.say("b", thread_id="t", on_busy="reject")  # without a key: nothing is looked up
        assert (await two.error())["code"] == "AGENT_BUSY"
        store.release()
        await end_of(one, "a")


async def test_a_message_that_was_not_recorded_makes_way(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with (
        open_server(agents=AGENTS, store=store) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await say(two, "a")
        await one.sync()
        await trio.sleep(0.5)
        store.is_down = True
        await one.say("b", "b", thread_id="t", on_busy="interrupt")
        assert (await one.error())["code"] == "SERVICE_UNAVAILABLE"
        store.is_down = False
        assert queued(await say(two, "c")) == 1
        assert (await end_of(two, "a"))["status"] == "completed"  # it was not interrupted
        await end_of(two, "c")
        assert trio.current_time() == 2


async def test_a_run_waits_while_the_message_ahead_is_recorded(autojump_clock: MockClock) -> None:
    """The run in front ends meanwhile; if the message is not recorded, the next run starts."""
    store = ScriptedStore()
    async with (
        open_server(agents=AGENTS, store=store) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await say(two, "a")
        await say(two, "c")
        store.hold()
        await one.say("b", "b", thread_id="t", on_busy="interrupt")
        await end_of(two, "a")
        assert trio.current_time() == 1
        refused: Frame = await one.error()
        assert refused["code"] == "SERVICE_UNAVAILABLE"  # the store did not answer in time
        assert trio.current_time() > 1
        store.release()
        started = await two.expect("agent_started")
        assert started["correlation_id"] == "c"
        await end_of(two, "c")


async def test_a_message_stopped_while_it_is_recorded_makes_way(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()
    async with (
        open_server(agents=AGENTS, store=store, resume_window_ms=0, **QUIET) as server,
        server.connect() as two,
    ):
        one = server.start()
        await one.expect("connection_established")
        store.hold()
        await one.say("a", "a", thread_id="t")
        await wait_all_tasks_blocked()
        await two.say("b", "b", thread_id="t")
        await wait_all_tasks_blocked()
        one.peer.cut()
        await one.done.wait()
        store.release()
        await end_of(two, "b")
        assert trio.current_time() < 3


async def test_a_duplicate_takes_no_place(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await say(one, "a")
        for on_busy in ("enqueue", "reject", "interrupt"):
            assert (await say(two, "a", on_busy=on_busy))["status"] == "duplicate"
        assert queued(await say(two, "b")) == 1
        assert (await end_of(one, "a"))["status"] == "completed"
        assert (await end_of(two, "a"))["status"] == "completed"
        await end_of(two, "b")


async def test_the_lines_are_empty_when_all_runs_have_ended(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        for client, key in ((one, "a"), (two, "b"), (one, "c")):
            await say(client, key)
        await end_of(one, "a")
        await end_of(two, "b")
        await end_of(one, "c")
        for session in server.node.sessions:
            assert not session.user.threads.is_busy("t")
            assert session.is_idle
