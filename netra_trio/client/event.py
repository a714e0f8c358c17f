"""The events that a client delivers: frames of the server, and events of the client itself.

>>> Event.parse('{"type": "pong", "payload": {"n": 1}, "timestamp": 5.5}').payload
{'n': 1}
"""

from collections.abc import Mapping
from typing import Any, Self

import orjson
from attrs import field, frozen

from netra_trio.errors import NetraError

DELTA = "partial_result"
END = "agent_completed"
ANSWERED = "agent_answered"
BINARY = "binary_result"


class InvalidEvent(NetraError):
    """The text is not a frame of the protocol."""


@frozen
class Event:
    """One event.

    Attributes:
        type: A message type of the protocol, the type of an event of a room, or, for an event of
            the client itself, one of `connected`, `disconnected`, `gap`, `reset`, `lagged`,
            `lost`.
        payload: Its fields.
        seq: Its number in the session; None for control frames and for events of the client.
        seq_from: The first number that a merged event covers, else None.
        timestamp: Unix seconds.
        correlation_id: The key of the message that the event belongs to.
        offset: Its offset in a room; None for any other event.
        offset_from: The first offset that a merged event covers, else None.
        epoch: The epoch of `offset`.
        data: The data of a `binary_result`, if it came with the event; else None, see
            `Client.data_of`.
    """

    type: str
    payload: dict[str, Any] = field(factory=dict)
    seq: int | None = None
    seq_from: int | None = None
    timestamp: float = 0.0
    correlation_id: str | None = None
    offset: int | None = None
    offset_from: int | None = None
    epoch: str | None = None
    data: bytes | None = field(default=None, repr=False)

    @property
    def first(self) -> int | None:
        """The first number that the event covers: `seq`, unless the event is a merged one."""
        return self.seq if self.seq_from is None else self.seq_from

    @property
    def first_offset(self) -> int | None:
        """The first offset that the event covers."""
        return self.offset if self.offset_from is None else self.offset_from

    @property
    def run_id(self) -> str | None:
        """The run that the event belongs to."""
        found = self.payload.get("run_id")
        return found if isinstance(found, str) else None

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Parse a frame; unknown fields are ignored.

        Raises:
            InvalidEvent: The text is not a frame of the protocol.
        """
        try:
            frame = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise InvalidEvent("not JSON") from None
        return cls.of(frame)

    @classmethod
    def of(cls, frame: Any) -> Self:
        """Return the event of a frame that is decoded as JSON; unknown fields are ignored.

        Raises:
            InvalidEvent: It is not a frame of the protocol.
        """
        if not isinstance(frame, dict):
            raise InvalidEvent("not an object")
        found = {name: frame[name] for name in _FIELD_TYPES if name in frame}
        for name, value in found.items():
            if type(value) not in _FIELD_TYPES[name]:
                raise InvalidEvent(f"$.{name}: wrong type")
        if "type" not in found:
            raise InvalidEvent("$.type: missing")
        return cls(**found)


_FIELD_TYPES: Mapping[str, tuple[type, ...]] = {
    "type": (str,),
    "payload": (dict,),
    "seq": (int,),
    "seq_from": (int,),
    "timestamp": (int, float),
    "correlation_id": (str,),
}
