"""Sessions that are resumed at another node: taken over, moved, and relayed."""

import trio
from support.cluster import Cluster, open_cluster

from netra_trio.agents.run import Run
from netra_trio.client import Client
from netra_trio.protocol.messages import RunStatus


async def count(run: Run) -> None:
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(0.1)


async def verdict_after(client: Client, seconds: float = 10) -> str:
    """Wait for the next reconnect, and return its verdict."""
    before = client.stats.reconnections
    with trio.fail_after(seconds):
        while client.stats.reconnections == before:  # noqa: ASYNC110 - there is no event
            await trio.sleep(0.05)
    assert client.stats.last_resume_verdict is not None
    return str(client.stats.last_resume_verdict)


def owners(cluster: Cluster) -> list[int]:
    """Return the nodes that have a session."""
    return [
        number
        for number, node in enumerate(cluster.nodes)
        if node.app is not None and node.app.statistics()["sessions"]
    ]


async def test_an_idle_session_moves(autojump_clock: trio.testing.MockClock) -> None:
    async with open_cluster({"count": count}) as cluster, cluster.connect() as client:
        run = await client.send("3")
        assert await run.text() == "0 1 2 "
        assert owners(cluster) == [0]
        cluster.cut()
        assert await verdict_after(client) == "exact"
        assert owners(cluster) == [1]
        run = await client.send("2")
        assert await run.text() == "0 1 "


async def test_a_session_with_a_run_is_relayed(autojump_clock: trio.testing.MockClock) -> None:
    async with open_cluster({"count": count}) as cluster, cluster.connect() as client:
        run = await client.send("50")
        await trio.sleep(1)
        cluster.cut()
        assert await verdict_after(client) == "exact"
        assert owners(cluster) == [0]
        assert await run.text() == "".join(f"{number} " for number in range(50))
        assert owners(cluster) == [0]
        again = await client.send("2")
        assert await again.text() == "0 1 "


async def test_the_session_of_a_killed_node_is_taken_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_cluster({"count": count}) as cluster, cluster.connect() as client:
        run = await client.send("500")
        await trio.sleep(1.02)
        cluster.crash(0, 60)
        assert await verdict_after(client) == "exact"
        assert owners(cluster) == [1]
        events = [event async for event in run]
        assert events[-1].payload["status"] == RunStatus.INTERRUPTED
        again = await client.send("2")
        assert await again.text() == "0 1 "
