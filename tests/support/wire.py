"""The peer's side of a WebSocket in bytes: frames as a client writes them, and a bounded pipe.

ours, theirs = pipe(64 * 1024)
await theirs.send_all(client_frame(TEXT, b"hello"))
"""

from collections.abc import Iterator

import trio

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80
MASK = b"\x01\x02\x03\x04"


def raw_frame(first: int, payload: bytes = b"", *, masked: bool = True) -> bytes:
    """Return a frame with this first byte, whatever it says."""
    flag = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes([first, flag | size])
    elif size < 65_536:
        head = bytes([first, flag | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, flag | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = MASK * (size // 4 + 1)
    xored = int.from_bytes(payload, "big") ^ int.from_bytes(mask[:size], "big")
    return head + MASK + xored.to_bytes(size, "big")


def client_frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """Return a frame as a client sends it: masked."""
    return raw_frame(opcode | (FIN if final else 0), payload)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return client_frame(CLOSE, code.to_bytes(2, "big") + reason)


def server_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the opcode and the payload of each whole frame that a server wrote."""
    while data:
        first, size = data[0], data[1]
        assert first & 0xF0 == FIN, data[:16]
        assert size < 128, "masked"
        start = 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        payload = data[start : start + size]
        assert len(payload) == size, "half a frame"
        yield first & 0x0F, payload
        data = data[start + size :]


class _Way:
    """One direction of a pipe."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.ended = False  # nothing more is written
        self.deaf = False  # nothing more is read
        self.news = trio.lowlevel.ParkingLot()


class PipeEnd(trio.abc.HalfCloseableStream):
    """One end of a pipe in memory, which holds only so many bytes."""

    def __init__(self, inbound: _Way, outbound: _Way) -> None:
        self._in = inbound
        self._out = outbound
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it, waiting for room."""
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if self._out.deaf:
                raise trio.BrokenResourceError
            room = self._out.capacity - len(self._out.data)
            if left and room:
                self._out.data += left[:room]
                left = left[room:]
                self._out.news.unpark_all()
            if not left:
                return
            await self._out.news.park()

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: nobody here asks."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for some bytes; none mean that no more will come."""
        await trio.lowlevel.checkpoint()
        while not (self._in.data or self._in.ended or self._closed):
            await self._in.news.park()
        if self._closed:
            raise trio.ClosedResourceError
        data = bytes(self._in.data[:max_bytes])
        del self._in.data[:max_bytes]
        self._in.news.unpark_all()
        return data

    async def send_eof(self) -> None:
        """Say that nothing more comes."""
        await trio.lowlevel.checkpoint()
        self._out.ended = True
        self._out.news.unpark_all()

    def close(self) -> None:
        """Close both ways, now."""
        self._closed = self._in.deaf = self._out.ended = True
        self._in.news.unpark_all()
        self._out.news.unpark_all()

    async def aclose(self) -> None:
        """Close both ways."""
        self.close()
        await trio.lowlevel.checkpoint()


def pipe(capacity: int) -> tuple[PipeEnd, PipeEnd]:
    """Return both ends of a pipe that holds so many bytes each way."""
    there, back = _Way(capacity), _Way(capacity)
    return PipeEnd(there, back), PipeEnd(back, there)
