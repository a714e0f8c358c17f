"""An event of a room: its encoding for the broker, and its frame for the members.

data = pack(RoomMessage…, timestamp=1.0)
event = RoomEvent.unpack(delivery)
event.frame                         # encoded once, for all members
"""

from functools import cached_property
from typing import Any, Self

import orjson
from attrs import define

from netra_trio.broker.base import Delivery
from netra_trio.ids import NodeId, SessionId
from netra_trio.protocol.codec import encode_payload
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import PartialResult
from netra_trio.transports.frames import SharedPayload

ROOM_EVENT = "room_event"
_DELTA = b'{"type":"%b"' % PartialResult.TYPE.encode()
_MISSING = b"null"  # in place of an event: events of a node are lost here


def pack(
    kind: str, payload: Any, *, timestamp: float, session_id: SessionId | None = None
) -> bytes:
    """Encode an event for the broker.

    Args:
        kind: The type of the event.
        payload: Its payload, which orjson can encode.
        timestamp: Unix seconds.
        session_id: The session whose own log has the event, and which gets no copy.
    """
    return _pack(orjson.dumps({"type": kind, "payload": payload}), timestamp, session_id)


def pack_missing(*, timestamp: float, node: NodeId | None = None) -> bytes:
    """Encode an entry in place of lost events: members get a `room_gap`.

    Args:
        timestamp: Unix seconds.
        node: The node of the lost events; None if it is unknown.
    """
    return _pack(b"%b %b" % (_MISSING, (node or "").encode()), timestamp, None)


def _pack(event: bytes, timestamp: float, session_id: SessionId | None) -> bytes:
    return b"%b\n%b\n%b" % ((session_id or "").encode(), repr(timestamp).encode(), event)


@define(eq=False, slots=False)
class RoomEvent:
    """An event of a room; one object for all its members.

    Attributes:
        room: The name of the room.
        epoch: The epoch of its offset.
        offset: Its number; the last one of a merged event.
        data: The event as JSON: `type` and `payload`.
        timestamp: When it was published, in Unix seconds.
        session_id: The session whose own log has the event; None if there is none.
        offset_from: The first offset of a merged event; None for any other event.
    """

    room: str
    epoch: str
    offset: int
    data: bytes
    timestamp: float
    session_id: SessionId | None = None
    offset_from: int | None = None

    @classmethod
    def unpack(cls, delivery: Delivery) -> Self:
        """Return the event of a delivery."""
        session_id, timestamp, data = delivery.data.split(b"\n", 2)
        return cls(
            delivery.room,
            delivery.epoch,
            delivery.offset,
            data,
            float(timestamp),
            SessionId(session_id.decode()) if session_id else None,
        )

    @cached_property
    def first(self) -> int:
        """The first offset that it covers."""
        return self.offset if self.offset_from is None else self.offset_from

    @cached_property
    def is_missing(self) -> bool:
        """Whether it is in place of lost events."""
        return self.data.startswith(_MISSING)

    @property
    def missing_node(self) -> NodeId | None:
        """The node of the lost events; None if it is unknown."""
        node = self.data.partition(b" ")[2].decode()
        return NodeId(node) if self.is_missing and node else None

    @cached_property
    def event(self) -> JsonObject:
        """The event: `type` and `payload`."""
        event: JsonObject = orjson.loads(self.data)
        return event

    @property
    def is_delta(self) -> bool:
        """Whether it is a `partial_result`, which may be merged."""
        return self.data.startswith(_DELTA)

    @cached_property
    def frame(self) -> SharedPayload:
        """The frame, the same one for all members."""
        payload: JsonObject = {
            "room": self.room,
            "offset": self.offset,
            "epoch": self.epoch,
            "event": orjson.Fragment(self.data),
            "timestamp": self.timestamp,
        }
        if self.offset_from is not None:
            payload["offset_from"] = self.offset_from
        return SharedPayload(encode_payload(ROOM_EVENT, payload, self.timestamp))
