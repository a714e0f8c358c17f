"""Rooms over connections: slow and lost members, several nodes, and limits of commands."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define
from support.memory import EPOCH, Client, Frame, Server, kinds, open_server
from support.room_clients import join, unseen
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.connections.room_commands import REQUESTS
from netra_trio.errors import StoreUnavailable, TransportClosed
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.codes import EndReason
from netra_trio.protocol.rooms import thread_room, user_room
from netra_trio.rooms.feed import FEED_BYTES, FEED_EVENTS
from netra_trio.stores.memory import MemoryStore
from netra_trio.transports.memory import NetworkConditions

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 300_000}


async def say(client: Client, content: str, key: str | None = None, room: str = "news") -> Frame:
    """Send a message to a room of which the client is no member; return the reply."""
    await client.send("room_message", {"room": room, "content": content}, key)
    frame = await client.next()
    while frame["type"] == "heartbeat":
        frame = await client.next()
    return frame


async def publish(server: Server, *contents: str, room: str = "news") -> None:
    for content in contents:
        await server.node.services.publisher.publish(room, content)


@asynccontextmanager
async def open_nodes(**settings: Any) -> AsyncIterator[tuple[Server, Server]]:
    """Open two nodes with one store on one broker."""
    shared, store = MemoryServer(), MemoryStore()
    async with AsyncExitStack() as stack:
        backends = [MemoryBackend(store.owner, shared), MemoryBackend(server=shared)]
        options: dict[str, Any] = {"may": unseen, "store": store, **NO_HEARTBEAT, **settings}
        one, two = [
            await stack.enter_async_context(open_server(backend=backend, **options))
            for backend in backends
        ]
        yield one, two


async def test_members_at_two_nodes_get_the_same_frames(autojump_clock: MockClock) -> None:
    async with (
        open_nodes() as (one, two),
        one.connect("alice", acknowledging=True) as alice,
        two.connect("bob") as bob,
    ):
        assert await join(alice, "news") == await join(bob, "news")
        async with two.connect("bob") as other:
            for number in range(20):
                confirmed = await say(other, f"{number}", f"k{number}")
                assert confirmed["payload"]["status"] == "accepted"
            confirmed = await say(other, "0", "k0")
            assert confirmed["payload"] == {"room": "news", "offset": 1, "status": "duplicate"}
        frames = [await alice.expect("room_event") for _ in range(20)]
        assert [await bob.expect("room_event") for _ in range(20)] == frames
        assert [frame["payload"]["offset"] for frame in frames] == list(range(1, 21))
        assert all("seq" not in frame for frame in frames)


async def test_the_key_of_a_message_is_of_its_user_and_room(autojump_clock: MockClock) -> None:
    async with (
        open_server(may=unseen, **NO_HEARTBEAT) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        places = [
            await say(alice, "x", "k"),
            await say(bob, "x", "k"),
            await say(alice, "x", "k", room="other"),
            await say(alice, "x"),
            await say(alice, "x"),
        ]
        assert [each["payload"]["offset"] for each in places] == [1, 2, 1, 3, 4]
        assert {each["payload"]["status"] for each in places} == {"accepted"}
        await trio.sleep(299)
        assert (await say(alice, "y", "k"))["payload"]["status"] == "duplicate"
        await trio.sleep(1)
        assert (await say(alice, "x", "k"))["payload"]["status"] == "accepted"


async def test_the_rate_of_messages_is_that_of_all_nodes(autojump_clock: MockClock) -> None:
    async with (
        open_nodes(max_message_rate=3, burst_queue=5) as (one, two),
        one.connect() as first,
        two.connect() as second,
    ):
        assert (await say(first, "a"))["type"] == "room_confirmed"
        await second.say("b")
        await second.until("agent_completed")
        assert (await say(second, "c"))["type"] == "room_confirmed"
        refused = await say(first, "d", "k")
        assert refused["correlation_id"] == "k"
        assert refused["payload"]["code"] == "RATE_LIMIT_EXCEEDED"
        assert refused["payload"]["recoverable"]
        assert 59_000 < refused["payload"]["retry_after_ms"] <= 60_000
        await trio.sleep(refused["payload"]["retry_after_ms"] / 1000)
        assert (await say(first, "d", "k"))["payload"]["offset"] == 3


async def test_a_refused_message_takes_no_slot(autojump_clock: MockClock) -> None:
    async def may(_user: str, room: str, _action: str) -> bool:
        return room == "open"

    async with open_server(may=may, max_message_rate=1) as server, server.connect() as client:
        for _ in range(3):
            assert (await say(client, "x"))["payload"]["code"] == "FORBIDDEN"
        assert (await say(client, "x", room="open"))["type"] == "room_confirmed"


async def test_a_message_that_is_too_large_for_an_event(autojump_clock: MockClock) -> None:
    async with (
        open_server(may=unseen, max_message_size=1_000_000) as server,
        server.connect(max_bytes=16_000_000) as client,
    ):
        empty = len('{"type":"room_message","payload":{"user_id":"alice","content":""}}')
        fits = "x" * (256 * 1024 - empty)
        assert (await say(client, fits))["type"] == "room_confirmed"
        assert (await say(client, fits + "x"))["payload"]["code"] == "MESSAGE_TOO_LARGE"


async def test_a_stalled_member_changes_nothing_for_the_others(autojump_clock: MockClock) -> None:
    async with (
        open_server(may=unseen, **NO_HEARTBEAT) as server,
        AsyncExitStack() as stack,
    ):
        connecting = [server.connect("alice" if n % 2 else "bob") for n in range(4)]
        members = [await stack.enter_async_context(each) for each in connecting]
        stalled = server.start("carol", buffer_bytes=2048)
        await stalled.expect("connection_established")
        for member in (*members, stalled):
            await join(member, "news")
        started = trio.current_time()
        for number in range(FEED_EVENTS + 200):
            await publish(server, f"{number}")
            for member in members:
                frame = await member.expect("room_event")
                assert frame["payload"]["offset"] == number + 1
            for feed in server.node.services.rooms._memberships:
                statistics = feed.statistics()
                assert statistics["events"] <= FEED_EVENTS
                assert statistics["bytes"] <= FEED_BYTES
        assert trio.current_time() == started
        await stalled.done.wait()  # it took nothing for the send timeout
        assert stalled.ended is EndReason.SEND_TIMEOUT
        await wait_all_tasks_blocked()
        assert server.node.services.rooms.statistics()["members"] == len(members)


async def test_a_member_at_a_kilobyte_a_second(autojump_clock: MockClock) -> None:
    async with (
        open_server(may=unseen, **NO_HEARTBEAT) as server,
        server.connect("alice") as fast,
        server.connect(
            "bob", buffer_bytes=4096, conditions=NetworkConditions(rate=1024), send_timeout=60.0
        ) as slow,
    ):
        await join(fast, "news")
        await join(slow, "news")
        count = 2 * FEED_EVENTS
        for number in range(count):
            await publish(server, f"{number}")
            assert (await fast.expect("room_event"))["payload"]["offset"] == number + 1
            await trio.sleep(0.01)
        known: list[int] = []
        while not known or known[-1] < count:
            frame = await slow.next()
            payload = frame["payload"]
            if frame["type"] == "room_gap":
                known += range(payload["from"], payload["to"] + 1)
            else:
                known.append(payload["offset"])
        assert known == list(range(1, count + 1))


async def test_room_frames_do_not_change_the_order_of_events(autojump_clock: MockClock) -> None:
    async def talk(run: Run) -> None:
        for _ in range(5):
            await run.emit("x")
            await run.publish("news", "y")

    async with (
        open_server(agents={"talk": talk}, may=unseen) as server,
        server.connect(acknowledging=True) as client,
    ):
        await join(client, "news")
        await client.say("go")
        numbers: list[int] = []
        offsets: list[int] = []
        while len(offsets) < 5 or len(numbers) < 8:  # confirmed, started, five deltas, completed
            frame = await client.next()
            if frame["type"] == "room_event":
                offsets.append(frame["payload"]["offset"])
            else:
                numbers.append(frame["seq"])
        assert numbers == list(range(1, 9))
        assert offsets == [1, 2, 3, 4, 5]
        assert await client.sync() == []


async def test_one_write_has_room_frames_last(autojump_clock: MockClock) -> None:
    async with (
        open_server(may=unseen) as server,
        server.connect(acknowledging=True, buffer_bytes=300) as client,
    ):
        await join(client, "news")
        for content in ("x" * 300, "y"):  # one is in the line, the writer waits with the other
            await publish(server, content)
            await wait_all_tasks_blocked()
        await publish(server, "z")
        await client.say("go")
        await client.send("ping", {})
        await wait_all_tasks_blocked()
        frames = [await client.next() for _ in range(8)]
        assert kinds(frames)[:3] == ["room_event", "room_event", "pong"]
        assert [frame["seq"] for frame in frames[3:7]] == [1, 2, 3, 4]
        assert frames[7]["payload"]["event"]["payload"]["content"] == "z"


async def test_the_last_request_that_fits_and_one_beyond(autojump_clock: MockClock) -> None:
    async def may(_user: str, _room: str, _action: str) -> bool:
        await trio.sleep(1)
        return True

    async with open_server(may=may) as server, server.connect() as client:
        await client.send("join_room", {"room": "a"}, "join")
        for number in range(REQUESTS):
            await client.send("leave_room", {"room": "a"}, f"{number}")
        first = await client.error()  # before the application has answered
        assert first["code"] == "RATE_LIMIT_EXCEEDED"
        assert first["retry_after_ms"] == 100
        frames = [await client.next() for _ in range(REQUESTS)]
        assert kinds(frames) == ["room_joined"] + ["room_left"] * (REQUESTS - 1)
        await client.send("join_room", {"room": "b"}, "join")
        await client.expect("room_joined")
        metrics = server.node.services.instruments.metrics
        assert metrics.rate_events["requests", "refused"] == 1


async def test_rooms_of_one_connection_do_not_wait_for_each_other(
    autojump_clock: MockClock,
) -> None:
    async def may(_user: str, room: str, _action: str) -> bool:
        await trio.sleep(1 if room == "slow" else 0)
        return True

    async with open_server(may=may) as server, server.connect() as client:
        await client.send("join_room", {"room": "slow"}, "slow")
        await client.send("room_message", {"room": "slow", "content": "x"}, "message")
        await client.send("join_room", {"room": "fast"}, "fast")
        replies = [await client.next() for _ in range(4)]
        assert replies[0]["correlation_id"] == "fast"
        assert replies[1]["correlation_id"] == "slow"
        assert sorted(kinds(replies[2:])) == ["room_confirmed", "room_event"]


async def test_a_store_that_does_not_answer(autojump_clock: MockClock) -> None:
    class Store(MemoryStore):
        async def find_room(self, room: str) -> tuple[UserId, ThreadId] | None:  # noqa: ARG002
            raise StoreUnavailable("down")

    async with open_server(store=Store()) as server, server.connect() as client:
        room = thread_room(UserId("alice"), ThreadId("t"))
        await client.send("join_room", {"room": room}, "j")
        frame = await client.expect("error")
        assert frame["correlation_id"] == "j"
        assert frame["payload"]["code"] == "SERVICE_UNAVAILABLE"


async def test_members_during_a_drain(autojump_clock: MockClock) -> None:
    async with open_server(may=unseen) as server:
        client = server.start()
        await client.expect("connection_established")
        await join(client, "news")
        await publish(server, "x")
        await client.expect("room_event")
        await server.node.drain()
        frames, code = await client.rest()
        assert code == 1012
        assert kinds(frames) == ["server_draining"]
        assert server.node.services.rooms.statistics()["members"] == 0


async def test_the_figures_of_rooms(autojump_clock: MockClock) -> None:
    async with (
        open_server(may=unseen) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        await join(alice, "news")
        await join(bob, "news")
        await join(bob, "other")
        await publish(server, "x", "y")
        for client in (alice, bob):
            for _ in range(2):
                await client.expect("room_event")
        metrics = server.node.services.instruments.metrics
        gauges = metrics.read_gauges()
        assert (gauges.rooms, gauges.room_members) == (2, 3)
        assert metrics.room_events == {"received": 2, "delivered": 4, "merged": 0, "dropped": 0}


@define(eq=False)
class ActAtStep(trio.abc.Instrument):
    """Calls a function before a step of the server's tasks.

    Attributes:
        step: The number of the step.
        act: The function.
        steps: The number of steps so far.
    """

    step: int
    act: Callable[[], object]
    steps: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith(("netra_trio.", "support.memory.Server.start")):
            self.steps += 1
            if self.steps == self.step:
                self.act()


ACTIONS: dict[str, Callable[[Client], object]] = {
    "cancelled": lambda client: client.scope.cancel(),
    "cut": lambda client: client.peer.cut(),
    "closed by the peer": lambda client: client.peer.close(1001),
}


async def converse(server: Server, client: Client) -> None:
    """Join rooms, send, join one again, and leave."""
    await client.expect("connection_established")
    own = user_room(UserId("alice"))
    await client.send("join_room", {"room": own}, "1")
    await client.expect("room_joined")
    await client.send("join_room", {"room": "news", "after": 0}, "2")
    await client.until("room_event")
    await client.send("room_message", {"room": "news", "content": "x"}, "3")
    await publish(server, "y", room=own)
    frames = [await client.next() for _ in range(3)]
    assert sorted(kinds(frames)) == ["room_confirmed", "room_event", "room_event"]
    await client.send("join_room", {"room": "news", "after": 1}, "4")
    await client.until("room_event")
    await client.send("leave_room", {"room": own}, "5")
    await client.expect("room_left")
    await server.node.services.rooms.kick("news", UserId("alice"))
    await client.expect("room_left")


async def ends_at(step: int, act: Callable[[Client], object]) -> bool:
    """Interrupt the conversation at a step; return whether the step was reached."""
    async with open_server(may=unseen) as server:
        await publish(server, "first")
        tasks = trio.lowlevel.current_statistics().tasks_living
        client = server.start(expires_at=EPOCH + 1e9)
        instrument = ActAtStep(step, lambda: act(client))
        trio.lowlevel.add_instrument(instrument)
        try:
            await converse(server, client)
        except TransportClosed:
            pass
        finally:
            trio.lowlevel.remove_instrument(instrument)
        client.peer.close()
        await client.done.wait()
        await wait_all_tasks_blocked()
        rooms = server.node.services.rooms
        assert rooms.statistics() == {"rooms": 0, "members": 0}
        assert not rooms._memberships
        assert trio.lowlevel.current_statistics().tasks_living <= tasks + 1  # the repeated checks
    return instrument.steps >= step


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_connection_that_ends_at_any_step_leaves_its_rooms(
    action: str, autojump_clock: MockClock
) -> None:
    step = 1
    while await ends_at(step, ACTIONS[action]):
        step += 1
    assert step > 50
