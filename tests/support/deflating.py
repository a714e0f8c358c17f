"""Compressed messages in bytes (RFC 7692): those of a client, valid or hostile, and a server's.

data = compressed_frame(b"x" * 2000)
[(TEXT, b"…", True)] == list(server_messages(answer))
"""

import zlib
from collections.abc import Iterator

from support.wire import CONT, FIN, TEXT, raw_frame

RSV1 = 0x40
TAIL = b"\x00\x00\xff\xff"
MIB = 1024 * 1024


def deflate(data: bytes, *, level: int = 9, bits: int = 15) -> bytes:
    """Return data as a client compresses it."""
    stream = zlib.compressobj(level, zlib.DEFLATED, -bits)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def final_block(data: bytes) -> bytes:
    """Return data as a DEFLATE stream with an end."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush(zlib.Z_FINISH)


def inflate(data: bytes, *, bits: int = 15) -> bytes:
    """Return what a client inflates, with a window of this size."""
    return zlib.decompressobj(-bits).decompress(data + TAIL)


def compressed_frame(data: bytes, opcode: int = TEXT) -> bytes:
    """Return a message of a client, which is compressed."""
    return deflated_frame(deflate(data), opcode)


def deflated_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a message of a client whose payload is said to be compressed."""
    return raw_frame(FIN | RSV1 | opcode, payload)


def fragments(payload: bytes, size: int, opcode: int = TEXT) -> Iterator[bytes]:
    """Yield the frames of such a message in fragments of this size."""
    for at in range(0, len(payload), size):
        first = RSV1 | opcode if at == 0 else CONT
        yield raw_frame(first | (FIN if at + size >= len(payload) else 0), payload[at : at + size])


def bomb(size: int) -> bytes:
    """Return the compressed form of so many equal bytes: about a thousandth of them."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    pieces = [stream.compress(b"a" * min(MIB, size - at)) for at in range(0, size, MIB)]
    return (b"".join(pieces) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def server_messages(data: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the opcode and the payload of each frame of a server, and whether it was compressed."""
    while data:
        first, size = data[0], data[1]
        assert first & 0xB0 == FIN, data[:16]
        start = 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        payload, data = data[start : start + size], data[start + size :]
        assert len(payload) == size, "half a frame"
        is_compressed = bool(first & RSV1)
        yield first & 0x0F, inflate(payload) if is_compressed else payload, is_compressed
