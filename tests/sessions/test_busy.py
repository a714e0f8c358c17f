"""Busy threads: messages that wait, are refused or interrupt, and the limits of runs."""

from typing import Any

import pytest
import trio
from support.memory import Client, Frame, kinds, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.sessions.event_log import PLACES_PER_MESSAGE, RESERVED_PLACES

ROOMY: dict[str, Any] = {"max_message_rate": 1000, "heartbeat_interval_ms": 3_600_000}


async def one_second(run: Run) -> str:
    """Run for a second."""
    await trio.sleep(1)
    return run.content


async def wait_forever(run: Run) -> None:
    """Run until it is stopped."""
    await run.emit("going on")
    await trio.sleep_forever()


async def frames_until_ends(client: Client, ends: int) -> list[Frame]:
    frames: list[Frame] = []
    for _ in range(ends):
        frames += await client.until("agent_completed")
    return frames


async def expect_confirmation(client: Client) -> Frame:
    """Return the payload of the next confirmation."""
    payload: Frame = (await client.until("message_confirmed"))[-1]["payload"]
    return payload


def payloads_of(frames: list[Frame], kind: str) -> list[Frame]:
    return [frame for frame in frames if frame["type"] == kind]


def keys(frames: list[Frame]) -> list[str]:
    return [frame["correlation_id"] for frame in frames]


async def test_a_thread_has_one_run_at_a_time_in_order(autojump_clock: MockClock) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        for key in "abc":
            await client.say(key, key, thread_id="t", on_busy="enqueue")
        frames = await frames_until_ends(client, 3)
        assert trio.current_time() == 3
    order = [(f["type"], f["correlation_id"]) for f in frames if f["type"] != "message_confirmed"]
    assert order == [(kind, key) for key in "abc" for kind in ("agent_started", "agent_completed")]


async def test_reject_refuses_while_the_thread_is_busy(autojump_clock: MockClock) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        await client.say("a", "a", on_busy="reject")  # no run is active, so it is accepted
        await client.until("agent_started")
        await client.say("b", "b", on_busy="reject")
        refusal = await client.expect("error")
        assert refusal["correlation_id"] == "b"
        assert refusal["payload"]["code"] == "AGENT_BUSY"
        assert refusal["payload"]["recoverable"] is True
        assert refusal["payload"]["retry_after_ms"] > 0
        await client.say("c", "c", thread_id="elsewhere", on_busy="reject")
        assert (await expect_confirmation(client))["status"] == "accepted"
        await frames_until_ends(client, 2)
        await client.say("b", "b", on_busy="reject")
        assert (await expect_confirmation(client))["status"] == "accepted"


async def test_reject_refuses_while_a_run_waits_for_the_thread(
    autojump_clock: MockClock,
) -> None:
    settings: dict[str, Any] = {
        "max_message_rate": 1,
        "burst_queue": 1,
        "heartbeat_interval_ms": 3_600_000,
    }
    async with (
        open_server(agents={"one_second": one_second}, **settings) as server,
        server.connect() as client,
    ):
        await client.say("a", "a", thread_id="elsewhere")
        await client.until("agent_completed")
        await client.say("b", "b", thread_id="t")  # waits only for the rate
        assert (await expect_confirmation(client))["status"] == "queued"
        await trio.sleep(58.5)
        await client.say("c", "c", thread_id="t", on_busy="reject")
        # Beyond the rate too: the message is refused in any case.
        assert (await client.error())["code"] in {"AGENT_BUSY", "RATE_LIMIT_EXCEEDED"}


async def test_a_refused_message_uses_no_rate_slot(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 2, "burst_queue": 0}
    async with (
        open_server(agents={"one_second": one_second}, **settings) as server,
        server.connect() as client,
    ):
        await client.say("a", "a")
        await client.until("agent_started")
        for _ in range(5):
            await client.say("b", "b", on_busy="reject")
            assert (await client.error())["code"] == "AGENT_BUSY"
        await client.say("c", "c")
        assert (await expect_confirmation(client))["status"] == "queued"


