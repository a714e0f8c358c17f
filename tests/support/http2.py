"""An HTTP/2 client by hand: it sends what a test wants, and keeps what the server sends.

client = Http2Client(stream)
await client.start()
await client.open_websocket(1, "/ws")
await client.until(lambda: client.statuses.get(1) == 200)
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio


class Http2Client:
    """One connection, with prior knowledge.

    Attributes:
        core: The protocol, for frames that a test makes itself.
        statuses: The status of each stream's answer.
        headers: The headers of each stream's answer.
        data: The bytes of each stream's answer.
        ended: The streams that the server ended.
        resets: The error code of each stream that the server reset.
        goaway: The error code of the server's GOAWAY.
        closed: Whether the server closed the connection.
    """

    def __init__(self, stream: trio.abc.Stream, *, window: int = 65_535) -> None:
        self.stream = stream
        self.core = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.statuses: dict[int, int] = {}
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.data: dict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.pings = 0
        self.goaway: int | None = None
        self.closed = False
        self._window = window

    async def start(self) -> None:
        """Exchange the settings."""
        self.core.initiate_connection()
        self.core.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self._window})
        await self.flush()
        await self.until(lambda: self.core.remote_settings.enable_connect_protocol == 1)

    async def ask(
        self,
        stream_id: int,
        path: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        method: str = "GET",
        end: bool = True,
    ) -> None:
        """Send a request's head."""
        pseudo = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "a")]
        self.core.send_headers(stream_id, [*pseudo, *headers], end_stream=end)
        await self.flush()

    async def open_websocket(
        self, stream_id: int, path: str = "/ws", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send an extended CONNECT (RFC 8441), and wait for its answer."""
        more = [(":protocol", "websocket"), (":scheme", "http"), (":path", path)]
        pseudo = [(":method", "CONNECT"), *more, (":authority", "localhost")]
        self.core.send_headers(stream_id, [*pseudo, ("sec-websocket-version", "13"), *headers])
        await self.flush()
        await self.until(lambda: stream_id in self.statuses)

    async def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send data, in frames of the largest size."""
        size = self.core.max_outbound_frame_size
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            self.core.send_data(stream_id, piece, end_stream=end and at + size >= len(data))
        await self.flush()

    async def flush(self) -> None:
        """Write what was prepared."""
        if data := self.core.data_to_send():
            await self.stream.send_all(data)

    async def until(self, done: Callable[[], bool]) -> None:
        """Read until something has happened; fail if the server closes before."""
        while not done():
            assert await self.read(), "the server closed"

    async def read(self) -> bool:
        """Read once; return False at the end of the connection."""
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.core.receive_data(bytes(data)):
            self._on_event(event)
        await self.flush()
        return True

    async def to_the_end(self) -> None:
        """Read until the server closes."""
        while await self.read():
            pass

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            headers = {bytes(name): bytes(value) for name, value in event.headers or []}
            self.headers[event.stream_id] = headers
            self.statuses[event.stream_id] = int(headers[b":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.data[event.stream_id] += event.data
            if event.flow_controlled_length and self._window:
                self.core.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
