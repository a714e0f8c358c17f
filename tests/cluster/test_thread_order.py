"""One thread, and one message rate, on two nodes: with connections, sessions and drains."""

from typing import Any

import pytest
import trio
from support.cluster import open_cluster
from support.shared_nodes import open_nodes
from support.threads import end_of, say
from trio.testing import MockClock

from netra_trio.agents.run import Run

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}


async def one_second(run: Run) -> str:
    await trio.sleep(1)
    return run.content


async def wait_forever(run: Run) -> None:
    await run.emit("going on")
    await trio.sleep_forever()


AGENTS = {"one_second": one_second, "wait_forever": wait_forever}


async def test_the_runs_of_a_thread_are_in_order_on_two_nodes(autojump_clock: MockClock) -> None:
    async with (
        open_nodes(2, agents=AGENTS, **QUIET) as (one, two),
        one.connect() as here,
        two.connect() as there,
    ):
        confirmed = [
            await say(here, "a"),
            await say(there, "b"),
            await say(here, "c"),
            await say(there, "d"),
        ]
        assert [each.get("position") for each in confirmed] == [None, 1, 2, 3]
        began = trio.current_time()
        await end_of(here, "a")
        await end_of(there, "b")
        await end_of(here, "c")
        await end_of(there, "d")
        assert trio.current_time() - began == pytest.approx(4, abs=0.1)


async def test_reject_and_interrupt_see_the_runs_of_another_node(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_nodes(2, agents=AGENTS, **QUIET) as (one, two),
        one.connect() as here,
        two.connect() as there,
    ):
        await say(here, "a", agent="wait_forever")
        await there.say("b", "b", thread_id="t", on_busy="reject")
        assert (await there.error())["code"] == "AGENT_BUSY"
        assert (await say(there, "c", on_busy="interrupt"))["position"] == 1
        assert (await end_of(here, "a"))["status"] == "cancelled"
        assert (await end_of(there, "c"))["status"] == "completed"
        assert (await say(here, "b", on_busy="reject"))["status"] == "accepted"


async def test_the_message_rate_is_that_of_both_nodes(autojump_clock: MockClock) -> None:
    settings = {"max_message_rate": 4, "burst_queue": 1, **QUIET}
    async with (
        open_nodes(2, agents=AGENTS, **settings) as (one, two),
        one.connect() as here,
        two.connect() as there,
    ):
        for number in range(4):
            client = (here, there)[number % 2]
            assert (await say(client, f"k{number}", thread_id=f"t{number}"))["status"] == "accepted"
        assert (await say(there, "late", thread_id="late"))["status"] == "queued"
        await here.say("x", "refused", thread_id="x")
        error = (await here.until("error"))[-1]["payload"]
        assert error["code"] == "RATE_LIMIT_EXCEEDED"
        assert 59_000 < error["retry_after_ms"] <= 60_000


async def test_a_duplicate_gives_its_slot_and_its_place_back(autojump_clock: MockClock) -> None:
    settings = {"max_message_rate": 2, "burst_queue": 0, **QUIET}
    async with (
        open_nodes(2, agents=AGENTS, **settings) as (one, two),
        one.connect() as here,
        two.connect() as there,
    ):
        await say(here, "a")
        for _ in range(3):
            assert (await say(there, "a"))["status"] == "duplicate"
        assert (await say(there, "b"))["position"] == 1
        await end_of(here, "a")


async def test_a_full_session_gives_its_slot_and_its_place_back(
    autojump_clock: MockClock,
) -> None:
    settings = {"max_message_rate": 4, "burst_queue": 0, "run_queue": 1, **QUIET}
    async with (
        open_nodes(2, agents=AGENTS, **settings) as (one, two),
        one.connect() as here,
        two.connect() as there,
    ):
        await say(here, "a")
        await say(there, "b")
        for _ in range(4):
            await there.say("c", "c", thread_id="t")
            assert (await there.error())["code"] == "QUEUE_FULL"
        assert (await say(here, "d"))["position"] == 2


async def test_messages_are_admitted_while_the_broker_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_nodes(2, agents=AGENTS, **QUIET) as (one, two),
        one.connect() as here,
        two.connect() as there,
    ):
        await say(here, "a", agent="wait_forever")
        two.link.is_cut = True
        assert (await say(there, "b"))["status"] == "accepted"
        await end_of(there, "b")
        assert two.node.services.instruments.metrics.broker_fallbacks["messages"] == 1
        two.link.is_cut = False
        await trio.sleep(5)
        assert (await say(there, "c"))["position"] == 1


async def test_a_thread_is_free_when_the_node_of_its_run_is_killed(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes(2, agents=AGENTS, **QUIET) as (one, two), two.connect() as there:
        here = one.start()
        await say(here, "a", agent="wait_forever")
        await say(there, "b")
        began = trio.current_time()
        await one.kill()
        await end_of(there, "b")
        assert trio.current_time() - began < 7


async def test_waiting_runs_that_move_keep_their_places(autojump_clock: MockClock) -> None:
    started: list[str] = []

    async def noted(run: Run) -> str:
        started.append(run.content)
        await trio.sleep(100 if run.content == "long" else 1)
        return run.content

    async with (
        open_cluster({"noted": noted}) as cluster,
        cluster.connect() as moving,
        cluster.connect() as other,
    ):
        runs = [
            await moving.send("long", thread_id="t"),
            await moving.send("second", thread_id="t"),
            await other.send("third", thread_id="t"),
            await moving.send("fourth", thread_id="t"),
        ]
        app = cluster.nodes[0].app
        assert app is not None
        await trio.sleep(1)
        await app.drain()
        for run in runs:
            async for _ in run:
                pass
        assert moving.stats.last_resume_verdict == "exact"
    assert started == ["long", "second", "third", "fourth"]