async def test_a_refused_message_keeps_no_reserved_places(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"wait_forever": wait_forever}, **ROOMY) as server,
        server.connect() as client,
    ):
        await client.say("a", "a")
        await client.until("partial_result")
        for _ in range(RESERVED_PLACES // PLACES_PER_MESSAGE + 1):
            await client.say("b", "b", on_busy="reject")
            assert (await client.error())["code"] == "AGENT_BUSY"


async def test_a_duplicate_is_confirmed_even_if_its_thread_is_busy(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        await client.say("a", "a", on_busy="reject")
        await client.until("agent_started")
        await client.say("a", "a", on_busy="reject")  # the thread is busy with its own run
        again = (await client.expect("message_confirmed"))["payload"]
        assert again["status"] == "duplicate"


async def test_interrupt_ends_the_active_run_and_starts_next(autojump_clock: MockClock) -> None:
    agents = {"wait_forever": wait_forever, "one_second": one_second}
    async with open_server(agents=agents) as server, server.connect() as client:
        await client.say("a", "a")
        await client.until("partial_result")
        await client.say("b", "b", agent="one_second")
        await client.say("c", "c", agent="one_second")
        await client.until("message_confirmed")
        await client.until("message_confirmed")
        await trio.sleep(0.5)
        await client.say("d", "d", agent="one_second", on_busy="interrupt")
        frames = await frames_until_ends(client, 4)
    assert frames[0]["type"] == "message_confirmed"
    assert frames[0]["payload"]["status"] == "queued"
    assert frames[0]["payload"]["position"] == 1
    ends = payloads_of(frames, "agent_completed")
    assert keys(ends) == ["a", "d", "b", "c"]
    assert [end["payload"]["status"] for end in ends] == ["cancelled"] + ["completed"] * 3
    assert ends[0]["payload"]["duration_ms"] == 500
    assert keys(payloads_of(frames, "agent_started")) == ["d", "b", "c"]
    # The next run starts after the end.
    assert kinds(frames[1:3]) == ["agent_completed", "agent_started"]


async def test_the_newest_interrupting_message_starts_first(autojump_clock: MockClock) -> None:
    cleaning = trio.Event()

    async def slow_to_stop(run: Run) -> None:
        try:
            await wait_forever(run)
        finally:
            with trio.CancelScope(shield=True):
                cleaning.set()
                await trio.sleep(1)

    agents = {"slow_to_stop": slow_to_stop, "one_second": one_second}
    async with open_server(agents=agents) as server, server.connect() as client:
        await client.say("a", "a")
        await client.until("partial_result")
        await client.say("b", "b", agent="one_second", on_busy="interrupt")
        await cleaning.wait()
        await client.say("c", "c", agent="one_second", on_busy="interrupt")
        frames = await frames_until_ends(client, 3)
    assert [f["payload"]["position"] for f in payloads_of(frames, "message_confirmed")] == [1, 1]
    assert keys(payloads_of(frames, "agent_completed")) == ["a", "c", "b"]
    assert [end["payload"]["status"] for end in payloads_of(frames, "agent_completed")] == [
        "cancelled",
        "completed",
        "completed",
    ]


async def test_interrupt_in_an_idle_thread_starts_at_once(autojump_clock: MockClock) -> None:
    agents = {"wait_forever": wait_forever, "one_second": one_second}
    async with open_server(agents=agents) as server, server.connect() as client:
        await client.say("a", "a", thread_id="elsewhere")
        await client.until("partial_result")
        await client.say("b", "b", agent="one_second", on_busy="interrupt")
        frames = await client.until("agent_completed")
    assert frames[0]["payload"]["status"] == "accepted"
    assert keys(frames) == ["b", "b", "b"]  # the run of the other thread continues


async def test_an_interrupting_message_that_is_refused_interrupts_nothing(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"one_second": one_second}, run_queue=1) as server,
        server.connect() as client,
    ):
        await client.say("a", "a")
        await client.say("b", "b")
        await client.until("message_confirmed")
        await client.until("message_confirmed")
        await client.say("c", "c", on_busy="interrupt")
        frames = await client.until("error")
        assert frames[-1]["payload"]["code"] == "QUEUE_FULL"
        ends = payloads_of(await frames_until_ends(client, 2), "agent_completed")
        assert [end["payload"]["status"] for end in ends] == ["completed", "completed"]


async def test_the_next_run_starts_at_once_after_a_waiting_run_was_stopped(
    autojump_clock: MockClock,
) -> None:
    settings: dict[str, Any] = {
        "max_message_rate": 2,
        "burst_queue": 5,
        "heartbeat_interval_ms": 3_600_000,
    }
    agents = {"wait_forever": wait_forever, "one_second": one_second}
    async with open_server(agents=agents, **settings) as server, server.connect() as client:
        await client.say("a", "a")
        first_run = (await client.until("partial_result"))[0]["payload"]["run_id"]
        await client.say("b", "b", agent="one_second")  # the last one of this minute
        await expect_confirmation(client)
        await client.say("c", "c", on_busy="interrupt")  # next, but not before second 60
        run_id = (await expect_confirmation(client))["run_id"]
        await client.send("stop_agent", {"run_id": first_run})
        assert (await client.expect("agent_completed"))["correlation_id"] == "a"
        await trio.sleep(1)
        await client.send("stop_agent", {"run_id": run_id})
        frames = await frames_until_ends(client, 2)
        assert keys(frames) == ["c", "b", "b"]
        assert trio.current_time() == 2


