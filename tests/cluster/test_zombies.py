"""Nodes that were stopped, cut off or killed at a bad moment: what their clients are told."""

from random import Random
from typing import Any

import pytest
import trio
from support.cluster import Cluster, open_cluster
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.client import Client
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.sessions.session import Session


async def count(run: Run) -> None:
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(0.1)


def text(numbers: int) -> str:
    return "".join(f"{number} " for number in range(numbers))


async def reconnected(client: Client) -> str:
    """Wait for the next reconnect, and return its verdict."""
    before = client.stats.reconnections
    with trio.fail_after(20):
        while client.stats.reconnections == before:  # noqa: ASYNC110 - there is no event
            await trio.sleep(0.05)
    return str(client.stats.last_resume_verdict)


def sessions(cluster: Cluster, number: int) -> list[Session]:
    node = cluster.node(number)
    assert node is not None
    return list(node.sessions)


def only(cluster: Cluster, number: int) -> None:
    """Send all connections to one node from now on."""
    cluster.choose = lambda: number


async def test_a_node_that_was_stopped_asks_before_it_resumes(autojump_clock: MockClock) -> None:
    """Its own session is an old one: another node has gone on with it."""
    async with open_cluster({"count": count}) as cluster:
        only(cluster, 0)
        async with cluster.connect() as client:
            assert await (await client.send("2")).text() == text(2)
            cluster.pause(0)
            only(cluster, 1)
            cluster.cut()
            assert await reconnected(client) == "exact"
            assert await (await client.send("3")).text() == text(3)
            assert len(sessions(cluster, 0)) == 1
            only(cluster, 0)
            cluster.resume(0)
            cluster.cut()
            assert await reconnected(client) == "exact"
            assert await (await client.send("4")).text() == text(4)
            assert [len(sessions(cluster, number)) for number in (0, 1)] == [1, 0]


async def test_a_client_of_a_fenced_node_reconnects(autojump_clock: MockClock) -> None:
    async with open_cluster({"count": count}) as cluster:
        only(cluster, 0)
        async with cluster.connect() as client:
            await (await client.send("1")).text()
            (session,) = sessions(cluster, 0)
            other = cluster.backends[cluster.ids[1]].directory
            assert session.events.replica is not None
            record = session.events.replica.record
            assert await other.take(session.id, owner=record.owner, epoch=record.epoch)
            only(cluster, 1)
            run = await client.send("3")  # confirmed by the other node
            assert client.stats.last_resume_verdict == "exact"
            assert client.stats.reconnections == 1
            assert [event async for event in run][-1].type == "agent_completed"
            assert await (await client.send("2")).text() == text(2)


async def test_what_was_sent_without_a_copy_is_a_gap_after_a_crash(
    autojump_clock: MockClock,
) -> None:
    async with open_cluster({"count": count}) as cluster:
        only(cluster, 0)
        async with cluster.connect() as client:
            first = await client.send("1")
            await first.text()
            await trio.sleep(1)
            cluster.faults[0].is_cut = True
            runs = [await client.send("3"), await client.send("100")]
            assert await runs[0].text() == text(3)
            await trio.sleep(0.5)
            only(cluster, 1)
            cluster.crash(0, 60)
            assert await reconnected(client) == "gap"
            statuses = []
            for run in runs:
                async for _ in run:
                    pass
                assert run.end is not None
                statuses.append(run.end.payload["status"])
            assert statuses == ["completed", "interrupted"]
            assert await (await client.send("2")).text() == text(2)


@pytest.mark.parametrize("seconds", [1.0, 5.0])
async def test_live_sessions_stay_when_the_broker_comes_back(
    seconds: float, autojump_clock: MockClock
) -> None:
    """All leases are gone then, and no node may take that for the death of the others."""
    async with open_cluster({"count": count}) as cluster:
        only(cluster, 0)
        async with cluster.connect() as client:
            run = await client.send("150")
            await trio.sleep(1)
            cluster.is_up = False
            await trio.sleep(seconds)
            only(cluster, 1)
            cluster.cut()
            await trio.sleep(0.01)
            cluster.is_up = True
            assert await reconnected(client) == "exact"
            assert await run.text() == text(150)


