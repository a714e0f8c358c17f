"""Presence on one node: users in a room, changes for members, and the limits of requests."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
import trio.testing
from attrs import define, field
from structlog.testing import capture_logs
from support.memory import Client, Server, open_server
from support.room_clients import ROOM, change, join, leave, presence
from support.rooms import anyone
from trio.testing import MockClock

from netra_trio.broker.base import HistoryLimits
from netra_trio.broker.memory import MemoryBackend
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import SessionId, ThreadId, UserId
from netra_trio.protocol.rooms import user_room
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.rooms.presence import LARGE_ROOM, LARGE_ROOM_SECONDS, Presence
from netra_trio.rooms.rooms import Rooms
from netra_trio.stores.memory import MemoryStore
from netra_trio.telemetry.metrics import Metrics

GRACE = 10.0
SEE = 60.0


class SometimesStore(MemoryStore):
    """A store that cannot always find rooms."""

    is_away = False

    async def find_room(self, room: str) -> tuple[UserId, ThreadId] | None:
        """Find a room, if it can."""
        if self.is_away:
            raise StoreUnavailable
        return await super().find_room(room)


@define
class Rules:
    """The application's function, with what each user must not do.

    Attributes:
        denied: Pairs of a user and an action.
        asked: Each question.
    """

    denied: set[tuple[str, str]] = field(factory=set)
    asked: list[tuple[str, str]] = field(factory=list)
    fails: bool = False
    hangs: bool = False

    async def may(self, user: str, _room: str, action: str) -> bool:
        """Answer a question."""
        self.asked.append((user, action))
        if action == "see" and self.fails:
            raise OSError("the application's database is away")
        if action == "see" and self.hangs:
            await trio.sleep_forever()
        return (user, action) not in self.denied

    def count(self, user: str, action: str) -> int:
        """Return the number of permission checks."""
        return self.asked.count((user, action))


async def quiet(*clients: Client) -> None:
    """Check that these clients get nothing more."""
    await trio.testing.wait_all_tasks_blocked()
    for client in clients:
        assert await client.sync() == []


@asynccontextmanager
async def serving(may: PermissionCheck = anyone, **settings: Any) -> AsyncIterator[Server]:
    users = ("alice", "bob", "carol", "dave")
    settings = {"heartbeat_interval_ms": 3_600_000, **settings}
    async with open_server(may=may, users=users, **settings) as server:
        yield server


async def test_a_user_joins_and_leaves(autojump_clock: MockClock) -> None:
    async with serving() as server, server.connect("alice") as alice:
        await join(alice)
        async with server.connect("bob") as bob:
            await join(bob)
            assert await change(alice) == ("bob", "joined")
            assert await presence(alice) == {"alice": 1, "bob": 1}
            await leave(bob)
            left_at = trio.current_time()
            await quiet(bob, alice)
            assert await presence(alice) == {"alice": 1}
            assert await change(alice) == ("bob", "left")
            assert trio.current_time() - left_at == pytest.approx(GRACE)
            await quiet(bob)


async def test_a_lost_connection_leaves(autojump_clock: MockClock) -> None:
    async with serving() as server, server.connect("alice") as alice:
        await join(alice)
        bob = server.start("bob")
        await bob.expect("connection_established")
        await join(bob)
        assert await change(alice) == ("bob", "joined")
        bob.peer.cut()
        await bob.done.wait()
        lost_at = trio.current_time()
        assert await change(alice) == ("bob", "left")
        assert trio.current_time() - lost_at == pytest.approx(GRACE)


async def test_a_user_who_returns_in_time_has_not_left(autojump_clock: MockClock) -> None:
    async with serving() as server, server.connect("alice") as alice:
        await join(alice)
        for away in (GRACE - 0.5, GRACE + 0.5):
            async with server.connect("bob") as bob:
                await join(bob)
                if away < GRACE:
                    assert await change(alice) == ("bob", "joined")
                await quiet(alice)
            with trio.move_on_after(away):
                assert await change(alice) == ("bob", "left")
        async with server.connect("bob") as bob:
            await join(bob)
            assert await change(alice) == ("bob", "joined")


async def test_two_connections_of_a_user_are_one_presence(autojump_clock: MockClock) -> None:
    async with serving() as server, server.connect("alice") as alice:
        await join(alice)
        async with server.connect("bob") as one:
            await join(one)
            assert await change(alice) == ("bob", "joined")
            async with server.connect("bob") as two:
                await join(two)
                await join(two)  # once more replaces the membership
                assert await presence(alice) == {"alice": 1, "bob": 2}
                await quiet(alice, one, two)
            await trio.sleep(2 * GRACE)
            await quiet(alice, one)
            assert await presence(alice) == {"alice": 1, "bob": 1}
        assert await change(alice) == ("bob", "left")


async def test_a_member_that_joins_during_an_absence_gets_the_return(
    autojump_clock: MockClock,
) -> None:
    async with serving() as server, server.connect("alice") as alice:
        await join(alice)
        async with server.connect("bob") as bob:
            await join(bob)
            assert await change(alice) == ("bob", "joined")
            await leave(bob)
            async with server.connect("carol") as carol:
                await join(carol)
                assert await change(alice) == ("carol", "joined")
                assert await presence(carol) == {"alice": 1, "carol": 1}
                await join(bob)  # alice still has bob as present
                assert await change(carol) == ("bob", "joined")
                await quiet(alice, bob)
                await leave(bob)
                assert await change(carol) == ("bob", "left")
                assert await change(alice) == ("bob", "left")


async def test_a_member_that_reads_during_an_absence_gets_the_return(
    autojump_clock: MockClock,
) -> None:
    async with (
        serving() as server,
        server.connect("alice") as alice,
        server.connect("carol") as carol,
        server.connect("bob") as bob,
    ):
        await join(alice)
        await join(carol)
        assert await change(alice) == ("carol", "joined")
        await join(bob)
        for client in (alice, carol):
            assert await change(client) == ("bob", "joined")
        await leave(bob)
        assert await presence(alice) == {"alice": 1, "carol": 1}
        await join(bob)
        assert await change(alice) == ("bob", "joined")
        await quiet(alice, bob, carol)  # carol has not read that bob was away


async def test_rooms_are_apart(autojump_clock: MockClock) -> None:
    async with serving() as server, server.connect("alice") as alice:
        await join(alice)
        async with server.connect("bob") as bob:
            await join(bob, "other")
            await quiet(alice)
            assert await presence(alice, "other") == {"bob": 1}
            assert await presence(alice, "empty") == {}
            assert await presence(alice) == {"alice": 1}


async def test_only_members_with_the_permission_to_see_get_changes(
    autojump_clock: MockClock,
) -> None:
    rules = Rules({("bob", "see")})
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(rules.may))
        clients = [
            await stack.enter_async_context(server.connect(user)) for user in ("alice", "bob")
        ]
        alice, bob = clients
        await join(alice)
        await join(bob)
        assert await change(alice) == ("bob", "joined")
        carol = await stack.enter_async_context(server.connect("carol"))
        await join(carol)
        assert await change(alice) == ("carol", "joined")
        await quiet(bob)
        for user, error in (("bob", "see"), ("dave", "join")):
            rules.denied.add((user, error))
        dave = await stack.enter_async_context(server.connect("dave"))
        for client in (bob, dave):
            await client.send("get_presence", {"room": ROOM}, "p-2")
            refused = await client.expect("error")
            assert refused["correlation_id"] == "p-2"
            assert refused["payload"]["code"] == "FORBIDDEN"
        assert await presence(alice) == {"alice": 1, "bob": 1, "carol": 1}


async def test_a_permission_to_see_is_checked_again(autojump_clock: MockClock) -> None:
    rules = Rules()
    async with serving(rules.may) as server, server.connect("alice") as alice:
        await join(alice)
        async with server.connect("bob") as bob:
            await join(bob)
            assert await change(alice) == ("bob", "joined")
            await leave(bob)
            assert await change(alice) == ("bob", "left")
            assert rules.count("alice", "see") == 1
            rules.denied.add(("alice", "see"))
            await trio.sleep(SEE - GRACE)
            await join(bob)
            await quiet(alice)
            assert rules.count("alice", "see") == 2
            rules.denied.clear()
            await trio.sleep(SEE)
            async with server.connect("carol") as carol:
                await join(carol)
                assert await change(alice) == ("carol", "joined")


async def test_a_failing_application_keeps_its_last_answer(autojump_clock: MockClock) -> None:
    rules = Rules(fails=True)
    with capture_logs():
        await _fail_and_hang(rules)


async def _fail_and_hang(rules: Rules) -> None:
    async with serving(rules.may) as server, server.connect("alice") as alice:
        await join(alice)
        async with server.connect("bob") as bob, server.connect("carol") as carol:
            await join(bob)
            await quiet(alice)  # the permission of alice to see others is not checked yet
            await alice.send("get_presence", {"room": ROOM})
            assert (await alice.error())["code"] == "SERVICE_UNAVAILABLE"
            rules.fails = False
            await join(carol)
            assert await change(alice) == ("carol", "joined")
            await change(bob)
            rules.fails = True
            await trio.sleep(SEE + 1)
            await leave(carol)
            assert await change(alice) == ("carol", "left")
            rules.hangs, rules.fails = True, False
            await join(carol)
            assert await change(alice) == ("carol", "joined")  # after five seconds


async def test_a_change_that_is_reversed_during_a_permission_check(
    autojump_clock: MockClock,
) -> None:
    rules = Rules(hangs=True)
    with capture_logs():
        await _take_back(rules)


async def _take_back(rules: Rules) -> None:
    async with serving(rules.may) as server, server.connect("alice") as alice:
        await join(alice)
        async with server.connect("bob") as bob:
            await join(bob)
            for _ in range(3):  # each question takes five seconds
                await leave(bob)
                await trio.sleep(GRACE + 0.1)
                await join(bob)
            await trio.sleep(20)
            assert await alice.sync() == []
            rules.hangs = False
            await leave(bob)
            assert await change(alice) == ("bob", "left")


async def test_the_rooms_of_the_server(autojump_clock: MockClock) -> None:
    async with serving() as server, server.connect("alice") as one, server.connect("alice") as two:
        own = user_room(UserId("alice"))
        await join(one, own)
        await join(two, own)
        await quiet(one)
        assert await presence(one, own) == {"alice": 2}
        async with server.connect("bob") as bob:
            await bob.send("get_presence", {"room": own})
            assert (await bob.error())["code"] == "FORBIDDEN"


async def test_without_a_function_of_the_application(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect("alice") as alice:
        await alice.send("get_presence", {"room": ROOM})
        assert (await alice.error())["code"] == "FORBIDDEN"


async def test_a_kick_ends_the_presence(autojump_clock: MockClock) -> None:
    async with serving() as server, server.connect("alice") as alice:
        await join(alice)
        async with server.connect("bob") as bob:
            await join(bob)
            assert await change(alice) == ("bob", "joined")
            await server.node.services.rooms.kick(ROOM, UserId("bob"))
            await bob.expect("room_left")
            assert await presence(alice) == {"alice": 1}
            assert await change(alice) == ("bob", "left")


@pytest.mark.parametrize("others", [0, 5])
async def test_requests_share_a_rate(autojump_clock: MockClock, others: int) -> None:
    async with serving() as server, server.connect("alice") as alice:
        await join(alice)
        for _ in range(others):
            await alice.send("get_thread_history", {"thread_id": "none"})
            assert (await alice.error())["code"] == "THREAD_NOT_FOUND"
        for _ in range(10 - others):
            assert await presence(alice) == {"alice": 1}
        await alice.send("get_presence", {"room": ROOM}, "p-11")
        refused = await alice.expect("error")
        assert (refused["payload"]["code"], refused["correlation_id"]) == (
            "RATE_LIMIT_EXCEEDED",
            "p-11",
        )
        await trio.sleep(refused["payload"]["retry_after_ms"] / 1000)
        assert await presence(alice) == {"alice": 1}
        await alice.send("get_thread_history", {"thread_id": "none"})
        assert (await alice.error())["code"] == "RATE_LIMIT_EXCEEDED"


async def test_nothing_is_kept_of_empty_rooms(autojump_clock: MockClock) -> None:
    async with serving() as server:
        known = server.node.services.presence
        async with server.connect("alice") as alice, server.connect("bob") as bob:
            await join(alice)
            await join(bob)
            assert await change(alice) == ("bob", "joined")
            assert [room.name for room in known.rooms()] == [ROOM]
            await leave(alice)
            await leave(bob)
            assert not list(known.rooms())
            await trio.sleep(2 * GRACE)
            await quiet(alice, bob)


async def test_many_changes_at_once_are_sent_in_order(autojump_clock: MockClock) -> None:
    users = tuple(f"user-{at}" for at in range(60))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            open_server(may=anyone, users=(*users, "alice"), max_connections_per_user=5)
        )
        alice = await stack.enter_async_context(server.connect("alice"))
        await join(alice)
        for user in users:
            client = await stack.enter_async_context(server.connect(user))
            await client.send("join_room", {"room": ROOM})
        assert [await change(alice) for _ in users] == [(user, "joined") for user in users]
        assert await presence(alice) == {"alice": 1, **dict.fromkeys(users, 1)}


async def test_a_large_room_gets_changes_together(autojump_clock: MockClock) -> None:
    users = tuple(f"user-{at:03}" for at in range(LARGE_ROOM + 1))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            open_server(may=anyone, users=(*users, "bob", "carol"))
        )
        clients = [await stack.enter_async_context(server.connect(user)) for user in users]
        for client in clients:
            await client.send("join_room", {"room": ROOM})
        await trio.sleep(1)
        for client in clients:
            await client.sync()
        began = trio.current_time()
        bob = await stack.enter_async_context(server.connect("bob"))
        await join(bob)
        carol = await stack.enter_async_context(server.connect("carol"))
        await join(carol)
        for client in clients:
            assert [await change(client), await change(client)] == [
                ("bob", "joined"),
                ("carol", "joined"),
            ]
        assert trio.current_time() - began == pytest.approx(LARGE_ROOM_SECONDS)
        assert await change(bob) == ("carol", "joined")


async def test_the_owner_of_a_shared_thread_gets_its_watchers(
    autojump_clock: MockClock,
) -> None:
    store = SometimesStore()
    async with (
        serving(store=store) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
        server.connect("carol") as carol,
    ):
        await alice.say("hello", thread_id="main")
        await alice.until("agent_completed")
        for client in (alice, bob):
            await client.send("watch_thread", {"thread_id": "main", "owner": "alice"})
        room = (await alice.until("room_joined"))[-1]["payload"]["room"]
        frame = await alice.expect("presence_changed")
        assert frame["payload"] == {"room": room, "user_id": "bob", "change": "joined"}
        await bob.until("room_joined")
        await trio.sleep(SEE + 1)
        store.is_away = True  # alice's permission is lasting, bob's last answer is kept
        await carol.send("get_presence", {"room": room})
        assert (await carol.error())["code"] == "SERVICE_UNAVAILABLE"
        await bob.send("leave_room", {"room": room})
        await bob.until("room_left")
        assert (await alice.until("presence_changed"))[-1]["payload"]["change"] == "left"


async def test_changes_before_it_runs_are_sent_then(autojump_clock: MockClock) -> None:
    broker = MemoryBackend().broker
    metrics = Metrics()

    async def find_room(_name: str) -> None:
        await trio.lowlevel.checkpoint()

    rooms = Rooms(
        broker,
        find_room,
        limits=HistoryLimits(),
        may=anyone,
        metrics=metrics,
        wall_clock=trio.current_time,
    )
    presence = Presence(rooms, broker, trio.current_time)
    feeds = [
        rooms.open_feed(UserId(user), SessionId(user), wake=lambda: None)
        for user in ("alice", "bob")
    ]
    for feed in feeds:
        await rooms.join(feed, ROOM)
        feed.take(max_bytes=10_000, lags=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(presence.run)
        await trio.sleep(1)
        (frame,) = [
            orjson.loads(bytes(each)) for each in feeds[0].take(max_bytes=10_000, lags=False)
        ]
        assert frame["payload"] == {"room": ROOM, "user_id": "bob", "change": "joined"}
        assert feeds[1].take(max_bytes=10_000, lags=False) == []
        nursery.cancel_scope.cancel()
    feeds[1].close()  # after it has ended: no task is started
    assert [each.user_id for each in await presence.find(ROOM)] == ["alice"]
    feeds[0].close()
    assert not list(presence.rooms())
