"""A thread is watched from any node, while nodes start, end and lose the broker."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import evolve
from support.memory import Server, kinds
from support.shared_nodes import LinkedNode, open_nodes
from support.watching import THREAD, WHOLE, WORDS, View, burst, count, say, steps, text_of
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.base import LEASE_SECONDS, MAIL_BYTES, RENEW_SECONDS
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.config.settings import Settings
from netra_trio.ids import NodeId, ThreadId, UserId
from netra_trio.node.lost_runs import FOLLOW_SECONDS
from netra_trio.node.node import open_node
from netra_trio.node.thread_watch import (
    ANNOUNCE_SECONDS,
    ANNOUNCED,
    LINGER_SECONDS,
    PATIENCE_SECONDS,
    TICK_SECONDS,
    WATCH,
    WATCHING,
)
from netra_trio.protocol.rooms import thread_room

ALICE = UserId("alice")
KEY = (ALICE, ThreadId(THREAD))
ROOM = thread_room(*KEY)
ENDED = LINGER_SECONDS + 2 * TICK_SECONDS


async def work(run: Run) -> None:
    """Work until it is stopped."""
    await run.emit("at work")
    await trio.sleep_forever()


AGENTS = {"count": count, "burst": burst, "work": work, "steps": steps}


def new_nodes(number: int, **options: Any) -> AbstractAsyncContextManager[tuple[LinkedNode, ...]]:
    """Open nodes that have not seen each other's leases yet."""
    return open_nodes(number, agents=AGENTS, heartbeat_interval_ms=3_600_000, **options)


@asynccontextmanager
async def nodes(number: int = 2, **options: Any) -> AsyncIterator[tuple[LinkedNode, ...]]:
    async with new_nodes(number, **options) as opened:
        await trio.sleep(2 * RENEW_SECONDS)  # until both are live for each other
        yield opened


async def published(node: LinkedNode) -> int:
    return (await node.memory.broker.history(ROOM, epoch="", after=0)).offset


def watched(node: LinkedNode) -> bool:
    return KEY in node.node._users.watched


# Both directions.


@pytest.mark.parametrize("watching", [0, 1])
@pytest.mark.parametrize("after", [None, 0, 3, WORDS - 1])
async def test_a_run_of_any_node_is_seen_from_any_node(
    after: int | None, watching: int, autojump_clock: MockClock
) -> None:
    async with (
        nodes() as opened,
        opened[1 - watching].connect() as asking,
        opened[watching].connect() as other,
    ):
        view = View()
        if after is None:
            await view.watch(other)
            await say(asking)
        else:
            await say(asking)
            await trio.sleep(after + 0.5)
            (run,) = (await view.watch(other))["runs"]
            assert run["content"] == "".join(f"{number} " for number in range(after + 1))
        assert await text_of(asking) == WHOLE
        await view.until(other, "agent_completed")
        assert list(view.texts.values()) == [WHOLE]
        assert list(view.statuses.values()) == ["completed"]
        assert not view.gaps


async def test_the_steps_of_a_run_are_seen_from_another_node(autojump_clock: MockClock) -> None:
    async with nodes() as (one, two), one.connect() as asking, two.connect() as other:
        await say(asking, agent="steps")
        await trio.sleep(3.5)
        view = View()
        (run,) = (await view.watch(other))["runs"]
        thought, tool = run["steps"]
        assert thought == {"type": "thought", "at": 0, "thought": "hm"}
        assert (tool["tool_name"], tool["at"], "success" in tool) == ("add", 3, False)
        await view.until(other, "agent_completed")
        assert [kind for kind in view.events if kind != "partial_result"] == [
            *("tool_completed", "agent_thinking", "agent_completed")
        ]


async def test_runs_of_both_nodes_are_in_one_order(autojump_clock: MockClock) -> None:
    async with (
        nodes() as (one, two),
        one.connect() as first,
        two.connect() as second,
        one.connect() as near,
        two.connect() as far,
    ):
        await say(first)
        await trio.sleep(0.5)
        await say(second)
        await trio.sleep(0.25)
        views = {near: View(), far: View()}
        for client, view in views.items():
            runs = (await view.watch(client))["runs"]
            assert [(run["status"], run["content"]) for run in runs] == [
                ("running", "0 "),
                ("queued", ""),
            ]
        await say(first, "3", agent="burst")
        events: list[Any] = []
        for client, view in views.items():
            seen = []
            for _ in range(3):
                seen += await view.until(client, "agent_completed")
            events.append([(frame["offset"], frame["event"]) for frame in seen])
            assert sorted(view.texts.values()) == ["0 1 2 ", WHOLE, WHOLE]
            assert not view.gaps
        assert events[0] == events[1]


