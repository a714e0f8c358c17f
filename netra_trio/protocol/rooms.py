"""The messages of rooms, and the names of rooms.

>>> thread_room(UserId("alice"), ThreadId("main"))
'thread:8WoaVag--TYbdxxQfBdqTA'
"""

import re
from base64 import urlsafe_b64encode
from enum import StrEnum
from hashlib import blake2b
from typing import Any, ClassVar

import attrs
from attrs import field

from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.fields import (
    ExpectationError,
    JsonObject,
    check_name,
    check_not_negative,
    check_thread_id,
)
from netra_trio.protocol.messages import Verdict
from netra_trio.values import frozen

ROOM_NAME_CHARACTERS = 128
THREAD_PREFIX, USER_PREFIX = "thread:", "user:"  # of the server's own rooms

_ROOM_NAME = re.compile(r"[A-Za-z0-9_.-]+(?::[A-Za-z0-9_.-]+)*")
_ROOM_NAME_TEXT = (
    f"1 to {ROOM_NAME_CHARACTERS} characters out of A-Z, a-z, 0-9, _, . and -, "
    "with : between the parts"
)
_DIGEST_BYTES = 16  # 22 characters: a collision is as unlikely as that of two UUIDs


def is_room_name(name: str) -> bool:
    """Whether a text is the name of a room."""
    return len(name) <= ROOM_NAME_CHARACTERS and _ROOM_NAME.fullmatch(name) is not None


def check_room_name(name: str) -> None:
    """Check the name of a room.

    Raises:
        ValueError: If the name is not valid.
    """
    if not is_room_name(name):
        raise ValueError(f"room: expected {_ROOM_NAME_TEXT}, got {name[:40]!r}")


def thread_room(user_id: UserId, thread_id: ThreadId) -> str:
    """Return the name of the room of a thread: the same on each node, and not readable."""
    return THREAD_PREFIX + _digest(user_id, thread_id)


def user_room(user_id: UserId) -> str:
    """Return the name of the room of a user: the same on each node, and not readable."""
    return USER_PREFIX + _digest(user_id)


def _digest(*parts: str) -> str:
    # Without a length, ("ab", "c") and ("a", "bc") would have the same name.
    data = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return urlsafe_b64encode(blake2b(data, digest_size=_DIGEST_BYTES).digest()).decode().rstrip("=")


def _check_room(_: object, attribute: "attrs.Attribute[Any]", value: str) -> None:
    if not is_room_name(value):
        raise ExpectationError(_ROOM_NAME_TEXT, attribute.name, value)


def _check_offset(_: object, attribute: "attrs.Attribute[Any]", value: int | None) -> None:
    if value is not None:
        check_not_negative(_, attribute, value)


# Client to server.


@frozen
class JoinRoom:
    """A request for the events of a room: new ones, or those after an offset."""

    TYPE: ClassVar[str] = "join_room"
    room: str = field(validator=_check_room)
    after: int | None = field(default=None, validator=_check_offset)
    epoch: str | None = field(default=None, validator=check_name)


@frozen
class LeaveRoom:
    """A request to end the membership in a room."""

    TYPE: ClassVar[str] = "leave_room"
    room: str = field(validator=_check_room)


@frozen
class RoomMessage:
    """An event of a client for a room."""

    TYPE: ClassVar[str] = "room_message"
    room: str = field(validator=_check_room)
    content: JsonObject | str


@frozen
class GetPresence:
    """A request for the users in a room."""

    TYPE: ClassVar[str] = "get_presence"
    room: str = field(validator=_check_room)


@frozen
class WatchThread:
    """A request for the events of all runs of a thread: new ones, or those after an offset.

    Attributes:
        owner: The user of the thread; by default the user of the session.
    """

    TYPE: ClassVar[str] = "watch_thread"
    thread_id: ThreadId = field(validator=check_thread_id)
    owner: UserId | None = field(default=None, validator=check_name)
    after: int | None = field(default=None, validator=_check_offset)
    epoch: str | None = field(default=None, validator=check_name)


@frozen
class UnwatchThread:
    """A request to end the membership in the room of a thread."""

    TYPE: ClassVar[str] = "unwatch_thread"
    thread_id: ThreadId = field(validator=check_thread_id)
    owner: UserId | None = field(default=None, validator=check_name)


# Server to client: control frames, which have no number.


@frozen
class RoomJoined:
    """The reply to `join_room` and `watch_thread`: the events after `offset` follow.

    Attributes:
        runs: The runs of a thread that have not ended, as of `offset`; None for another room.
    """

    TYPE: ClassVar[str] = "room_joined"
    room: str
    epoch: str
    offset: int
    verdict: Verdict
    replayed: int
    runs: tuple[JsonObject, ...] | None = None


@frozen
class RoomLeft:
    """The connection is no longer in the room: a reply, or the server has removed it."""

    TYPE: ClassVar[str] = "room_left"
    room: str


class RoomConfirmation(StrEnum):
    """The result of a `room_message`."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


@frozen
class RoomConfirmed:
    """The event is published."""

    TYPE: ClassVar[str] = "room_confirmed"
    room: str
    offset: int
    status: RoomConfirmation


@frozen
class RoomGap:
    """The events `from_` to `to` (`from` on the wire) are missing for this connection."""

    TYPE: ClassVar[str] = "room_gap"
    room: str
    from_: int
    to: int


@frozen
class PresentUser:
    """A user in a room, and the number of its connections there."""

    user_id: UserId
    connections: int


@frozen
class Presence:
    """The users in a room."""

    TYPE: ClassVar[str] = "presence"
    room: str
    members: tuple[PresentUser, ...]


class PresenceChange(StrEnum):
    """A kind of change of presence."""

    JOINED = "joined"
    LEFT = "left"


@frozen
class PresenceChanged:
    """A user has joined a room, or has had no connection in it for ten seconds."""

    TYPE: ClassVar[str] = "presence_changed"
    room: str
    user_id: UserId
    change: PresenceChange
