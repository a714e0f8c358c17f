"""Sessions that are resumed at another node: taken over, moved, and relayed."""

import trio
from support.cluster import Cluster, open_cluster

from netra_trio.agents.run import Run
from netra_trio.client import Client
from netra_trio.client import Run as ClientRun
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


async def sing(run: Run) -> None:
    for number in range(20):
        await run.emit(f"{number} ")
        await run.emit_bytes(bytes([number]) * 1000, media_type="audio/pcm")
        await trio.sleep(0.1)


async def sounds(run: ClientRun) -> list[int]:
    """Return the numbers of the pieces of sound that came with their events."""
    results = [event async for event in run if event.type == "binary_result"]
    assert all(event.data == event.data[:1] * 1000 for event in results if event.data)
    return [event.data[0] for event in results if event.data]


async def test_binary_frames_are_relayed(autojump_clock: trio.testing.MockClock) -> None:
    async with open_cluster({"sing": sing}) as cluster, cluster.connect() as client:
        run = await client.send("now")
        await trio.sleep(0.55)
        cluster.cut()
        assert await verdict_after(client) == "exact"
        assert owners(cluster) == [0]
        assert await sounds(run) == list(range(20))


async def test_the_data_of_a_killed_nodes_events_is_read_from_the_storage(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_cluster({"sing": sing}) as cluster, cluster.connect() as client:
        run = await client.send("now")
        await trio.sleep(0.55)
        cluster.cut()
        await trio.sleep(0.3)  # events are appended that the client does not have
        cluster.crash(0, 60)
        assert await verdict_after(client) == "exact"
        assert owners(cluster) == [1]
        heard = await sounds(run)
        assert heard == list(range(len(heard)))
        assert len(heard) > 7