@pytest.mark.parametrize("size", [1, 50])
async def test_a_watcher_may_join_at_any_moment_of_a_fast_run_elsewhere(
    size: int, autojump_clock: MockClock
) -> None:
    async with nodes() as (one, two), one.connect() as asking:
        for steps in range(0, 40, 2):
            async with two.connect() as other:
                view = View()
                await say(asking, str(size), agent="burst")
                await other.send("watch_thread", {"thread_id": THREAD}, "watch")
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                text = await text_of(asking)
                view.join(await other.expect("room_joined"))
                await view.rest(other, 1)
                assert set(view.texts.values()) <= {text}
                assert set(view.statuses.values()) <= {"completed"}
                assert not view.gaps


@pytest.mark.parametrize("after", range(0, WORDS + 3, 2))
async def test_a_watcher_reconnects_to_another_node(after: int, autojump_clock: MockClock) -> None:
    async with nodes(3) as (one, two, three), one.connect() as asking:
        view = View()
        client = two.start()
        await client.expect("connection_established")
        await view.watch(client)
        await say(asking)
        for _ in range(after):
            await view.next(client)
        client.peer.cut()
        await trio.sleep(1.25)
        async with three.connect() as back:
            joined = await view.again(back)
            assert joined["verdict"] == "exact"
            assert joined["offset"] == after
            await text_of(asking)
            if "agent_completed" not in view.events:
                await view.until(back, "agent_completed")
        assert list(view.texts.values()) == [WHOLE]
        assert not view.gaps


async def test_a_waiting_run_that_moves_is_seen_to_its_end(autojump_clock: MockClock) -> None:
    async with nodes() as (one, two), two.connect() as other:
        view = View()
        await view.watch(other)
        client = one.start(acknowledging=True)
        hello = await client.expect("connection_established")
        async with one.connect() as first:
            await say(first)
            await trio.sleep(0.5)
            await say(client)
            confirmed = (await client.expect("message_confirmed"))["payload"]
            assert confirmed["status"] == "queued"
            client.peer.cut()
            await trio.sleep(0.5)
            back = two.start(
                acknowledging=True, session_id=hello["payload"]["session_id"], last_seq=1
            )
            await back.expect("connection_established")
            await text_of(first)
            await view.until(other, "agent_completed")
            await view.until(other, "agent_completed")
            assert list(view.texts.values()) == [WHOLE, WHOLE]
            assert not view.gaps
            assert not one.node._users.get(ALICE, 0.0).runs
        back.peer.close()


# Interest.


async def test_nodes_without_watchers_publish_nothing(autojump_clock: MockClock) -> None:
    async with nodes() as (one, two), one.connect() as asking, two.connect() as other:
        await say(asking, "3", agent="burst")
        await text_of(asking)
        assert await published(one) == 0
        await View().watch(other)
        assert watched(one)
        await other.send("unwatch_thread", {"thread_id": THREAD})
        await trio.sleep(LINGER_SECONDS - 1)
        assert watched(one)
        await trio.sleep(3 + TICK_SECONDS)
        assert not watched(one)
        assert not watched(two)
        await say(asking, "3", agent="burst")
        await text_of(asking)
        assert await published(one) == 0


async def test_an_interest_lasts_while_it_is_announced(autojump_clock: MockClock) -> None:
    async with nodes() as (one, two), two.connect() as other:
        await View().watch(other)
        await trio.sleep(4 * ENDED)
        assert watched(one)
        two.link.lost.add(WATCHING)
        await trio.sleep(ENDED + ANNOUNCE_SECONDS)
        assert not watched(one)


async def test_unpublished_events_of_a_node_are_a_gap(autojump_clock: MockClock) -> None:
    async with nodes() as (one, two), one.connect() as asking, two.connect() as other:
        view = View()
        await view.watch(other)
        two.link.lost.add(WATCHING)
        await trio.sleep(ENDED + ANNOUNCE_SECONDS)
        await say(asking, "3", agent="burst")  # nothing of this is published
        await text_of(asking)
        two.link.lost.clear()
        await view.rest(other, ANNOUNCE_SECONDS + TICK_SECONDS)
        assert view.gaps == [(1, 0), (1, 1)]  # a new epoch, and what was kept back
        await say(asking)
        await view.until(other, "agent_completed")
        assert list(view.texts.values()) == [WHOLE]


