"""Everything this project changes inside Hypercorn 0.18's Trio host, set by one call.

    >>> install(send_timeout=5.0, max_message_bytes=163_840, drain_timeout=8.0)

Stock Hypercorn lets one malformed request end the server, shields its sends from every deadline,
hides close codes and pongs, and counts characters where bytes were meant. `install` puts two
subclasses in its places, so that a fault ends one connection and nothing else:

- `HostConnection` (one per socket): contains exceptions, bounds sends, heads and closing.
- `HostWebSocket` (one per WebSocket): handshake, size limit, close codes, life signs, batches.

Beyond the ASGI messages an application may send `{"type": "netra_trio.ping"}` (a protocol ping) and
`{"type": "netra_trio.send", "frames": [b"…", …]}` (each item one text frame, all in one write). It
receives `{"type": "netra_trio.alive"}` when the peer showed life without a message, and
`{"type": "netra_trio.too_big"}` once, when a message passed the limit. After the line is gone its
`send` raises `TransportClosed`. `scope["extensions"]["netra_trio"]["terminated"]` is an async
callable that returns when the host begins to shut down.
"""

import importlib
import importlib.metadata
import inspect
import json
import logging
import math
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import time
from typing import Any, ClassVar, Self, TypeAlias, TypeVar, cast
from urllib.parse import unquote

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.events import Event as HostEvent
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import (
    Body,
    Data,
    EndBody,
    EndData,
    Event,
    Request,
    Response,
    StreamClosed,
)
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import ASGIWebsocketState, Handshake, WSStream
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    Scope,
)
from hypercorn.utils import parse_socket_addr, valid_server_name
from wsproto.connection import ConnectionState as LineState
from wsproto.events import CloseConnection, Message, Ping, Pong
from wsproto.events import Event as FrameEvent
from wsproto.frame_protocol import Opcode
from wsproto.utilities import LocalProtocolError

from netra_trio.errors import TransportClosed, leaves, place_of
from netra_trio.protocol.codes import ABNORMAL, CloseCode, ErrorCode
from netra_trio.protocol.problem import Problem, http_body, problem
from netra_trio.transports.byte_stream import waiting_for_peer
from netra_trio.transports.frames import frame
from netra_trio.transports.handshake import UPGRADE_REQUIRED, Headers, by_name, handshake_fault

logger = logging.getLogger("netra_trio.server.hypercorn.install")

VERSION = "0.18."  # the releases whose inside is known here
HEAD_TIMEOUT = 10.0  # s for a whole request head, TLS handshake likewise; then the line is closed
LINGER = 1.0  # s of reading on after our last byte: a close with unread input would destroy it
CLOSE_TIMEOUT = 1.0  # s for closing the stream; then it is closed forcefully
H2_POLL = 0.005  # s between looks at how much of an HTTP/2 stream is sent
PIECE = 16 * 1024  # bytes handed on at once; under TLS they must all leave within send_timeout


_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, TransportClosed)

