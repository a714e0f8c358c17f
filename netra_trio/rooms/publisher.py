"""Publishes messages to rooms: for clients, agents, the application, and over HTTP.

    publisher = Publisher(broker, HistoryLimits(), time.time)
    place = await publisher.publish("news", {"headline": "…"}, key="k-1")

It checks no permission: the command of a client has been checked before.
"""

from collections.abc import Callable, Sequence

from attrs import frozen

from netra_trio.broker.base import Broker, HistoryLimits, Published
from netra_trio.ids import FileId, UserId
from netra_trio.protocol.admin import ADMIN_ROOM
from netra_trio.protocol.fields import CORRELATION_ID_CHARACTERS, JsonObject
from netra_trio.protocol.rooms import RoomMessage, check_room_name
from netra_trio.rooms.event import pack

ROOM_EVENT_BYTES = 256 * 1024  # of an event as JSON: docs/protocol.md, Limits


class EventTooLarge(ValueError):
    """An event has more than `ROOM_EVENT_BYTES`."""


class ReservedRoom(ValueError):
    """Only the server itself publishes to the room."""


@frozen
class Publisher:
    """Publishes messages to rooms.

    Attributes:
        broker: Has the rooms.
        limits: How much of a room is kept.
        wall_clock: Returns Unix seconds.
    """

    broker: Broker
    limits: HistoryLimits
    wall_clock: Callable[[], float]

    async def publish(
        self,
        room: str,
        content: JsonObject | str,
        *,
        user_id: UserId | None = None,
        key: str | None = None,
        attachments: Sequence[FileId] = (),
    ) -> Published:
        """Publish a message to a room. Cancelling is safe; it may have been published all the same.

        Args:
            room: The name of the room.
            content: A text, or an object that can be encoded as JSON.
            user_id: The user of the message; None for the application.
            key: Of two messages of one user with one key within `KEY_SECONDS`, the first one is
                published; 1 to 128 characters.
            attachments: Files of the user that the message names.

        Raises:
            TypeError: If `content` is neither, or cannot be encoded as JSON.
            ValueError: If the name of the room or the key is not valid.
            ReservedRoom: If only the server publishes to this room.
            EventTooLarge: If the event has more than `ROOM_EVENT_BYTES`.
            BrokerUnavailable: If the broker does not answer in time.
        """
        check_room_name(room)
        if room == ADMIN_ROOM:
            raise ReservedRoom(f"room: only the server publishes to {room}")
        if key is not None and not 1 <= len(key) <= CORRELATION_ID_CHARACTERS:
            text = f"expected 1 to {CORRELATION_ID_CHARACTERS} characters, got {len(key)}"
            raise ValueError(f"key: {text}")
        if not isinstance(content, str | dict):
            raise TypeError(f"content: expected an object or a str, got {type(content).__name__}")
        by = {} if user_id is None else {"user_id": user_id}
        payload: JsonObject = {**by, "content": content}
        if attachments:
            payload["attachments"] = list(attachments)
        data = pack(RoomMessage.TYPE, payload, timestamp=self.wall_clock())
        size = len(data.split(b"\n", 2)[2])
        if size > ROOM_EVENT_BYTES:
            text = f"an event of {size} bytes as JSON, of at most {ROOM_EVENT_BYTES}"
            raise EventTooLarge(f"content: {text}")
        # No user id has a zero character, so that no two users have one key.
        own_key = None if key is None else f"{user_id or ''}\0{key}"
        return await self.broker.publish(room, data, limits=self.limits, key=own_key)
