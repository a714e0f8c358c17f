"""Inflating of one message, in small steps and without I/O (RFC 7692, 7.2.2).

>>> inflater = Inflater(bytes.fromhex("f248cdc9c90700"), max_bytes=5)
>>> while not inflater.step():
...     pass
>>> bytes(inflater.data)
b'Hello'

The size is checked while the message is inflated: never more than `max_bytes` and one step exist.
"""

import zlib

PIECE_BYTES = 1024  # of compressed data in a step: at most 0.1 ms for any content
STEP_BYTES = 16 * 1024  # that a step returns at most: with the best ratio, 1 KiB becomes 1 MiB
FINAL_BLOCKS = 64  # of a message: a peer may end a stream and begin another one (RFC 7692, 7.2.1)

TAIL = b"\x00\x00\xff\xff"  # what the sender has removed from the end (RFC 7692, 7.2.1)
_END = b"\x01\x00\x00\xff\xff"  # an empty final block: it only fits behind complete blocks


class NotInflatable(Exception):
    """The data is not a sequence of complete DEFLATE blocks, or refers to data before it."""


class InflatedTooBig(Exception):
    """The inflated message exceeds its limit."""


def compressed_limit(max_bytes: int) -> int:
    """Return the limit of a message's compressed data.

    Data that cannot be compressed grows by an eighth at most (zlib's `deflateBound`). Any further
    bytes are blocks without content, and a peer could send any number of them.
    """
    return max_bytes + max_bytes // 7 + 64


class Inflater:
    """The inflating of one compressed message.

    Nothing of an earlier message is used: the client was told not to use it either.

    Args:
        compressed: The payload of the message, without the bytes that its sender has removed.
        max_bytes: The limit of the inflated message.

    Attributes:
        data: The inflated bytes so far.
        compressed_bytes: The size of the compressed message.
    """

    def __init__(self, compressed: bytes, *, max_bytes: int) -> None:
        self.data = bytearray()
        self.compressed_bytes = len(compressed)
        self._max_bytes = max_bytes
        self._left = memoryview(compressed)
        self._piece = b""  # read from it, and not inflated yet
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._final_blocks = 0
        self._is_last = False  # the piece is the one behind the message

    def step(self) -> bool:
        """Inflate a piece; return whether the message is complete.

        Raises:
            NotInflatable: If the data is invalid.
            InflatedTooBig: If the message exceeds its limit.
        """
        self._read()
        room = min(STEP_BYTES, self._max_bytes + 1 - len(self.data))
        try:
            inflated = self._stream.decompress(self._piece, room)
        except zlib.error:
            raise NotInflatable from None
        self.data += inflated
        if len(self.data) > self._max_bytes:
            raise InflatedTooBig
        if self._stream.eof:
            return self._end_stream()
        self._piece = self._stream.unconsumed_tail
        if self._is_last and not self._piece and len(inflated) < room:
            raise NotInflatable  # the last block is cut off
        return False

    def _read(self) -> None:
        if self._piece or self._is_last:
            return
        if self._left:
            self._piece = bytes(self._left[:PIECE_BYTES])
            self._left = self._left[PIECE_BYTES:]
        else:
            self._piece, self._is_last = TAIL + _END, True

    def _end_stream(self) -> bool:
        """Begin another stream behind a final block; return whether the message is complete."""
        self._piece = self._stream.unused_data
        if self._is_last:
            if self._piece:
                raise NotInflatable  # a block took a part of what is behind the message
            return True
        if not (self._piece or self._left):
            return True  # some peers end with a final block, and remove nothing
        self._final_blocks += 1
        if self._final_blocks > FINAL_BLOCKS:
            raise NotInflatable
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        return False