async def test_a_thread_that_another_node_watches_keeps_its_epoch(
    autojump_clock: MockClock,
) -> None:
    async with nodes() as (one, two), one.connect() as near, two.connect() as far:
        first = await View().watch(near)
        assert (await View().watch(far))["epoch"] == first["epoch"]
        await near.send("unwatch_thread", {"thread_id": THREAD})
        await trio.sleep(ENDED)
        assert (await View().watch(near))["epoch"] == first["epoch"]


async def test_watchers_at_two_nodes_at_once(autojump_clock: MockClock) -> None:
    """If both begin an epoch, the members of the first get a gap, or join again."""
    async with (
        nodes() as (one, two),
        one.connect() as asking,
        one.connect() as near,
        two.connect() as far,
    ):
        views = {near: View(), far: View()}
        for client in views:
            await client.send("watch_thread", {"thread_id": THREAD}, "watch")
        for client, view in views.items():
            view.join(await client.expect("room_joined"))
        await say(asking)
        for client, view in views.items():
            await view.until(client, "agent_completed")
            assert list(view.texts.values()) == [WHOLE]


async def test_a_room_that_was_not_forgotten_starts_a_new_epoch(
    autojump_clock: MockClock,
) -> None:
    async with nodes() as (one, two), one.connect() as asking, two.connect() as other:
        view = View()
        await view.watch(other)
        await say(asking, "3", agent="burst")
        await view.until(other, "agent_completed")
        await other.send("unwatch_thread", {"thread_id": THREAD})
        await trio.sleep(LINGER_SECONDS - 5)
        for node in (one, two):
            node.link.is_cut = True
        await trio.sleep(10)
        for node in (one, two):
            node.link.is_cut = False
        await trio.sleep(5)
        assert await published(one) > 0
        joined = await view.again(other)
        assert (joined["verdict"], joined["offset"]) == ("gap", 0)


