"""Writes to a connection's socket, each bounded by the progress of the peer."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

import trio

from netra_trio.errors import TransportClosed
from netra_trio.server.hypercorn.limits import Limits
from netra_trio.transports.byte_stream import waiting_for_peer

PIECE = 16 * 1024  # bytes of one write; under TLS a whole piece has to leave within the timeout
LOST = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, TransportClosed)


class SocketWriter:
    """The sending direction of one connection.

    Args:
        stream: A TCP or TLS stream of Trio.
        limits: The limits.
        abort: Closes the connection at once.
        on_lost: Called when the peer is gone.

    Attributes:
        lost: Whether nothing can be sent any more.
        timed_out: Whether that is because the peer took nothing for the send timeout.
        ended: Whether the sending direction is closed.
    """

    def __init__(
        self,
        stream: object,
        limits: Limits,
        *,
        abort: Callable[[], Awaitable[None]],
        on_lost: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._limits = limits
        self._abort = abort
        self._on_lost = on_lost
        self._lock = trio.Lock()
        self.lost = False
        self.timed_out = False
        self.ended = False

    @property
    def socket_stream(self) -> trio.SocketStream:
        """The TCP stream, below TLS where there is TLS."""
        stream = self._stream
        found = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        return cast("trio.SocketStream", found)

    async def write(self, data: bytes) -> None:
        """Write all of the data. Cancelling after a part of it is out aborts the connection."""
        if self.ended:
            await trio.lowlevel.checkpoint()
            return
        # Taking the lock is a checkpoint: a loop of sends to a lost peer must not freeze the
        # process. Cancelling here is harmless: no byte is out yet.
        async with self._lock:
            if self.lost:
                return
            try:
                await self._write_pieces(memoryview(data))
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                self.lost = True
                self._on_lost()

    async def end(self) -> None:
        """Close the sending direction, after the writes that are at work."""
        self.ended = True
        async with self._lock:
            with suppress(trio.BusyResourceError, *LOST):
                await self.socket_stream.send_eof()

    async def _write_pieces(self, data: memoryview) -> None:
        whole = len(data)
        try:
            while data:
                waiting = self._waiting_for_peer()
                with trio.move_on_after(self._limits.send_timeout) as patience:
                    data = data[await self._write_some(data[:PIECE]) :]
                if patience.cancelled_caught and self._waiting_for_peer() >= waiting:
                    self.timed_out = True
                    await self._abort()
                    return
        except trio.Cancelled:
            # A part of a frame is out (TLS does not tell): what follows could not be read. If no
            # byte is out, a close frame can still be sent.
            if len(data) < whole or isinstance(self._stream, trio.SSLStream):
                await self._abort()
            raise

    def _waiting_for_peer(self) -> int:
        """Return how many bytes the kernel holds that the peer has not yet acknowledged.

        Returns 0 under TLS: a write cannot be continued there, only whole writes are progress.
        """
        if isinstance(self._stream, trio.SocketStream):
            return waiting_for_peer(self._stream.socket.fileno())
        return 0

    async def _write_some(self, data: memoryview) -> int:
        """Write a part of the data, under TLS all of it; return how many bytes were written."""
        if isinstance(self._stream, trio.SocketStream):
            return await self._stream.socket.send(data)
        await cast("trio.abc.Stream", self._stream).send_all(data)
        return len(data)
