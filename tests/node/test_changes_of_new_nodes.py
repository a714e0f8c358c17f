"""Changes of threads are told while the nodes have not seen each other's leases yet."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from support.devices import call, changed, converse, devices, threads
from support.memory import Client
from support.shared_nodes import LinkedNode, open_nodes
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.broker.base import LEASE_SECONDS, RENEW_SECONDS
from netra_trio.ids import NodeId
from netra_trio.node.shared_changes import SKIPPED_CHANGES
from netra_trio.node.thread_changes import COALESCE_SECONDS

MINE = {"thread_id": "t", "title": "Mine"}


async def answer(run: Run) -> None:
    if run.content == "later":
        await trio.sleep(0.1)
    await run.emit("done")


@asynccontextmanager
async def new_nodes(count: int = 2) -> AsyncIterator[Sequence[LinkedNode]]:
    """Open nodes; the first one has looked at the others before they had their leases."""
    async with open_nodes(
        count, agents={"answer": answer}, heartbeat_interval_ms=3_600_000
    ) as nodes:
        assert nodes[0].node.cluster is not None
        nodes[0].node.cluster.membership.peers = {}
        assert trio.current_time() < RENEW_SECONDS
        yield nodes


def peers(node: LinkedNode) -> set[NodeId]:
    """Return the other nodes that a node has seen."""
    assert node.node.cluster is not None
    return set(node.node.cluster.membership.peers)


async def changes(client: Client) -> list[tuple[str, str]]:
    """Return the threads that a client has been told of, and how they have changed."""
    told = [frame["payload"] for frame in await client.sync()]
    return [(payload["thread_id"], payload["change"]) for payload in told]


@pytest.mark.parametrize("watching", [0, 1])
async def test_nodes_that_have_just_started(autojump_clock: MockClock, watching: int) -> None:
    """All changes since the list of a session are told to it."""
    async with (
        new_nodes() as nodes,
        devices(nodes[watching], 1) as (other,),
        devices(nodes[1 - watching], 1) as (one,),
    ):
        await threads(other)
        await converse(one, "hello")
        renamed = await call(one, "rename_thread", MINE)
        assert trio.current_time() < RENEW_SECONDS
        await trio.sleep(RENEW_SECONDS)
        assert await changed(other) == renamed
        await converse(other, "hello too")
        await trio.sleep(RENEW_SECONDS)
        assert await changes(one) == [("t", "updated")]


async def test_what_is_skipped_until_the_lease_is_seen_is_bounded(
    autojump_clock: MockClock,
) -> None:
    async with (
        new_nodes() as (first, second),
        devices(second, 1) as (other,),
        devices(first, 1) as (one,),
    ):
        for number in range(SKIPPED_CHANGES + 1):
            await converse(one, f"hello {number}", thread_id=f"t{number}")
        await trio.sleep(COALESCE_SECONDS)
        for number in range(SKIPPED_CHANGES + 1):
            await call(one, "rename_thread", {"thread_id": f"t{number}", "title": "Mine"})
        assert not peers(first)
        assert await changes(other) == []
        await trio.sleep(RENEW_SECONDS)
        told = await changes(other)
        assert sorted(told) == [(f"t{each}", "renamed") for each in range(1, SKIPPED_CHANGES + 1)]


@pytest.mark.parametrize("watching", [0, 1])
async def test_a_run_whose_session_has_no_connection(
    autojump_clock: MockClock, watching: int
) -> None:
    """Its node does not listen to the user's room, and looks at the other nodes first."""
    async with (
        new_nodes() as nodes,
        devices(nodes[watching], 1) as (other,),
    ):
        async with devices(nodes[1 - watching], 1) as (one,):
            await one.say("later", "k", thread_id="t")
            await one.until("agent_started")
        await threads(other)
        told = await changed(other)
        if told["thread"]["runs_active"]:
            told = await changed(other)
        assert (told["change"], told["thread"]["runs_active"]) == ("updated", 0)
        assert trio.current_time() < RENEW_SECONDS


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_run_at_a_node_that_is_alone(autojump_clock: MockClock, is_cut: bool) -> None:
    """Nothing is published, and nothing ends if the broker does not answer."""
    async with new_nodes(1) as (only,):
        async with devices(only, 1) as (one,):
            await one.say("later", "k", thread_id="t")
            await one.until("agent_started")
        await trio.sleep(0.01)  # until the node does not listen any more
        only.link.is_cut = is_cut
        before = only.link.calls.count("publish")
        await trio.sleep(1)
        assert only.link.calls.count("publish") == before
        only.link.is_cut = False
        async with devices(only, 2) as (one, two):
            await call(one, "rename_thread", MINE)
            assert (await changed(two))["thread"]["title"] == "Mine"


async def test_a_lease_that_was_lost_for_a_moment(autojump_clock: MockClock) -> None:
    """Its node listens all the same; what was changed meanwhile is told when it is back."""
    async with (
        new_nodes() as (first, second),
        devices(second, 1) as (other,),
        devices(first, 1) as (one,),
    ):
        await trio.sleep(LEASE_SECONDS)
        assert peers(first) == {second.id}
        await converse(one, "hello")
        assert (await changed(other))["change"] == "updated"
        await second.memory.directory.resign()
        assert first.node.cluster is not None
        await first.node.cluster.membership.look()
        assert not peers(first)
        renamed = await call(one, "rename_thread", MINE)
        assert await other.sync() == []
        await trio.sleep(2 * RENEW_SECONDS)
        assert peers(first) == {second.id}
        assert await changed(other) == renamed
