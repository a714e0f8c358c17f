"""The client's side of a WebSocket in bytes: encoded frames, and a pipe in memory with a bound.

ours, theirs = pipe(64 * 1024)
await theirs.send_all(client_frame(TEXT, b"hello"))
"""

from collections.abc import Iterator

import trio

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80
MASK = b"\x01\x02\x03\x04"


def raw_frame(first: int, payload: bytes = b"", *, masked: bool = True) -> bytes:
    """Return a frame with this first byte, valid or not."""
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
    """Return a frame of a client, which is masked."""
    return raw_frame(opcode | (FIN if final else 0), payload)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return client_frame(CLOSE, code.to_bytes(2, "big") + reason)


def server_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the opcode and the payload of each frame of a server."""
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


class _Direction:
    """One direction of a pipe."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.ended = False  # the writer has closed it
        self.is_read_closed = False  # the reader has closed it
        self.changed = trio.lowlevel.ParkingLot()


class PipeEnd(trio.abc.HalfCloseableStream):
    """One end of a pipe in memory, with a bound of bytes."""

    def __init__(self, inbound: _Direction, outbound: _Direction) -> None:
        self._in = inbound
        self._out = outbound
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all data; waits for room."""
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if self._out.is_read_closed:
                raise trio.BrokenResourceError
            room = self._out.capacity - len(self._out.data)
            if left and room:
                self._out.data += left[:room]
                left = left[room:]
                self._out.changed.unpark_all()
            if not left:
                return
            await self._out.changed.park()

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: the tests do not use it."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for data; empty at the end."""
        await trio.lowlevel.checkpoint()
        while not (self._in.data or self._in.ended or self._closed):
            await self._in.changed.park()
        if self._closed:
            raise trio.ClosedResourceError
        data = bytes(self._in.data[:max_bytes])
        del self._in.data[:max_bytes]
        self._in.changed.unpark_all()
        return data

    async def send_eof(self) -> None:
        """Close the outgoing direction."""
        await trio.lowlevel.checkpoint()
        self._out.ended = True
        self._out.changed.unpark_all()

    def close(self) -> None:
        """Close both directions, without waiting."""
        self._closed = self._in.is_read_closed = self._out.ended = True
        self._in.changed.unpark_all()
        self._out.changed.unpark_all()

    async def aclose(self) -> None:
        """Close both directions."""
        self.close()
        await trio.lowlevel.checkpoint()


def pipe(capacity: int) -> tuple[PipeEnd, PipeEnd]:
    """Return both ends of a pipe that holds `capacity` bytes in each direction."""
    there, back = _Direction(capacity), _Direction(capacity)
    return PipeEnd(there, back), PipeEnd(back, there)