async def test_an_interrupting_message_delayed_by_the_rate_interrupts_when_it_is_due(
    autojump_clock: MockClock,
) -> None:
    settings: dict[str, Any] = {"max_message_rate": 1, "heartbeat_interval_ms": 3_600_000}
    agents = {"wait_forever": wait_forever, "one_second": one_second}
    async with open_server(agents=agents, **settings) as server, server.connect() as client:
        await client.say("a", "a")
        await client.until("partial_result")
        await client.say("c", "c", agent="one_second", on_busy="interrupt")
        await expect_confirmation(client)
        assert (await client.expect("agent_completed"))["correlation_id"] == "a"
        assert trio.current_time() == 60
        assert (await client.expect("agent_started"))["correlation_id"] == "c"


async def test_the_second_of_two_interrupting_messages_is_not_interrupted(
    autojump_clock: MockClock,
) -> None:
    agents = {"wait_forever": wait_forever, "one_second": one_second}
    async with open_server(agents=agents) as server, server.connect() as client:
        await client.say("a", "a")
        await client.until("partial_result")
        await client.say("b", "b", agent="one_second", on_busy="interrupt")
        await client.say("c", "c", agent="one_second", on_busy="interrupt")
        ends = [f for f in await frames_until_ends(client, 3) if f["type"] == "agent_completed"]
    confirmed = [(f["correlation_id"], f["payload"]["status"]) for f in ends]
    assert confirmed == [("a", "cancelled"), ("c", "completed"), ("b", "completed")]


async def test_at_most_eight_threads_run_concurrently(autojump_clock: MockClock) -> None:
    active: list[int] = [0, 0]

    async def counted(run: Run) -> None:
        active[0] += 1
        active[1] = max(active)
        await trio.sleep(int(run.content))
        active[0] -= 1

    async with (
        open_server(agents={"counted": counted}) as server,
        server.connect() as client,
    ):
        for number in range(8):
            await client.say(str(number + 2), f"k{number}", thread_id=f"t{number}")
            assert (await expect_confirmation(client))["status"] == "accepted"
        for number in (8, 9):
            await client.say("1", f"k{number}", thread_id=f"t{number}")
        waiting = [await expect_confirmation(client), await expect_confirmation(client)]
        assert [confirmed["status"] for confirmed in waiting] == ["queued", "queued"]
        assert [confirmed["position"] for confirmed in waiting] == [1, 1]
        assert trio.current_time() == 0
        frames = await frames_until_ends(client, 10)
    # The first place is free at second 2 and the next one at 3, when the ninth has ended too.
    started = {
        f["correlation_id"]: f["timestamp"] % 60 for f in payloads_of(frames, "agent_started")
    }
    assert started["k8"] == 2
    assert started["k9"] == 3
    assert active == [0, 8]


async def test_the_ninth_run_does_not_wait_for_runs_of_a_busy_thread(
    autojump_clock: MockClock,
) -> None:
    """A free place is given to the first run that can start."""
    async with (
        open_server(agents={"one_second": one_second, "wait_forever": wait_forever}) as server,
        server.connect() as client,
    ):
        for number in range(7):
            await client.say("on and on", thread_id=f"t{number}", agent="wait_forever")
            await client.until("partial_result")
        await client.say("a", "a", thread_id="t")
        await client.say("b", "b", thread_id="t0")  # waits for a run that does not end
        await client.say("c", "c", thread_id="u")
        frames = await frames_until_ends(client, 2)
        positions = [f["payload"].get("position") for f in payloads_of(frames, "message_confirmed")]
        assert positions == [None, 1, 1]
        assert keys(payloads_of(frames, "agent_completed")) == ["a", "c"]
        assert trio.current_time() == 2


async def test_a_free_place_is_given_to_the_run_that_waits_longest(
    autojump_clock: MockClock,
) -> None:
    async def seconds(run: Run) -> None:
        await trio.sleep(int(run.content))

    async with open_server(agents={"seconds": seconds}) as server, server.connect() as client:
        for number in range(8):
            await client.say(str(3 * number + 3), thread_id=f"t{number}")
        for number in range(3):
            await client.say("100", f"late {number}", thread_id=f"late{number}")
        frames = await frames_until_ends(client, 3)
    order = [f["correlation_id"] for f in payloads_of(frames, "agent_started")[8:]]
    assert order == ["late 0", "late 1"]  # the third end was read last


