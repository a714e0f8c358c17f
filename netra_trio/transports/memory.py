"""A WebSocket without a network: two ends in one process, on whatever clock Trio has.

    server, client = memory_pair()
    await client.send('{"type": "ping"}')
    assert await server.receive() == '{"type": "ping"}'

It behaves as a socket does, which is what tests need: each direction holds a bounded number of
bytes, a peer that does not read blocks the other one, and sending has a progress timeout. Lines may
be slow, and a line may stall, so that neither end hears of the other any more.
"""

from collections import deque
from collections.abc import Sequence
from math import inf

import trio
from attrs import define

from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.protocol.codes import ABNORMAL

BUFFER_BYTES = 128 * 1024  # of one direction: what loopback held before a send blocked, measured


def _size(frame: str | bytes | None) -> int:
    """Return what a frame counts, in bytes of UTF-8."""
    if isinstance(frame, str):
        return len(frame.encode())
    return 0 if frame is None else len(frame)


@define
class Weather:
    """What lines are like; it may change while they are open.

    Attributes:
        delay: Seconds that a frame is under way.
        rate: Bytes a second that pass, each way.
    """

    delay: float = 0.0
    rate: float = inf


class _Line:
    """One direction: frames and their bytes, bounded, until it is cut."""

    def __init__(self, max_bytes: int, weather: Weather) -> None:
        self._max_bytes = max_bytes
        self._weather = weather
        self._frames: deque[tuple[float, str | bytes | None]] = deque()  # each with its arrival
        self._bytes = 0
        self._busy_until = -inf  # with what is under way
        self._changed = trio.lowlevel.ParkingLot()
        self._is_stalled = False
        self.closed: int | None = None

    async def put(self, frame: str | bytes | None, patience: float = inf) -> bool:
        """Put a frame in, when there is room; each wait for the peer lasts `patience` at most.

        Returns whether there was such a wait.
        """
        size, waited = _size(frame), False
        while self._bytes and self._bytes + size > self._max_bytes and self._known_end is None:
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

    def close(self, code: int) -> None:
        """End the line; what is in it can still be read."""
        if self.closed is None:
            self.closed = code
        self._changed.unpark_all()

    def cut(self) -> None:
        """End the line as a lost network does: what is in it is gone too."""
        self._frames.clear()
        self._bytes = 0
        self.close(ABNORMAL)

    def stall(self) -> None:
        """Let nothing through any more, not even that the line has ended."""
        self._is_stalled = True

    @property
    def _known_end(self) -> int | None:
        """The code that the line was closed with, where that can be heard."""
        return None if self._is_stalled else self.closed

    def _arrival(self, size: int) -> float:
        """Return when a frame arrives that is put in now."""
        weather, now = self._weather, trio.current_time()
        self._busy_until = max(now, self._busy_until) + size / weather.rate
        return self._busy_until + weather.delay

    def _next_arrival(self) -> float:
        return self._frames[0][0] if self._frames and not self._is_stalled else inf


class MemoryClient:
    """The client's end."""

    def __init__(self, to_server: _Line, to_client: _Line) -> None:
        self._to_server = to_server
        self._to_client = to_client
        self.pings = 0

    async def send(self, frame: str | bytes) -> None:
        """Send a text frame, or a binary one.

        Raises:
            TransportClosed: If the line is closed.
        """
        await self._to_server.put(frame)

    async def pong(self) -> None:
        """Send a protocol pong."""
        await self._to_server.put(None)

    async def receive(self) -> bytes:
        """Wait for a text frame, as UTF-8; protocol pings are counted in `pings`.

        Raises:
            TransportClosed: If the server closed, with its code, or the line was cut.
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

    def close(self, code: int = 1000) -> None:
        """Close, with a close frame; what was sent before arrives."""
        self._to_server.close(code)
        self._to_client.close(code)

    def cut(self) -> None:
        """Vanish without a close frame."""
        self._to_server.cut()
        self._to_client.cut()

    def stall(self) -> None:
        """Let nothing through any more, either way; whatever happens then, neither end is told."""
        self._to_server.stall()
        self._to_client.stall()


class MemoryTransport:
    """The server's end: a `Transport`."""

    def __init__(
        self, to_server: _Line, to_client: _Line, *, send_timeout: float, max_bytes: int
    ) -> None:
        self._to_server = to_server
        self._to_client = to_client
        self._send_timeout = send_timeout
        self._max_bytes = max_bytes
        self._is_broken = False
        self.accepted = trio.Event()

    async def accept(self) -> None:
        """Answer the upgrade."""
        await trio.lowlevel.checkpoint()
        if self._to_client.closed is not None:
            raise TransportClosed(self._to_client.closed)
        self.accepted.set()

    async def receive(self) -> str | bytes | None:
        """Wait for a frame; None for a pong."""
        frame = await self._to_server.get()
        if _size(frame) > self._max_bytes:
            raise MessageTooBig
        return frame

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        """Send text frames, and a ping; the peer has to take something within each send timeout."""
        waits = [await self._put(frame) for frame in frames]
        if ping:
            waits.append(await self._put(None))
        return any(waits)

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame; a peer that reads answers it by closing its own direction."""
        await trio.lowlevel.checkpoint()
        if self._to_client.closed is not None:
            raise TransportClosed(self._to_client.closed)
        del reason  # a close frame's reason is for people who watch a network
        self._to_client.close(code)

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
    weather: Weather | None = None,
) -> tuple[MemoryTransport, MemoryClient]:
    """Return the two ends of a line that is open.

    Args:
        buffer_bytes: What each direction holds before sending blocks.
        send_timeout: Seconds a send of the server may make no progress.
        max_bytes: The hard limit of a frame to the server.
        weather: What the line is like; where none is given, frames arrive at once.
    """
    weather = Weather() if weather is None else weather
    to_server, to_client = _Line(buffer_bytes, weather), _Line(buffer_bytes, weather)
    transport = MemoryTransport(
        to_server, to_client, send_timeout=send_timeout, max_bytes=max_bytes
    )
    return transport, MemoryClient(to_server, to_client)
