"""One WebSocket that Hypercorn serves, over HTTP/1.1 or a stream of HTTP/2 (RFC 8441).

Beyond the ASGI messages an application may send `{"type": "netra_trio.ping"}` (a protocol ping) and
`{"type": "netra_trio.send", "frames": [b"…", …]}` (each item one text frame, all in one write). It
receives `{"type": "netra_trio.alive"}` for a frame that is no message, and
`{"type": "netra_trio.too_big"}` once, when a message exceeds the limit. After the connection is
lost its `send` raises `TransportClosed`. `scope["extensions"]["netra_trio"]["terminated"]` is an
async callable that returns when the host begins to stop.
"""

from collections.abc import Sequence
from contextlib import suppress
from time import time
from typing import Any, cast
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
from hypercorn.protocol.ws_stream import ASGIWebsocketState, Handshake, WSStream
from hypercorn.typing import ASGISendEvent, ConnectionState
from hypercorn.utils import valid_server_name
from websockets.frames import Close, Opcode
from wsproto.events import Ping

from netra_trio.endpoints.answer import problem_answer, send_answer
from netra_trio.errors import TransportClosed
from netra_trio.protocol.codes import ABNORMAL, CloseCode, ErrorCode
from netra_trio.protocol.problem import Problem, problem
from netra_trio.server.hypercorn.inbox import AppInbox, AppMessage
from netra_trio.server.hypercorn.stream_host import StreamHost
from netra_trio.telemetry.logs import host_logger
from netra_trio.transports.asgi import EXTENSION, Send
from netra_trio.transports.deflate import Deflate
from netra_trio.transports.frames import frame, frames
from netra_trio.transports.handshake import handshake_fault, offered_subprotocols
from netra_trio.transports.headers import Headers, by_name
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
from netra_trio.transports.pacing import PONGS, FramePacer

_logger = host_logger()
_OPEN = {ASGIWebsocketState.CONNECTED, ASGIWebsocketState.CLOSED}


