"""The rules of rooms, from the side of clients: on one node, in virtual time."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import trio
from support.memory import Client, Server, kinds, open_server
from support.room_clients import join, unseen
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.ids import UserId
from netra_trio.protocol.rooms import user_room
from netra_trio.rooms.feed import ROOMS


async def tell(client: Client, content: Any, room: str = "news", key: str | None = None) -> None:
    await client.send("room_message", {"room": room, "content": content}, key)


async def publish(server: Server, *contents: Any, room: str = "news") -> list[int]:
    """Publish messages of the application; return their offsets."""
    publisher = server.node.services.publisher
    return [(await publisher.publish(room, content)).offset for content in contents]


async def contents(client: Client, count: int) -> list[tuple[int, Any]]:
    """Return the offsets and contents of the next frames, which must be events."""
    frames = [await client.expect("room_event") for _ in range(count)]
    return [
        (frame["payload"]["offset"], frame["payload"]["event"]["payload"]["content"])
        for frame in frames
    ]


async def test_a_message_reaches_all_members_in_one_order(
    autojump_clock: MockClock,
) -> None:
    async with open_server(may=unseen) as server, AsyncExitStack() as stack:
        connecting = [server.connect(user) for user in ("alice", "bob")]
        alice, bob = [await stack.enter_async_context(each) for each in connecting]
        first, second = await join(alice, "news"), await join(bob, "news")
        assert first == second
        assert (first["offset"], first["verdict"], first["replayed"]) == (0, "new", 0)
        assert "runs" not in first
        await tell(alice, "hello", key="k")
        confirmed, event = sorted(
            [await alice.next(), await alice.next()], key=lambda frame: str(frame["type"])
        )
        assert confirmed["type"] == "room_confirmed"
        assert confirmed["correlation_id"] == "k"
        assert confirmed["payload"] == {"room": "news", "offset": 1, "status": "accepted"}
        assert event["payload"] == {
            "room": "news",
            "offset": 1,
            "epoch": first["epoch"],
            "event": {
                "type": "room_message",
                "payload": {"user_id": "alice", "content": "hello"},
            },
            "timestamp": event["timestamp"],
        }
        assert event.keys() == {"type", "payload", "timestamp"}
        assert await bob.next() == event
        await tell(bob, {"n": 1}, key="k")
        assert await contents(alice, 1) == [(2, {"n": 1})]


async def test_no_events_follow_after_a_leave(autojump_clock: MockClock) -> None:
    async with open_server(may=unseen) as server, server.connect() as client:
        await join(client, "news")
        await client.send("leave_room", {"room": "news"}, "bye")
        left = await client.expect("room_left")
        assert (left["correlation_id"], left["payload"]) == ("bye", {"room": "news"})
        await publish(server, "unheard")
        assert await client.sync() == []
        assert server.node.services.rooms.statistics() == {"rooms": 0, "members": 0}


async def test_commands_of_a_room_are_handled_in_their_order(autojump_clock: MockClock) -> None:
    async with open_server(may=unseen) as server, server.connect() as client:
        for n in range(10):
            await client.send("join_room", {"room": "news"}, f"join-{n}")
            await client.send("leave_room", {"room": "news"}, f"leave-{n}")
        replies = [await client.next() for _ in range(20)]
        assert [frame["correlation_id"] for frame in replies] == [
            f"{command}-{n}" for n in range(10) for command in ("join", "leave")
        ]
        assert server.node.services.rooms.members("news") == []


async def test_a_member_that_joins_again_gets_the_missed_events(autojump_clock: MockClock) -> None:
    async with open_server(may=unseen) as server:
        async with server.connect() as client:
            epoch = (await join(client, "news"))["epoch"]
        await publish(server, "a", "b", "c")
        async with server.connect() as client:
            for position in ({"after": 1, "epoch": epoch}, {"after": 1}):
                joined = await join(client, "news", **position)
                assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("exact", 1, 2)
                assert await contents(client, 2) == [(2, "b"), (3, "c")]
            await publish(server, "d")
            assert await contents(client, 1) == [(4, "d")]
            joined = await join(client, "news", after=4)
            assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("exact", 4, 0)
            joined = await join(client, "news")
            assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("new", 4, 0)


async def test_lost_events_are_reported(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"room_history_events": 3}
    async with open_server(may=unseen, **settings) as server, server.connect() as client:
        await publish(server, *range_of("abcdef"))  # d, e, f are kept
        joined = await join(client, "news", after=2)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("gap", 3, 3)
        assert await contents(client, 3) == [(4, "d"), (5, "e"), (6, "f")]
        joined = await join(client, "news", after=3)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("exact", 3, 3)
        await contents(client, 3)
        joined = await join(client, "news", after=6, epoch="another")
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("gap", 3, 3)
        await contents(client, 3)
        joined = await join(client, "news", after=7)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("gap", 3, 3)
        await contents(client, 3)
        for _ in range(10):
            await trio.sleep(30)
            await client.sync()
        joined = await join(client, "news", after=5)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("gap", 6, 0)
        joined = await join(client, "news", after=6)
        assert (joined["verdict"], joined["offset"], joined["replayed"]) == ("exact", 6, 0)


def range_of(text: str) -> Sequence[str]:
    return list(text)


async def test_without_a_function_there_are_only_own_rooms(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, server.connect("alice") as client:
        await client.send("join_room", {"room": "news"}, "j")
        assert (await client.error())["code"] == "FORBIDDEN"
        await tell(client, "x", key="m")
        assert (await client.error())["code"] == "FORBIDDEN"
        own, foreign = user_room(UserId("alice")), user_room(UserId("bob"))
        assert client.hello["payload"]["user_room"] == own
        await join(client, own)
        await tell(client, "to myself", own)
        assert (await contents_of_own(client)) == "to myself"
        for kind, payload in (
            ("join_room", {"room": foreign}),
            ("room_message", {"room": foreign, "content": "x"}),
            ("room_message", {"room": "thread:x", "content": "x"}),
            ("join_room", {"room": "thread:x"}),
        ):
            await client.send(kind, payload, "f")
            assert (await client.error())["code"] == "FORBIDDEN"


async def contents_of_own(client: Client) -> Any:
    frames = [await client.next(), await client.next()]
    assert sorted(kinds(frames)) == ["room_confirmed", "room_event"]
    event = next(frame for frame in frames if frame["type"] == "room_event")
    return event["payload"]["event"]["payload"]["content"]


async def test_the_101st_room_is_refused(autojump_clock: MockClock) -> None:
    async with open_server(may=unseen) as server, server.connect() as client:
        for n in range(ROOMS + 1):
            await client.send("join_room", {"room": f"room:{n}"}, f"{n}")
        frames = [await client.next() for _ in range(ROOMS + 1)]
        refused = [frame for frame in frames if frame["type"] == "error"]
        assert [frame["correlation_id"] for frame in refused] == [f"{ROOMS}"]
        assert refused[0]["payload"]["code"] == "QUEUE_FULL"
        await join(client, "room:7")  # again
        await client.send("leave_room", {"room": "room:0"}, "bye")
        await client.expect("room_left")
        await join(client, f"room:{ROOMS}")
        assert server.node.services.rooms.statistics() == {"rooms": ROOMS, "members": ROOMS}
    await wait_all_tasks_blocked()


async def test_a_connection_that_ends_leaves_its_rooms(autojump_clock: MockClock) -> None:
    async with open_server(may=unseen) as server:
        async with server.connect() as client:
            await join(client, "news")
        await wait_all_tasks_blocked()
        assert server.node.services.rooms.statistics() == {"rooms": 0, "members": 0}
        client = server.start()
        await client.expect("connection_established")
        await join(client, "news")
        client.peer.cut()
        await client.done.wait()
        await wait_all_tasks_blocked()
        assert server.node.services.rooms.statistics() == {"rooms": 0, "members": 0}
        assert not server.node.services.rooms._memberships


async def test_a_kick_ends_all_memberships_of_a_user(
    autojump_clock: MockClock,
) -> None:
    async with open_server(may=unseen) as server, AsyncExitStack() as stack:
        users = ("alice", "bob", "alice")
        connecting = [server.connect(user) for user in users]
        alice, bob, again = [await stack.enter_async_context(each) for each in connecting]
        for client in (alice, bob, again):
            await join(client, "news")
        await server.node.services.rooms.kick("news", UserId("alice"))
        for client in (alice, again):
            frame = await client.expect("room_left")
            assert "correlation_id" not in frame
        await publish(server, "x")
        assert await contents(bob, 1) == [(1, "x")]
        assert await alice.sync() == []


async def test_messages_count_for_the_rate_and_are_never_queued(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"max_message_rate": 2}
    async with open_server(may=unseen, **settings) as server, server.connect() as client:
        await trio.sleep(1)
        await tell(client, "a", key="1")
        await client.expect("room_confirmed")
        await client.say("b")
        await client.until("agent_completed")
        await tell(client, "c", key="2")
        error = await client.error()
        assert error["code"] == "RATE_LIMIT_EXCEEDED"
        assert 59_000 < error["retry_after_ms"] <= 60_000
        await trio.sleep(60)
        await tell(client, "c", key="2")
        assert (await client.until("room_confirmed"))[-1]["payload"]["status"] == "accepted"
        await tell(client, "c", key="2")
        assert (await client.expect("room_confirmed"))["payload"] == {
            "room": "news",
            "offset": 2,
            "status": "duplicate",
        }
