"""Several nodes are restarted one after the other: the client goes from one to the next."""

import pytest
import trio
from support.cluster import Cluster, open_cluster
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.client import Client, Status
from netra_trio.testing import assert_nothing_lost

CONNECT = 1.0  # seconds to connect: a message waits no longer, although idle clients wait 4 s


async def count(run: Run) -> str:
    """Emit numbers, ten a second."""
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(0.1)
    return "done"


def said(numbers: int) -> str:
    return "".join(f"{number} " for number in range(numbers))


async def restart_all(cluster: Cluster, chance: float) -> None:
    """Restart each node: drain it, end it, and wait until it is back."""
    for number in range(len(cluster.nodes)):
        node = cluster.node(number)
        assert node is not None
        await node.drain(random=lambda: chance)
        cluster.nodes[number].crash(1.0)
        await trio.sleep(3)


async def converse(client: Client, waits: list[float], stop: trio.Event) -> None:
    """Send one message after the other, and check each answer."""
    while not stop.is_set():
        begun = trio.current_time()
        run = await client.send("15", thread_id="main")
        waits.append(trio.current_time() - begun)
        assert await run.text() == said(15)
        assert await run.result() == "done"
        assert client.status is Status.CONNECTED


@pytest.mark.parametrize("chance", [0.0, 0.1, 1.0])
async def test_a_rolling_restart(autojump_clock: MockClock, chance: float) -> None:
    waits: list[float] = []
    stop = trio.Event()
    async with (
        open_cluster({"count": count}, nodes=3) as cluster,
        trio.open_nursery() as nursery,
        cluster.connect() as client,
    ):
        nursery.start_soon(cluster.trace.follow, client, "alice")
        async with trio.open_nursery() as talking:
            talking.start_soon(converse, client, waits, stop)
            await trio.sleep(1)
            await restart_all(cluster, chance)
            stop.set()
        assert client.status is Status.CONNECTED
        assert client.stats.reconnections >= 2
        assert client.stats.last_resume_verdict == "exact"
    assert max(waits) < CONNECT
    assert_nothing_lost(cluster.trace)
    assert cluster.trace.announced == []
    (events,) = cluster.trace.delivered.values()
    assert "disconnected" not in [event.type for event in events]
    assert {e.payload["verdict"] for e in events if e.type == "connected"} == {"new", "exact"}
