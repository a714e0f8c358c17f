r"""WebSocket frames, to the extent that the load generator and the floor need them.

>>> client_frame(b"hi").hex()
'81825ba719e433ce'
>>> bounds(b"\x81\x02hi", 0)
(2, 4)
"""

import base64
import hashlib

TEXT = 0x1
CLOSE = 0x8
PING = 0x9
PONG = 0xA

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3: a constant key is enough without caches
INCOMPLETE = -1

_FINAL = 0x80
_MASKED = 0x80
_ONE_BYTE = 125  # the longest payload whose length fits into the second byte
_TWO_BYTES = 126
_TWO_BYTES_MAX = 0xFFFF
_MASK = bytes.fromhex("5ba719e4")  # a constant mask costs the server the same
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return one masked frame."""
    size = len(payload)
    if size <= _ONE_BYTE:
        head = bytes((_FINAL | opcode, _MASKED | size))
    elif size <= _TWO_BYTES_MAX:
        head = bytes((_FINAL | opcode, _MASKED | _TWO_BYTES)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, _MASKED | _ONE_BYTE + 2)) + size.to_bytes(8, "big")
    return head + _MASK + masked(payload, _MASK)


def masked(payload: bytes, mask: bytes) -> bytes:
    """Return the payload XORed with the mask: masks and unmasks."""
    size = len(payload)
    pattern = (mask * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "little") ^ int.from_bytes(pattern, "little")
    return number.to_bytes(size, "little")


def server_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return one unmasked frame."""
    size = len(payload)
    if size <= _ONE_BYTE:
        return bytes((_FINAL | opcode, size)) + payload
    if size <= _TWO_BYTES_MAX:
        return bytes((_FINAL | opcode, _TWO_BYTES)) + size.to_bytes(2, "big") + payload
    return bytes((_FINAL | opcode, _TWO_BYTES + 1)) + size.to_bytes(8, "big") + payload


def bounds(data: bytes, position: int) -> tuple[int, int]:
    """Return the bounds of the payload of the server's frame at `position`.

    The end is INCOMPLETE if a part of the frame is missing.
    """
    size = len(data)
    if size - position < 2:
        return position, INCOMPLETE
    length = data[position + 1]
    start = position + 2
    if length > _ONE_BYTE:
        start += 2 if length == _TWO_BYTES else 8
        if start > size:
            return position, INCOMPLETE
        length = int.from_bytes(data[position + 2 : start], "big")
    end = start + length
    return start, end if end <= size else INCOMPLETE


def accept_of(key: bytes) -> bytes:
    """Return the value of Sec-WebSocket-Accept for a client's key."""
    return base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())
