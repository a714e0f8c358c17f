"""The dialects of the servers: the same messages in different envelopes.

dialect = DIALECTS["netra"]
wire = dialect.message("user_message", {"content": "hello", "agent": "echo"})
dialect.kind(b'{"type":"agent_started","payload":{}}')  # b"agent_started"
"""

from collections.abc import Mapping
from typing import Any

import orjson
from attrs import evolve, field, frozen

_CONTROL = {b"connection_established", b"heartbeat", b"pong", b"error", b"server_draining"}
_ROOMS = {
    *(b"room_joined", b"room_confirmed", b"room_event", b"room_gap", b"room_left"),
    *(b"presence_changed", b"thread_changed"),
}


@frozen
class Dialect:
    """The envelope of a server's messages.

    Attributes:
        target: The path and query to connect to, with a placeholder for the token.
        prefix: The bytes before the type in every frame of the server.
        subprotocol: The WebSocket subprotocol to offer, if any.
        numbers: Whether events have sequence numbers.
        acknowledges: Whether the client acknowledges events.
        engine_io: Whether frames are wrapped as Engine.IO and Socket.IO packets.
        compact: Whether deltas are arrays: a number, and a text.
        extension: The WebSocket extension to offer, if any.
    """

    target: str
    prefix: bytes = b'{"type":"'
    subprotocol: str | None = None
    numbers: bool = False
    acknowledges: bool = False
    engine_io: bool = False
    compact: bool = False
    extension: str | None = None
    delta: bytes = field(init=False)

    @delta.default
    def _delta(self) -> bytes:
        return b"[" if self.compact else self.prefix + b'partial_result"'

    @property
    def before_content(self) -> bytes:
        """The bytes before the content of a delta."""
        return b',"' if self.compact else b'"content":"'

    def message(self, kind: str, payload: Mapping[str, Any], key: str | None = None) -> bytes:
        """Return the payload of a frame with a message; `key` is its correlation id."""
        envelope: dict[str, Any] = {"type": kind, "payload": payload}
        if key is not None:
            envelope["correlation_id"] = key
        if self.engine_io:
            return b"42" + orjson.dumps([kind, envelope])
        return orjson.dumps(envelope)

    def kind(self, frame: bytes) -> bytes:
        """Return the type of a message, empty if it has none."""
        if not frame.startswith(self.prefix):
            return b""
        start = len(self.prefix)
        return frame[start : frame.index(b'"', start)]

    def payload(self, frame: bytes) -> dict[str, Any]:
        """Return the payload of a message."""
        body = orjson.loads(frame[2:])[1] if self.engine_io else orjson.loads(frame)
        payload: dict[str, Any] = body["payload"]
        return payload


def is_event(kind: bytes) -> bool:
    """Return whether messages of this type are events of a run, which have numbers."""
    return bool(kind) and kind not in _CONTROL and not is_of_room(kind)


def is_of_room(kind: bytes) -> bool:
    """Return whether messages of this type are about rooms, which have no numbers."""
    return kind in _ROOMS


_PLAIN = Dialect("/ws?token={token}")

DIALECTS: Mapping[str, Dialect] = {
    "netra": evolve(_PLAIN, subprotocol="netra.v1", numbers=True, acknowledges=True),
    "netra-deflate": evolve(
        _PLAIN,
        subprotocol="netra.v1",
        numbers=True,
        acknowledges=True,
        extension="permessage-deflate; client_max_window_bits",
    ),
    "netra-v2": evolve(
        _PLAIN, subprotocol="netra.v2", numbers=True, acknowledges=True, compact=True
    ),
    "netra-plain": evolve(_PLAIN, numbers=True),
    "plain": _PLAIN,
    "socketio": Dialect(
        "/socket.io/?EIO=4&transport=websocket&token={token}", prefix=b'42["', engine_io=True
    ),
}
