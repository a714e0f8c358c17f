"""A WebSocket over a byte stream (RFC 6455).

    transport = WebSocketTransport(stream, response=accepting(key), max_bytes=163_840)
    await transport.accept()

Inbound frames are parsed by the sans-I/O core of `websockets`; outbound frames are a short header
and a payload, and are made here. Extensions are never agreed on, so nothing is decompressed.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import trio
from websockets.exceptions import PayloadTooBig
from websockets.frames import Close, Opcode
from websockets.protocol import SERVER, Protocol

from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.protocol.codes import ABNORMAL
from netra_trio.transports.byte_stream import ByteStream
from netra_trio.transports.frames import frame
from netra_trio.transports.frames import frames as joined

CONTROL_BYTES = 125  # the longest payload of a control frame (RFC 6455, 5.5)
LINGER = 1.0  # seconds of reading on after a protocol error: unread input would reset our close

_TEXT = int(Opcode.TEXT)  # arithmetic with an enum member is ten times slower
_INVALID_DATA = 1007  # RFC 6455, 7.4.1: text that is not UTF-8

_log = logging.getLogger("netra_trio.frames")
_log.disabled = True  # the core logs each connection; the server has its own log of them


class WebSocketTransport:
    """The server's side of one WebSocket: a `Transport`.

    Args:
        stream: The connection, whose opening handshake was read.
        response: The bytes that accept the upgrade.
        max_bytes: The hard limit of a message, in bytes.
        before: Bytes that came behind the handshake already.
    """

    def __init__(
        self, stream: ByteStream, *, response: bytes, max_bytes: int, before: bytes = b""
    ) -> None:
        self._stream = stream
        self._response = response
        self._max_bytes = max_bytes
        # The core counts a ping inside a fragmented message towards the size of the message.
        self._core = Protocol(SERVER, max_size=max_bytes + CONTROL_BYTES, logger=_log)
        self._lock = trio.Lock()
        self._pong: bytes | None = None
        self._ready: list[str | bytes | None] = []  # the messages of one read
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._is_text = False
        self._close_sent = False
        self._fault: MessageTooBig | None = None
        self._gone: TransportClosed | None = None
        self._before = before

    async def accept(self) -> None:
        """Accept the upgrade."""
        await self._write(self._response)

    async def receive(self) -> str | bytes | None:
        """Wait for the peer's next message; None for a frame that is no message."""
        while not self._ready:
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault
            if self._gone is not None:
                raise self._gone
            await self._read()
        return self._ready.pop(0)

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        """Send text messages, and a ping, in one write; return whether it waited for the peer."""
        data = joined(_TEXT, frames)
        return await self._write(data + frame(Opcode.PING, b"") if ping else data)

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame, once."""
        if not self._close_sent:
            self._close_sent = True
            await self._write(frame(Opcode.CLOSE, Close(code, reason).serialize()))

    # --- inbound

    async def _read(self) -> None:
        """Read once, and handle the frames of this read."""
        before, self._before = self._before, b""
        try:
            data = before or await self._stream.read()
        except TransportClosed as gone:
            self._gone = gone
            return
        if not data:
            self._gone = TransportClosed(ABNORMAL)
            return
        core = self._core
        core.receive_data(data)
        core.data_to_send()  # discarded: replies are made here, and pongs are coalesced
        for event in core.events_received():
            if not await self._take(event):
                return
        if core.parser_exc is not None and self._fault is None:
            await self._fail(core.parser_exc)

    async def _take(self, event: Any) -> bool:
        """Handle one frame; return whether another may follow."""
        if event.opcode is Opcode.PING:
            self._pong = bytes(event.data)
            self._show_life()
            if not self._lock.locked():  # otherwise the task that writes now sends the pong
                try:
                    await self._write(b"")
                except TransportClosed as gone:
                    self._gone = gone  # messages of this read are still delivered
        elif event.opcode is Opcode.PONG:
            self._show_life()
        elif event.opcode is Opcode.CLOSE:
            await self._closed(bytes(event.data))
            return False
        else:
            return await self._add(event)
        return True

    async def _add(self, event: Any) -> bool:
        """Add a frame to its message; return whether the message is still valid."""
        if event.opcode is not Opcode.CONT:
            self._is_text = event.opcode is Opcode.TEXT
        if event.data:  # a message may have any number of empty fragments
            self._parts.append(bytes(event.data))
        self._parts_bytes += len(event.data)
        if self._parts_bytes > self._max_bytes:
            await self._fail(PayloadTooBig(self._parts_bytes, self._max_bytes))
            return False
        if not event.fin:
            self._show_life()
            return True
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._parts_bytes = 0
        try:
            self._ready.append(data.decode() if self._is_text else data)
        except UnicodeDecodeError as error:
            await self._fail(error)
            return False
        return True

    def _show_life(self) -> None:
        if not self._ready:  # a message shows that the peer is alive, too
            self._ready.append(None)

    async def _closed(self, data: bytes) -> None:
        """Echo the peer's close frame, unless it is the reply to ours."""
        received = self._core.close_rcvd
        # Set before the write: it may be cancelled, and the code must be known all the same.
        self._gone = TransportClosed(ABNORMAL if received is None else received.code)
        if not self._close_sent:
            self._close_sent = True
            with suppress(TransportClosed):
                await self._write(frame(Opcode.CLOSE, data))

    async def _fail(self, error: Exception) -> None:
        """End the connection after a protocol error."""
        self._parts.clear()
        if isinstance(error, PayloadTooBig):
            # The connection sends an error before it closes.
            self._fault = MessageTooBig()
            return
        sent = self._core.close_sent
        code = _INVALID_DATA if sent is None else sent.code
        self._gone = TransportClosed(code)  # set first: nothing is received after it
        try:
            await self.close(code, "")
            await self._stream.send_eof()
            # Closing a socket with unread input sends a reset, which may destroy our close frame.
            with trio.move_on_after(LINGER):
                while await self._stream.read():
                    pass
        except TransportClosed:
            pass

    # --- outbound

    async def _write(self, data: bytes) -> bool:
        """Write the data and the pending pong, without a checkpoint if all is taken at once."""
        waited = False
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            data += self._pending_pong()
            while data:
                waited |= await self._stream.write(data)
                data = self._pending_pong()
        finally:
            self._lock.release()
        return waited

    def _pending_pong(self) -> bytes:
        """Return the reply to the last ping, if it was not sent yet."""
        if self._pong is None:
            return b""
        payload, self._pong = self._pong, None
        return frame(Opcode.PONG, payload)
