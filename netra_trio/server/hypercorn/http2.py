"""One HTTP/2 connection of Hypercorn: the replacement of its `H2Protocol`.

Each stream has a task of its own: the reader of the connection never waits for an application or
for flow control, so a slow or faulty stream does not affect the others. Floods are bounded: frames
are handled one by one with turns for other tasks between, small frames and resets are counted, and
an application that still runs for a stream that was reset counts as a request at work.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio
from h2.errors import ErrorCodes
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.events import Event as HostEvent
from hypercorn.protocol.events import Request
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import AppWrapper, ConnectionState, WorkerContext
from hypercorn.utils import filter_pseudo_headers

from netra_trio.protocol.ratelimit import TokenBucket
from netra_trio.server.hypercorn.connection import HostConnection
from netra_trio.server.hypercorn.http2_frames import FrameSplitter, RawFrame
from netra_trio.server.hypercorn.http2_stream import Http2Stream
from netra_trio.server.hypercorn.websocket import HostWebSocket
from netra_trio.transports.pacing import FramePacer

REQUESTS = 100  # at work on one connection, streams that were reset included
RESET_RATE, RESET_BURST = 20, 100  # streams that a client may reset: a second, at once
FRAMES_IN_A_ROW = 4  # handled before other tasks run; one takes about 0.1 ms

_BAD_REQUEST = b"400"


class Http2Connection:
    """One HTTP/2 connection, between bytes and the streams' handlers.

    Attributes:
        closed: Whether the connection has ended.
        host: The connection's socket and tasks.
    """

    def __init__(  # noqa: PLR0917 - the signature of Hypercorn's class
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        task_group: HostConnection,
        connection_state: ConnectionState,
        ssl: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[HostEvent], Awaitable[None]],
    ) -> None:
        self.host = task_group
        self.closed = False
        self._app = app
        self._config = config
        self._context = context
        self._state = connection_state
        self._ssl = ssl
        self._client = client
        self._server = server
        self._send = send
        self._h2 = h2.connection.H2Connection(
            config=h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: REQUESTS,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: config.h2_max_header_list_size,
                h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
            },
        )
        self._splitter = FrameSplitter()
        self._pacer = FramePacer(self.host.turns, in_a_row=FRAMES_IN_A_ROW)
        now = trio.current_time()
        self._resets = TokenBucket(rate=RESET_RATE, burst=RESET_BURST, now=now)
        self._streams: dict[int, Http2Stream] = {}
        self._at_work = 0
        self._wake, self._woken = trio.open_memory_channel[None](1)
        self._requested = 0  # flushes that were asked for
        self._written = 0  # the last of them that is done
        self._round = trio.Event()  # set when a write is done

    @property
    def idle(self) -> bool:
        """Whether no stream is open."""
        return not self._streams

    async def initiate(
        self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None
    ) -> None:
        """Begin the connection; with headers it was upgraded from a request of HTTP/1.1."""
        self.host.spawn(self._write)
        if settings is not None:
            self._h2.initiate_upgrade_connection(settings)
        else:
            self._h2.initiate_connection()
        await self.flush()
        if headers is not None:
            await self._open(1, headers, is_ended=True)

    async def handle(self, event: HostEvent) -> None:
        """Handle bytes of the client, or the end of the connection."""
        if isinstance(event, RawData):
            try:
                await self._receive(event.data)
            except h2.exceptions.ProtocolError:
                await self._end()
            else:
                await self.flush()
        elif isinstance(event, Closed):
            self.closed = True
            self._wake.close()
            self._round.set()
            for stream in list(self._streams.values()):
                await self.drop(stream)

    # --- inbound

    async def _receive(self, data: bytes) -> None:
        preface, data = self._splitter.take_preface(data)
        if preface:
            self._h2.receive_data(preface)
        self._pacer.has_waited()
        for frame in self._splitter.split(data):
            if self._pacer.is_due:
                await self.flush()
                await self._pacer.wait()
            if self.closed:
                return
            await self._on_frame(frame)

    async def _on_frame(self, frame: RawFrame) -> None:
        self._pacer.count(frame.payload_bytes, is_message=frame.is_useful)
        for event in self._h2.receive_data(frame.data):
            await self._on_event(event)

    async def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            ended = event.stream_ended is not None
            await self._open(event.stream_id, list(event.headers), is_ended=ended)
        elif isinstance(event, h2.events.DataReceived):
            self._on_data(event)
        elif isinstance(event, h2.events.StreamEnded):
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.end_body()
        elif isinstance(event, h2.events.StreamReset):
            await self._on_reset(event)
        elif isinstance(event, h2.events.WindowUpdated):
            self._wake_senders(event.stream_id)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self._wake_senders(0)
        elif isinstance(event, h2.events.ConnectionTerminated):
            await self.flush()
            await self._send(Closed())

    def _on_data(self, event: h2.events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:  # the stream has ended: give its bytes back to the connection's window
            self.acknowledge(event.stream_id, event.flow_controlled_length)
        else:
            stream.add_body(event.data, event.flow_controlled_length)

    async def _on_reset(self, event: h2.events.StreamReset) -> None:
        if event.remote_reset and self._resets.take(trio.current_time()):
            await self._end(ErrorCodes.ENHANCE_YOUR_CALM)
            return
        if (stream := self._streams.get(event.stream_id)) is not None:
            await self.drop(stream)

    def _wake_senders(self, stream_id: int | None) -> None:
        """Let streams send again whose flow-control window may have opened; 0 means all."""
        if stream_id:
            if (stream := self._streams.get(stream_id)) is not None:
                stream.wake_sender()
            return
        for stream in self._streams.values():
            stream.wake_sender()

    async def _open(
        self, stream_id: int, headers: list[tuple[bytes, bytes]], *, is_ended: bool
    ) -> None:
        """Start a stream's handler, unless there are too many requests or this one is invalid."""
        if self._context.terminated.is_set() or self._at_work >= REQUESTS:
            self.reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        pseudo = dict(headers)
        method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
        is_websocket = pseudo.get(b":protocol") == b"websocket"
        if (method == b"CONNECT") is not is_websocket or not (method + path).isascii() or not path:
            self._h2.send_headers(stream_id, [(b":status", _BAD_REQUEST)], end_stream=True)
            self.reset(stream_id, ErrorCodes.NO_ERROR)
            return
        request = Request(
            stream_id=stream_id,
            headers=filter_pseudo_headers(headers),
            http_version="2",
            method=method.decode().upper(),
            raw_path=path,
            state=self._state,
        )
        stream = Http2Stream(self, self.host, stream_id)
        make: Any = HostWebSocket if is_websocket else HTTPStream
        stream.handler = make(
            self._app,
            self._config,
            self._context,
            stream,
            self._ssl,
            self._client,
            self._server,
            stream.send,
            stream_id,
        )
        if is_ended:
            stream.end_body()
        self._streams[stream_id] = stream
        self._at_work += 1
        await self._send(Updated(idle=False))
        self.host.spawn(self._serve, stream, request)
        await self._context.mark_request()

    async def _serve(self, stream: Http2Stream, request: Request) -> None:
        """Serve one stream to the end of its application; its exceptions end only this stream."""
        try:
            await stream.serve(request)
        except* Exception as error:
            self.host.report(error)
            self.reset(stream.stream_id, ErrorCodes.INTERNAL_ERROR)
            await self.drop(stream)
            await self.flush()
        finally:
            self._at_work -= 1

    # --- outbound

    async def send_headers(
        self, stream_id: int, headers: list[tuple[bytes, bytes]], *, end_stream: bool = False
    ) -> None:
        """Send a head or trailers.

        Raises:
            h2.exceptions.ProtocolError: If the stream has ended.
        """
        self._h2.send_headers(stream_id, headers, end_stream=end_stream)
        await self.flush()

    def prepare_data(self, stream_id: int, data: memoryview) -> int:
        """Prepare as much of the data as flow control allows; return how many bytes, 0 for none.

        Raises:
            h2.exceptions.ProtocolError: If the stream has ended.
        """
        window = self._h2.local_flow_control_window(stream_id)
        size = max(0, min(len(data), window, self._h2.max_outbound_frame_size))
        if size:
            self._h2.send_data(stream_id, bytes(data[:size]))
        return size

    async def end_stream(self, stream_id: int) -> None:
        """End the sending direction of a stream.

        Raises:
            h2.exceptions.ProtocolError: If the stream has ended.
        """
        self._h2.end_stream(stream_id)
        await self.flush()

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Open the flow-control windows for bytes that were handled."""
        if size and not self.closed:
            self._h2.acknowledge_received_data(size, stream_id)

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """End a stream in both directions, where it has not ended; needs a flush."""
        if self.closed:
            return
        try:
            self._h2.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            return  # it has ended in both directions

    async def drop(self, stream: Http2Stream) -> None:
        """Forget a stream that has ended or was reset, and tell its application."""
        if self._streams.pop(stream.stream_id, None) is None:
            return
        await stream.close()
        if not self._streams and not self.closed:
            await self._send(Updated(idle=True))

    async def flush(self) -> None:
        """Wait until all frames are written that were prepared before the call.

        Cancelling is safe: the frames are written all the same.
        """
        number = self.request_flush()
        await trio.lowlevel.checkpoint()
        while self._written < number and not self.closed:
            await self._round.wait()

    def request_flush(self) -> int:
        """Have the prepared frames written soon; return the number of this request."""
        self._requested += 1
        # Otherwise the writer is awake already, or has ended.
        with suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            self._wake.send_nowait(None)
        return self._requested

    async def _write(self) -> None:
        """Write prepared frames until the connection ends.

        A task of its own, because frames must not be lost or torn when a sender is cancelled.
        """
        async for _ in self._woken:
            while self._written < self._requested and not self.closed:
                number = self._requested
                if data := self._h2.data_to_send():
                    await self._send(RawData(data))
                self._written = number
                self._round.set()
                self._round = trio.Event()

    async def _end(self, code: ErrorCodes | None = None) -> None:
        """End the connection, with GOAWAY where the protocol has not prepared one."""
        if code is not None:
            self._h2.close_connection(code)
        await self.flush()
        await self._send(Closed())
