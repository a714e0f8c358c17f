"""One WebSocket that Hypercorn serves, over HTTP/1.1 or a stream of HTTP/2 (RFC 8441).

Beyond the ASGI messages an application may send `{"type": "netra_trio.ping"}` (a protocol ping) and
`{"type": "netra_trio.send", "frames": [b"…", …]}` (each item one text frame, all in one write). It
receives `{"type": "netra_trio.alive"}` for a frame that is no message, and
`{"type": "netra_trio.too_big"}` once, when a message exceeds the limit. After the connection is
lost its `send` raises `TransportClosed`. `scope["extensions"]["netra_trio"]["terminated"]` is an
async callable that returns when the host begins to stop.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import time
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import trio
from hypercorn.protocol.events import (
    Body,
    Data,
    EndBody,
    EndData,
    Event,
    Request,
    StreamClosed,
)
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.ws_stream import ASGIWebsocketState, Handshake, WSStream
from hypercorn.typing import ASGISendEvent, ConnectionState
from hypercorn.utils import valid_server_name
from wsproto.connection import ConnectionState as FramingState
from wsproto.events import CloseConnection, Message, Ping, Pong
from wsproto.events import Event as FrameEvent
from wsproto.frame_protocol import Opcode
from wsproto.utilities import LocalProtocolError

from netra_trio.endpoints.answer import problem_answer, send_answer
from netra_trio.errors import TransportClosed
from netra_trio.protocol.codes import ABNORMAL, CloseCode, ErrorCode
from netra_trio.protocol.problem import Problem, problem
from netra_trio.server.hypercorn.connection import HostConnection
from netra_trio.server.hypercorn.inbox import AppInbox, AppMessage
from netra_trio.server.hypercorn.writer import PIECE
from netra_trio.telemetry.logs import host_logger
from netra_trio.transports.asgi import EXTENSION, Send
from netra_trio.transports.frames import frame
from netra_trio.transports.handshake import handshake_fault, offered_subprotocols
from netra_trio.transports.headers import Headers, by_name

H2_POLL = 0.005  # seconds between two checks of how much of an HTTP/2 stream is sent

_T = TypeVar("_T")
_logger = host_logger()
_OPEN = {ASGIWebsocketState.CONNECTED, ASGIWebsocketState.CLOSED}


class HostWebSocket(WSStream):
    """One WebSocket, between frames and ASGI messages; it replaces Hypercorn's `WSStream`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        connection: object = self.task_group
        if not isinstance(connection, HostConnection):
            raise TypeError(f"expected Hypercorn's Trio worker, got a {type(connection).__name__}")
        self._host = connection
        self._inbox = AppInbox(1)
        self._answered = trio.Event()  # accepted or over: the reader waits for it
        self._finished = False
        self._peer_code: int | None = None
        self._timed_out = False
        self._message = bytearray()
        self._message_bytes = 0
        self._too_big = False

    # --- inbound

    async def handle(self, event: Event) -> None:
        """Handle an event of the protocol. Blocks while the application is behind."""
        if self.closed:
            return
        if isinstance(event, Request):
            await self._begin(event)
        elif isinstance(event, Body | Data):
            await self._receive(event.data)
        elif isinstance(event, StreamClosed) or (
            isinstance(event, EndBody) and self.state in _OPEN
        ):
            self._end(ABNORMAL)

    async def _begin(self, request: Request) -> None:
        self.start_time = time()
        headers = by_name(request.headers)
        path, _, query = request.raw_path.partition(b"?")
        self.handshake = Handshake(_without_extensions(headers), request.http_version)
        self.scope = {
            "type": "websocket",
            "asgi": {"spec_version": "2.3", "version": "3.0"},
            "scheme": self.scheme,
            "http_version": request.http_version,
            "path": unquote(path.decode("ascii", "replace")),
            "raw_path": path,
            "query_string": query,
            "root_path": self.config.root_path,
            "headers": request.headers,
            "client": self.client,
            "server": self.server,
            "subprotocols": offered_subprotocols(headers),
            "state": ConnectionState(request.state.copy()),
            "extensions": {
                "websocket.http.response": {},
                EXTENSION: {"terminated": self.context.terminated.wait},
            },
        }
        fault = handshake_fault(request.raw_path, request.http_version, headers)
        if fault is not None:
            await self._refuse(fault)
        elif not valid_server_name(self.config, request):
            await self._refuse(
                problem(ErrorCode.BAD_REQUEST, "Host: expected one served here.", status=404)
            )
        else:
            self._inbox = self._host.start_app(self.app, self.scope, self.app_send)
            await self._inbox.put({"type": "websocket.connect"})

    async def _receive(self, data: bytes) -> None:
        # Frames that come before the answer to the handshake wait here, and nothing more is read
        # meanwhile: they are not lost, and a peer cannot fill memory with them.
        await self._answered.wait()
        if self.closed or self.state not in _OPEN:
            return
        self.connection.receive_data(data)
        await self._on_frames()

    async def _on_frames(self) -> None:
        for event in self.connection.events():
            await self._on_frame(event)
            if self.closed:
                return

    async def _on_frame(self, event: FrameEvent) -> None:
        if isinstance(event, Message):
            await self._on_message(event)
        elif isinstance(event, Ping):
            self._inbox.life_sign()
            await self._send_pong(event)
        elif isinstance(event, Pong):
            self._inbox.life_sign()
        elif isinstance(event, CloseConnection):
            await self._on_close(event)

    async def _on_message(self, event: Message[Any]) -> None:
        if self._too_big:
            return
        text = isinstance(event.data, str)
        data = event.data.encode() if isinstance(event.data, str) else event.data
        self._message_bytes += len(data)
        if self._message_bytes > self._host.limits.max_message_bytes:
            self._too_big = True
            self._message.clear()
            self._inbox.too_big()
            return
        if not event.message_finished:
            self._message += data
            if event.frame_finished:
                self._inbox.life_sign()
            return
        if self._message:
            data = bytes(self._message + data)
            self._message.clear()
        self._message_bytes = 0
        await self._inbox.put(
            {
                "type": "websocket.receive",
                "text": data.decode() if text else None,
                "bytes": None if text else data,
            }
        )

    async def _on_close(self, event: CloseConnection) -> None:
        code = int(event.code)
        state = self.connection.state
        reply: CloseConnection | None = None
        if state is FramingState.REMOTE_CLOSING:  # the peer began
            self._peer_code, reply = code, event.response()
        elif state is FramingState.CLOSED:  # the reply to our close
            self._peer_code = code
        elif state is FramingState.OPEN:  # a protocol error: wsproto gives the code to close with
            reply = CloseConnection(code=code)
        self._end(code)
        if self._http2:  # the reader must go on: window updates come through it
            self._host.spawn(self._reply_to_close, reply)
        else:
            await self._reply_to_close(reply)

    async def _send_pong(self, ping: Ping) -> None:
        # The reader sends it: it must not wait for HTTP/2's window, nor fill memory where that is
        # closed.
        if self._waiting_bytes() < PIECE:
            with suppress(LocalProtocolError):  # closing: no pong is due any more
                data = bytes(self.connection.send(ping.response()))
                await self.send(Data(stream_id=self.stream_id, data=data))

    async def _reply_to_close(self, reply: CloseConnection | None) -> None:
        if reply is not None:
            await self._send_wsproto_event(reply)
        await self._finish()

    def _end(self, code: int) -> None:
        """End both directions; the application gets the code."""
        self.closed = True
        self._message.clear()
        self._inbox.end({"type": "websocket.disconnect", "code": code})
        self._answered.set()

    # --- outbound

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Handle an ASGI message of the application; None when the application has returned.

        Raises:
            TransportClosed: If the connection is lost or closed.
        """
        if message is None:
            await self._app_ended()
            return
        if self._is_over:
            await trio.lowlevel.checkpoint()
            raise self._closed_error()
        if self.state in _OPEN:
            await self._send_open(cast("AppMessage", message))
        else:
            await self._answer(cast("AppMessage", message))
        if self._host.writer.lost or self._timed_out:
            raise self._closed_error()

    async def _answer(self, message: AppMessage) -> None:
        """Accept or reject, with Hypercorn's own code."""
        kind = message["type"]
        if kind == "websocket.http.response.start" and not self._http2:
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await self._bounded(super().app_send, cast("ASGISendEvent", message))
        if kind == "websocket.accept":
            self._answered.set()

    async def _send_open(self, message: AppMessage) -> None:
        kind = message["type"]
        if kind == "websocket.close":
            await self._send_close(
                int(message.get("code", CloseCode.NORMAL)), message.get("reason") or None
            )
        elif self.state is ASGIWebsocketState.CLOSED:
            await trio.lowlevel.checkpoint()
            raise self._closed_error()
        elif kind == "netra_trio.send":
            await self._transmit(b"".join(frame(Opcode.TEXT, item) for item in message["frames"]))
        elif kind == "websocket.send":
            await self._transmit(_message_frame(message))
        elif kind == "netra_trio.ping":
            await self._send_wsproto_event(Ping())
        else:
            await super().app_send(cast("ASGISendEvent", message))

    async def _send_close(self, code: int, reason: str | None) -> None:
        if self.state is ASGIWebsocketState.CLOSED:
            await trio.lowlevel.checkpoint()
            return
        self.state = ASGIWebsocketState.CLOSED
        await self._send_wsproto_event(CloseConnection(code=code, reason=reason))

    async def _send_wsproto_event(self, event: FrameEvent) -> None:
        try:
            data = self.connection.send(event)
        except LocalProtocolError:  # the closing handshake does not allow it any more
            return
        await self._transmit(bytes(data))

    async def _transmit(self, data: bytes) -> None:
        if data:
            await self._pass(Data(stream_id=self.stream_id, data=data))

    async def _pass(self, event: Event) -> None:
        await self._bounded(self.send, event)

    async def _bounded(self, call: Callable[[_T], Awaitable[None]], argument: _T) -> None:
        """Call; over HTTP/2 wait also until the data is sent, as long as there is progress.

        A peer that opens no HTTP/2 window blocks nothing in Hypercorn: data for it gathers in
        memory. The writer's bound never applies to it, so this one has to.
        """
        if not self._http2:
            await call(argument)
            return
        with trio.move_on_after(self._host.limits.send_timeout) as patience:
            await call(argument)
            await self._wait_sent(patience)
        if patience.cancelled_caught:
            self._timed_out = True
            self._end(ABNORMAL)

    async def _wait_sent(self, patience: trio.CancelScope) -> None:
        least = math.inf
        while (waiting := self._waiting_bytes()) > 0 and not self._host.writer.lost:
            if waiting < least:
                least = waiting
                patience.deadline = trio.current_time() + self._host.limits.send_timeout
            # Polled, because each push replaces the buffer's event and forgets who waits for it.
            await trio.sleep(H2_POLL)

    def _waiting_bytes(self) -> int:
        """Return how much of this HTTP/2 stream is not sent yet, 0 for HTTP/1.1."""
        inner = self._host.protocol.protocol
        if not isinstance(inner, H2Protocol) or inner.closed:
            return 0
        buffer = inner.stream_buffers.get(self.stream_id)
        return len(buffer.buffer) if buffer is not None else 0

    async def _app_ended(self) -> None:
        if self.closed:
            if self._timed_out:
                await self._finish()
            return
        if self.state is ASGIWebsocketState.HANDSHAKE:
            await self._refuse(problem(ErrorCode.INTERNAL_ERROR, "The application gave no answer."))
            return
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._send_close(CloseCode.INTERNAL, None)
        await self._finish()

    async def _refuse(self, fault: Problem) -> None:
        """Reject the upgrade without the application."""
        _logger.warning("opening_refused %s %s", fault.status, fault.error)
        answer = problem_answer(fault, time())
        await send_answer(cast("Send", self._answer), "websocket.http", answer)
        self._end(ABNORMAL)
        await self._finish()

    async def _finish(self) -> None:
        """Give the stream back, which ends the connection of an HTTP/1.1 WebSocket."""
        if self._finished:
            return
        self._finished = True
        if self._http2 and not self._timed_out and self.state is not ASGIWebsocketState.HTTPCLOSED:
            await self._pass(EndData(stream_id=self.stream_id))
        await self.send(StreamClosed(stream_id=self.stream_id))

    @property
    def _is_over(self) -> bool:
        return self.closed or self._host.writer.lost

    @property
    def _http2(self) -> bool:
        return self.handshake.http_version == "2"

    def _closed_error(self) -> TransportClosed:
        timed_out = self._timed_out or self._host.writer.timed_out
        return TransportClosed(self._peer_code, timed_out=timed_out)


def _without_extensions(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the handshake's headers for Hypercorn, without extensions: none is ever agreed on."""
    offer = [(b"sec-websocket-key", key) for key in headers.get(b"sec-websocket-key", [])]
    protocols = b",".join(headers.get(b"sec-websocket-protocol", []))
    if protocols and protocols.isascii():
        offer.append((b"sec-websocket-protocol", protocols))
    return offer


def _message_frame(message: AppMessage) -> bytes:
    data = message.get("bytes")
    if data is not None:
        return frame(Opcode.BINARY, bytes(data))
    text = message.get("text")
    if not isinstance(text, str):
        raise TypeError(f"websocket.send: expected text or bytes, got {type(text).__name__}")
    return frame(Opcode.TEXT, text.encode())
