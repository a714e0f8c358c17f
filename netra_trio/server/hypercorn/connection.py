"""One connection of Hypercorn: a nursery that lets no exception out, with bounds on every wait."""

import logging
import math
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, ClassVar, Self

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.events import Event as HostEvent
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from netra_trio.errors import leaves, place_of
from netra_trio.server.hypercorn.idle import IdleTimer
from netra_trio.server.hypercorn.limits import HEAD_SECONDS, Limits
from netra_trio.server.hypercorn.stream_host import StreamHost
from netra_trio.server.hypercorn.writer import LOST, SocketWriter
from netra_trio.telemetry.logs import host_logger
from netra_trio.transports.bounded import BoundedStream
from netra_trio.transports.byte_stream import LINGER
from netra_trio.transports.pacing import Turns

CLOSE_TIMEOUT = 1.0  # seconds for closing the stream; then it is closed forcefully
READ_BYTES = 16 * 1024  # of one read: what it holds delays other tasks

_logger = host_logger()


class HostConnection(TCPServer, StreamHost):
    """One socket, from its accept to its close; it replaces Hypercorn's `TCPServer`.

    It is the task group in which Hypercorn's protocols start the application.

    Attributes:
        before: Bytes that were read from the stream already.
        turns: The turns that all connections of the process share.
        writer: The sending direction.
    """

    # Hypercorn constructs the connections, so that shared objects cannot be arguments.
    shared_limits: ClassVar[Limits]
    shared_turns: ClassVar[Turns]

    def __init__(
        self, app: AppWrapper, config: Config, context: Any, state: Any, stream: Any
    ) -> None:
        super().__init__(app, config, context, state, stream)
        self.limits = self.shared_limits
        # Hypercorn reads it when it stops; its own command has no earlier place to set it.
        config.graceful_timeout = max(config.graceful_timeout, self.limits.drain_timeout + 1)
        self.before = b""
        self.turns = self.shared_turns
        self.socket_stream, self.stream = self._bounded(stream)
        self.writer = SocketWriter(self.stream, abort=self._abort, on_lost=self._read_for_a_moment)
        self._aborted = False
        self._hung_up = False  # nothing is read any more
        self._read_until = math.inf
        self._reading = trio.CancelScope()
        self._idle: IdleTimer
        self._nursery: trio.Nursery
        self._peer = "an unknown peer"

    def _bounded(self, stream: Any) -> tuple[trio.SocketStream, Any]:
        """Return the TCP stream, and the stream to use: its sends are bounded below TLS, too."""
        timeout = self.limits.send_timeout
        if not isinstance(stream, trio.SSLStream):
            return stream, BoundedStream(stream, send_timeout=timeout)
        tcp: Any = stream.transport_stream
        if isinstance(tcp, BoundedStream):
            return tcp.stream, stream
        stream.transport_stream = BoundedStream(tcp, send_timeout=timeout)
        return tcp, stream

    # --- lifetime

    async def run(self) -> None:
        """Serve the connection to its end, and log its exceptions."""
        try:
            await self._serve()
        except* Exception as group:
            self.report(group)
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
        sock = self.socket_stream.socket
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
        self.report(error)
        await self._abort()

    def report(self, error: BaseException) -> None:
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
            return READ_BYTES
        left = self.config.h11_max_incomplete_size + 1 - self._idle.head_bytes
        return min(READ_BYTES, max(1, left))

    async def _feed(self, event: HostEvent) -> bool:
        """Pass the event to the protocol; return False if that failed and ended the connection."""
        try:
            await self.protocol.handle(event)
        except Exception as error:
            await self._fail(error)
            return False
        return True

    def _notice_idle_h2(self) -> None:
        # A connection is not idle from the HTTP/2 preface on, before any stream is open: a peer
        # that sends nothing more would stay for ever.
        inner: Any = self.protocol.protocol
        if not isinstance(inner, H11Protocol) and not self._idle.is_running and inner.idle:
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

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.writer.lost

    @property
    def timed_out(self) -> bool:
        """Whether that is because the peer took nothing for the send timeout."""
        return self.writer.timed_out

    async def protocol_send(self, event: HostEvent) -> None:
        """Write, close, or note that the connection is idle or busy."""
        if isinstance(event, RawData):
            await self.writer.write(event.data)
        elif isinstance(event, Closed):
            if not self.writer.ended:
                self._idle.stop()
                self._read_for_a_moment()
                await self.writer.end(self.socket_stream)
            await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            if event.idle:
                self._become_idle()
            else:
                self._idle.stop()

    def spawn(self, func: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start a task; its exception ends the connection, not the server."""
        self._nursery.start_soon(self._guard, func, args)

    async def _guard(self, func: Callable[..., Awaitable[None]], args: Iterable[Any]) -> None:
        try:
            await func(*args)
        except Exception as error:
            await self._fail(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hypercorn's type requires it; the nursery is opened in `_serve`."""
