"""One stream of an HTTP/2 connection: its body, its sends and the tasks of its application."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import h2.exceptions
import trio
from h2.errors import ErrorCodes
from hypercorn.protocol.events import (
    Body,
    Data,
    EndBody,
    EndData,
    Event,
    InformationalResponse,
    Request,
    Response,
    StreamClosed,
    Trailers,
)

from netra_trio.errors import TransportClosed
from netra_trio.server.hypercorn.stream_host import StreamHost

# Connection-specific headers must not be sent over HTTP/2 (RFC 9113, 8.2.2).
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)


class Handler(Protocol):
    """Hypercorn's handler of a request, or ours of a WebSocket."""

    async def handle(self, event: Event) -> None:
        """Handle an event of the stream."""
        ...


class Frames(Protocol):
    """The connection, as a stream uses it. Frames are prepared, and written by `flush`."""

    async def send_headers(
        self, stream_id: int, headers: list[tuple[bytes, bytes]], *, end_stream: bool = False
    ) -> None:
        """Send a head or trailers."""
        ...

    def prepare_data(self, stream_id: int, data: memoryview) -> int:
        """Prepare as much of the data as flow control allows; return how many bytes."""
        ...

    async def end_stream(self, stream_id: int) -> None:
        """End the sending direction of a stream."""
        ...

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Open the flow-control windows for bytes that were handled."""
        ...

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """End a stream in both directions, where it has not ended."""
        ...

    async def drop(self, stream: "Http2Stream") -> None:
        """Forget a stream, and tell its application."""
        ...

    def request_flush(self) -> int:
        """Have the prepared frames written soon."""
        ...

    async def flush(self) -> None:
        """Wait until all frames are written that were prepared before the call."""
        ...


class Http2Stream(StreamHost):
    """One stream, from its request to the end of its application.

    The received body is bounded by the stream's flow-control window: bytes are acknowledged when
    the handler has taken them.

    Args:
        connection: Its frames.
        host: The connection's socket.
        stream_id: Its number.

    Attributes:
        handler: Handles its events.
    """

    handler: Handler

    def __init__(self, connection: Frames, host: StreamHost, stream_id: int) -> None:
        self.config = host.config
        self.context = host.context
        self.limits = host.limits
        self.turns = host.turns
        self._host = host
        self.stream_id = stream_id
        self._connection = connection
        self._body = bytearray()
        self._unacknowledged = 0
        self._body_ended = False
        self._wake, self._woken = trio.open_memory_channel[None](1)
        self._window_opened = trio.Event()
        self._begun = False  # the handler has got the request
        self._is_closed = False
        self._send_ended = False
        self._timed_out = False
        self._nursery: trio.Nursery | None = None

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._is_closed or self._host.is_lost

    @property
    def timed_out(self) -> bool:
        """Whether that is because the peer took nothing for the send timeout."""
        return self._timed_out or self._host.timed_out

    # --- what the connection calls

    async def serve(self, request: Request) -> None:
        """Pass the request and its body to the handler; return when its application has ended."""
        async with trio.open_nursery() as self._nursery:
            if self._is_closed:  # it was reset at once
                return
            self._begun = True
            await self.handler.handle(request)
            await self._pass_body()

    def add_body(self, data: bytes, size: int) -> None:
        """Add received bytes; `size` is what they count in flow control."""
        self._body += data
        self._unacknowledged += size
        self._wake_body()

    def end_body(self) -> None:
        """Note that the client has ended its direction."""
        self._body_ended = True
        self._wake_body()

    def wake_sender(self) -> None:
        """Note that the flow-control window may have opened."""
        self._window_opened.set()

    async def close(self) -> None:
        """End the stream: the handler tells its application. Does not wait for it."""
        self._is_closed = True
        self._connection.acknowledge(self.stream_id, self._unacknowledged)
        self._unacknowledged = 0
        self._wake.close()
        self._window_opened.set()
        if self._begun:
            await self.handler.handle(StreamClosed(stream_id=self.stream_id))

    def _wake_body(self) -> None:
        with suppress(trio.WouldBlock, trio.ClosedResourceError):  # awake already, or closed
            self._wake.send_nowait(None)

    async def _pass_body(self) -> None:
        async for _ in self._woken:
            while self._body and not self._is_closed:
                data, size = bytes(self._body), self._unacknowledged
                self._body.clear()
                self._unacknowledged = 0
                await self.handler.handle(Body(stream_id=self.stream_id, data=data))
                self._connection.acknowledge(self.stream_id, size)
                await self._connection.flush()
            if self._body_ended:
                await self.handler.handle(EndBody(stream_id=self.stream_id))
                return

    # --- what the handler and its application call

    def spawn(self, func: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start a task whose exception ends this stream, and nothing else."""
        if self._nursery is None:
            raise RuntimeError("the stream is not served")
        self._nursery.start_soon(func, *args)

    async def send(self, event: Event) -> None:
        """Send what the handler has for the client.

        Raises:
            TransportClosed: If the stream has ended, or the peer opened no window for the send
                timeout.
        """
        connection, stream_id = self._connection, self.stream_id
        if isinstance(event, StreamClosed):
            await self._finish()
            return
        if self.is_lost:
            await trio.lowlevel.checkpoint()
            raise TransportClosed(timed_out=self.timed_out)
        try:
            if isinstance(event, Response | InformationalResponse):
                await connection.send_headers(stream_id, self._head(event))
            elif isinstance(event, Body | Data):
                await self._send_data(memoryview(event.data))
            elif isinstance(event, EndBody | EndData):
                self._send_ended = True
                await connection.end_stream(stream_id)
            elif isinstance(event, Trailers):
                self._send_ended = True
                await connection.send_headers(stream_id, event.headers, end_stream=True)
        except h2.exceptions.ProtocolError:
            raise TransportClosed(timed_out=self.timed_out) from None

    def _head(self, event: Response | InformationalResponse) -> list[tuple[bytes, bytes]]:
        headers = [*event.headers, *self.config.response_headers("h2")]
        kept = [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]
        return [(b":status", b"%d" % event.status_code), *kept]

    async def _send_data(self, data: memoryview) -> None:
        whole = len(data)
        try:
            while data:
                sent = self._connection.prepare_data(self.stream_id, data)
                data = data[sent:]
                if sent:
                    await self._connection.flush()
                else:
                    await self._wait_window()
                if self.is_lost:
                    raise TransportClosed(timed_out=self.timed_out)
        except trio.Cancelled:
            if len(data) < whole:  # the peer could not parse what follows a part
                self._connection.reset(self.stream_id, ErrorCodes.CANCEL)
                self._connection.request_flush()
                with trio.CancelScope(shield=True):  # does not block
                    await self._connection.drop(self)
            raise

    async def _wait_window(self) -> None:
        """Wait until the peer opens the flow-control window, at most for the send timeout."""
        self._window_opened = trio.Event()
        with trio.move_on_after(self.limits.send_timeout) as patience:
            await self._window_opened.wait()
        if patience.cancelled_caught:
            self._timed_out = True
            await self._finish()
            raise TransportClosed(timed_out=True)

    async def _finish(self) -> None:
        """End the stream after the handler's last event.

        A client that has not ended its direction is told by RST_STREAM to stop sending (RFC 9113,
        8.1).
        """
        code = ErrorCodes.NO_ERROR if self._send_ended else ErrorCodes.INTERNAL_ERROR
        code = ErrorCodes.CANCEL if self._timed_out else code
        self._connection.reset(self.stream_id, code)
        await self._connection.drop(self)
        await self._connection.flush()
