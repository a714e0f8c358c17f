"""The drain of one node of several."""

from collections.abc import Collection
from functools import partial
from typing import Any

import pytest
import trio
from support.cluster import Cluster, open_cluster
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.client import Client
from netra_trio.endpoints.overview import Topic
from netra_trio.ids import NodeId
from netra_trio.protocol.messages import RunStatus


async def count(run: Run) -> None:
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(0.1)


def text(numbers: int) -> str:
    return "".join(f"{number} " for number in range(numbers))


async def status_of(client: Client, run: object) -> str:
    return str([event async for event in run][-1].payload["status"])  # type: ignore[attr-defined]


async def test_an_idle_client_moves_before_its_connection_closes(
    autojump_clock: MockClock,
) -> None:
    async with open_cluster({"count": count}) as cluster, cluster.connect() as client:
        assert await (await client.send("2")).text() == text(2)
        app = cluster.nodes[0].app
        assert app is not None
        statuses: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.drain)
            await trio.sleep(7)
            assert client.stats.reconnections == 1
            assert client.stats.last_resume_verdict == "exact"
            assert await (await client.send("2")).text() == text(2)
            statuses.append(client.status)
        assert [str(status) for status in statuses] == ["CONNECTED"]


async def drain_late(cluster: Cluster) -> None:
    """Drain the first node, whose clients are told the latest time: 4 s."""
    node = cluster.node(0)
    assert node is not None
    await node.drain(random=lambda: 1.0)


def works_at(cluster: Cluster, number: int) -> bool:
    node = cluster.node(number)
    assert node is not None
    return any(session.statistics()["active"] for session in node.sessions)


async def test_an_idle_client_moves_at_the_told_time(autojump_clock: MockClock) -> None:
    async with (
        open_cluster({"count": count}) as cluster,
        cluster.connect() as client,
        trio.open_nursery() as nursery,
    ):
        assert await (await client.send("2")).text() == text(2)
        nursery.start_soon(drain_late, cluster)
        await trio.sleep(3.9)
        assert client.stats.reconnections == 0
        await trio.sleep(0.2)
        assert client.stats.reconnections == 1


@pytest.mark.parametrize("wait", [1.0, 0.0], ids=["in the wait", "as the drain begins"])
async def test_a_message_takes_its_client_to_the_other_node_at_once(
    autojump_clock: MockClock, wait: float
) -> None:
    async with (
        open_cluster({"count": count}) as cluster,
        cluster.connect() as client,
        trio.open_nursery() as nursery,
    ):
        assert await (await client.send("2")).text() == text(2)
        begun = trio.current_time()
        nursery.start_soon(drain_late, cluster)
        await trio.sleep(wait)
        run = await client.send("5")
        assert trio.current_time() - begun - wait < 1.0
        await trio.sleep(0.1)
        assert (works_at(cluster, 0), works_at(cluster, 1)) == (False, True)
        assert await run.text() == text(5)
        assert client.stats.reconnections == 1
        assert client.stats.last_resume_verdict == "exact"


async def test_a_message_beside_a_run_waits_for_the_run_only(autojump_clock: MockClock) -> None:
    async with (
        open_cluster({"count": count}) as cluster,
        cluster.connect() as client,
        trio.open_nursery() as nursery,
    ):
        first = await client.send("20", thread_id="one")
        begun = trio.current_time()
        nursery.start_soon(drain_late, cluster)
        await trio.sleep(0.5)
        second = await client.send("5", thread_id="two")
        assert trio.current_time() - begun < 2.0 + 1.0
        assert await first.text() == text(20)
        assert await second.text() == text(5)
        assert client.stats.reconnections == 2
        assert client.stats.last_resume_verdict == "exact"


async def test_a_run_that_ends_within_the_drain_is_not_lost(autojump_clock: MockClock) -> None:
    async with open_cluster({"count": count}) as cluster, cluster.connect() as client:
        run = await client.send("40")
        await trio.sleep(1)
        app = cluster.nodes[0].app
        assert app is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.drain)
            assert await run.text() == text(40)
            await trio.sleep(4)
            assert await (await client.send("2")).text() == text(2)
        assert client.stats.last_resume_verdict == "exact"
        other = cluster.nodes[1].app
        assert other is not None
        assert other.statistics()["sessions"] == 1


async def test_waiting_runs_move_with_their_session(autojump_clock: MockClock) -> None:
    async with open_cluster({"count": count}) as cluster, cluster.connect() as client:
        first = await client.send("1000")
        second = await client.send("3")
        third = await client.send("4")
        app = cluster.nodes[0].app
        assert app is not None
        await trio.sleep(1)
        await app.drain()
        assert await status_of(client, first) == RunStatus.INTERRUPTED
        assert await second.text() == text(3)
        assert await third.text() == text(4)
        assert client.stats.last_resume_verdict == "exact"


class Workers:
    """The workers of one command, as the application of one sees them."""

    def __init__(self, cluster: Cluster, *, owns_broker: bool) -> None:
        apps = [node.app for node in cluster.nodes]
        self.nodes: Collection[NodeId] = {app.node_id for app in apps if app is not None}
        self.owns_broker = owns_broker

    async def merged(self, topic: Topic) -> Any:
        raise AssertionError(topic)


async def drain_all(cluster: Cluster, *, owns_broker: bool) -> float:
    """Drain all nodes at the same time; return how long that takes."""
    since = trio.current_time()
    async with trio.open_nursery() as nursery:
        for node in cluster.nodes:
            assert node.app is not None
            node.app.group = Workers(cluster, owns_broker=owns_broker)
            nursery.start_soon(node.app.drain)
    return trio.current_time() - since


@pytest.mark.parametrize("owns_broker", [False, True])
async def test_nodes_that_drain_together_send_no_client_to_each_other(
    autojump_clock: MockClock, owns_broker: bool
) -> None:
    async with open_cluster({"count": count}) as cluster, cluster.connect() as client:
        assert await (await client.send("2")).text() == text(2)
        await trio.sleep(2)  # until each has seen the other
        assert await drain_all(cluster, owns_broker=owns_broker) < 1.0


async def test_waiting_runs_end_with_the_last_nodes(autojump_clock: MockClock) -> None:
    async with open_cluster({"count": count}) as cluster, cluster.connect() as client:
        first, second = await client.send("10"), await client.send("3")
        await trio.sleep(0.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(drain_all, cluster, owns_broker=True))
            with trio.fail_after(60):  # a client whose servers have ended waits for ever
                assert await status_of(client, second) == RunStatus.INTERRUPTED
                assert await first.text() == text(10)
