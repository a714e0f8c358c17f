r"""WebSocket frames as a server writes them: unfragmented and unmasked (RFC 6455, 5.2).

>>> frame(1, b"hi")
b'\x81\x02hi'
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache

from netra_trio.protocol.binary import BinaryFrame

_SHORT, _MEDIUM = 125, 0xFFFF  # the longest payloads of the 7-bit and the 16-bit length
HEADERS = 512  # that are kept: the sizes of nearly all frames

TEXT = 0x1
_BINARY = 0x2
COMPRESSED = 0x40  # RSV1, beside the opcode: the message is compressed (RFC 7692, 6)
_FINAL = 0x80  # FIN: the last frame of its message


class SharedPayload(bytes):
    """The payload of a text frame that many connections send; it is framed once for all of them."""

    @cached_property
    def text_frame(self) -> bytes:
        """The frame."""
        return frame(TEXT, self)

    @cached_property
    def compressed(self) -> dict[int, tuple[bytes, int | None]]:
        """The frames of connections that compress, by the bits of their window.

        Each with the size of its compressed payload; None if compressing does not shorten it.
        """
        return {}


def frame(opcode: int, payload: bytes) -> bytes:
    """Return one frame that holds the whole payload."""
    return _header(opcode, len(payload)) + payload


def frames(opcode: int, payloads: Sequence[bytes]) -> bytes:
    """Return one frame for each payload, joined; a `BinaryFrame` becomes a binary frame."""
    if len(payloads) == 1:
        payload = payloads[0]
        return _header(opcode_of(payload, opcode), len(payload)) + payload
    parts: list[bytes] = []
    for payload in payloads:
        parts += _header(opcode_of(payload, opcode), len(payload)), payload
    return b"".join(parts)


def opcode_of(payload: bytes, opcode: int) -> int:
    """Return the opcode of a payload: that of binary messages for a `BinaryFrame`."""
    return _BINARY if type(payload) is BinaryFrame else opcode


@lru_cache(maxsize=HEADERS)
def _header(opcode: int, size: int) -> bytes:
    if size <= _SHORT:
        return bytes((_FINAL | opcode, size))
    if size <= _MEDIUM:
        return bytes((_FINAL | opcode, 126, size >> 8, size & 0xFF))
    return bytes((_FINAL | opcode, 127)) + size.to_bytes(8, "big")
