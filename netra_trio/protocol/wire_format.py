"""The wire format of a connection: encodes messages into frames, and decodes frames.

    >>> JSON_ACKNOWLEDGING.name, COMPACT.name
    ('netra.v1', 'netra.v2')
    >>> JSON_PLAIN.decode('{"type": "ping", "payload": {}}', max_size=1000).message
    Ping(payload={})

The subprotocol selects the format when the connection is opened. The event log keeps events, not
frames, so that the connections of one session may have different formats.
"""

from collections.abc import Collection
from typing import Protocol, Self

from attrs import frozen

from netra_trio.protocol import codec
from netra_trio.protocol.binary_messages import decode_binary
from netra_trio.protocol.compact import CompactEncoder, DataReference
from netra_trio.protocol.messages import ConnectionEstablished, Outbound
from netra_trio.protocol.problem import Problem

SUBPROTOCOL = "netra.v1"  # of a client that acknowledges events
COMPACT_SUBPROTOCOL = "netra.v2"  # of a client that acknowledges, and reads compact deltas
SUBPROTOCOLS = (COMPACT_SUBPROTOCOL, SUBPROTOCOL)  # the one that is preferred first


class EventEncoder(Protocol):
    """Encodes the first frame and the events of one connection, in the order of the frames."""

    @property
    def references(self) -> list[DataReference]:
        """The encoded events whose data is only in the file storage (see `CompactEncoder`)."""
        ...

    def encode_hello(self, message: ConnectionEstablished, timestamp: float) -> bytes:
        """Return the first frame of the connection; `timestamp` is Unix seconds."""
        ...

    def encode_event(self, entry: codec.NumberedEvent) -> bytes:
        """Return the frame of a numbered event."""
        ...


class WireFormat(Protocol):
    """How a connection encodes and decodes. An implementation keeps no state and does no I/O."""

    @property
    def name(self) -> str | None:
        """The subprotocol that selects it; None if it needs none."""
        ...

    @property
    def acknowledges(self) -> bool:
        """Whether a client of this format acknowledges events."""
        ...

    def decode(self, frame: str | bytes, *, max_size: int) -> codec.Frame:
        """Return the message of a text frame, or of a binary one (`bytes`).

        Raises:
            BadFrame: With the error code and the path of the invalid field.
        """
        ...

    def encoder(self) -> EventEncoder:
        """Return the encoder of a new connection."""
        ...

    def encode_control(
        self, message: Outbound, timestamp: float, correlation_id: str | None = None
    ) -> bytes:
        """Return the frame of a message without a number; `timestamp` is Unix seconds."""
        ...

    def encode_problem(
        self, problem: Problem, timestamp: float, correlation_id: str | None = None
    ) -> bytes:
        """Return an `error` frame; `timestamp` is Unix seconds."""
        ...


class _JsonControl:
    """Encodes the messages without a number as JSON objects."""

    def encode_control(
        self, message: Outbound, timestamp: float, correlation_id: str | None = None
    ) -> bytes:
        """Return the frame of a message without a number."""
        return codec.encode(message, timestamp, correlation_id)

    def encode_problem(
        self, problem: Problem, timestamp: float, correlation_id: str | None = None
    ) -> bytes:
        """Return an `error` frame."""
        return codec.encode_problem(problem, timestamp, correlation_id)


@frozen
class JsonFormat(_JsonControl):
    """One JSON object for each text frame. It is also the encoder of its connections."""

    name: str | None
    acknowledges: bool

    def decode(self, frame: str | bytes, *, max_size: int) -> codec.Frame:
        """Return the message of a text frame; a binary frame is refused."""
        if isinstance(frame, bytes):
            raise codec.binary_frame()
        return codec.decode(frame, max_size=max_size)

    @property
    def references(self) -> list[DataReference]:
        """Always empty: data is not sent with the events."""
        return []

    def encoder(self) -> Self:
        """Return this format: its frames do not depend on the ones before."""
        return self

    def encode_hello(self, message: ConnectionEstablished, timestamp: float) -> bytes:
        """Return the first frame of a connection."""
        return codec.encode(message, timestamp)

    encode_event = staticmethod(codec.encode_event)  # no wrapper: it is called for each delta


@frozen
class CompactFormat(_JsonControl):
    """As `JsonFormat`, but with short arrays for deltas, and with binary frames."""

    name: str = COMPACT_SUBPROTOCOL
    acknowledges: bool = True

    def decode(self, frame: str | bytes, *, max_size: int) -> codec.Frame:
        """Return the message of a text frame, or of a binary one (see `decode_binary`)."""
        if isinstance(frame, bytes):
            return decode_binary(frame, max_size=max_size)
        return codec.decode(frame, max_size=max_size)

    def encoder(self) -> CompactEncoder:
        """Return the encoder of a new connection."""
        return CompactEncoder()


JSON_PLAIN = JsonFormat(None, acknowledges=False)
JSON_ACKNOWLEDGING = JsonFormat(SUBPROTOCOL, acknowledges=True)
COMPACT = CompactFormat()

WIRE_FORMATS = {wire.name: wire for wire in (JSON_PLAIN, JSON_ACKNOWLEDGING, COMPACT)}
"""The formats, by their subprotocol."""


def select_format(offered: Collection[str]) -> WireFormat | None:
    """Return the format that the offered subprotocols select; None if none of them is known."""
    if not offered:
        return JSON_PLAIN
    return next((WIRE_FORMATS[name] for name in SUBPROTOCOLS if name in offered), None)
