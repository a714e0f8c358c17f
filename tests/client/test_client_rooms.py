"""Rooms of the client, with a scripted server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.scripted import EPOCH, Frame, Peer, ScriptedNetwork, opened
from support.scripted_rooms import Desk
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.client import (
    Client,
    ClientClosed,
    ConnectionClosed,
    Event,
    MessageRefused,
    MessageUncertain,
    Published,
    Room,
)


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


@asynccontextmanager
async def entered(
    client: Client, desk: Desk, name: str = "news", *, place: Any = None, **answer: Any
) -> AsyncIterator[tuple[Room, Frame]]:
    """Be in a room, whose server answers the leave as well; yield the payload of the join, too."""
    asked: list[Frame] = []

    async def answer_join() -> None:
        asked.append(await desk.join(**answer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_join)
        async with client.room(name, **(place or {})) as room:
            yield room, asked[0]
            nursery.start_soon(desk.leave)


@asynccontextmanager
async def in_room(network: ScriptedNetwork, **options: Any) -> AsyncIterator[tuple[Desk, Room]]:
    """Open a client that is in a room."""
    async with opened(network) as (client, peer):
        desk = Desk(peer)
        async with entered(client, desk, **options) as (room, _):
            yield desk, room


async def taken(room: Room, count: int) -> list[Event]:
    """Take so many events."""
    events = []
    async for event in room:
        events.append(event)
        if len(events) == count:
            break
    return events


def said(events: list[Event]) -> list[Any]:
    """Return the contents of messages, and the payloads of other events."""
    return [
        event.payload["content"] if event.type == "room_message" else (event.type, event.payload)
        for event in events
    ]


def gap(first: int, last: int, room: str = "news") -> tuple[str, Frame]:
    return "room_gap", {"room": room, "from": first, "to": last}


async def reconnected(network: ScriptedNetwork, peer: Peer, **hello: Any) -> Peer:
    peer.close(1006)
    again = await network.accept()
    again.hello("exact", **hello)
    return again


async def test_events_of_a_room(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        desk = Desk(peer)
        async with entered(client, desk, offset=4) as (room, asked):
            assert asked == {"room": "news"}
            assert (room.verdict, room.offset, room.epoch) == ("new", 4, "e1")
            assert repr(room) == "<Room news>"
            desk.say(5, "hello")
            desk.say(7, {"n": 1})  # offsets may skip numbers without a loss
            peer.control("presence_changed", {"room": "news", "user_id": "bob", "change": "left"})
            first, second, third = await taken(room, 3)
            assert (first.type, first.offset, first.epoch) == ("room_message", 5, "e1")
            assert first.payload == {"user_id": "bob", "content": "hello"}
            assert first.timestamp == EPOCH
            assert second.payload["content"] == {"n": 1}
            assert (third.type, third.payload["change"]) == ("presence_changed", "left")
            assert (room.offset, room.epoch) == (7, "e1")
        assert client.stats.errors_encountered == 0
        # Nothing of it is among the events of the session.
        assert [event.type for event in unread(client)] == ["connected"]


def unread(client: Client) -> list[Event]:
    """Return the events of the session that no task has taken."""
    events = []
    while (event := client.session.feed.pop()) is not None:
        events.append(event)
    return events


async def test_the_place_is_that_of_the_last_event_taken(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with in_room(network, offset=4) as (desk, room):
        for offset in (5, 6, 7):
            desk.say(offset, offset)
        await wait_all_tasks_blocked()
        assert room.offset == 4
        assert said(await taken(room, 2)) == [5, 6]
        assert room.offset == 6
        assert said(await taken(room, 1)) == [7]


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        ({"verdict": "exact", "offset": 41}, []),
        ({"verdict": "gap", "offset": 50}, [gap(42, 50)]),
        ({"verdict": "gap", "offset": 9}, [gap(1, 9)]),  # the numbering goes less far
    ],
)
async def test_resumed_from_a_stored_place(
    autojump_clock: MockClock, network: ScriptedNetwork, answer: Frame, lost: list[Any]
) -> None:
    place = {"after": 41, "epoch": "e1"}
    async with opened(network) as (client, peer):
        desk = Desk(peer)
        async with entered(client, desk, place=place, **answer) as (room, asked):
            assert asked == {"room": "news", **place}
            assert (room.verdict, room.offset) == (answer["verdict"], answer["offset"])
            desk.say(answer["offset"] + 1, "next")
            assert said(await taken(room, len(lost) + 1)) == [*lost, "next"]


async def test_resumed_in_another_epoch(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    place = {"after": 41, "epoch": "e0"}
    async with in_room(network, place=place, verdict="gap", offset=60) as (_, room):
        (event,) = await taken(room, 1)
        assert said([event]) == [gap(1, 60)]
        assert (room.offset, room.epoch) == (event.offset, event.epoch) == (60, "e1")


async def test_an_epoch_without_an_offset(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, _):
        with pytest.raises(ValueError, match="after"):
            client.room("news", epoch="e1")


# --- after a reconnection


async def test_joined_again_with_its_place(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with in_room(network, offset=4) as (desk, room):
        desk.say(5, "one")
        await wait_all_tasks_blocked()
        desk.peer = await reconnected(network, desk.peer)
        asked = await desk.join(verdict="exact", offset=5)
        assert asked == {"room": "news", "after": 5, "epoch": "e1"}
        desk.say(6, "two")
        assert said(await taken(room, 2)) == ["one", "two"]


@pytest.mark.parametrize(
    ("epoch", "offset", "lost"), [("e1", 9, gap(6, 9)), ("e2", 9, gap(1, 9)), ("e2", 0, gap(1, 0))]
)
async def test_a_gap_after_a_reconnection(
    autojump_clock: MockClock,
    network: ScriptedNetwork,
    epoch: str,
    offset: int,
    lost: tuple[str, Frame],
) -> None:
    async with in_room(network, offset=5) as (desk, room):
        desk.peer, desk.epoch = await reconnected(network, desk.peer), epoch
        await desk.join(verdict="gap", offset=offset)
        desk.say(offset + 1, "next")
        assert said(await taken(room, 2)) == [lost, "next"]
        assert (room.offset, room.epoch) == (offset + 1, epoch)


async def test_a_draining_server_is_replaced(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        desk, old = Desk(peer), Desk(peer)
        async with entered(client, desk, offset=4) as (room, _):
            peer.control("server_draining", {"reason": "x", "reconnect_after_ms": 1000})
            desk.peer = await network.accept()
            old.say(5, "one")  # while the next connection is being opened
            await wait_all_tasks_blocked()
            desk.peer.hello("exact")
            await wait_all_tasks_blocked()
            old.say(6, "two")  # too late: the new connection gets it
            assert await desk.join(verdict="exact", offset=5) == {
                "room": "news",
                "after": 5,
                "epoch": "e1",
            }
            desk.say(6, "two")
            assert said(await taken(room, 2)) == ["one", "two"]


async def test_lost_before_the_answer(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)
        rooms: list[Room] = []

        async def enter() -> None:
            async with client.room("news", after=3) as room:
                rooms.append(room)

        nursery.start_soon(enter)
        await peer.expect("join_room")
        desk.peer = await reconnected(network, peer)
        assert await desk.join(verdict="exact", offset=3) == {"room": "news", "after": 3}
        await desk.leave()
        assert rooms[0].verdict == "exact"


async def test_a_room_event_is_progress(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network, random=lambda: 1.0, max_attempts=2) as (client, peer):
        desk = Desk(peer)
        async with entered(client, desk, offset=0) as (room, _):
            for offset in range(1, 9):
                desk.say(offset, offset)
                await wait_all_tasks_blocked()
                desk.peer = await reconnected(network, desk.peer)
                await desk.join(verdict="exact", offset=offset)
            assert said(await taken(room, 8)) == list(range(1, 9))
            pauses = {b - a for a, b in zip(network.times, network.times[1:], strict=False)}
            assert pauses == {1.0}


# --- gaps, doubled and merged events


async def test_a_gap_in_between(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with in_room(network, offset=4) as (desk, room):
        desk.gap(6, 8)
        desk.gap(2, 3)  # known to be lost, or had
        desk.gap(3, 10)
        desk.say(8, "had")
        desk.say(11, "next")
        assert said(await taken(room, 3)) == [gap(6, 8), gap(9, 10), "next"]


async def test_a_new_epoch(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with in_room(network, offset=40) as (desk, room):
        desk.gap(1, 2)
        desk.epoch = "e2"
        desk.say(3, "three")
        desk.say(4, "four")
        assert said(await taken(room, 3)) == [gap(1, 2), "three", "four"]
        assert (room.offset, room.epoch) == (4, "e2")
        desk.epoch = "e3"
        desk.say(1, "untold")
        assert said(await taken(room, 2)) == [gap(1, 0), "untold"]


async def test_merged_across_the_place(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with in_room(network, offset=4) as (desk, room):
        desk.delta(6, "ab", offset_from=5)
        desk.delta(6, "b")
        desk.delta(8, "bcd", offset_from=6)
        merged, lost = await taken(room, 2)
        assert (merged.payload["content"], merged.offset_from, merged.offset) == ("ab", 5, 6)
        assert said([lost]) == [gap(7, 8)]


async def test_unread_deltas_are_merged(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with in_room(network, offset=0) as (desk, room):
        for offset in (1, 2, 4):
            desk.delta(offset, str(offset))
        await wait_all_tasks_blocked()
        (event,) = await taken(room, 1)
        assert event.payload == {"run_id": "run_9", "content": "124"}
        assert (event.offset_from, event.offset, event.seq_from) == (1, 4, None)


async def test_a_room_that_no_task_reads_is_bounded(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        desk, other = Desk(peer), Desk(peer, "other")
        async with (
            entered(client, desk, offset=0) as (room, _),
            entered(client, other, "other", offset=0) as (second, _),
        ):
            for offset in range(1, 1002):
                desk.say(offset, offset)
            other.say(1, "not held up")
            assert said(await taken(second, 1)) == ["not held up"]
            events = await taken(room, 1001)
            assert said(events)[:2] == [("lagged", {"dropped": 1, "cut_bytes": 0}), 2]


# --- refusals, and the end of a membership


@pytest.mark.parametrize("code", ["FORBIDDEN", "QUEUE_FULL", "VALIDATION_ERROR"])
async def test_a_refusal(autojump_clock: MockClock, network: ScriptedNetwork, code: str) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:

        async def refuse() -> None:
            request = await peer.expect("join_room")
            peer.error(code, request["correlation_id"])

        for _ in range(2):
            nursery.start_soon(refuse)
            with pytest.raises(MessageRefused) as caught:
                async with client.room("news"):
                    pass
            assert caught.value.code == code
        assert client.stats.errors_encountered == 2
        await wait_all_tasks_blocked()
        assert len(client.session.rooms) == len(peer.received) == 0


@pytest.mark.parametrize("code", ["SERVICE_UNAVAILABLE", "RATE_LIMIT_EXCEEDED", "SERVER_DRAINING"])
async def test_a_temporary_refusal(
    autojump_clock: MockClock, network: ScriptedNetwork, code: str
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)

        async def refuse() -> None:
            for retry_after in ({"retry_after_ms": 2500}, {}):
                request = await peer.expect("join_room")
                peer.error(code, request["correlation_id"], **retry_after)
            await desk.join(offset=1)
            await desk.leave()

        nursery.start_soon(refuse)
        async with client.room("news"):
            assert trio.current_time() == 3.5


async def test_refused_after_a_reconnection(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)
        nursery.start_soon(desk.join)
        async with client.room("news") as room:
            desk.say(1, "one")
            await wait_all_tasks_blocked()
            desk.peer = await reconnected(network, peer)
            request = await desk.peer.expect("join_room")
            desk.peer.error("SERVICE_UNAVAILABLE", request["correlation_id"])
            request = await desk.peer.expect("join_room")
            desk.peer.error("FORBIDDEN", request["correlation_id"])
            assert said(await taken(room, 1)) == ["one"]
            with pytest.raises(MessageRefused, match="FORBIDDEN"):
                await taken(room, 1)
            again = await reconnected(network, desk.peer)
        await wait_all_tasks_blocked()
        assert list(again.received) == []


async def test_removed_by_the_server(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)
        nursery.start_soon(desk.join)
        async with client.room("news") as room:
            peer.control("room_left", {"room": "news"})
            desk.say(1, "late")
            assert said([event async for event in room]) == [("room_left", {"room": "news"})]
            again = await reconnected(network, peer)
            # The same room once more, while the first block is open.
            nursery.start_soon(Desk(again).join)
            async with client.room("news") as second:
                Desk(again).say(1, "one")
                assert said(await taken(second, 1)) == ["one"]
                assert [event async for event in room] == []
                nursery.start_soon(Desk(again).leave)


async def test_the_client_fails_and_reconnects(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)

        async def wait_in_vain() -> None:
            with pytest.raises(ConnectionClosed):
                async with client.room("other"):
                    pass

        async with entered(client, desk, offset=4) as (room, _):
            desk.say(5, "one")
            nursery.start_soon(wait_in_vain)
            await peer.expect("join_room")
            peer.close(4409)
            assert said(await taken(room, 1)) == ["one"]
            with pytest.raises(ConnectionClosed):
                await taken(room, 1)
            with pytest.raises(ConnectionClosed):
                client.room("news")
            nursery.start_soon(client.reconnect)
            desk.peer = await network.accept()
            desk.peer.hello("exact")
            await desk.join(verdict="exact", offset=5)
            desk.say(6, "two")
            assert said(await taken(room, 1)) == ["two"]


async def test_the_client_is_left(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    left: list[Room] = []
    async with trio.open_nursery() as nursery:
        async with opened(network) as (client, peer):
            nursery.start_soon(Desk(peer).join)
            context = client.room("news")
            left.append(await context.__aenter__())
        assert await drained_room(left[0]) == []
        await context.__aexit__(None, None, None)
    with pytest.raises(ClientClosed):
        client.room("news")


async def drained_room(room: Room) -> list[Event]:
    return [event async for event in room]


# --- leaving


async def test_an_iteration_ends_with_its_block(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk, got, ended = Desk(peer), list[Event](), trio.Event()

        async def read(room: Room) -> None:
            got.extend(await drained_room(room))
            ended.set()

        async with entered(client, desk, offset=0) as (room, _):
            nursery.start_soon(read, room)
            await wait_all_tasks_blocked()
            desk.say(1, "one")
            await wait_all_tasks_blocked()
            assert not ended.is_set()
        await ended.wait()
        assert said(got) == ["one"]


async def test_a_server_that_does_not_answer_the_leave(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)
        nursery.start_soon(desk.join)
        async with client.room("news"):
            pass
        assert trio.current_time() == 2.0
        request = await peer.expect("leave_room")
        # A new block waits for the answer, so that the leave does not end its membership.
        async with trio.open_nursery() as inner:
            inner.start_soon(use_room, client)
            await wait_all_tasks_blocked()
            assert not peer.received
            peer.control("room_left", {"room": "news"}, request["correlation_id"])
            await desk.join()
            await desk.leave()


async def use_room(client: Client, name: str = "news") -> None:
    async with client.room(name):
        pass


@pytest.mark.parametrize("code", ["RATE_LIMIT_EXCEEDED", "FORBIDDEN"])
async def test_a_leave_that_is_refused(
    autojump_clock: MockClock, network: ScriptedNetwork, code: str
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)

        async def refuse() -> None:
            request = await peer.expect("leave_room")
            peer.error(code, request["correlation_id"], retry_after_ms=500)
            if code == "RATE_LIMIT_EXCEEDED":
                await desk.leave()

        nursery.start_soon(desk.join)
        async with client.room("news"):
            nursery.start_soon(refuse)
        assert trio.current_time() == (0.5 if code == "RATE_LIMIT_EXCEEDED" else 0)
        assert len(client.session.rooms) == 0


async def test_cancelled_before_the_answer(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        desk = Desk(peer)
        with trio.move_on_after(1) as scope:
            await use_room(client)
        assert scope.cancelled_caught
        request = await peer.expect("join_room")
        await wait_all_tasks_blocked()
        assert not peer.received  # no leave is sent before the reply to the join
        desk.joined(request)
        assert await desk.leave() == {"room": "news"}
        # The same, and it is refused in the end.
        with trio.move_on_after(1):
            await use_room(client)
        request = await peer.expect("join_room")
        peer.error("FORBIDDEN", request["correlation_id"])
        await wait_all_tasks_blocked()
        assert len(client.session.rooms) == len(peer.received) == 0


async def test_cancelled_while_leaving(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)
        nursery.start_soon(desk.join)
        with trio.move_on_after(1):
            async with client.room("news"):
                await trio.sleep_forever()
        assert await desk.leave() == {"room": "news"}


async def test_left_without_a_connection(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, first), trio.open_nursery() as nursery:
        nursery.start_soon(Desk(first).join)
        async with client.room("news"):
            first.close(1006)
            await wait_all_tasks_blocked()
        assert trio.current_time() == 0
        again = await network.accept()
        again.hello("exact")
        await trio.sleep(1)
        assert list(again.received) == []
        nursery.start_soon(Desk(again).join)
        async with client.room("news"):
            peer = await reconnected(network, again)  # while the leave is not answered
            nursery.start_soon(Desk(peer).join)
            await wait_all_tasks_blocked()
        assert await Desk(peer).leave() == {"room": "news"}


# --- several blocks


async def test_two_blocks_for_one_room(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        desk = Desk(peer)
        async with entered(client, desk, offset=4) as (first, _):
            desk.say(5, "one")
            await wait_all_tasks_blocked()
            async with client.room("news") as second:
                assert (second.verdict, second.offset) == ("new", 5)
                desk.say(6, "two")
                assert said(await taken(first, 2)) == ["one", "two"]
                assert said(await taken(second, 1)) == ["two"]
                desk.peer = await reconnected(network, peer)
                assert (await desk.join(verdict="exact", offset=6))["after"] == 6
            await wait_all_tasks_blocked()
            assert not desk.peer.received  # the first block needs it
            desk.say(7, "three")
            assert said(await taken(first, 1)) == ["three"]


async def test_a_second_block_that_begins_earlier(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        desk = Desk(peer)
        async with entered(client, desk, offset=4) as (first, _):
            desk.say(5, "5")
            answer = {"verdict": "exact", "offset": 2}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(desk.join_once, answer)
                async with client.room("news", after=2, epoch="e1") as second:
                    for offset in (3, 4):
                        desk.say(offset, str(offset))
                    await wait_all_tasks_blocked()
                    # Lost in between: the one further behind decides.
                    desk.peer = await reconnected(network, peer)
                    assert (await desk.join(verdict="exact", offset=4))["after"] == 4
                    for offset in (5, 6):
                        desk.say(offset, str(offset))
                    assert said(await taken(second, 4)) == ["3", "4", "5", "6"]
                    assert said(await taken(first, 2)) == ["5", "6"]


async def test_a_second_block_that_skips_events_of_the_first(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        desk = Desk(peer)
        async with entered(client, desk, offset=4) as (first, _), trio.open_nursery() as nursery:
            nursery.start_soon(desk.join_once, {"verdict": "gap", "offset": 7})
            async with client.room("news", after=1) as second:
                # The connection has position 7 now: the first block requests 5 to 7.
                again = await desk.join(verdict="exact", offset=4)
                assert again == {"room": "news", "after": 4, "epoch": "e1"}
                for offset in (5, 6, 7, 8):
                    desk.say(offset, offset)
                assert said(await taken(first, 4)) == [5, 6, 7, 8]
                assert said(await taken(second, 2)) == [gap(2, 7), 8]


async def test_two_blocks_begin_at_once(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)
        nursery.start_soon(use_room, client)
        nursery.start_soon(use_room, client)
        await desk.join(offset=4)
        await desk.leave()
        await wait_all_tasks_blocked()
        assert not peer.received


async def test_many_rooms_of_one_socket(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    names = [f"room:{number}" for number in range(100)]
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(use_room, client, name)
        requests = [await peer.expect("join_room") for _ in names]
        for request in requests:
            Desk(peer, request["payload"]["room"]).joined(request)
        left = [await Desk(peer).leave() for _ in names]
        assert sorted(each["room"] for each in left) == sorted(names)
        assert len(network.times) == 1


# --- messages and presence


async def test_a_message(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)

        async def confirm(status: str) -> None:
            frame = await peer.expect("room_message")
            assert frame["payload"] == {"room": "news", "content": {"n": 1}}
            confirmed = {"room": "news", "offset": 7, "status": status}
            peer.control("room_confirmed", confirmed, frame["correlation_id"])

        async with entered(client, desk) as (room, _):
            nursery.start_soon(confirm, "accepted")
            assert await room.send({"n": 1}) == Published(7, "accepted")
            nursery.start_soon(confirm, "duplicate")
            published = await room.send({"n": 1}, key="k-1")
            assert (published.offset, published.status) == (7, "duplicate")


async def test_a_message_is_repeated_under_its_key(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)
        async with entered(client, desk) as (room, _):
            nursery.start_soon(room.send, "hello")
            first = await peer.expect("room_message")
            desk.peer = await reconnected(network, peer)
            frames = [await desk.peer.next(), await desk.peer.next()]
            assert first in frames
            desk.joined(next(frame for frame in frames if frame != first))
            desk.peer.error("RATE_LIMIT_EXCEEDED", first["correlation_id"], retry_after_ms=700)
            before = trio.current_time()
            assert await desk.peer.expect("room_message") == first
            assert trio.current_time() - before == pytest.approx(0.7)
            confirmed = {"room": "news", "offset": 7, "status": "accepted"}
            desk.peer.control("room_confirmed", confirmed, first["correlation_id"])


@pytest.mark.parametrize(("seconds", "is_repeated"), [(299.0, True), (300.0, False)])
async def test_a_key_that_the_server_has_forgotten(
    autojump_clock: MockClock, network: ScriptedNetwork, seconds: float, is_repeated: bool
) -> None:
    async with (
        opened(network, random=lambda: 0.0) as (client, peer),
        trio.open_nursery() as nursery,
    ):
        desk = Desk(peer)
        async with entered(client, desk) as (room, _):
            failed = trio.Event()

            async def send() -> None:
                if is_repeated:
                    await room.send("hello", key="k-1")
                    return
                with pytest.raises(MessageUncertain) as caught:
                    await room.send("hello", key="k-1")
                assert caught.value.key == "k-1"
                failed.set()

            nursery.start_soon(send)
            await peer.expect("room_message")
            peer.close(1006)
            again = desk.peer = await network.accept()
            await trio.sleep(seconds)
            if not is_repeated:
                peer.refuse(503)
            again.hello("exact")
            if is_repeated:
                frame = await again.expect("room_message")
                confirmed = {"room": "news", "offset": 7, "status": "accepted"}
                again.control("room_confirmed", confirmed, frame["correlation_id"])
            else:
                await failed.wait()
            await desk.join()


async def test_the_same_key_in_two_rooms_at_once(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk, other = Desk(peer), Desk(peer, "other")
        sent = []

        async def send(room: Room) -> None:
            sent.append(await room.send("hello", key="k-1"))

        async with (
            entered(client, desk) as (first, _),
            entered(client, other, "other") as (second, _),
        ):
            with trio.move_on_after(1):
                await send(first)
            assert (await peer.expect("room_message"))["payload"]["room"] == "news"
            nursery.start_soon(send, first)
            await wait_all_tasks_blocked()
            nursery.start_soon(send, second)
            for offset, name in enumerate(("news", "other"), start=1):
                frame = await peer.expect("room_message")
                await wait_all_tasks_blocked()
                assert not peer.received
                assert (frame["payload"]["room"], frame["correlation_id"]) == (name, "k-1")
                confirmed = {"room": name, "offset": offset, "status": "accepted"}
                peer.control("room_confirmed", confirmed, "k-1")
        assert [published.offset for published in sent] == [1, 2]


async def test_messages_that_are_not_sent(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)
        async with entered(client, desk) as (room, _):
            for key in ("", "x" * 129):
                with pytest.raises(ValueError, match="1 to 128"):
                    await room.send("hello", key=key)
            with pytest.raises(MessageRefused, match="MESSAGE_TOO_LARGE"):
                await room.send("x" * 10_240)
            with pytest.raises(MessageRefused, match="MESSAGE_TOO_LARGE"):
                await use_room(client, "x" * 10_240)
            assert not peer.received

            async def refuse() -> None:
                frame = await peer.expect("room_message")
                peer.error("FORBIDDEN", frame["correlation_id"])

            nursery.start_soon(refuse)
            with pytest.raises(MessageRefused, match="FORBIDDEN"):
                await room.send("hello")


async def test_presence(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    members = [{"user_id": "alice", "connections": 2}]
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer)

        async def answer() -> None:
            frame = await peer.expect("get_presence")
            assert frame["payload"] == {"room": "news"}
            peer.control("presence", {"room": "news", "members": members}, frame["correlation_id"])

        async with entered(client, desk) as (room, _):
            nursery.start_soon(answer)
            assert await room.presence() == members


# --- frames that are not as they should be


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("room_event", {}),
        ("room_event", {"room": "news", "offset": "x"}),
        ("room_gap", {"room": "news", "from": 1}),
        ("room_left", {"room": 5}),
    ],
)
async def test_an_invalid_frame(
    autojump_clock: MockClock, network: ScriptedNetwork, kind: str, payload: Frame
) -> None:
    async with opened(network) as (client, peer):
        desk = Desk(peer)
        async with entered(client, desk, offset=4):
            peer.control(kind, payload)
            desk.peer = await network.accept()
            desk.peer.hello("exact")
            await desk.join(verdict="exact", offset=4)


async def test_an_invalid_answer(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(use_room, client)
        request = await peer.expect("join_room")
        peer.control("room_joined", {"room": "news"}, request["correlation_id"])
        again = await network.accept()
        again.hello("exact")
        await Desk(again).join()
        await Desk(again).leave()


async def test_frames_of_rooms_that_the_client_is_not_in(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        desk = Desk(peer)
        desk.say(1, "one")
        desk.gap(2, 3)
        peer.control("room_left", {"room": "news"}, "c-unknown")
        desk.joined({"correlation_id": "c-unknown"})
        async with entered(client, desk, offset=4) as (room, _):
            desk.say(5, "five")
            assert said(await taken(room, 1)) == ["five"]
        assert client.stats.reconnections == 0
