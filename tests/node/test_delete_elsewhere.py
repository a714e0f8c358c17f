"""A thread is deleted whose runs are at another node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.devices import call, changed, devices, threads
from support.memory import Client, Frame
from support.shared_nodes import LinkedNode, open_nodes
from support.threads import shielded
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.node.user_threads import POLL_SECONDS, STOP_SECONDS

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
ALICE = UserId("alice")


async def work(run: Run) -> None:
    await run.emit("working")
    await trio.sleep(60)


AGENTS = {"work": work, "shielded": shielded}


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[LinkedNode, LinkedNode, Client, Client]]:
    """Open two nodes, each with a session of one user."""
    async with (
        open_nodes(2, agents=AGENTS, **QUIET) as (first, second),
        devices(first, 1) as (one,),
        devices(second, 1) as (two,),
    ):
        yield first, second, one, two


async def start(client: Client, agent: str) -> None:
    await client.say("x", "k", agent=agent, thread_id="t")
    await client.until("partial_result")
    await client.say("waits", "l", thread_id="t")
    await client.until("message_confirmed")


async def delete(client: Client) -> Frame:
    """Delete the thread, and return the payload of the reply; other frames are dropped."""
    return await call(client, "delete_thread", {"thread_id": "t"})


async def told(client: Client) -> list[str]:
    """Return the frames of a client with runs, up to the deletion."""
    found = []
    while True:
        frame = await client.next()
        found.append(str(frame["payload"].get("change", frame["type"])))
        if found[-1] == "deleted":
            return found


@pytest.mark.parametrize(("agent", "seconds"), [("work", 0.0), ("shielded", 3.0)])
async def test_the_runs_of_another_node_end_first(
    autojump_clock: MockClock, agent: str, seconds: float
) -> None:
    async with opened() as (_, second, one, two):
        await start(one, agent)
        begin = trio.current_time()
        assert await delete(two) == {"thread_id": "t", "change": "deleted"}
        took = trio.current_time() - begin
        assert seconds - 1 <= took <= seconds + 3 * POLL_SECONDS
        assert (await told(one)).count("agent_completed") == 2
        assert await threads(one) == await threads(two) == []
        await trio.sleep(60)
        assert await second.store.unfinished_runs(ALICE) == []
        assert await threads(two) == []


@pytest.mark.parametrize("lost", ["stop", "answer"])
async def test_the_node_of_a_run_does_not_answer(autojump_clock: MockClock, lost: str) -> None:
    """The thread is deleted all the same, and the end of the run is dropped."""
    async with opened() as (first, second, one, two):
        await start(one, "work")
        first.link.lost = second.link.lost = {lost}
        begin = trio.current_time()
        assert (await delete(two))["change"] == "deleted"
        assert trio.current_time() - begin <= STOP_SECONDS
        assert await threads(two) == []
        await trio.sleep(70)
        assert await threads(two) == []


async def test_the_node_of_a_run_has_ended(autojump_clock: MockClock) -> None:
    async with (
        open_nodes(2, agents=AGENTS, **QUIET) as (first, second),
        devices(second, 1) as (two,),
    ):
        async with devices(first, 1) as (one,):
            await start(one, "work")
            await first.kill()
        assert (await delete(two))["change"] == "deleted"
        assert await threads(two) == []


async def test_the_broker_does_not_answer(autojump_clock: MockClock) -> None:
    async with opened() as (_, second, one, two):
        await start(one, "work")
        second.link.is_cut = True
        begin = trio.current_time()
        assert (await delete(two))["change"] == "deleted"
        assert trio.current_time() - begin <= STOP_SECONDS
        second.link.is_cut = False
        await trio.sleep(2)
        assert "deleted" in await told(one)
        assert await threads(one) == []


@pytest.mark.parametrize("name", ["get_thread", "unfinished_runs", "delete_thread"])
async def test_the_store_does_not_answer(autojump_clock: MockClock, name: str) -> None:
    async with opened() as (_, second, one, two):
        await start(one, "work")
        real = getattr(second.store, name)
        await trio.sleep(1)
        await two.sync()

        async def fail(*_: object, **__: object) -> None:
            raise StoreUnavailable("down")

        setattr(second.store, name, fail)
        assert (await delete(two))["code"] == "SERVICE_UNAVAILABLE"
        setattr(second.store, name, real)
        assert (await delete(two))["change"] == "deleted"
        assert await threads(two) == []


async def test_a_run_cannot_be_looked_up(autojump_clock: MockClock) -> None:
    """Its stop fails, and the deletion continues without it."""
    async with opened() as (_, second, one, two):
        await start(one, "work")

        async def fail(*_: object, **__: object) -> None:
            raise StoreUnavailable("down")

        second.store.find_run = fail  # type: ignore[method-assign]
        begin = trio.current_time()
        assert (await delete(two))["change"] == "deleted"
        assert trio.current_time() - begin == pytest.approx(STOP_SECONDS)


async def test_a_deleted_thread_is_unknown_at_each_node(autojump_clock: MockClock) -> None:
    async with opened() as (_, _, one, two):
        await start(one, "work")
        await delete(one)
        await trio.sleep(1)
        for client in (one, two):
            await client.sync()
            assert (await delete(client))["code"] == "THREAD_NOT_FOUND"
            await client.say("x", "k", agent="work", thread_id="t")
            assert (await client.until("error"))[-1]["payload"]["code"] == "THREAD_NOT_FOUND"
        await two.say("new", "n", agent="work", thread_id="t")
        await two.until("partial_result")
        assert (await changed(one))["thread"]["title"] == "new"
