"""A TCP stream of Trio whose sends are bounded by the progress of the peer.

stream = trio.SSLStream(BoundedStream(tcp, send_timeout=5.0), context, server_side=True)

It is also the stream below TLS: there a send cannot be given up and continued, so the bound has to
be where the bytes leave.
"""

import trio

from netra_trio.errors import TransportClosed
from netra_trio.transports.byte_stream import waiting_for_peer


class BoundedStream(trio.abc.HalfCloseableStream):
    """A TCP stream that closes itself when its peer takes nothing for too long.

    Args:
        stream: The TCP stream; this one owns it from here on.
        send_timeout: Seconds that the peer may take nothing while there is something to send.

    Attributes:
        stream: The TCP stream.
        sent_bytes: How many bytes the kernel has taken.
    """

    def __init__(self, stream: trio.SocketStream, *, send_timeout: float) -> None:
        self.stream = stream
        self.sent_bytes = 0
        self._send_timeout = send_timeout

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of the data; each byte that leaves the kernel is progress.

        Raises:
            TransportClosed: If the peer took nothing for the send timeout.
            trio.BrokenResourceError: If the connection is lost.
        """
        sock = self.stream.socket
        left = memoryview(data)
        await trio.lowlevel.checkpoint_if_cancelled()
        while left:
            waiting = waiting_for_peer(sock.fileno())
            with trio.move_on_after(self._send_timeout) as patience:
                try:
                    sent = await sock.send(left)
                except OSError as error:
                    if sock.fileno() < 0:
                        raise trio.ClosedResourceError from None
                    raise trio.BrokenResourceError from error
                self.sent_bytes += sent
                left = left[sent:]
            if patience.cancelled_caught and waiting_for_peer(sock.fileno()) >= waiting:
                await trio.aclose_forcefully(self.stream)
                raise TransportClosed(timed_out=True)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send can make progress."""
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive some bytes; b"" is the end of the stream."""
        return await self.stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Close the sending direction."""
        await self.stream.send_eof()

    def close(self) -> None:
        """Close the stream now."""
        self.stream.socket.close()

    async def aclose(self) -> None:
        """Close the stream."""
        await self.stream.aclose()
