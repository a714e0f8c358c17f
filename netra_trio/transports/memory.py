"""A WebSocket without a network: both ends in one process, on Trio's clock, virtual or real.

    server, client = memory_pair()
    await client.send('{"type": "ping"}')
    assert await server.receive() == '{"type": "ping"}'

It behaves as a socket does: each direction holds a bounded number of bytes, a peer that does not
read blocks the sender, and sending has a progress timeout. A network may be slow, and a connection
may stall: then neither end gets anything from the other, the close included.
"""

from collections import deque
from collections.abc import Sequence
from math import inf

import trio
from attrs import define

from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.protocol.binary import BinaryFrame
from netra_trio.protocol.codes import ABNORMAL
from netra_trio.transports.base import SendShared

BUFFER_BYTES = 128 * 1024  # of one direction; measured: loopback holds that before a send blocks


def _received(frame: bytes) -> bytes:
    """Return a frame as its peer receives it: orjson accepts no subclass of `bytes`."""
    return frame if type(frame) is BinaryFrame else bytes(frame)


def _size(frame: str | bytes | None) -> int:
    """Return the size of a frame, in bytes of UTF-8."""
    if isinstance(frame, str):
        return len(frame.encode())
    return 0 if frame is None else len(frame)


@define
class NetworkConditions:
    """The speed of a network; it may change while connections are open.

    Attributes:
        delay: Seconds from the send of a frame to its arrival.
        rate: Bytes per second, each way.
    """

    delay: float = 0.0
    rate: float = inf


class _Direction:
    """The frames on their way to one end; their bytes are bounded."""

    def __init__(self, max_bytes: int, conditions: NetworkConditions) -> None:
        self._max_bytes = max_bytes
        self._conditions = conditions
        self._frames: deque[tuple[float, str | bytes | None]] = deque()  # (arrival, frame)
        self._bytes = 0
        self._busy_until = -inf  # when the last frame sent so far has left
        self._changed = trio.lowlevel.ParkingLot()
        self._is_stalled = False
        self.closed: int | None = None
        self.reason = ""  # of the close

    async def put(self, frame: str | bytes | None, patience: float = inf) -> bool:
        """Add a frame when there is room; return whether it had to wait for room.

        Args:
            frame: The frame, None for a ping or pong.
            patience: Seconds for each wait; then `TransportClosed` with `timed_out` is raised.
        """
        size, waited = _size(frame), False
        while self._is_full_for(size) and self._known_end is None:
            waited = True
            with trio.move_on_after(patience) as wait:
                await self._changed.park()
            if wait.cancelled_caught:
                raise TransportClosed(timed_out=True)
        if self._known_end is not None:
            await trio.lowlevel.checkpoint()
            raise TransportClosed(self._known_end)
        self._frames.append((self._arrival(size), frame))
        self._bytes += size
        self._changed.unpark_all()
        await trio.lowlevel.checkpoint()
        return waited

    def _is_full_for(self, size: int) -> bool:
        """Whether a frame of this size has to wait; a ping or pong has no bytes."""
        return bool(size and self._bytes) and self._bytes + size > self._max_bytes

    async def get(self) -> str | bytes | None:
        await trio.lowlevel.checkpoint()
        while (arrival := self._next_arrival()) > trio.current_time():
            if self._known_end is not None and not self._frames:
                raise TransportClosed(self._known_end)
            with trio.move_on_at(arrival):
                await self._changed.park()
        _, frame = self._frames.popleft()
        self._bytes -= _size(frame)
        self._changed.unpark_all()
        return frame

    def close(self, code: int, reason: str = "") -> None:
        """Close the direction; frames on their way can still be read."""
        if self.closed is None:
            self.closed, self.reason = code, reason
        self._changed.unpark_all()

    async def wait_closed(self) -> int:
        """Wait for the close; return its code."""
        while self.closed is None:
            await self._changed.park()
        return self.closed

    def cut(self) -> None:
        """Close the direction as a lost network does: frames on their way are lost."""
        self._frames.clear()
        self._bytes = 0
        self.close(ABNORMAL)

    def stall(self) -> None:
        """Deliver nothing any more, the close included."""
        self._is_stalled = True

    @property
    def has_pending(self) -> bool:
        """Whether a frame has arrived that is no ping."""
        now = trio.current_time()
        frames = () if self._is_stalled else self._frames
        return any(arrival <= now and frame is not None for arrival, frame in frames)

    @property
    def _known_end(self) -> int | None:
        """The code of the close, None while it is open or the close cannot be seen."""
        return None if self._is_stalled else self.closed

    def _arrival(self, size: int) -> float:
        """Return when a frame that is sent now arrives."""
        conditions, now = self._conditions, trio.current_time()
        self._busy_until = max(now, self._busy_until) + size / conditions.rate
        return self._busy_until + conditions.delay

    def _next_arrival(self) -> float:
        return self._frames[0][0] if self._frames and not self._is_stalled else inf


