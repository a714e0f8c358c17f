"""A WebSocket over a byte stream (RFC 6455).

    transport = WebSocketTransport(stream, response=accepting(key), max_bytes=163_840)
    await transport.accept()

Large messages are compressed where the handshake has agreed on it.
"""

from collections.abc import Sequence
from contextlib import suppress

import trio
from websockets.frames import Close, Opcode

from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.protocol.codes import ABNORMAL
from netra_trio.transports.base import SendShared, Sent
from netra_trio.transports.byte_stream import ByteStream, SocketByteStream, end_sending
from netra_trio.transports.deflate import Deflate
from netra_trio.transports.frames import TEXT, SharedPayload, frame
from netra_trio.transports.frames import frames as joined
from netra_trio.transports.inbound import (
    Alive,
    Broken,
    InboundEvent,
    InboundFrames,
    Inflating,
    PeerClosed,
    Pinged,
    Received,
    TooBig,
)
from netra_trio.transports.pacing import PONGS, FramePacer, Turns


class WebSocketTransport:
    """The server's side of one WebSocket: a `Transport`.

    Args:
        stream: The connection, whose opening handshake was read.
        response: The bytes that accept the upgrade.
        max_bytes: The hard limit of a message, in bytes.
        before: Bytes that came behind the handshake already.
        turns: The turns that all connections of the process share.
        deflate: The compression that the response agrees on; None for none.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        response: bytes,
        max_bytes: int,
        before: bytes = b"",
        turns: Turns | None = None,
        deflate: Deflate | None = None,
    ) -> None:
        self._stream = stream
        self._response = response
        self._deflate = deflate
        self._inbound = InboundFrames(max_bytes, deflate=deflate)
        self._inbound.feed(before)
        self._pacer = FramePacer(Turns() if turns is None else turns)
        self._lock = trio.Lock()
        self._pongs: list[bytes] = []  # payloads of pings that were not answered yet
        self._is_alive = False  # the peer has sent a frame that was no message
        self._message: str | bytes | None = None  # received behind pings that are not answered yet
        self._write_now = stream.write_now if isinstance(stream, SocketByteStream) else None
        self._is_open = False  # from the acceptance to the close frame
        self._close_sent = False
        self._rest = b""  # of a frame that was sent in part
        self._gone: TransportClosed | None = None
        self._write_error: TransportClosed | None = None

    async def accept(self) -> None:
        """Accept the upgrade."""
        await self._write(self._response)
        self._is_open = not self._close_sent

    async def receive(self) -> str | bytes | None:
        """Wait for the peer's next message; None for a frame that is no message."""
        while True:
            if self._message is not None:
                # Kept while its pongs are sent, so that cancelling loses nothing.
                await self._send_pongs()
                message, self._message = self._message, None
                return message
            if self._gone is not None:
                raise TransportClosed(self._gone.code, timed_out=self._gone.timed_out)
            if self._pacer.is_due:
                if self._tell_alive():
                    return None
                await self._pacer.wait()
            event = self._inbound.next_event()
            if event is None:
                await self._send_pongs()
                if self._tell_alive():
                    return None
                await self._read()
            elif isinstance(event, Received):
                self._pacer.count(len(event.message), is_message=True)
                self._is_alive = False  # a message shows it as well
                if not self._pongs:
                    return event.message
                self._message = event.message
            else:
                await self._control(event)

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        """Send messages, and a ping, in one write; return whether it waited for the peer."""
        end = frame(Opcode.PING, b"") if ping else b""
        if self._deflate is not None and self._deflate.compresses(frames):
            return await self._write(end, compressed=frames)
        return await self._write(joined(TEXT, frames) + end)

    @property
    def send_shared(self) -> SendShared | None:
        """Sends a text frame that many connections share; only for a socket."""
        return None if self._write_now is None else self._send_shared

    def _send_shared(self, payload: SharedPayload) -> Sent:
        if not self._is_open or self._rest or self._write_now is None or self._lock.locked():
            return Sent.NOTHING
        deflate = self._deflate
        data = payload.text_frame if deflate is None else deflate.shared_frame(payload)
        try:
            sent = self._write_now(data)
        except TransportClosed:  # the reader and the writer notice it
            return Sent.NOTHING
        if not sent:
            return Sent.NOTHING
        if deflate is not None:
            deflate.count_shared(payload)
        if sent == len(data):
            return Sent.ALL
        self._rest = data[sent:]
        return Sent.PART

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame, once."""
        await self._send_close(Close(code, reason).serialize())

    # --- inbound

    async def _read(self) -> None:
        """Read once, unless a pong could not be sent."""
        if self._write_error is not None:
            self._gone = self._write_error
            return
        try:
            data = await self._stream.read()
        except TransportClosed as gone:
            self._gone = TransportClosed(gone.code, timed_out=gone.timed_out)
            return
        self._pacer.has_waited()
        if data:
            self._inbound.feed(data)
        else:
            self._gone = TransportClosed(ABNORMAL)

    def _tell_alive(self) -> bool:
        """Return whether the peer has shown that it is alive since the last call."""
        was_alive, self._is_alive = self._is_alive, False
        return was_alive

    async def _control(self, event: InboundEvent) -> None:
        """Handle an event that is no message."""
        if isinstance(event, Pinged):
            self._pacer.count(len(event.payload), is_message=False)
            self._pongs.append(event.payload)
            del self._pongs[: -1 if self._lock.locked() else -PONGS]
            self._is_alive = True
        elif isinstance(event, Alive):
            self._pacer.count(event.size, is_message=False)
            self._is_alive = True
        elif isinstance(event, Inflating):
            self._pacer.count(0, is_message=True)
        elif isinstance(event, PeerClosed):
            # Set before the write: if the write is cancelled, the code is still known.
            self._gone = TransportClosed(event.code)
            with suppress(TransportClosed):
                await self._send_close(event.payload)
        elif isinstance(event, Broken):
            self._gone = TransportClosed(event.code)
            await self._fail(event.code)
        elif isinstance(event, TooBig):
            raise MessageTooBig  # the connection sends an error before it closes

    async def _fail(self, code: int) -> None:
        """End the connection after a protocol error."""
        with suppress(TransportClosed):
            await self._send_close(code.to_bytes(2, "big"))
            await end_sending(self._stream)

    # --- outbound

    async def _send_pongs(self) -> None:
        if not self._pongs or self._lock.locked():  # the task that holds the lock sends them
            return
        try:
            await self._write(b"")
        except TransportClosed as gone:  # raised when the frames of this read are handled
            self._write_error = TransportClosed(gone.code, timed_out=gone.timed_out)

    async def _send_close(self, payload: bytes) -> None:
        """Send the close frame behind everything that is written, unless one was sent."""
        if self._close_sent:
            return
        self._close_sent = True
        self._is_open = False
        async with self._lock:
            await self._stream.write(
                self._take_rest() + self._pending_pongs() + frame(Opcode.CLOSE, payload)
            )

    async def _write(self, data: bytes, *, compressed: Sequence[bytes] = ()) -> bool:
        """Write the data and the pending pongs, without a checkpoint if all is taken at once.

        With `compressed`, these messages precede the data. They are compressed under the lock: no
        message that is sent meanwhile may overtake them.
        """
        waited = False
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            if self._close_sent:  # nothing may follow a close frame (RFC 6455, 5.5.1)
                raise TransportClosed
            if compressed and self._deflate is not None:
                data = await self._deflate.frames(TEXT, compressed) + data
            data = self._take_rest() + data + self._pending_pongs()
            while data:
                waited |= await self._stream.write(data)
                data = self._pending_pongs()
        finally:
            self._lock.release()
        return waited

    def _take_rest(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest

    def _pending_pongs(self) -> bytes:
        if not self._pongs:
            return b""
        payloads, self._pongs = self._pongs, []
        return joined(int(Opcode.PONG), payloads)
