"""A line: the bytes to one peer, with a bound on how long it may take none of them.

    line = SocketByteStream(sock, send_timeout=5.0)
    data = await line.read()
    await line.write(b"...")

A write that the kernel takes at once is one system call and no checkpoint: that is what most are,
and where the speed of streaming comes from. Whoever writes in a loop waits for something else in
it, or reads.
"""

import fcntl
import socket
import termios
from array import array
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import trio

from netra_trio.errors import TransportClosed

READ_BYTES = 16 * 1024  # at once: a message of the default size limit, and what it holds up others
TLS_PIECE = 16 * 1024  # bytes: one record; under TLS each has to leave within the send timeout
LAG_SECONDS = 0.01  # of a write over a stream that does not tell: the peer had to be waited for
EOF_SECONDS = 1.0  # to say over TLS that nothing more comes


class Line(Protocol):
    """Bytes to and from a peer. One task reads; one writes at a time."""

    async def read(self) -> bytes:
        """Wait for some bytes; none mean that no more will come. Cancelling is safe.

        Raises:
            TransportClosed: If the line is gone.
        """
        ...

    async def write(self, data: bytes) -> bool:
        """Write all of it, without a checkpoint if it is taken at once; return if it was not.

        Cancelling in the middle cuts the line: a part may be out.

        Raises:
            TransportClosed: If the line is gone, or the peer took nothing for the send timeout.
        """
        ...

    async def end(self) -> None:
        """Say that nothing more comes; what the peer sends can still be read."""
        ...

    def cut(self) -> None:
        """Close the line now; whoever waits on it hears `TransportClosed`."""
        ...


def waiting_for_peer(fileno: int) -> int:
    """Return how many bytes the kernel holds that the peer of a socket has yet to take.

    The kernel asks for more only when a third of its buffer is free, which a slow peer may take
    longer for than the send timeout. Elsewhere than on Linux nobody tells, and only what the kernel
    takes is progress; a socket that is closed holds nothing.
    """
    held = array("i", [0])
    with suppress(OSError, ValueError):
        fcntl.ioctl(fileno, termios.TIOCOUTQ, held)
    return held[0]


class SocketByteStream:
    """A line over a socket that does not block.

    Args:
        sock: A connected stream socket; the line owns it from here on.
        send_timeout: Seconds the peer may take nothing while there is something to send.
        buffer: What to read into; lines of one thread may share it. To allocate so much for each
            read would leave holes all over the heap: ten times of what a connection needs.
    """

    def __init__(
        self, sock: socket.socket, *, send_timeout: float, buffer: bytearray | None = None
    ) -> None:
        self.sock = sock
        self._buffer = memoryview(bytearray(READ_BYTES) if buffer is None else buffer)
        self._send_timeout = send_timeout
        self._has_more = True

    async def read(self) -> bytes:
        """Wait for some bytes; none mean that no more will come."""
        if self._has_more:
            await trio.lowlevel.checkpoint()  # others have their turn
        else:
            await self._wait(trio.lowlevel.wait_readable)
        while True:
            try:
                size = self.sock.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                await self._wait(trio.lowlevel.wait_readable)
            except OSError:
                raise TransportClosed from None
            else:
                # A buffer that is not full says that there is no more: to ask once more is dearer.
                self._has_more = size == len(self._buffer)
                return bytes(self._buffer[:size])

    async def write(self, data: bytes) -> bool:
        """Write all of it, without a checkpoint if it is taken at once; return if it was not."""
        sent = self._send(data)
        if sent == len(data):
            return False
        try:
            await self._write_rest(memoryview(data)[sent:])
        except trio.Cancelled:
            self.cut()  # half a frame may be out: what follows could not be read
            raise
        return True

    async def end(self) -> None:
        """Say that nothing more comes."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        """Close the socket now."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()

    async def _write_rest(self, data: memoryview) -> None:
        """Write what the kernel did not take at once; each byte that leaves it is progress."""
        while data:
            waiting = waiting_for_peer(self.sock.fileno())
            with trio.move_on_after(self._send_timeout) as patience:
                await self._wait(trio.lowlevel.wait_writable)
            if patience.cancelled_caught and waiting_for_peer(self.sock.fileno()) >= waiting:
                self.cut()
                raise TransportClosed(timed_out=True)
            data = data[self._send(data) :]

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            raise TransportClosed from None

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            await ready(self.sock)
        except (OSError, ValueError, trio.ClosedResourceError):  # closed by another task
            raise TransportClosed from None


class TrioByteStream:
    """A line over any of Trio's streams: TLS, and memory in tests.

    Args:
        stream: The stream; the line owns it from here on.
        send_timeout: Seconds for the peer to take a piece of 16 KiB.
        before: What was read of the stream already.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, send_timeout: float, before: bytes = b""
    ) -> None:
        self._stream = stream
        self._send_timeout = send_timeout
        self._before = before

    async def read(self) -> bytes:
        """Wait for some bytes; none mean that no more will come."""
        if self._before:
            before, self._before = self._before, b""
            return before
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportClosed from None

    async def write(self, data: bytes) -> bool:
        """Write all of it, a piece at a time; return whether that took a while."""
        pieces, begun = memoryview(data), trio.current_time()
        while pieces:
            with trio.move_on_after(self._send_timeout) as patience:
                await self._write_piece(pieces[:TLS_PIECE])
            if patience.cancelled_caught:
                self.cut()
                raise TransportClosed(timed_out=True)
            pieces = pieces[TLS_PIECE:]
        return trio.current_time() - begun > LAG_SECONDS

    async def end(self) -> None:
        """Say that nothing more comes: TLS can only end both ways, so its socket says it."""
        stream = self._transport
        with (
            trio.move_on_after(EOF_SECONDS),
            suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError),
        ):
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()

    def cut(self) -> None:
        """Close the stream now."""
        stream = self._transport
        if isinstance(stream, trio.SocketStream):
            stream.socket.close()
        else:
            with suppress(AttributeError):
                stream.close()  # type: ignore[attr-defined]  # Trio's memory streams have it

    @property
    def _transport(self) -> trio.abc.Stream:
        """The stream below TLS, where there is TLS."""
        stream = self._stream
        return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream

    async def _write_piece(self, piece: memoryview) -> None:
        try:
            await self._stream.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportClosed from None
        except trio.Cancelled:
            self.cut()
            raise
