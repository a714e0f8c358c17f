"""Publishing a message to a room: what is accepted, and what members receive."""

from typing import Any

import orjson
import pytest
import trio

from netra_trio.broker.base import HistoryLimits, Published
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.ids import UserId
from netra_trio.rooms.event import RoomEvent
from netra_trio.rooms.publisher import ROOM_EVENT_BYTES, EventTooLarge, Publisher

ROOM = "team:a"
ALICE = UserId("alice")


def publisher_of(server: MemoryServer, limits: HistoryLimits | None = None) -> Publisher:
    backend = MemoryBackend(server=server)
    return Publisher(backend.broker, limits or HistoryLimits(), lambda: 1700000000.25)


async def test_members_receive_the_message_with_its_user() -> None:
    server = MemoryServer()
    one, two = publisher_of(server), publisher_of(server)
    await two.broker.subscribe(ROOM)
    first = await one.publish(ROOM, "hello", user_id=ALICE)
    assert await two.publish(ROOM, {"n": [1, None]}) == Published(first.epoch, 2)
    events = [RoomEvent.unpack(each) for each in await two.broker.receive()]
    assert [each.event for each in events] == [
        {"type": "room_message", "payload": {"user_id": "alice", "content": "hello"}},
        {"type": "room_message", "payload": {"content": {"n": [1, None]}}},
    ]
    assert {(each.timestamp, each.session_id) for each in events} == {(1700000000.25, None)}


async def test_a_key_belongs_to_its_user() -> None:
    publisher = publisher_of(MemoryServer())
    users = [None, ALICE, UserId("bob")]
    places = [await publisher.publish(ROOM, "1", user_id=user, key="k") for user in users]
    assert [(each.offset, each.is_duplicate) for each in places] == [
        (1, False),
        (2, False),
        (3, False),
    ]
    again = [await publisher.publish(ROOM, "2", user_id=user, key="k") for user in users]
    assert [(each.offset, each.is_duplicate) for each in again] == [(1, True), (2, True), (3, True)]


async def test_the_history_is_limited() -> None:
    publisher = publisher_of(MemoryServer(), HistoryLimits(events=2))
    for at in range(3):
        epoch = (await publisher.publish(ROOM, str(at))).epoch
    found = await publisher.broker.history(ROOM, epoch=epoch, after=0)
    assert [each.offset for each in found.events] == [2, 3]


@pytest.mark.parametrize("key", ["k", "k" * 128])
@pytest.mark.parametrize("room", ["a", "r" * 128, "A:b.c_d-e:1"])
async def test_valid_names_and_keys(room: str, key: str) -> None:
    assert (await publisher_of(MemoryServer()).publish(room, "", key=key)).offset == 1


@pytest.mark.parametrize("room", ["", "r" * 129, ":a", "a:", "a::b", "a b", "ä", "a\n", "a/b"])
async def test_a_name_that_is_none(room: str) -> None:
    server = MemoryServer()
    with pytest.raises(ValueError, match="room: expected 1 to 128 characters"):
        await publisher_of(server).publish(room, "")
    assert not server.rooms


@pytest.mark.parametrize("key", ["", "k" * 129])
async def test_a_key_that_is_none(key: str) -> None:
    with pytest.raises(ValueError, match="key: expected 1 to 128 characters"):
        await publisher_of(MemoryServer()).publish(ROOM, "", key=key)


@pytest.mark.parametrize(
    "content",
    [None, 5, [1], b"x", {1: 2}, {"at": object()}, {"n": 2**64}, "\ud800"],
    ids=["none", "number", "array", "bytes", "key", "object", "integer", "surrogate"],
)
async def test_a_content_that_is_none(content: Any) -> None:
    server = MemoryServer()
    with pytest.raises(TypeError):
        await publisher_of(server).publish(ROOM, content)
    assert not server.rooms


async def test_the_largest_event_and_one_byte_more() -> None:
    publisher = publisher_of(MemoryServer())
    frame = len(orjson.dumps({"type": "room_message", "payload": {"content": ""}}))
    largest = "x" * (ROOM_EVENT_BYTES - frame)
    assert (await publisher.publish(ROOM, largest)).offset == 1
    with pytest.raises(EventTooLarge, match=f"{ROOM_EVENT_BYTES + 1} bytes"):
        await publisher.publish(ROOM, largest + "x")
    # Its size is that of the JSON, where a character may have more bytes than in UTF-8.
    with pytest.raises(EventTooLarge):
        await publisher.publish(ROOM, "\n" * (ROOM_EVENT_BYTES // 2))


async def test_cancelling_is_safe() -> None:
    server = MemoryServer()
    publisher = publisher_of(server)
    with trio.CancelScope() as scope:
        scope.cancel()
        await publisher.publish(ROOM, "1")
    assert scope.cancelled_caught
    assert (await publisher.publish(ROOM, "2")).offset == 1
