"""Writes to a connection, one at a time."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from netra_trio.errors import TransportClosed
from netra_trio.transports.bounded import BoundedStream

LOST = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, TransportClosed)


class SocketWriter:
    """The sending direction of one connection.

    Args:
        stream: The connection, whose sends are bounded.
        abort: Closes the connection at once.
        on_lost: Called when the peer is gone.

    Attributes:
        lost: Whether nothing can be sent any more.
        timed_out: Whether that is because the peer took nothing for the send timeout.
        ended: Whether the sending direction is closed.
    """

    def __init__(
        self,
        stream: trio.abc.SendStream,
        *,
        abort: Callable[[], Awaitable[None]],
        on_lost: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._abort = abort
        self._on_lost = on_lost
        self._lock = trio.Lock()
        self.lost = False
        self.timed_out = False
        self.ended = False

    async def write(self, data: bytes) -> None:
        """Write all of the data. Cancelling after a part of it was sent aborts the connection."""
        if self.ended:
            await trio.lowlevel.checkpoint()
            return
        # Taking the lock is a checkpoint: a loop of sends to a lost peer must not freeze the
        # process. Cancelling here is harmless: no byte was sent yet.
        async with self._lock:
            if self.lost:
                return
            sent_before = self._sent_bytes()
            try:
                await self._stream.send_all(data)
            except TransportClosed as closed:
                self.timed_out = closed.timed_out
                await self._abort()
            except LOST:
                self.lost = True
                self._on_lost()
            except trio.Cancelled:
                # A part of a frame may be sent already; under TLS this is unknown and assumed. The
                # peer could not parse what follows. If no byte was sent, a close frame can be.
                if sent_before is None or self._sent_bytes() != sent_before:
                    await self._abort()
                raise

    def _sent_bytes(self) -> int | None:
        """Return how many bytes the kernel has taken; None under TLS."""
        return self._stream.sent_bytes if isinstance(self._stream, BoundedStream) else None

    async def end(self, socket_stream: trio.SocketStream) -> None:
        """Close the sending direction of the socket, after the writes that are at work."""
        self.ended = True
        async with self._lock:
            with suppress(trio.BusyResourceError, *LOST):
                await socket_stream.send_eof()