async def test_a_text_is_copied_before_the_end_of_its_run_is_stored(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that knows that a run is complete has its whole text."""
    async with open_cluster({"count": count}) as cluster:
        only(cluster, 0)
        cluster.faults[0].delay = 0.02
        complete: list[bool] = []
        end_run = type(cluster.store).end_run

        def checked(store: Any, end: Any) -> Any:
            copies = [session.batches[-1].last for session in cluster.broker.sessions.values()]
            (session,) = sessions(cluster, 0)
            complete.append(copies == [session.events.base().last])
            return end_run(store, end)

        monkeypatch.setattr(type(cluster.store), "end_run", checked)
        async with cluster.connect() as client:
            for _ in range(5):
                await (await client.send("1")).text()
        assert complete == [True] * 5


@pytest.mark.parametrize("seed", range(6))
async def test_two_nodes_resume_a_session_at_once(seed: int, autojump_clock: MockClock) -> None:
    """The one that is asked while it still restores the session does not deny it."""
    random = Random(seed)  # noqa: S311 - repeatable
    async with open_cluster({"count": count}, nodes=3, random=random) as cluster:
        only(cluster, 0)
        async with cluster.connect() as client:
            await (await client.send("2")).text()
            await trio.sleep(0.2)
            for faults in cluster.faults:
                faults.delay = 0.1
            session = client.stats.session_id
            cluster.crash(0, 60)
            only(cluster, 1)
            (left,) = cluster.broker.sessions.values()
            url = f"{cluster.url}?session_id={session}&last_seq={left.batches[-1].last}"
            headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
            await trio.sleep(3.5)
            verdicts: list[str] = []

            async def resume(number: int) -> None:
                line = await cluster.nodes[number].dial(url, headers, ("netra.v1",), _ignore)
                hello = str(await line.receive())
                verdicts.append("exact" if '"exact"' in hello else hello)
                line.cut()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(resume, 1)
                nursery.start_soon(resume, 2)
            assert verdicts == ["exact", "exact"]


def _ignore(_event: object) -> None:
    """Do nothing."""


async def test_a_session_given_to_a_client_that_has_gone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No node restores it, and the one that has it releases it when another one asks."""
    async with open_cluster({"count": count}, nodes=3) as cluster:
        only(cluster, 0)
        async with cluster.connect() as client:
            await (await client.send("2")).text()
            (session,) = sessions(cluster, 0)
            node = cluster.node(0)
            assert node is not None
            assert node.cluster is not None
            only(cluster, 2)
            assert await node.cluster.moves.give(session, to=cluster.ids[1], closes=False)
            cluster.cut()
            assert await reconnected(client) == "exact"
            assert len(sessions(cluster, 2)) == 1
            assert await (await client.send("2")).text() == text(2)


async def test_a_release_whose_answer_is_lost(autojump_clock: MockClock) -> None:
    """The session has moved, although the owner does not know it: it is fenced."""
    async with open_cluster({"count": count}) as cluster:
        only(cluster, 0)
        async with cluster.connect() as client:
            await (await client.send("2")).text()
            (session,) = sessions(cluster, 0)
            node = cluster.node(0)
            assert node is not None
            assert node.cluster is not None
            directory: Any = node.cluster.backend.directory
            release = directory.release

            async def loses_answer(*args: Any, **options: Any) -> bool:
                assert await release(*args, **options)
                cluster.faults[0].is_cut = True
                return bool(await release(*args, **options))

            directory.release = loses_answer
            assert not await node.cluster.moves.give(session, to=None, closes=True)
            assert sessions(cluster, 0) == [session]
            cluster.faults[0].is_cut = False
            only(cluster, 1)
            assert await reconnected(client) == "exact"  # it is told to reconnect
            assert sessions(cluster, 0) == []
            assert await (await client.send("2")).text() == text(2)


async def test_a_short_failure_breaks_a_relay_at_both_ends(autojump_clock: MockClock) -> None:
    async with open_cluster({"count": count}) as cluster:
        only(cluster, 0)
        async with cluster.connect() as client:
            run = await client.send("100")
            only(cluster, 1)
            cluster.cut()
            assert await reconnected(client) == "exact"
            cluster.faults[0].is_cut = True
            await trio.sleep(1.5)
            cluster.faults[0].is_cut = False
            assert await reconnected(client) == "exact"
            assert await run.text() == text(100)


@pytest.mark.parametrize("store", ["answers", "is gone"])
async def test_waiting_runs_go_on_where_a_release_failed(
    store: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cluster({"count": count}) as cluster:
        only(cluster, 0)
        async with cluster.connect() as client:
            runs = [await client.send("20", thread_id="t"), await client.send("3", thread_id="t")]
            await trio.sleep(0.5)
            (session,) = sessions(cluster, 0)
            node = cluster.node(0)
            assert node is not None
            assert node.cluster is not None
            directory: Any = node.cluster.backend.directory

            async def fail(*_: object, **__: object) -> bool:
                raise BrokerUnavailable("gone")

            async def fails_too(*_: object, **__: object) -> object:
                raise StoreUnavailable("gone")

            directory.release = fail
            if store == "is gone":
                monkeypatch.setattr(type(cluster.store), "take_over", fails_too)
            assert not await node.cluster.moves.give(session, to=None, closes=True)
            assert await runs[0].text() == text(20)
            events = [event async for event in runs[1]]
            status = "completed" if store == "answers" else "interrupted"
            assert events[-1].payload["status"] == status