@pytest.mark.parametrize("limit", [32, 3])
async def test_the_run_queue_at_its_limit_and_one_message_more(
    autojump_clock: MockClock, limit: int
) -> None:
    settings: dict[str, Any] = ROOMY if limit == 32 else {**ROOMY, "run_queue": limit}
    async with (
        open_server(agents={"one_second": one_second}, **settings) as server,
        server.connect() as client,
    ):
        for number in range(limit + 1):
            await client.say("x", f"k{number}")
        confirmed = [await expect_confirmation(client) for _ in range(limit + 1)]
        assert [payload.get("position") for payload in confirmed] == [None, *range(1, limit + 1)]
        await client.say("x", "beyond")
        refusal = await client.expect("error")
        assert refusal["correlation_id"] == "beyond"
        assert refusal["payload"]["code"] == "QUEUE_FULL"
        assert refusal["payload"]["recoverable"] is True
        assert refusal["payload"]["retry_after_ms"] > 0
        # A run of an idle thread does not need the queue.
        await client.say("x", "free", thread_id="elsewhere")
        assert (await expect_confirmation(client))["status"] == "accepted"
        # Both active runs end, so one place in the queue is free.
        await frames_until_ends(client, 2)
        await client.say("x", "beyond")
        again = (await client.until("message_confirmed"))[-1]
        assert again["payload"]["position"] == limit
        await client.say("x", "again beyond")
        assert (await client.until("error"))[-1]["payload"]["code"] == "QUEUE_FULL"
        frames = await frames_until_ends(client, limit + 1)
    assert keys(payloads_of(frames, "agent_completed"))[-1] == "beyond"


async def test_each_session_has_a_separate_run_queue(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"one_second": one_second}, run_queue=1) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        for client in (one, two):
            await client.say("a")
            await client.say("b")
            assert (await expect_confirmation(client))["status"] == "accepted"
            assert (await expect_confirmation(client))["status"] == "queued"


async def test_a_stopped_waiting_run_releases_its_place(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"one_second": one_second}, run_queue=1) as server,
        server.connect() as client,
    ):
        await client.say("a", "a")
        await client.say("b", "b")
        await expect_confirmation(client)
        run_id = (await expect_confirmation(client))["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        await client.until("agent_completed")
        await client.say("c", "c")
        assert (await expect_confirmation(client))["status"] == "queued"


async def test_each_session_has_a_separate_default_thread(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"one_second": one_second}) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        threads = []
        for client in (one, two):
            for _ in range(2):
                await client.say("x")
                threads.append((await client.until("agent_completed"))[0]["payload"]["thread_id"])
    assert threads[0] == threads[1] != threads[2] == threads[3]


async def test_the_default_thread_can_be_named_and_has_a_history(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        await client.say("x", "a")
        thread_id = (await expect_confirmation(client))["thread_id"]
        await client.expect("agent_started")
        await client.say("y", "b", thread_id=thread_id)
        confirmed = await expect_confirmation(client)
        assert (confirmed["thread_id"], confirmed["status"]) == (thread_id, "queued")


@pytest.mark.parametrize("thread_id", ["t", "A-Z_09", "x" * 64])
async def test_an_explicit_thread_is_created_by_its_first_message(
    autojump_clock: MockClock, thread_id: str
) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        await client.say("x", "a", thread_id=thread_id)
        frames = await client.until("agent_completed")
        assert [f["payload"]["thread_id"] for f in frames[:2]] == [thread_id, thread_id]


@pytest.mark.parametrize("thread_id", ["", "x" * 65, "a b", "ä", "a\n", "../a"])
async def test_an_invalid_thread_id_is_refused(autojump_clock: MockClock, thread_id: str) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        await client.say("x", "a", thread_id=thread_id)
        refusal = await client.error()
        assert refusal["code"] == "VALIDATION_ERROR"
        assert refusal["error"].startswith("$.payload.thread_id: ")


async def test_the_same_thread_id_of_two_users_means_two_threads(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"one_second": one_second}) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        for client in (alice, bob):
            await client.say("x", "k", thread_id="t", on_busy="reject")
            assert (await expect_confirmation(client))["status"] == "accepted"
        await frames_until_ends(alice, 1)
        await frames_until_ends(bob, 1)
        assert trio.current_time() == 1