class HostWebSocket(WSStream):
    """One WebSocket, between frames and ASGI messages; it replaces Hypercorn's `WSStream`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        host: object = self.task_group
        if not isinstance(host, StreamHost):
            raise TypeError(f"expected Hypercorn's Trio worker, got a {type(host).__name__}")
        self._host = host
        self._inbox = AppInbox(1)
        self._inbound = InboundFrames(host.limits.max_message_bytes)
        self._deflate: Deflate | None = None
        self._pacer = FramePacer(host.turns)
        self._pongs: list[bytes] = []
        self._answered = trio.Event()  # accepted or over: the reader waits for it
        self._finished = False
        self._peer_code: int | None = None

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
        limits = self._host.limits
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
            if limits.compression is not None:
                self._deflate = limits.compression.agree(headers)
                self._inbound = InboundFrames(limits.max_message_bytes, deflate=self._deflate)
            self._inbox = self._host.start_app(self.app, self.scope, self.app_send)
            await self._inbox.put({"type": "websocket.connect"})

    async def _receive(self, data: bytes) -> None:
        # Frames that come before the answer to the handshake wait here, and nothing more is read
        # meanwhile: they are not lost, and a peer cannot fill memory with them.
        await self._answered.wait()
        self._pacer.has_waited()
        self._inbound.feed(data)
        while self.is_open and (event := self._inbound.next_event()) is not None:
            await self._on_event(event)
            if self._pacer.is_due:
                await self._pacer.wait()
        await self._send_pongs()

    async def _on_event(self, event: InboundEvent) -> None:
        if isinstance(event, Received):
            await self._on_message(event.message)
        elif isinstance(event, Pinged):
            self._pacer.count(len(event.payload), is_message=False)
            self._pongs.append(event.payload)
            del self._pongs[:-PONGS]
            self._inbox.life_sign()
        elif isinstance(event, Alive):
            self._pacer.count(event.size, is_message=False)
            self._inbox.life_sign()
        elif isinstance(event, Inflating):
            self._pacer.count(0, is_message=True)
        elif isinstance(event, PeerClosed):
            self._peer_code = event.code
            await self._on_close(event.code, event.payload)
        elif isinstance(event, Broken):
            await self._on_close(event.code, event.code.to_bytes(2, "big"))
        elif isinstance(event, TooBig):
            self._inbox.too_big()

    async def _on_message(self, message: str | bytes) -> None:
        self._pacer.count(len(message), is_message=True)
        await self._send_pongs()
        is_text = isinstance(message, str)
        await self._inbox.put(
            {
                "type": "websocket.receive",
                "text": message if is_text else None,
                "bytes": None if is_text else message,
            }
        )

    async def _on_close(self, code: int, payload: bytes) -> None:
        """End, and send a close frame unless the application has sent one."""
        is_closing = self.state is ASGIWebsocketState.CLOSED
        pongs, self._pongs = self._pongs, []
        self._end(code)
        with suppress(TransportClosed):
            if not is_closing:
                await self._transmit(frames(Opcode.PONG, pongs) + frame(Opcode.CLOSE, payload))
            await self._finish()

    async def _send_pongs(self) -> None:
        pongs, self._pongs = self._pongs, []
        if pongs and not self.closed and self.state is ASGIWebsocketState.CONNECTED:
            with suppress(TransportClosed):
                await self._transmit(frames(Opcode.PONG, pongs))

    def _end(self, code: int) -> None:
        """End both directions; the application gets the code."""
        self.closed = True
        self._inbox.end({"type": "websocket.disconnect", "code": code})
        self._answered.set()

    # --- outbound

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Handle an ASGI message of the application; None when the application has returned.

        Raises:
            TransportClosed: If the connection is lost or closed.
        """
        if message is None:
            with suppress(TransportClosed):
                await self._app_ended()
            return
        if self._is_over:
            await trio.lowlevel.checkpoint()
            raise self._closed_error()
        if self.state in _OPEN:
            await self._send_open(cast("AppMessage", message))
        else:
            await self._answer(cast("AppMessage", message))
        if self._host.is_lost:
            raise self._closed_error()

    async def _answer(self, message: AppMessage) -> None:
        """Accept or reject, with Hypercorn's own code."""
        kind = message["type"]
        if kind == "websocket.http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        if kind == "websocket.accept" and self._deflate is not None:
            extension = (b"sec-websocket-extensions", self._deflate.response.encode())
            message = {**message, "headers": [*message.get("headers", []), extension]}
        await super().app_send(cast("ASGISendEvent", message))
        if kind == "websocket.accept":
            self._answered.set()

    async def _send_open(self, message: AppMessage) -> None:
        kind = message["type"]
        if kind == "websocket.close":
            await self._send_close(
                int(message.get("code", CloseCode.NORMAL)), message.get("reason") or ""
            )
        elif self.state is ASGIWebsocketState.CLOSED:
            await trio.lowlevel.checkpoint()
            raise self._closed_error()
        elif kind == "netra_trio.send":
            await self._send_messages(int(Opcode.TEXT), message["frames"])
        elif kind == "websocket.send":
            opcode, payload = _message_of(message)
            await self._send_messages(opcode, [payload])
        elif kind == "netra_trio.ping":
            await self._transmit(frame(Opcode.PING, b""))
        else:
            await super().app_send(cast("ASGISendEvent", message))

    async def _send_messages(self, opcode: int, payloads: Sequence[bytes]) -> None:
        if self._deflate is None or not self._deflate.compresses(payloads):
            await self._transmit(frames(opcode, payloads))
            return
        data = await self._deflate.frames(opcode, payloads)
        if self._is_over or self.state is ASGIWebsocketState.CLOSED:  # meanwhile
            raise self._closed_error()
        await self._transmit(data)

    async def _send_close(self, code: int, reason: str) -> None:
        if self.state is ASGIWebsocketState.CLOSED:
            await trio.lowlevel.checkpoint()
            return
        self.state = ASGIWebsocketState.CLOSED
        await self._transmit(frame(Opcode.CLOSE, Close(code, reason).serialize()))

    async def _transmit(self, data: bytes) -> None:
        if data:
            await self.send(Data(stream_id=self.stream_id, data=data))

    async def _send_wsproto_event(self, event: object) -> None:
        """Send a ping of Hypercorn's own interval, where one is configured."""
        if isinstance(event, Ping) and self.state is ASGIWebsocketState.CONNECTED:
            with suppress(TransportClosed):
                await self._transmit(frame(Opcode.PING, b""))

    async def _app_ended(self) -> None:
        if self.closed:
            return
        if self.state is ASGIWebsocketState.HANDSHAKE:
            await self._refuse(problem(ErrorCode.INTERNAL_ERROR, "The application gave no answer."))
            return
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._send_close(CloseCode.INTERNAL, "")
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
        if self.state is not ASGIWebsocketState.HTTPCLOSED:
            await self.send(EndData(stream_id=self.stream_id))
        await self.send(StreamClosed(stream_id=self.stream_id))

    @property
    def is_open(self) -> bool:
        """Whether frames can be received."""
        return not self.closed and self.state in _OPEN

    @property
    def _is_over(self) -> bool:
        return self.closed or self._host.is_lost

    def _closed_error(self) -> TransportClosed:
        return TransportClosed(self._peer_code, timed_out=self._host.timed_out)


def _without_extensions(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the handshake's headers for Hypercorn, without extensions: its own has no bounds."""
    offer = [(b"sec-websocket-key", key) for key in headers.get(b"sec-websocket-key", [])]
    protocols = b",".join(headers.get(b"sec-websocket-protocol", []))
    if protocols and protocols.isascii():
        offer.append((b"sec-websocket-protocol", protocols))
    return offer


def _message_of(message: AppMessage) -> tuple[int, bytes]:
    """Return the opcode and the payload of a message of the application."""
    data = message.get("bytes")
    if data is not None:
        return int(Opcode.BINARY), bytes(data)
    text = message.get("text")
    if not isinstance(text, str):
        raise TypeError(f"websocket.send: expected text or bytes, got {type(text).__name__}")
    return int(Opcode.TEXT), text.encode()
