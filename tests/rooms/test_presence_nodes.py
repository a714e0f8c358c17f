"""Presence over several nodes: one table of all, whatever is lost, late or killed."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
import trio.testing
from support.memory import Client
from support.room_clients import ROOM, change, join, leave, presence
from support.rooms import anyone
from support.shared_nodes import LinkedNode, open_nodes
from trio.testing import MockClock

from netra_trio.broker.base import LEASE_SECONDS, History, HistoryLimits
from netra_trio.errors import BrokerUnavailable
from netra_trio.rooms.presence_sharing import KEPT, PREFIX, USERS
from netra_trio.rooms.rooms import Listener

GRACE = 10.0
NOTICED = 1.0  # until a node has looked at the other nodes
SETTLED = 0.5  # for messages between nodes


async def only_alice_sees(user: str, _room: str, action: str) -> bool:
    return user == "alice" or action != "see"


@asynccontextmanager
async def serving(count: int, **options: Any) -> AsyncIterator[tuple[LinkedNode, ...]]:
    users = ("alice", "bob", "carol")
    options = {"heartbeat_interval_ms": 3_600_000, "users": users, "may": anyone, **options}
    async with open_nodes(count, **options) as nodes:
        await trio.sleep(NOTICED)  # until both are live for each other
        yield nodes


@asynccontextmanager
async def alice_and_bob() -> AsyncIterator[tuple[LinkedNode, LinkedNode, Client, Client]]:
    """Open two nodes; alice joins at the first one, and gets the join of bob at the second."""
    async with serving(2) as (one, two), one.connect("alice") as alice:
        await join(alice)
        async with two.connect("bob") as bob:
            await join(bob)
            assert await change(alice) == ("bob", "joined")
            yield one, two, alice, bob


async def quiet(*clients: Client) -> None:
    """Check that these clients get nothing more."""
    await trio.sleep(SETTLED)
    for client in clients:
        assert await client.sync() == []


async def test_a_user_joins_and_leaves_at_another_node(autojump_clock: MockClock) -> None:
    async with alice_and_bob() as (_, _, alice, bob):
        for client in (alice, bob):
            assert await presence(client) == {"alice": 1, "bob": 1}
        await leave(bob)
        left_at = trio.current_time()
        await quiet(alice, bob)
        assert await presence(alice) == {"alice": 1}
        assert await change(alice) == ("bob", "left")
        assert trio.current_time() - left_at == pytest.approx(GRACE, abs=0.1)


async def test_the_first_member_of_a_node_gets_all_others(autojump_clock: MockClock) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = await stack.enter_async_context(serving(3))
        alice, again, bob = [
            await stack.enter_async_context(node.connect(user))
            for node, user in ((one, "alice"), (two, "alice"), (two, "bob"))
        ]
        for client in (alice, again, bob):
            await join(client)
        assert await change(alice) == ("bob", "joined")
        assert await change(again) == ("bob", "joined")
        carol = await stack.enter_async_context(three.connect("carol"))
        await join(carol)
        assert await presence(carol) == {"alice": 2, "bob": 1, "carol": 1}
        for client in (alice, again, bob):
            assert await change(client) == ("carol", "joined")
        await quiet(carol, alice)


async def test_a_join_during_the_requests_to_nodes_is_sent(autojump_clock: MockClock) -> None:
    async with serving(2) as (one, two), AsyncExitStack() as stack:
        alice, bob, carol = [
            await stack.enter_async_context(node.connect(user))
            for node, user in ((one, "alice"), (two, "bob"), (two, "carol"))
        ]
        await join(bob)
        await trio.sleep(SETTLED)
        two.link.lost.add("answer")
        await join(alice)
        await trio.sleep(0.25)
        await join(carol)
        two.link.lost.clear()
        await trio.sleep(2.0)
        frames = await alice.sync()
        assert [frame["payload"]["user_id"] for frame in frames] == ["carol"]
        assert await presence(alice) == {"alice": 1, "bob": 1, "carol": 1}


async def test_a_user_at_two_nodes_is_one_presence(autojump_clock: MockClock) -> None:
    async with serving(2) as (one, two), one.connect("alice") as alice:
        await join(alice)
        async with one.connect("bob") as bob:
            await join(bob)
            assert await change(alice) == ("bob", "joined")
            async with two.connect("carol") as carol, two.connect("bob") as again:
                await join(carol)
                for client in (alice, bob):
                    assert await change(client) == ("carol", "joined")
                await join(again)
                await quiet(alice, carol, bob, again)
                await leave(bob)
                await trio.sleep(2 * GRACE)
                await quiet(alice, carol)
                assert await presence(alice) == {"alice": 1, "bob": 1, "carol": 1}
                await leave(again)
                assert await change(carol) == ("bob", "left")
                assert await change(alice) == ("bob", "left")


async def test_a_user_who_returns_at_another_node_has_not_left(autojump_clock: MockClock) -> None:
    async with serving(2) as (one, two), one.connect("alice") as alice:
        await join(alice)
        async with one.connect("bob") as bob:
            await join(bob)
            assert await change(alice) == ("bob", "joined")
        await trio.sleep(GRACE - 1)
        async with two.connect("bob") as bob:
            await join(bob)
            await trio.sleep(2 * GRACE)
            await quiet(alice, bob)
            assert await presence(bob) == {"alice": 1, "bob": 1}


async def test_the_users_of_a_killed_node_leave(autojump_clock: MockClock) -> None:
    async with serving(3) as (one, two, three), one.connect("alice") as alice:
        await join(alice)
        async with two.connect("bob") as bob, two.connect("carol") as carol:
            await join(bob)
            await join(carol)
            assert await change(alice) == ("bob", "joined")
            assert await change(alice) == ("carol", "joined")
            await two.kill()
            async with three.connect("carol") as again:
                await join(again)
                await trio.sleep(NOTICED)
                assert await presence(alice) == {"alice": 1, "carol": 1}
                assert await presence(again) == {"alice": 1, "carol": 1}
                assert await change(alice) == ("bob", "left")
                await quiet(alice, again)


async def test_a_node_whose_lease_had_expired_returns(autojump_clock: MockClock) -> None:
    async with alice_and_bob() as (_, two, alice, bob):
        two.link.is_cut = True
        await trio.sleep(LEASE_SECONDS + NOTICED)
        assert await presence(alice) == {"alice": 1}
        two.link.is_cut = False
        await trio.sleep(2 * NOTICED)
        assert await change(alice) == ("bob", "joined")  # alice has read that bob was away
        assert await presence(alice) == {"alice": 1, "bob": 1}
        assert await presence(bob) == {"alice": 1, "bob": 1}
        await trio.sleep(GRACE)
        await quiet(alice, bob)


async def test_changes_without_the_broker_are_sent_later(autojump_clock: MockClock) -> None:
    async with serving(2) as (one, two), one.connect("alice") as alice:
        await join(alice)
        async with two.connect("bob") as bob, two.connect("carol") as carol:
            await join(carol)
            await join(bob)
            assert await change(alice) == ("carol", "joined")
            assert await change(alice) == ("bob", "joined")
            assert await change(carol) == ("bob", "joined")
            two.link.is_cut = True
            await leave(bob)
            await quiet(alice)
            assert await presence(alice) == {"alice": 1, "bob": 1, "carol": 1}
            two.link.is_cut = False
            assert await change(alice) == ("bob", "left")
            assert await presence(alice) == {"alice": 1, "carol": 1}


async def test_a_lost_event_is_repaired(autojump_clock: MockClock) -> None:
    async with serving(2) as (one, two), one.connect("alice") as alice:
        await join(alice)
        await trio.sleep(SETTLED)
        async with two.connect("bob") as bob, two.connect("carol") as carol:
            subscribers = one.memory.server.subscribers[PREFIX + ROOM]
            inbox = subscribers.pop(one.id)
            await join(bob)
            await quiet(alice)
            subscribers[one.id] = inbox
            await join(carol)  # its event shows that one is missing
            assert {await change(alice), await change(alice)} == {
                ("bob", "joined"),
                ("carol", "joined"),
            }
            assert await presence(alice) == {"alice": 1, "bob": 1, "carol": 1}


async def test_a_broker_that_restarts_empty(autojump_clock: MockClock) -> None:
    async with alice_and_bob() as (one, _, alice, bob):
        one.memory.server.clear()
        await trio.sleep(2 * NOTICED)
        assert await presence(alice) == {"alice": 1, "bob": 1}
        await trio.sleep(GRACE)
        for client in (alice, bob):
            frames = await client.sync()
            assert {frame["type"] for frame in frames} <= {"room_gap"}


async def test_a_node_that_does_not_answer(autojump_clock: MockClock) -> None:
    async with serving(3) as (one, two, three), one.connect("alice") as alice:
        two.link.lost.add("answer")
        async with two.connect("bob") as bob:
            await join(bob)
            await alice.send("get_presence", {"room": ROOM})
            assert (await alice.error())["code"] == "SERVICE_UNAVAILABLE"
            await join(alice)
            await alice.send("get_presence", {"room": ROOM})
            assert (await alice.error())["code"] == "SERVICE_UNAVAILABLE"
            async with one.connect("carol") as carol:
                await join(carol)  # whether carol is at the other node is not known
                await quiet(alice)
                two.link.lost.clear()
                assert await presence(alice) == {"alice": 1, "bob": 1, "carol": 1}
                await trio.sleep(SETTLED)
                frames = await alice.sync()
                assert [frame["payload"]["user_id"] for frame in frames] == ["carol"]
        async with three.connect("bob") as again:
            assert await presence(again) == {"alice": 1}


async def test_a_join_that_is_over_before_the_other_nodes_have_answered(
    autojump_clock: MockClock,
) -> None:
    async with serving(2) as (one, two), one.connect("alice") as alice:
        two.link.lost.add("answer")
        await join(alice)
        async with one.connect("bob") as bob:
            await join(bob)
            await leave(bob)
        two.link.lost.clear()
        await trio.sleep(2 * GRACE)
        await quiet(alice)
        assert await presence(alice) == {"alice": 1}


async def test_a_node_that_ends_before_it_was_live(autojump_clock: MockClock) -> None:
    async with serving(1) as (one,), one.connect("alice") as alice:
        await join(alice)
        await trio.sleep(SETTLED)
        counts = {"node": "own_stranger", "number": 1, "users": {"bob": 1}}
        broker = one.node.services.broker
        await broker.publish(PREFIX + ROOM, orjson.dumps(counts), limits=KEPT)
        assert await change(alice) == ("bob", "joined")
        await trio.sleep(2 * LEASE_SECONDS)
        assert await presence(alice) == {"alice": 1}
        assert await change(alice) == ("bob", "left")


async def test_an_event_that_the_answer_includes_is_ignored(autojump_clock: MockClock) -> None:
    async with serving(2) as (one, two), two.connect("bob") as bob:
        await join(bob)
        await trio.sleep(SETTLED)
        async with one.connect("alice") as alice:
            await join(alice)
            assert await change(bob) == ("alice", "joined")
            await trio.sleep(SETTLED)
            late = {"node": two.id, "number": 1, "users": {"carol": 1}}
            broker = one.node.services.broker
            await broker.publish(PREFIX + ROOM, orjson.dumps(late), limits=HistoryLimits())
            await quiet(alice)
            assert await presence(alice) == {"alice": 1, "bob": 1}


async def test_many_users_at_once(autojump_clock: MockClock) -> None:
    users = tuple(f"user-{at:04}" for at in range(USERS + 100))
    async with AsyncExitStack() as stack:
        one, two = await stack.enter_async_context(
            serving(2, users=("alice", *users), may=only_alice_sees)
        )
        alice = await stack.enter_async_context(one.connect("alice"))
        await join(alice)
        await trio.sleep(SETTLED)
        for user in users:
            client = await stack.enter_async_context(two.connect(user))
            await client.send("join_room", {"room": ROOM})
        told = sorted([await change(alice) for _ in users])
        assert told == [(user, "joined") for user in users]


async def test_nothing_is_kept_of_rooms_without_members(autojump_clock: MockClock) -> None:
    async with AsyncExitStack() as stack:
        one, two = await stack.enter_async_context(serving(2))
        async with one.connect("alice") as alice, two.connect("bob") as bob:
            await join(alice)
            await trio.sleep(SETTLED)
            await join(bob)
            assert await change(alice) == ("bob", "joined")
            await leave(alice)
            assert await change(bob) == ("alice", "left")
            await join(alice)
            assert await change(bob) == ("alice", "joined")
            assert await presence(alice) == {"alice": 1, "bob": 1}
            await leave(alice)
            await leave(bob)
            await trio.sleep(SETTLED)
            for node in (one, two):
                assert not list(node.node.services.presence.rooms())
            assert PREFIX + ROOM not in one.memory.server.subscribers
            await trio.sleep(2 * GRACE)
            await quiet(alice, bob)


async def test_a_room_that_cannot_be_listened_to_at_first(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    async with serving(2) as (one, two), one.connect("alice") as alice, two.connect("bob") as bob:
        await join(alice)
        await trio.sleep(SETTLED)
        listen = two.node.services.rooms.listen

        async def fail_once(name: str, listener: Listener) -> History:
            if name.startswith(PREFIX) and not failed:
                failed.append(name)
                raise BrokerUnavailable("no answer")
            return await listen(name, listener)

        monkeypatch.setattr(two.node.services.rooms, "listen", fail_once)
        await join(bob)
        await bob.send("get_presence", {"room": ROOM})
        assert (await bob.expect("presence"))["payload"]["members"] == [
            {"user_id": "alice", "connections": 1},
            {"user_id": "bob", "connections": 1},
        ]
        assert await change(alice) == ("bob", "joined")
        await quiet(bob)
    assert failed == [PREFIX + ROOM]
