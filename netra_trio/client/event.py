"""What comes in: a frame of the server, or something that the client itself has to tell.

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


class NoEvent(NetraError):
    """A frame that a server of this contract does not send."""


@frozen
class Event:
    """Something that happened.

    Attributes:
        type: The message type of the contract, or, for what the client tells, one of `connected`,
            `disconnected`, `gap`, `reset`, `lagged`, `lost`.
        payload: Its fields.
        seq: Its number in the session; None for control frames and what the client tells.
        seq_from: On a merged event the first number it stands for, else None.
        timestamp: Unix seconds.
        correlation_id: The key of the message it belongs to.
    """

    type: str
    payload: dict[str, Any] = field(factory=dict)
    seq: int | None = None
    seq_from: int | None = None
    timestamp: float = 0.0
    correlation_id: str | None = None

    @property
    def first(self) -> int | None:
        """The first number it stands for, which is `seq` unless it is a merged one."""
        return self.seq if self.seq_from is None else self.seq_from

    @property
    def run_id(self) -> str | None:
        """The run it belongs to."""
        found = self.payload.get("run_id")
        return found if isinstance(found, str) else None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a frame; fields that this version does not know are passed over.

        Raises:
            NoEvent: It is none.
        """
        try:
            frame = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise NoEvent("not JSON") from None
        if not isinstance(frame, dict):
            raise NoEvent("not an object")
        found = {name: frame[name] for name in _KINDS if name in frame}
        for name, value in found.items():
            if type(value) not in _KINDS[name]:
                raise NoEvent(f"$.{name}: not of its type")
        if "type" not in found:
            raise NoEvent("$.type: missing")
        return cls(**found)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "type": (str,),
    "payload": (dict,),
    "seq": (int,),
    "seq_from": (int,),
    "timestamp": (int, float),
    "correlation_id": (str,),
}
