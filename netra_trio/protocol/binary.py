r"""Binary frames of `netra.v2`: a JSON frame and bytes in one WebSocket message.

>>> frame = join_binary(b'{"type":"x"}', b"data")
>>> bytes(frame)
b'\x00\x00\x00\x0c{"type":"x"}data'
>>> split_binary(frame)
(b'{"type":"x"}', b'data')
"""

from typing import ClassVar

from attrs import field

from netra_trio.errors import NetraError
from netra_trio.ids import RunId
from netra_trio.protocol.messages import BinaryResult, Event
from netra_trio.values import frozen

EVENT_DATA_BYTES = 256 * 1024  # more is not in an event: docs/protocol.md, Limits
LENGTH_BYTES = 4  # big-endian, of the JSON frame


class BinaryFrame(bytes):
    """The payload of a binary WebSocket message; `bytes` of any other type are text."""

    __slots__ = ()


@frozen
class BinaryEvent:
    """A `binary_result` with its data; a connection without binary frames sends it alone.

    Attributes:
        result: The event.
        data: At most `EVENT_DATA_BYTES`.
    """

    TYPE: ClassVar[str] = BinaryResult.TYPE
    result: BinaryResult
    data: bytes = field(repr=False)

    @property
    def run_id(self) -> RunId:
        """The run that has sent it."""
        return self.result.run_id


AnyEvent = Event | BinaryEvent
"""An event as it is appended to the log of a session."""


class BadBinaryFrame(NetraError):
    """A binary frame is malformed; the text states what was expected and what was received."""


def join_binary(frame: bytes, data: bytes) -> BinaryFrame:
    """Return a binary frame of a JSON frame and its bytes."""
    return BinaryFrame(len(frame).to_bytes(LENGTH_BYTES, "big") + frame + data)


def split_binary(payload: bytes) -> tuple[bytes, bytes]:
    """Return the JSON frame and the bytes of a binary frame.

    Raises:
        BadBinaryFrame: It is malformed.
    """
    if len(payload) < LENGTH_BYTES:
        text = f"expected {LENGTH_BYTES} bytes with the length of the JSON frame"
        raise BadBinaryFrame(f"{text}, got {len(payload)} bytes")
    size = int.from_bytes(payload[:LENGTH_BYTES], "big")
    end = LENGTH_BYTES + size
    if end > len(payload):
        text = f"expected a JSON frame of {size} bytes after its length"
        raise BadBinaryFrame(f"{text}, got {len(payload) - LENGTH_BYTES} bytes")
    return bytes(payload[LENGTH_BYTES:end]), bytes(payload[end:])
