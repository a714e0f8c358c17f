"""The wire format of a connection: encodes messages into frames, and decodes frames.

    >>> JSON_ACKNOWLEDGING.name
    'netra.v1'
    >>> JSON_PLAIN.decode('{"type": "ping", "payload": {}}', max_size=1000).message
    Ping(payload={})

The subprotocol selects the format when the connection is opened. The event log keeps events, not
frames, so that the connections of one session may have different formats.
"""

from typing import Protocol

from attrs import frozen

from netra_trio.protocol import codec
from netra_trio.protocol.messages import Outbound
from netra_trio.protocol.problem import Problem

SUBPROTOCOL = "netra.v1"  # of a client that acknowledges events


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

    def encode_event(self, entry: codec.NumberedEvent) -> bytes:
        """Return the frame of a numbered event."""
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


@frozen
class JsonFormat:
    """One JSON object for each text frame."""

    name: str | None
    acknowledges: bool

    def decode(self, frame: str | bytes, *, max_size: int) -> codec.Frame:
        """Return the message of a text frame; a binary frame is refused."""
        if isinstance(frame, bytes):
            raise codec.binary_frame()
        return codec.decode(frame, max_size=max_size)

    encode_event = staticmethod(codec.encode_event)  # no wrapper: it is called for each delta

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


JSON_PLAIN = JsonFormat(None, acknowledges=False)
JSON_ACKNOWLEDGING = JsonFormat(SUBPROTOCOL, acknowledges=True)
