"""Byte streams: a connection to one peer whose writes are bounded in time.

    stream = SocketByteStream(sock, send_timeout=5.0)
    data = await stream.read()
    await stream.write(b"...")

A write that the kernel takes at once is one system call without a checkpoint. Most writes are, and
the speed of streaming depends on it. A task that writes in a loop must wait for something else, or
read, in that loop.
"""

import fcntl
import socket
import termios
from array import array
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Protocol

import trio

from netra_trio.errors import TransportClosed

READ_BYTES = 16 * 1024  # a read holds a message of the default limit, and delays others little
TLS_PIECE = 16 * 1024  # bytes of one TLS record; each piece has the send timeout to leave
LAG_SECONDS = 0.01  # a write of a stream that takes longer has waited for its peer
LINGER = 1.0  # seconds to discard input after the last write: unread input resets a connection
EOF_SECONDS = 1.0  # bound on the half-close of a TLS connection


class ByteStream(Protocol):
    """Bytes to and from a peer. One task reads; one task writes at a time."""

    async def read(self) -> bytes:
        """Wait for some bytes; b"" is the end of the stream. Cancelling is safe.

        Raises:
            TransportClosed: If the connection is lost.
        """
        ...

    async def write(self, data: bytes) -> bool:
        """Write all of the data; return whether the write had to wait for the peer.

        A write that the kernel takes at once has no checkpoint. Cancelling in the middle aborts the
        connection, because a part of a frame may be out.

        Raises:
            TransportClosed: If the connection is lost, or the peer took nothing for the send
                timeout.
        """
        ...

    async def send_eof(self) -> None:
        """Close the sending direction; the peer's data can still be read."""
        ...

    def abort(self) -> None:
        """Close the connection now; tasks that wait on it get `TransportClosed`."""
        ...


async def end_sending(stream: ByteStream) -> None:
    """Close the sending direction, and discard input until its end, for at most `LINGER`.

    Closing a socket with unread input sends a reset, which may destroy what was written last.

    Raises:
        TransportClosed: If the connection is lost.
    """
    await stream.send_eof()
    with trio.move_on_after(LINGER):
        while await stream.read():
            pass


def waiting_for_peer(fileno: int) -> int:
    """Return how many bytes the kernel holds that the peer of a socket has not yet acknowledged.

    The kernel asks for more data only when a third of its buffer is free, and a slow peer may need
    longer than the send timeout for that: this number tells its progress before. Returns 0 where
    the system does not tell (only Linux does), and for a closed socket.
    """
    held = array("i", [0])
    with suppress(OSError, ValueError):
        fcntl.ioctl(fileno, termios.TIOCOUTQ, held)
    return held[0]


class SocketByteStream:
    """A byte stream over a non-blocking socket.

    Args:
        sock: A connected stream socket; the stream owns it from here on.
        send_timeout: Seconds that the peer may take nothing while there is something to send.
        buffer: The buffer to read into; the streams of one thread may share it. A buffer of this
            size allocated for each read fragments the heap: ten times the memory of a connection.
    """

    def __init__(
        self, sock: socket.socket, *, send_timeout: float, buffer: bytearray | None = None
    ) -> None:
        self.sock = sock
        self._buffer = memoryview(bytearray(READ_BYTES) if buffer is None else buffer)
        self._send_timeout = send_timeout
        self._has_more = True

    async def read(self) -> bytes:
        """Wait for some bytes; b"" is the end of the stream."""
        if self._has_more:
            await trio.lowlevel.checkpoint()  # a peer that floods must not starve other tasks
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
                # If the buffer is not full, no more data is there: this saves a system call.
                self._has_more = size == len(self._buffer)
                return bytes(self._buffer[:size])

    async def write(self, data: bytes) -> bool:
        """Write all of the data, without a checkpoint if the kernel takes it at once."""
        sent = self.write_now(data)
        if sent == len(data):
            return False
        try:
            await self._write_rest(memoryview(data)[sent:])
        except trio.Cancelled:
            self.abort()  # a part of a frame may be sent: the peer could not parse what follows
            raise
        return True

    def write_now(self, data: bytes | memoryview) -> int:
        """Write the bytes that the kernel accepts at once; return their number.

        Raises:
            TransportClosed: If the connection is lost.
        """
        try:
            return self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            raise TransportClosed from None

    async def send_eof(self) -> None:
        """Close the sending direction."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
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
                self.abort()
                raise TransportClosed(timed_out=True)
            data = data[self.write_now(data) :]

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            await ready(self.sock)
        except (OSError, ValueError, trio.ClosedResourceError):  # closed by another task
            raise TransportClosed from None


class TrioByteStream:
    """A byte stream over any Trio stream: TLS, and memory in tests.

    Args:
        stream: The stream; this one owns it from here on.
        send_timeout: Seconds for the peer to take a piece of 16 KiB; infinite for a stream that
            bounds its sends itself.
        before: Bytes that were read from the stream already.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, send_timeout: float = inf, before: bytes = b""
    ) -> None:
        self._stream = stream
        self._send_timeout = send_timeout
        self._before = before

    async def read(self) -> bytes:
        """Wait for some bytes; b"" is the end of the stream."""
        if self._before:
            before, self._before = self._before, b""
            return before
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportClosed from None

    async def write(self, data: bytes) -> bool:
        """Write all of the data, a piece at a time; return whether that took a while."""
        pieces, begun = memoryview(data), trio.current_time()
        while pieces:
            with trio.move_on_after(self._send_timeout) as patience:
                await self._write_piece(pieces[:TLS_PIECE])
            if patience.cancelled_caught:
                self.abort()
                raise TransportClosed(timed_out=True)
            pieces = pieces[TLS_PIECE:]
        return trio.current_time() - begun > LAG_SECONDS

    async def send_eof(self) -> None:
        """Close the sending direction of the socket: TLS itself can only close both."""
        stream = self._transport
        with (
            trio.move_on_after(EOF_SECONDS),
            suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError),
        ):
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()

    def abort(self) -> None:
        """Close the stream now."""
        stream = self._transport
        if isinstance(stream, trio.SocketStream):
            stream.socket.close()
        else:
            with suppress(AttributeError):
                stream.close()  # type: ignore[attr-defined]  # ours and Trio's memory streams

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
            self.abort()
            raise
