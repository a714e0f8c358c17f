"""A WebSocket on a line of our own: the fast lane (RFC 6455).

    transport = WebSocketTransport(line, answer=accepting(key), max_bytes=163_840)
    await transport.accept()

What comes in is parsed by the protocol core of `websockets`; frames that go out are a few bytes
before a payload, and are made here. Extensions are refused, so nothing is ever inflated.
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
from netra_trio.transports.byte_stream import Line
from netra_trio.transports.frames import frame
from netra_trio.transports.frames import frames as joined

CONTROL_BYTES = 125  # the longest payload of a control frame (RFC 6455, 5.5)
LINGER = 1.0  # seconds of reading on after a close of ours that the parser cannot see the answer to

_TEXT = int(Opcode.TEXT)  # an enum's member is ten times slower to calculate with
_INVALID_DATA = 1007  # RFC 6455, 7.4.1: a text that is not UTF-8

_log = logging.getLogger("netra_trio.frames")
_log.disabled = True  # the core writes a line for each connection; the connection has its own


class WebSocketTransport:
    """The WebSocket of one line whose opening handshake was read.

    Args:
        line: The line.
        answer: The bytes that accept the upgrade.
        max_bytes: The hard limit of a message.
        before: What came behind the request already.
    """

    def __init__(self, line: Line, *, answer: bytes, max_bytes: int, before: bytes = b"") -> None:
        self._line = line
        self._answer = answer
        self._max_bytes = max_bytes
        # The core would count a ping in the middle of a long message towards its size.
        self._core = Protocol(SERVER, max_size=max_bytes + CONTROL_BYTES, logger=_log)
        self._lock = trio.Lock()
        self._pong: bytes | None = None
        self._ready: list[str | bytes | None] = []  # of one read; few
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._is_text = False
        self._close_sent = False
        self._fault: MessageTooBig | None = None
        self._gone: TransportClosed | None = None
        self._before = before

    async def accept(self) -> None:
        """Answer the upgrade."""
        await self._write(self._answer)

    async def receive(self) -> str | bytes | None:
        """Wait for what the peer sends; None for a sign of life without content."""
        while not self._ready:
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault
            if self._gone is not None:
                raise self._gone
            await self._read()
        return self._ready.pop(0)

    async def send(self, frames: Sequence[bytes], *, ping: bool = False) -> bool:
        """Send text frames, and a ping, in one write; return whether the peer kept it waiting."""
        data = joined(_TEXT, frames)
        return await self._write(data + frame(Opcode.PING, b"") if ping else data)

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame, once."""
        if not self._close_sent:
            self._close_sent = True
            await self._write(frame(Opcode.CLOSE, Close(code, reason).serialize()))

    # --- in

    async def _read(self) -> None:
        """Take in what comes next, and what it means."""
        before, self._before = self._before, b""
        try:
            data = before or await self._line.read()
        except TransportClosed as gone:
            self._gone = gone
            return
        if not data:
            self._gone = TransportClosed(ABNORMAL)
            return
        core = self._core
        core.receive_data(data)
        core.data_to_send()  # its answers are made here: one at a time, and the last pong alone
        for event in core.events_received():
            if not await self._take(event):
                return
        if core.parser_exc is not None and self._fault is None:
            await self._fail(core.parser_exc)

    async def _take(self, event: Any) -> bool:
        """Take one frame; return whether another may follow."""
        if event.opcode is Opcode.PING:
            self._pong = bytes(event.data)
            self._show_life()
            if not self._lock.locked():  # whoever writes now will see it
                try:
                    await self._write(b"")
                except TransportClosed as gone:
                    self._gone = gone  # what came with the ping is received all the same
        elif event.opcode is Opcode.PONG:
            self._show_life()
        elif event.opcode is Opcode.CLOSE:
            await self._closed(bytes(event.data))
            return False
        else:
            return await self._add(event)
        return True

    async def _add(self, event: Any) -> bool:
        """Add a frame to its message; return whether that may still be one."""
        if event.opcode is not Opcode.CONT:
            self._is_text = event.opcode is Opcode.TEXT
        if event.data:  # empty ones without an end would gather for ever
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
        if not self._ready:  # a message shows it as well
            self._ready.append(None)

    async def _closed(self, data: bytes) -> None:
        """Answer the peer's close frame with its own, unless this is the answer to ours."""
        received = self._core.close_rcvd
        # Known first: whoever is cancelled while the answer waits still hears how it ended.
        self._gone = TransportClosed(ABNORMAL if received is None else received.code)
        if not self._close_sent:
            self._close_sent = True
            with suppress(TransportClosed):
                await self._write(frame(Opcode.CLOSE, data))

    async def _fail(self, error: Exception) -> None:
        """End for what cannot be a message of a peer that keeps to the protocol."""
        self._parts.clear()
        if isinstance(error, PayloadTooBig):
            # The connection says so in its own words before it closes.
            self._fault = MessageTooBig()
            return
        sent = self._core.close_sent
        code = _INVALID_DATA if sent is None else sent.code
        self._gone = TransportClosed(code)  # first, so that nothing is received behind it
        try:
            await self.close(code, "")
            await self._line.end()
            # What the peer has on its way must be read: a close with unread input destroys ours.
            with trio.move_on_after(LINGER):
                while await self._line.read():
                    pass
        except TransportClosed:
            pass

    # --- out

    async def _write(self, data: bytes) -> bool:
        """Write, and the pong that is due; without a checkpoint where all is taken at once."""
        waited = False
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            data += self._due_pong()
            while data:
                waited |= await self._line.write(data)
                data = self._due_pong()
        finally:
            self._lock.release()
        return waited

    def _due_pong(self) -> bytes:
        """Return the answer to the last ping, if it has none yet."""
        if self._pong is None:
            return b""
        payload, self._pong = self._pong, None
        return frame(Opcode.PONG, payload)