_T = TypeVar("_T")
AppMessage: TypeAlias = dict[str, Any]
AppSend: TypeAlias = Callable[[ASGISendEvent | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Limits:
    """What `install` was told: seconds and bytes."""

    send_timeout: float
    max_message_bytes: int
    drain_timeout: float


# What this module leans on: module, class, methods. A missing one stops `install`.
_STREAM_METHODS = (
    "handle",
    "app_send",
    "_accept",
    "_send_rejection",
    "_send_error_response",
    "_send_wsproto_event",
)
_LEANS_ON: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("hypercorn.trio.run", "TCPServer", ("run", "protocol_send", "_read_data", "_close")),
    ("hypercorn.protocol.h11", "WSStream", _STREAM_METHODS),
    ("hypercorn.protocol.h2", "WSStream", _STREAM_METHODS),
    ("hypercorn.protocol.h11", "H11Protocol", ("handle", "stream_send", "_maybe_recycle")),
    ("hypercorn.protocol.h2", "H2Protocol", ("handle", "stream_send", "idle")),
    ("hypercorn.protocol.h2", "StreamBuffer", ("push", "pop")),
    ("hypercorn.protocol.ws_stream", "Handshake", ("accept",)),
)
_CONSTRUCTOR = ("app", "config", "context", "state", "stream")


def install(*, send_timeout: float, max_message_bytes: int, drain_timeout: float) -> None:
    """Put this project's connection and WebSocket into Hypercorn; a second call only sets limits.

    Args:
        send_timeout: Seconds a send may make no progress before its line is given up.
        max_message_bytes: The largest whole message taken in, in bytes of its payload.
        drain_timeout: Seconds the application takes to drain; Hypercorn's `graceful_timeout` is
            raised to one second more, because it cancels what is still running then.

    Raises:
        RuntimeError: Hypercorn is not 0.18.*, or something relied on is gone; the text names it.
    """
    _check_hypercorn()
    HostConnection.limits = _Limits(send_timeout, max_message_bytes, drain_timeout)
    _set("hypercorn.trio.run", "TCPServer", HostConnection)
    _set("hypercorn.protocol.h11", "WSStream", HostWebSocket)
    _set("hypercorn.protocol.h2", "WSStream", HostWebSocket)


def _set(module: str, name: str, value: type) -> None:
    setattr(importlib.import_module(module), name, value)


def _check_hypercorn() -> None:
    version = importlib.metadata.version("hypercorn")
    faults = list(_missing())
    if not version.startswith(VERSION):
        faults.insert(0, f"version {version} instead of {VERSION}*")
    if faults:
        raise RuntimeError(
            f"this Hypercorn cannot host netra_trio: {'; '.join(faults)}. "
            f'Install "hypercorn=={VERSION}*".'
        )


def _missing() -> Iterator[str]:
    for module, name, methods in _LEANS_ON:
        found = getattr(importlib.import_module(module), name, None)
        if found is None:
            yield f"{module}.{name} is missing"
            continue
        for method in methods:
            if not hasattr(found, method):
                yield f"{module}.{name}.{method} is missing"
        if name == "TCPServer":
            parameters = tuple(inspect.signature(found).parameters)
            if parameters != _CONSTRUCTOR:
                yield f"{module}.{name} takes {parameters} instead of {_CONSTRUCTOR}"


class _Inbox:
    """What waits for one application: bounded, and never in the way of the end.

    Hypercorn's own channel blocks its reader for ever once the application stopped receiving, and
    with it the end of the connection.
    """

    def __init__(self, size: int) -> None:
        self._size = max(1, size)
        self._waiting: deque[AppMessage] = deque()
        self._last: AppMessage | None = None
        self._deaf = False
        self._life_sign_waits = False
        self._receivers = trio.lowlevel.ParkingLot()
        self._putters = trio.lowlevel.ParkingLot()

    async def receive(self) -> AppMessage:
        """Return the next message; after the last one, the disconnect again and again."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._last is not None:
                return self._last
            await self._receivers.park()
        message = self._waiting.popleft()
        if message["type"] == "netra_trio.alive":
            self._life_sign_waits = False
        self._putters.unpark()
        return message

    async def put(self, message: Mapping[str, Any]) -> None:
        """Add a message, waiting for room; a disconnect never waits."""
        if message["type"] in {"websocket.disconnect", "http.disconnect"}:
            self.end(dict(message))
            return
        while len(self._waiting) >= self._size and not self._over:
            await self._putters.park()
        self.post(dict(message))

    def post(self, message: AppMessage) -> None:
        """Add a message past the bound: for what comes once."""
        if not self._over:
            self._waiting.append(message)
            self._receivers.unpark()

    def life_sign(self) -> None:
        """Add a life sign if none waits and there is room: one says as much as many."""
        if not self._life_sign_waits and len(self._waiting) < self._size:
            self._life_sign_waits = True
            self.post({"type": "netra_trio.alive"})

    def end(self, message: AppMessage) -> None:
        """Set the last message, delivered after those that wait."""
        if self._last is None:
            self._last = message
            self._receivers.unpark_all()
            self._putters.unpark_all()

    def close(self) -> None:
        """Drop everything: the application has returned."""
        self._deaf = True
        self._waiting.clear()
        self._putters.unpark_all()

    @property
    def _over(self) -> bool:
        return self._deaf or self._last is not None


class HostConnection(TCPServer):
    """One socket: a nursery of its own that lets no exception out and waits for no peer unbounded.

    It is also the task group that Hypercorn's protocols spawn applications in.

    Attributes:
        before: What was read of the stream before it came here.
        lost: Whether nothing can be sent any more.
        timed_out: Whether that is because the peer took nothing for `send_timeout`.
    """

    limits: ClassVar[_Limits]

    def __init__(
        self, app: AppWrapper, config: Config, context: Any, state: Any, stream: Any
    ) -> None:
        super().__init__(app, config, context, state, stream)
        # Hypercorn reads it at its shutdown; the stock command offers no earlier place to set it.
        config.graceful_timeout = max(config.graceful_timeout, self.limits.drain_timeout + 1)
        self.before = b""
        self.lost = False
        self.timed_out = False
        self._aborted = False
        self._closing = False  # our last byte is on its way: read on, but only to throw away
        self._hung_up = False  # nothing is read any more
        self._read_until = math.inf
        self._reading = trio.CancelScope()
        self._idle: trio.CancelScope | None = None
        self._head_bytes = 0
        self._head_started = False
        self._nursery: trio.Nursery
        self._peer = "an unknown peer"

    # --- the connection's life

    async def run(self) -> None:
        """Serve the connection to its end. Only `Cancelled` and what ends a program get out."""
        try:
            await self._serve()
        except* Exception as group:
            self._report(group)
        finally:
            await self._close()

    async def _serve(self) -> None:
        protocol = "http/1.1"
        stream: object = self.stream
        if isinstance(stream, trio.SSLStream):
            try:
                with trio.fail_after(min(self.config.ssl_handshake_timeout, HEAD_TIMEOUT)):
                    await stream.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError):
                return
            protocol = stream.selected_alpn_protocol() or protocol
        sock = self._socket_stream.socket
        client = parse_socket_addr(sock.family, sock.getpeername())
        server = parse_socket_addr(sock.family, sock.getsockname())
        self._peer = client[0] if client else self._peer
        async with trio.open_nursery() as self._nursery:
            self.protocol = ProtocolWrapper(
                self.app,
                self.config,
                self.context,
                self,
                ConnectionState(self.state),
                isinstance(stream, trio.SSLStream),
                client,
                server,
                self.protocol_send,
                protocol,
            )
            self._become_idle(HEAD_TIMEOUT, head_started=True)
            await self.protocol.initiate()
            await self._read_data()

    @property
    def _socket_stream(self) -> trio.SocketStream:
        stream: Any = self.stream
        found = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        return cast("trio.SocketStream", found)

    async def _close(self) -> None:
        # Trio's streams close forcefully when their aclose is cancelled: the bound is enough.
        with trio.move_on_after(CLOSE_TIMEOUT), suppress(*_GONE):
            await self.stream.aclose()

    async def _abort(self) -> None:
        """Close the socket now, without a goodbye, and let the applications know."""
        if self._aborted:
            return
        self.lost = self._aborted = True
        with trio.CancelScope(shield=True):  # does not block: aclose_forcefully is cancelled inside
            await trio.aclose_forcefully(self.stream)
        # From a task of its own: the aborting one may be cancelled, the reader may be waiting.
        self._nursery.start_soon(self._feed, Closed())

    async def _contain(self, error: BaseException) -> None:
        self._report(error)
        await self._abort()

    def _report(self, error: BaseException) -> None:
        """Log one line for each fault: its kind and place, never its text, which quotes input."""
        for leaf in leaves(error):
            if isinstance(leaf, _GONE):
                logger.debug("connection of %s lost: %s", self._peer, type(leaf).__name__)
                continue
            kind, place = type(leaf).__name__, place_of(leaf)
            logger.warning("connection of %s closed after %s at %s", self._peer, kind, place)
            logger.debug("the way there:\n%s", "".join(traceback.format_tb(leaf.__traceback__)))

    # --- reading

    async def _read_data(self) -> None:
        while data := await self._receive():
            if self._hung_up:
                break
            if self._closing:
                continue
            self._count_head(len(data))
            if not await self._feed(RawData(data)):
                break
            self._notice_idle_h2()
        if not (self._hung_up or self._closing or self.lost or self._reading.cancelled_caught):
            await self._feed(RawData(b""))
        self._become_busy()
        await self._feed(Closed())

    async def _receive(self) -> bytes:
        """Return what came, b"" when nothing more will."""
        if self._hung_up or self._aborted:
            return b""
        if self.before:
            size = self._read_size()
            data, self.before = self.before[:size], self.before[size:]
            return data
        deadline = min(
            self._read_until, trio.current_time() + (self.config.read_timeout or math.inf)
        )
        data = b""
        with trio.CancelScope(deadline=deadline) as self._reading:
            try:
                data = bytes(await self.stream.receive_some(self._read_size()))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.lost = True
        return data

    def _read_size(self) -> int:
        # h11 measures only incomplete heads: one that comes whole in a big read would pass it.
        if self._idle is None or not isinstance(self.protocol.protocol, H11Protocol):
            return MAX_RECV
        return max(1, self.config.h11_max_incomplete_size + 1 - self._head_bytes)

    async def _feed(self, event: HostEvent) -> bool:
        """Give the event to the protocol; False when that failed and the line was cut."""
        try:
            await self.protocol.handle(event)
        except Exception as error:
            await self._contain(error)
            return False
        return True

    # --- idling: between requests, and while a head is incomplete

    def _become_idle(self, patience: float, *, head_started: bool = False) -> None:
        self._become_busy()
        if self._closing:
            return
        self._head_bytes = 0
        self._head_started = head_started
        self._idle = trio.CancelScope(deadline=trio.current_time() + patience)
        self._nursery.start_soon(self._watch_idle, self._idle)

    def _become_busy(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _watch_idle(self, scope: trio.CancelScope) -> None:
        with scope:
            await self.context.terminated.wait()
        if self._idle is scope:
            self._hang_up()

    def _hang_up(self) -> None:
        self._hung_up = True
        self._reading.cancel()

    def _count_head(self, count: int) -> None:
        """Give a head that has begun its own time, once: trickling does not lengthen it."""
        if self._idle is None:
            return
        self._head_bytes += count
        if not self._head_started:
            self._head_started = True
            self._idle.deadline = trio.current_time() + HEAD_TIMEOUT

    def _notice_idle_h2(self) -> None:
        # Hypercorn calls a connection busy when HTTP/2 is assumed, before any stream is open: a
        # peer that says no more would stay for ever.
        inner = self.protocol.protocol
        if isinstance(inner, H2Protocol) and self._idle is None and inner.idle:
            self._become_idle(self.config.keep_alive_timeout)

    # --- writing

    async def protocol_send(self, event: HostEvent) -> None:
        """Do what the protocol asks: write, close, or note that the connection is idle or busy."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            await self._end_writing()
            await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            if event.idle:
                self._become_idle(self.config.keep_alive_timeout)
            else:
                self._become_busy()

    async def _write(self, data: bytes) -> None:
        """Write all of it. Cancelling when some of them are out cuts the line."""
        if self._closing:
            await trio.lowlevel.checkpoint()
            return
        # A checkpoint in any case, so a loop of sends to nobody does not freeze the program; being
        # cancelled here tears nothing: no byte is out yet.
        async with self.send_lock:
            if self.lost:
                return
            try:
                await self._write_pieces(memoryview(data))
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                # The reader goes on for a moment: the peer's close frame may still lie there.
                self.lost = True
                self._read_only_until(trio.current_time() + LINGER)

    async def _write_pieces(self, data: memoryview) -> None:
        whole = len(data)
        try:
            while data:
                waiting = self._waiting_for_peer()
                with trio.move_on_after(self.limits.send_timeout) as patience:
                    data = data[await self._write_some(data[:PIECE]) :]
                if patience.cancelled_caught and self._waiting_for_peer() >= waiting:
                    self.timed_out = True
                    await self._abort()
                    return
        except trio.Cancelled:
            # Half a frame is out: what follows could not be read. (TLS does not tell if it is.) If
            # none is, the line is whole, and a close frame may still go over it.
            if len(data) < whole or isinstance(self.stream, trio.SSLStream):
                await self._abort()
            raise

    def _waiting_for_peer(self) -> int:
        """Return how many bytes the kernel holds that the peer has yet to take.

        Under TLS a write cannot be taken up again, so only whole writes are progress there.
        """
        stream: object = self.stream
        if isinstance(stream, trio.SocketStream):
            return waiting_for_peer(stream.socket.fileno())
        return 0

    async def _write_some(self, data: memoryview) -> int:
        """Write a part of the data; every byte the peer takes is progress, but under TLS."""
        stream: object = self.stream
        if isinstance(stream, trio.SocketStream):
            return await stream.socket.send(data)
        await self.stream.send_all(data)
        return len(data)

    async def _end_writing(self) -> None:
        """Say that nothing more comes, and read on for a moment so that it arrives."""
        if self._closing:
            return
        self._closing = True
        self._become_busy()
        self._read_only_until(trio.current_time() + LINGER)
        async with self.send_lock:
            with suppress(trio.BusyResourceError, *_GONE):
                await self._socket_stream.send_eof()

    def _read_only_until(self, deadline: float) -> None:
        self._read_until = min(self._read_until, deadline)
        self._reading.deadline = min(self._reading.deadline, deadline)

    # --- the task group that the protocols use

    def spawn(self, func: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start a protocol's own task; its failure ends the connection, not the server."""
        self._nursery.start_soon(self._guard, func, args)

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: AppSend
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application for an HTTP request and return what its messages are put with."""
        _ = config
        bounded = partial(self._send_http, send, http2=scope.get("http_version") == "2")
        return self.start_app(app, scope, bounded).put

    def start_app(self, app: AppWrapper, scope: Scope, send: AppSend) -> _Inbox:
        """Start the application and return its inbox."""
        inbox = _Inbox(self.config.max_app_queue_size)
        self._nursery.start_soon(self._guard, self._run_app, (app, scope, inbox, send))
        return inbox

    async def _guard(self, func: Callable[..., Awaitable[None]], args: Iterable[Any]) -> None:
        try:
            await func(*args)
        except Exception as error:
            await self._contain(error)

    async def _run_app(self, app: AppWrapper, scope: Scope, inbox: _Inbox, send: AppSend) -> None:
        receive = cast("Callable[[], Awaitable[ASGIReceiveEvent]]", inbox.receive)
        try:
            await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except* TransportClosed:
            pass  # an application that ends because its line is gone did nothing wrong
        except* Exception:
            await self.config.log.exception("Error in ASGI Framework")
        finally:
            inbox.close()
        await send(None)

    async def _send_http(
        self, send: AppSend, message: ASGISendEvent | None, *, http2: bool
    ) -> None:
        if message is not None and self.lost:
            await trio.lowlevel.checkpoint()
            raise TransportClosed(timed_out=self.timed_out)
        # HTTP/2's flow control blocks before the socket does, where no other bound reaches.
        with trio.move_on_after(self.limits.send_timeout if http2 else math.inf) as patience:
            await send(message)
        timed_out = self.timed_out or patience.cancelled_caught
        if message is not None and (self.lost or patience.cancelled_caught):
            raise TransportClosed(timed_out=timed_out)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hypercorn's type asks for it; the nursery is opened in `_serve`."""


class HostWebSocket(WSStream):
    """One WebSocket over HTTP/1.1 or a stream of HTTP/2, between frames and ASGI messages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        line: object = self.task_group
        if not isinstance(line, HostConnection):
            raise TypeError(f"expected Hypercorn's Trio worker, got a {type(line).__name__}")
        self._line = line
        self._inbox = _Inbox(1)
        self._open = trio.Event()  # accepted, or over: the reader waits for it
        self._finished = False
        self._peer_code: int | None = None
        self._timed_out = False
        self._message = bytearray()
        self._message_bytes = 0
        self._too_big = False

    # --- in

    async def handle(self, event: Event) -> None:
        """Take in what the protocol has for this stream. Blocks while the application is behind."""
        if self.closed:
            return
        if isinstance(event, Request):
            await self._begin(event)
        elif isinstance(event, Body | Data):
            await self._take(event.data)
        elif isinstance(event, StreamClosed) or (
            isinstance(event, EndBody)
            and self.state in {ASGIWebsocketState.CONNECTED, ASGIWebsocketState.CLOSED}
        ):
            self._end(ABNORMAL)

    async def _begin(self, request: Request) -> None:
        self.start_time = time()
        headers = by_name(request.headers)
        path, _, query = request.raw_path.partition(b"?")
        self.handshake = Handshake(_plain_offer(headers), request.http_version)
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
            "subprotocols": [name for name in self.handshake.subprotocols or [] if name],
            "state": ConnectionState(request.state.copy()),
            "extensions": {
                "websocket.http.response": {},
                "netra_trio": {"terminated": self.context.terminated.wait},
            },
        }
        refusal = handshake_fault(request.raw_path, request.http_version, headers)
        if refusal is not None:
            await self._refuse(refusal)
        elif not valid_server_name(self.config, request):
            await self._refuse(
                problem(ErrorCode.BAD_REQUEST, "Host: expected one served here.", status=404)
            )
        else:
            self._inbox = self._line.start_app(self.app, self.scope, self.app_send)
            await self._inbox.put({"type": "websocket.connect"})

    async def _take(self, data: bytes) -> None:
        # What comes before the answer waits here, in this one read: not lost, and nothing more is
        # read meanwhile, so a peer cannot fill memory with it.
        await self._open.wait()
        if self.closed or self.state not in {
            ASGIWebsocketState.CONNECTED,
            ASGIWebsocketState.CLOSED,
        }:
            return
        self.connection.receive_data(data)
        await self._take_frames()

    async def _take_frames(self) -> None:
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
        if self._message_bytes > self._line.limits.max_message_bytes:
            self._too_big = True
            self._message.clear()
            self._inbox.post({"type": "netra_trio.too_big"})
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
        if state is LineState.REMOTE_CLOSING:  # the peer began
            self._peer_code, reply = code, event.response()
        elif state is LineState.CLOSED:  # the answer to our close
            self._peer_code = code
        elif state is LineState.OPEN:  # not a frame at all: wsproto tells what to close with
            reply = CloseConnection(code=code)
        self._end(code)
        if self._http2:  # the reader must go on: what opens the window again comes through it
            self._line.spawn(self._say_goodbye, reply)
        else:
            await self._say_goodbye(reply)

    async def _send_pong(self, ping: Ping) -> None:
        # By the reader, so it must not wait for HTTP/2's window, nor fill memory where it is shut.
        if self._waiting_bytes() < PIECE:
            with suppress(LocalProtocolError):  # closing: no pong is due any more
                data = bytes(self.connection.send(ping.response()))
                await self.send(Data(stream_id=self.stream_id, data=data))

    async def _say_goodbye(self, reply: CloseConnection | None) -> None:
        if reply is not None:
            await self._send_wsproto_event(reply)
        await self._finish()

    def _end(self, code: int) -> None:
        """Nothing comes in or goes out from here on; the application learns the code."""
        self.closed = True
        self._message.clear()
        self._inbox.end({"type": "websocket.disconnect", "code": code})
        self._open.set()

    # --- out

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Do what the application asks; None when it has returned.

        Raises:
            TransportClosed: The line is gone, or was closed.
        """
        if message is None:
            await self._app_ended()
            return
        if self._gone:
            await trio.lowlevel.checkpoint()
            raise self._closed_error()
        if self.state in {ASGIWebsocketState.CONNECTED, ASGIWebsocketState.CLOSED}:
            await self._send_open(cast("AppMessage", message))
        else:
            await self._answer(cast("AppMessage", message))
        if self._line.lost or self._timed_out:
            raise self._closed_error()

    async def _answer(self, message: AppMessage) -> None:
        """Accept or reject: Hypercorn's own code does it."""
        kind = message["type"]
        if kind == "websocket.http.response.start" and not self._http2:
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await self._bounded(super().app_send, cast("ASGISendEvent", message))
        if kind == "websocket.accept":
            self._open.set()

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
        except LocalProtocolError:  # the closing handshake is past this event: nothing to say
            return
        await self._transmit(bytes(data))

    async def _transmit(self, data: bytes) -> None:
        if data:
            await self._pass(Data(stream_id=self.stream_id, data=data))

    async def _pass(self, event: Event) -> None:
        await self._bounded(self.send, event)

    async def _bounded(self, call: Callable[[_T], Awaitable[None]], argument: _T) -> None:
        """Call; over HTTP/2 wait also until it is sent, as long as there is progress.

        A peer that opens no HTTP/2 window blocks nothing in Hypercorn: what is sent to it gathers
        in memory. So the bound of the socket never reaches it, and this one has to.
        """
        if not self._http2:
            await call(argument)
            return
        with trio.move_on_after(self._line.limits.send_timeout) as patience:
            await call(argument)
            await self._wait_sent(patience)
        if patience.cancelled_caught:
            self._timed_out = True
            self._end(ABNORMAL)

    async def _wait_sent(self, patience: trio.CancelScope) -> None:
        least = math.inf
        while (waiting := self._waiting_bytes()) > 0 and not self._line.lost:
            if waiting < least:
                least = waiting
                patience.deadline = trio.current_time() + self._line.limits.send_timeout
            # Looked at again and again, because the event in the buffer is replaced by each push
            # and then forgets who waits for it.
            await trio.sleep(H2_POLL)

    def _waiting_bytes(self) -> int:
        """Return how much of this HTTP/2 stream is not sent yet, 0 for HTTP/1.1."""
        inner = self._line.protocol.protocol
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

    async def _refuse(self, refusal: Problem) -> None:
        logger.warning("opening_refused %s %s", refusal.status, refusal.error)
        body = json.dumps(http_body(refusal, time())).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        if refusal.status == UPGRADE_REQUIRED:
            headers += [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]
        if not self._http2:
            headers.append((b"connection", b"close"))
        self.state = ASGIWebsocketState.HTTPCLOSED
        stream_id = self.stream_id
        await self._pass(Response(stream_id=stream_id, status_code=refusal.status, headers=headers))
        await self._pass(Body(stream_id=stream_id, data=body))
        await self._pass(EndBody(stream_id=stream_id))
        await self.config.log.access(
            self.scope, {"status": refusal.status, "headers": []}, time() - self.start_time
        )
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
    def _http2(self) -> bool:
        return self.handshake.http_version == "2"

    @property
    def _gone(self) -> bool:
        return self.closed or self._line.lost

    def _closed_error(self) -> TransportClosed:
        return TransportClosed(self._peer_code, timed_out=self._timed_out or self._line.timed_out)


# --- plain functions


def _plain_offer(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return what is left of the offer: extensions are dropped, so none is ever agreed on."""
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
