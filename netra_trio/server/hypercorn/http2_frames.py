"""The frames of an HTTP/2 client, one by one, so that each can be counted before it is handled.

>>> splitter = FrameSplitter()
>>> [frame.kind for frame in splitter.split(bytes.fromhex("000000040000000000"))]
[4]
"""

from collections.abc import Iterator

from attrs import frozen

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9  # of a frame (RFC 9113, 4.1)
MAX_FRAME_BYTES = 16 * 1024  # of a payload: the default of SETTINGS_MAX_FRAME_SIZE

DATA, HEADERS, RST_STREAM, WINDOW_UPDATE = 0, 1, 3, 8

USEFUL_DATA = 64  # bytes: smaller DATA frames are counted as small frames
USEFUL_WINDOW = 4096  # bytes: smaller WINDOW_UPDATE frames likewise


@frozen
class RawFrame:
    """One frame.

    Attributes:
        kind: Its type (RFC 9113, 6).
        payload_bytes: The size of its payload.
        data: The whole frame, header included.
    """

    kind: int
    payload_bytes: int
    data: bytes

    @property
    def is_useful(self) -> bool:
        """Whether it makes progress for its cost: it opens a stream, or is not small.

        Opened streams are limited by the number of requests at work.
        """
        if self.kind == DATA:
            return self.payload_bytes >= USEFUL_DATA
        if self.kind == WINDOW_UPDATE:
            increment = int.from_bytes(self.data[HEADER_BYTES : HEADER_BYTES + 4], "big")
            return increment & 0x7FFFFFFF >= USEFUL_WINDOW
        return self.kind == HEADERS


class FrameSplitter:
    """Splits the bytes of a connection into frames; at most one incomplete frame is kept."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._preface_left = len(PREFACE)

    def take_preface(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the part of the data that belongs to the client's preface, and the rest."""
        size = min(self._preface_left, len(data))
        self._preface_left -= size
        return data[:size], data[size:]

    def split(self, data: bytes) -> Iterator[RawFrame]:
        """Yield the frames that are complete with this data.

        A frame beyond the maximum size is yielded as far as it came: the protocol rejects its
        header.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            size = int.from_bytes(self._buffer[:3], "big")
            end = HEADER_BYTES + size
            if size <= MAX_FRAME_BYTES and len(self._buffer) < end:
                return
            frame = RawFrame(self._buffer[3], size, bytes(self._buffer[:end]))
            del self._buffer[:end]
            yield frame
