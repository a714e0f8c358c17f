r"""Frames of a WebSocket as a server writes them: whole messages, unmasked (RFC 6455, 5.2).

>>> frame(1, b"hi")
b'\x81\x02hi'
"""

_SHORT, _MEDIUM = 125, 0xFFFF  # the longest payloads of the two shorter headers
_FINAL = 0x80  # the bit that marks a whole message


def frame(opcode: int, payload: bytes) -> bytes:
    """Return the payload as one whole frame."""
    size = len(payload)
    if size <= _SHORT:
        return bytes((_FINAL | opcode, size)) + payload
    if size <= _MEDIUM:
        return bytes((_FINAL | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_FINAL | opcode, 127)) + size.to_bytes(8, "big") + payload