class MemoryClient:
    """The client's end of a connection in memory.

    Attributes:
        pings: How many protocol pings came before the last received frame.
    """

    def __init__(self, to_server: _Direction, to_client: _Direction) -> None:
        self._to_server = to_server
        self._to_client = to_client
        self.pings = 0

    async def send(self, frame: str | bytes) -> None:
        """Send a text frame (`str`) or a binary frame (`bytes`).

        Raises:
            TransportClosed: If the connection is closed.
        """
        await self._to_server.put(frame)

    async def pong(self) -> None:
        """Send a protocol pong; it does not wait for room."""
        await self._to_server.put(None)

    async def receive(self) -> bytes:
        """Wait for a text frame, as UTF-8; protocol pings are counted in `pings`.

        A binary frame of the server is a `BinaryFrame`.

        Raises:
            TransportClosed: If the server closed, with its code, or the connection was cut.
        """
        while True:
            try:
                frame = await self._to_client.get()
            except TransportClosed as closed:
                self._to_server.close(closed.code or ABNORMAL)  # the answer to a close frame
                raise
            if isinstance(frame, bytes):
                return frame
            self.pings += 1

    @property
    def has_pending(self) -> bool:
        """Whether a frame can be received without waiting."""
        return self._to_client.has_pending

    @property
    def is_closed(self) -> bool:
        """Whether either end has closed the connection; frames may still be received."""
        return self._to_client.closed is not None

    @property
    def close_reason(self) -> str:
        """The reason that the server closed with; empty without one."""
        return self._to_client.reason

    async def answer_close(self) -> None:
        """Wait for the end of the connection, and answer a close frame of the server.

        `receive` does it too, after the frames before it, which can be received later all the same.
        """
        self._to_server.close(await self._to_client.wait_closed())

    def close(self, code: int = 1000) -> None:
        """Send a close frame; frames sent before it arrive."""
        self._to_server.close(code)
        self._to_client.close(code)

    def cut(self) -> None:
        """Lose the connection, without a close frame."""
        self._to_server.cut()
        self._to_client.cut()

    def stall(self) -> None:
        """Deliver nothing any more, either way: neither end sees the other close."""
        self._to_server.stall()
        self._to_client.stall()


class MemoryTransport:
    """The server's end of a connection in memory: a `Transport`."""

    def __init__(
        self, to_server: _Direction, to_client: _Direction, *, send_timeout: float, max_bytes: int
    ) -> None:
        self._to_server = to_server
        self._to_client = to_client
        self._send_timeout = send_timeout
        self._max_bytes = max_bytes
        self._is_broken = False
        self.accepted = trio.Event()

    async def accept(self) -> None:
        """Accept the upgrade."""
        await trio.lowlevel.checkpoint()
        if self._to_client.closed is not None:
            raise TransportClosed(self._to_client.closed)
        self.accepted.set()

    async def receive(self) -> str | bytes | None:
        """Wait for the next message; None for a pong."""
        frame = await self._to_server.get()
        if _size(frame) > self._max_bytes:
            raise MessageTooBig
        return frame

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        """Send messages, and a ping; each waits for room at most the send timeout."""
        waits = [await self._put(_received(frame)) for frame in frames]
        if ping:
            waits.append(await self._put(None))
        return any(waits)

    @property
    def send_shared(self) -> SendShared | None:
        """Not supported."""
        return None

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame; the peer closes its own direction when it reads it."""
        await trio.lowlevel.checkpoint()
        if self._to_client.closed is not None:
            raise TransportClosed(self._to_client.closed)
        self._to_client.close(code, reason)

    async def _put(self, frame: bytes | None) -> bool:
        if self._is_broken:
            raise TransportClosed
        try:
            return await self._to_client.put(frame, self._send_timeout)
        except BaseException as error:
            self._is_broken = True
            if isinstance(error, TransportClosed) and error.timed_out:
                self._to_client.cut()
                self._to_server.cut()
            raise


def memory_pair(
    *,
    buffer_bytes: int = BUFFER_BYTES,
    send_timeout: float = 5.0,
    max_bytes: int = 16 * 10_240,
    conditions: NetworkConditions | None = None,
) -> tuple[MemoryTransport, MemoryClient]:
    """Return both ends of an open connection.

    Args:
        buffer_bytes: What each direction holds before sending blocks.
        send_timeout: Seconds that a send of the server may make no progress.
        max_bytes: The hard limit of a message to the server, in bytes.
        conditions: The speed of the network; by default frames arrive at once.
    """
    conditions = NetworkConditions() if conditions is None else conditions
    to_server, to_client = (
        _Direction(buffer_bytes, conditions),
        _Direction(buffer_bytes, conditions),
    )
    transport = MemoryTransport(
        to_server, to_client, send_timeout=send_timeout, max_bytes=max_bytes
    )
    return transport, MemoryClient(to_server, to_client)
