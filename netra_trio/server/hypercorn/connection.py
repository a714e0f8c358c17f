"""One connection of Hypercorn: a nursery that lets no exception out, with bounds on every wait."""

import logging
import math
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Self, TypeAlias, cast

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.events import Event as HostEvent
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    Scope,
)
from hypercorn.utils import parse_socket_addr

from netra_trio.errors import TransportClosed, leaves, place_of
from netra_trio.server.hypercorn.idle import IdleTimer
from netra_trio.server.hypercorn.inbox import AppInbox
from netra_trio.server.hypercorn.limits import HEAD_SECONDS, LINGER, Limits
from netra_trio.server.hypercorn.writer import LOST, SocketWriter
from netra_trio.telemetry.logs import host_logger

CLOSE_TIMEOUT = 1.0  # seconds for closing the stream; then it is closed forcefully

AppSend: TypeAlias = Callable[[ASGISendEvent | None], Awaitable[None]]

_logger = host_logger()


class HostConnection(TCPServer):
    """One socket, from its accept to its close; the replacement of Hypercorn's `TCPServer`.

    It is also the task group in which Hypercorn's protocols start the application.

    Attributes:
        before: Bytes that were read from the stream already.
        writer: The sending direction.
    """

    limits: ClassVar[Limits]

    def __init__(
        self, app: AppWrapper, config: Config, context: Any, state: Any, stream: Any
    ) -> None:
        super().__init__(app, config, context, state, stream)
        # Hypercorn reads it when it stops; its own command has no earlier place to set it.
        config.graceful_timeout = max(config.graceful_timeout, self.limits.drain_timeout + 1)
        self.before = b""
        self.writer = SocketWriter(
            stream, self.limits, abort=self._abort, on_lost=self._read_for_a_moment
        )
        self._aborted = False
        self._hung_up = False  # nothing is read any more
        self._read_until = math.inf
        self._reading = trio.CancelScope()
        self._idle: IdleTimer
        self._nursery: trio.Nursery
        self._peer = "an unknown peer"

    # --- lifetime

    async def run(self) -> None:
        """Serve the connection to its end, and log its exceptions."""
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
                with trio.fail_after(min(self.config.ssl_handshake_timeout, HEAD_SECONDS)):
                    await stream.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError):
                return
            protocol = stream.selected_alpn_protocol() or protocol
        sock = self.writer.socket_stream.socket
        client = parse_socket_addr(sock.family, sock.getpeername())
        server = parse_socket_addr(sock.family, sock.getsockname())
        self._peer = client[0] if client else self._peer
        async with trio.open_nursery() as self._nursery:
            self._idle = IdleTimer(self._nursery, self.context.terminated.wait, self._hang_up)
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
            self._idle.start(HEAD_SECONDS, head_started=True)
            await self.protocol.initiate()
            await self._read_data()

    async def _close(self) -> None:
        # Trio closes a stream forcefully when its aclose is cancelled.
        with trio.move_on_after(CLOSE_TIMEOUT), suppress(*LOST):
            await self.stream.aclose()

    async def _abort(self) -> None:
        """Close the socket now, and end the applications of this connection."""
        if self._aborted:
            return
        self.writer.lost = self._aborted = True
        with trio.CancelScope(shield=True):  # does not block: aclose_forcefully is cancelled inside
            await trio.aclose_forcefully(self.stream)
        # In a task of its own: the calling task may be cancelled, and the reader may be blocked.
        self._nursery.start_soon(self._feed, Closed())

    async def _fail(self, error: BaseException) -> None:
        self._report(error)
        await self._abort()

    def _report(self, error: BaseException) -> None:
        """Log one line for each exception: its type and place, never its text (it quotes input)."""
        for leaf in leaves(error):
            if isinstance(leaf, LOST):
                _logger.debug("connection of %s lost: %s", self._peer, type(leaf).__name__)
                continue
            kind, place = type(leaf).__name__, place_of(leaf)
            _logger.warning("connection of %s closed after %s at %s", self._peer, kind, place)
            if _logger.isEnabledFor(logging.DEBUG):
                _logger.debug("traceback:\n%s", "".join(traceback.format_tb(leaf.__traceback__)))

    # --- reading

    async def _read_data(self) -> None:
        while data := await self._receive():
            if self._hung_up:
                break
            if self.writer.ended:
                continue
            self._idle.count_head(len(data))
            if not await self._feed(RawData(data)):
                break
            self._notice_idle_h2()
        is_over = self._hung_up or self.writer.ended or self.writer.lost
        if not (is_over or self._reading.cancelled_caught):
            await self._feed(RawData(b""))
        self._idle.stop()
        await self._feed(Closed())

    async def _receive(self) -> bytes:
        """Wait for the next bytes; b"" when nothing more is read."""
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
                self.writer.lost = True
        return data

    def _read_size(self) -> int:
        # h11 measures only incomplete heads: a head that comes whole in one read would pass it.
        if not self._idle.is_running or not isinstance(self.protocol.protocol, H11Protocol):
            return MAX_RECV
        return max(1, self.config.h11_max_incomplete_size + 1 - self._idle.head_bytes)

    async def _feed(self, event: HostEvent) -> bool:
        """Pass the event to the protocol; return False if that failed and ended the connection."""
        try:
            await self.protocol.handle(event)
        except Exception as error:
            await self._fail(error)
            return False
        return True

    def _notice_idle_h2(self) -> None:
        # Hypercorn calls a connection busy from the HTTP/2 preface on, before any stream is open:
        # a peer that sends nothing more would stay for ever.
        inner = self.protocol.protocol
        if isinstance(inner, H2Protocol) and not self._idle.is_running and inner.idle:
            self._become_idle()

    def _become_idle(self) -> None:
        if not self.writer.ended:
            self._idle.start(self.config.keep_alive_timeout)

    def _hang_up(self) -> None:
        self._hung_up = True
        self._reading.cancel()

    def _read_for_a_moment(self) -> None:
        """Read on for a moment only: the peer's close frame may still be unread."""
        deadline = trio.current_time() + LINGER
        self._read_until = min(self._read_until, deadline)
        self._reading.deadline = min(self._reading.deadline, deadline)

    # --- what the protocols call

    async def protocol_send(self, event: HostEvent) -> None:
        """Write, close, or note that the connection is idle or busy."""
        if isinstance(event, RawData):
            await self.writer.write(event.data)
        elif isinstance(event, Closed):
            if not self.writer.ended:
                self._idle.stop()
                self._read_for_a_moment()
                await self.writer.end()
            await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            if event.idle:
                self._become_idle()
            else:
                self._idle.stop()

    def spawn(self, func: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start a task of a protocol; its exception ends the connection, not the server."""
        self._nursery.start_soon(self._guard, func, args)

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: AppSend
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application for an HTTP request; return what passes messages to it."""
        _ = config
        bounded = partial(self._send_http, send, http2=scope.get("http_version") == "2")
        return self.start_app(app, scope, bounded).put

    def start_app(self, app: AppWrapper, scope: Scope, send: AppSend) -> AppInbox:
        """Start the application and return its inbox."""
        inbox = AppInbox(self.config.max_app_queue_size)
        self._nursery.start_soon(self._guard, self._run_app, (app, scope, inbox, send))
        return inbox

    async def _guard(self, func: Callable[..., Awaitable[None]], args: Iterable[Any]) -> None:
        try:
            await func(*args)
        except Exception as error:
            await self._fail(error)

    async def _run_app(self, app: AppWrapper, scope: Scope, inbox: AppInbox, send: AppSend) -> None:
        receive = cast("Callable[[], Awaitable[ASGIReceiveEvent]]", inbox.receive)
        try:
            await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except* TransportClosed:
            pass  # the application ended because its connection is lost: no fault of it
        except* Exception:
            await self.config.log.exception("Error in ASGI Framework")
        finally:
            inbox.close()
        await send(None)

    async def _send_http(
        self, send: AppSend, message: ASGISendEvent | None, *, http2: bool
    ) -> None:
        if message is not None and self.writer.lost:
            await trio.lowlevel.checkpoint()
            raise TransportClosed(timed_out=self.writer.timed_out)
        # HTTP/2's flow control blocks before the socket does, where the writer's bound is not.
        with trio.move_on_after(self.limits.send_timeout if http2 else math.inf) as patience:
            await send(message)
        timed_out = self.writer.timed_out or patience.cancelled_caught
        if message is not None and (self.writer.lost or patience.cancelled_caught):
            raise TransportClosed(timed_out=timed_out)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hypercorn's type requires it; the nursery is opened in `_serve`."""