async def test_a_node_announces_any_number_of_threads(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ANNOUNCED * 1100 < MAIL_BYTES
    monkeypatch.setattr("netra_trio.node.thread_watch.ANNOUNCED", 2)
    async with nodes() as (one, two), two.connect() as other:
        threads = [ThreadId(f"t{number}") for number in range(5)]
        for thread in threads:
            await View().watch(other, thread)
        await trio.sleep(2 * ENDED)
        assert one.node._users.watched.keys() == {(ALICE, thread) for thread in threads}


# Nodes that start and end.


async def test_a_node_that_joins_later_mirrors_its_runs(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with nodes(1, server=server) as (one,), one.connect() as other:
        view = View()
        await view.watch(other)
        async with (
            new_nodes(1, server=server) as (new,),
            new.connect() as asking,
        ):
            await say(asking)
            await text_of(asking)
            await view.until(other, "agent_completed")
            assert list(view.texts.values()) == [WHOLE]
            assert not view.gaps
            # It has a thread that was watched before its start, and keeps the epoch.
            async with new.connect() as another:
                assert (await View().watch(another))["epoch"] == view.place[0]


@pytest.mark.parametrize("watching", [0, 1])
async def test_nodes_that_have_just_started_see_each_other(
    watching: int, autojump_clock: MockClock
) -> None:
    """Before they have looked at each other again, as they do at each renewal of their leases."""
    async with (
        new_nodes(2) as opened,
        opened[1 - watching].connect() as asking,
        opened[watching].connect() as other,
    ):
        view = View()
        await view.watch(other)
        await say(asking, "3", agent="burst")
        await view.until(other, "agent_completed")
        assert trio.current_time() < RENEW_SECONDS
        assert list(view.texts.values()) == ["0 1 2 "]
        assert not view.gaps


async def test_a_watcher_at_a_node_that_joins_later(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with nodes(1, server=server) as (one,), one.connect() as asking:
        await say(asking)
        await trio.sleep(1.5)
        async with (
            new_nodes(1, server=server) as (new,),
            new.connect() as other,
        ):
            view = View()
            (run,) = (await view.watch(other))["runs"]
            assert run["content"] == "0 1 "
            await view.until(other, "agent_completed")
            assert list(view.texts.values()) == [WHOLE]


async def test_a_node_that_does_not_hear_of_a_new_one_at_first(autojump_clock: MockClock) -> None:
    """Its run is seen from then on, and what was before is a gap."""
    server = MemoryServer()
    async with nodes(1, server=server) as (one,), one.connect() as other:
        view = View()
        await view.watch(other)
        one.link.lost.add(WATCHING)
        async with (
            new_nodes(1, server=server) as (new,),
            new.connect() as asking,
        ):
            await say(asking)
            await trio.sleep(2.5)
            one.link.lost.clear()
            await view.rest(other, ANNOUNCE_SECONDS + TICK_SECONDS)
            assert view.gaps == [(1, 1)]
            assert not view.events
            await say(asking)
            await view.until(other, "agent_completed")
            assert list(view.texts.values()) == [WHOLE]


@pytest.mark.parametrize("watchers", [1, 2])
async def test_the_events_of_a_killed_node_are_a_gap(
    watchers: int, autojump_clock: MockClock
) -> None:
    async with (
        nodes(3) as (one, two, three),
        one.connect() as asking,
        two.connect() as other,
        three.connect() as another,
    ):
        views = {client: View() for client in (other, another)[:watchers]}
        for client, view in views.items():
            await view.watch(client)
        await say(asking, agent="work")
        for client, view in views.items():
            await view.until(client, "partial_result")
        await one.kill()
        for client, view in views.items():
            await view.rest(client, 2 * LEASE_SECONDS)
            assert len(view.gaps) == 1  # one node has published it for all
            assert (await view.watch(client))["runs"] == []


async def test_watchers_and_sessions_are_told_when_the_store_ends_the_runs_of_a_killed_node(
    autojump_clock: MockClock,
) -> None:
    async with (
        nodes(3) as (one, two, three),
        one.connect() as asking,
        two.connect() as other,
        two.connect(user="bob") as foreign,
        three.connect() as another,
    ):
        view = View()
        await view.watch(other)
        await say(asking, agent="work")
        await say(asking, agent="work", on_busy="enqueue")
        await view.until(other, "partial_result")
        await one.kill()
        while not view.gaps:
            await view.next(other)
        assert (await view.watch(other))["runs"] == []
        await view.rest(other, 20)  # the lease in the store has not ended
        assert len(view.gaps) == 1
        await another.sync()
        await foreign.sync()
        another.skipped = foreign.skipped = frozenset()
        assert one.store.end_runs_of(one.memory.node) == 2
        while len(view.gaps) == 1:
            await view.next(other)
        await other.send("get_thread_history", {"thread_id": THREAD})
        messages = (await other.until("thread_history"))[-1]["payload"]["messages"]
        assert [each["run"]["status"] for each in messages] == ["interrupted", "interrupted"]
        (changed,) = await another.sync()
        assert (changed["type"], changed["payload"]["change"]) == ("thread_changed", "updated")
        assert changed["payload"]["thread"]["runs_active"] == 0
        await view.rest(other, 2 * FOLLOW_SECONDS)
        assert len(view.gaps) == 2
        assert await another.sync() == await foreign.sync() == []


async def test_a_node_that_ends_in_order_leaves_no_gap(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with nodes(1, server=server) as (one,), one.connect() as other:
        view = View()
        await view.watch(other)
        async with (
            trio.open_nursery() as nursery,
            open_node(
                evolve(Settings(), heartbeat_interval_ms=3_600_000),
                agents=AGENTS,
                store=one.store.for_node(NodeId("new")),
                verifier=TokenVerifier("x" * 32),
                backend=MemoryBackend(NodeId("new"), server),
            ) as node,
        ):
            await trio.sleep(2 * RENEW_SECONDS)
            client = Server(node, nursery).start()
            await client.expect("connection_established")
            await say(client, agent="work")
            await view.until(other, "partial_result")
        await view.until(other, "agent_completed")
        assert list(view.statuses.values()) == ["interrupted"]
        await view.rest(other, 2 * LEASE_SECONDS)
        assert not view.gaps


async def test_the_interest_of_a_killed_node_lasts_for_its_clients(
    autojump_clock: MockClock,
) -> None:
    async with nodes(3) as (one, two, three), one.connect() as asking:
        view = View()
        client = two.start()
        await client.expect("connection_established")
        await view.watch(client)
        await say(asking)
        await view.next(client)
        await two.kill()
        client.peer.cut()
        await trio.sleep(LEASE_SECONDS)
        async with three.connect() as back:
            assert (await view.again(back))["verdict"] == "exact"
            await view.until(back, "agent_completed")
        assert list(view.texts.values()) == [WHOLE]
        assert not view.gaps
        await trio.sleep(2 * ENDED)
        assert not watched(one)


async def test_a_killed_node_delays_a_watcher_until_its_lease_ends(
    autojump_clock: MockClock,
) -> None:
    async with nodes() as (one, two), one.connect() as other:
        two.link.is_cut = True
        start = trio.current_time()
        assert (await View().watch(other))["runs"] == []
        assert RENEW_SECONDS < trio.current_time() - start < PATIENCE_SECONDS


async def test_a_live_node_that_does_not_answer_refuses_a_watcher(
    autojump_clock: MockClock,
) -> None:
    async with nodes() as (one, two), one.connect() as other, two.connect() as asking:
        one.link.lost.add(WATCH)
        await say(asking)
        await other.send("watch_thread", {"thread_id": THREAD}, "w")
        error = await other.error()
        assert (error["code"], error["recoverable"]) == ("SERVICE_UNAVAILABLE", True)
        one.link.lost.clear()
        view = View()
        (run,) = (await view.watch(other))["runs"]
        assert WHOLE.startswith(run["content"])
        await view.until(other, "agent_completed")
        assert list(view.texts.values()) == [WHOLE]


# The broker.


async def test_a_run_continues_without_the_broker_and_is_complete_afterwards(
    autojump_clock: MockClock,
) -> None:
    async with nodes() as (one, two), one.connect() as asking, two.connect() as other:
        view = View()
        await view.watch(other)
        await say(asking)
        await view.until(other, "partial_result")
        one.link.is_cut = True
        await trio.sleep(2)
        one.link.is_cut = False
        await view.until(other, "agent_completed")
        assert len(view.gaps) == 1
        assert await text_of(asking) == WHOLE
        await say(asking)
        await view.until(other, "partial_result")
        one.link.is_cut = True
        await trio.sleep(2)
        one.link.is_cut = False
        await trio.sleep(1)
        again = View()
        (run,) = (await again.watch(other))["runs"]
        await again.until(other, "agent_completed")
        assert again.texts == {run["run_id"]: WHOLE}


async def test_without_the_broker_a_second_watcher_is_refused_in_time(
    autojump_clock: MockClock,
) -> None:
    async with nodes() as (one, _), one.connect() as asking, one.connect() as other:
        view = View()
        await view.watch(other)
        await say(asking, agent="work")
        await view.until(other, "partial_result")
        one.link.is_cut = True
        async with one.connect() as second:
            await asking.send("stop_agent", {"run_id": view.texts.popitem()[0]})
            await asking.until("agent_completed")
            start = trio.current_time()
            await second.send("watch_thread", {"thread_id": THREAD}, "w")
            assert (await second.error())["code"] == "SERVICE_UNAVAILABLE"
            assert trio.current_time() - start <= PATIENCE_SECONDS + 1
        one.link.is_cut = False


async def test_without_the_broker_a_watch_is_refused(autojump_clock: MockClock) -> None:
    async with nodes() as (one, _), one.connect() as other:
        one.link.is_cut = True
        await other.send("watch_thread", {"thread_id": THREAD}, "w")
        assert (await other.error())["code"] == "SERVICE_UNAVAILABLE"
        assert not watched(one)
        assert not one.node.watch._local
        one.link.is_cut = False
        assert (await View().watch(other))["runs"] == []


async def test_a_broker_that_has_lost_everything_is_a_gap(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    async with (
        nodes(server=server) as (one, two),
        one.connect() as asking,
        two.connect() as other,
    ):
        view = View()
        await view.watch(other)
        await say(asking)
        await view.until(other, "partial_result")
        server.clear()
        await view.until(other, "agent_completed")
        assert view.gaps
        assert list(view.texts.values()) == [WHOLE]


async def test_the_frames_of_a_watcher_have_no_number(autojump_clock: MockClock) -> None:
    async with nodes() as (one, two), one.connect() as asking, two.connect() as other:
        view = View()
        await view.watch(other)
        await say(asking, "2", agent="burst")
        await text_of(asking)
        await view.until(other, "agent_completed")
        assert kinds(await other.sync()) == []
        assert not two.node._users.get(ALICE, 0.0).runs
