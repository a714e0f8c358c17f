"""One connection of the load generator: it counts frames, and parses as few as it can.

    connection = await open_connection(target, token, counters)
    connection.on_event = lambda connection, kind, frame: ...
    connection.send(connection.dialect.message("user_message", {...}))

Deltas are recognized by their first bytes and counted. The other events are passed to `on_event`
as bytes. Pings and heartbeats are answered. Events are acknowledged as the protocol requires
(docs/protocol.md, Numbers and acknowledgements): every 32 numbers, and every second by
`Counters.acknowledge_all`.
"""

import asyncio
import zlib
from collections.abc import Callable
from time import perf_counter
from typing import Any

from attrs import define, field, frozen

from bench.dialects import Dialect, is_event, is_of_room
from bench.frames import CLOSE, INCOMPLETE, KEY, PING, PONG, TEXT, bounds, client_frame

ACK_EVENTS = 32  # most numbers from one acknowledgement to the next
ACK_SECONDS = 1.0  # most time between them, while something is not acknowledged
OPENING_SECONDS = 30.0  # for a connection to be established; a longer time is a failure
CLOSING_SECONDS = 5.0  # for a server to answer a close

_FINAL = 0x80
_COMPRESSED = 0x40
_TAIL = b"\x00\x00\xff\xff"  # RFC 7692, 7.2.2
_EXTENSIONS = b"\r\nsec-websocket-extensions: "
_NUMBER = b'"seq":'
_NORMAL = (1000).to_bytes(2, "big")


class LoadError(Exception):
    """The server did not do what was requested; figures would have no meaning."""


@frozen
class ResumePoint:
    """A client's position in a session: the last number that it has received."""

    session_id: str
    seq: int = 0


@frozen
class Target:
    """The address of a server, and its dialect."""

    host: str
    port: int
    dialect: Dialect

    def request(self, token: str, resume: "ResumePoint | None" = None) -> bytes:
        """Return the upgrade request, for a new session or to resume one."""
        offer, extension = self.dialect.subprotocol, self.dialect.extension
        query = "" if resume is None else f"&session_id={resume.session_id}&last_seq={resume.seq}"
        lines = [
            f"GET {self.dialect.target.format(token=token)}{query} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {KEY}",
            "Sec-WebSocket-Version: 13",
            *([f"Sec-WebSocket-Protocol: {offer}"] if offer is not None else []),
            *([f"Sec-WebSocket-Extensions: {extension}"] if extension is not None else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode()


@define(eq=False)
class Counters:
    """The counters that all connections of a load share.

    Attributes:
        events: Frames that contain an event.
        numbers: Sequence numbers of those events: more than events if the server merged some.
        wire_bytes: Bytes received on all connections, the heads of frames included.
        connections: The established connections.
        fault: The first failure.
    """

    events: int = 0
    numbers: int = 0
    wire_bytes: int = 0
    connections: "set[Connection]" = field(factory=set)
    fault: "asyncio.Future[str]" = field(factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, why: str) -> None:
        """Note that the load cannot continue."""
        if not self.fault.done():
            self.fault.set_result(why)

    async def acknowledge_all(self) -> None:
        """Acknowledge every second what has been received, until cancelled."""
        while True:
            await asyncio.sleep(ACK_SECONDS)
            for connection in list(self.connections):
                connection.acknowledge()


OnEvent = Callable[["Connection", bytes, bytes], None]
OnDelta = Callable[[bytes, int, int], None]


class Connection(asyncio.Protocol):
    """A WebSocket of a client that reads and writes no more than it has to.

    Attributes:
        on_event: Called with the connection, the type and the frame of each event but a delta.
        on_delta: Called with the received data and the bounds of each delta in it; None if deltas
            are only counted.
        on_pong: Called for each answer to a `ping`.
        on_room: Called as `on_event`, for each frame of a room.
        seen: The last number received.
    """

    def __init__(
        self,
        dialect: Dialect,
        request: bytes,
        counters: Counters,
        *,
        seen: int = 0,
        acknowledges: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.dialect = dialect
        self.on_event: OnEvent = _ignore
        self.on_delta: OnDelta | None = None
        self.on_pong: Callable[[], None] = _do_nothing
        self.on_room: OnEvent = _ignore
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._delta = dialect.delta
        self._has_numbers = dialect.numbers
        self._acknowledges = acknowledges and dialect.acknowledges
        self.seen = seen
        self._request = request
        self._counters = counters
        self._transport: Any = None
        self._is_upgraded = False
        self._is_closing = False
        self._rest = b""
        self._acknowledged = seen
        self._hello = b""

    # For the load.

    def send(self, payload: bytes) -> None:
        """Send a text frame."""
        self._transport.write(client_frame(payload))

    def acknowledge(self) -> None:
        """Acknowledge the events received since the last acknowledgement, if there are any."""
        if self._acknowledges and not self._is_closing and self.seen > self._acknowledged:
            self._acknowledged = self.seen
            self.send(b'{"type":"ack","payload":{"seq":%d}}' % self.seen)

    @property
    def hello(self) -> dict[str, Any]:
        """The payload of `connection_established`."""
        return self.dialect.payload(self._hello)

    def drop(self) -> None:
        """Lose the connection, without a close frame."""
        self._is_closing = True
        self._transport.abort()

    async def close(self) -> None:
        """Close, and wait until the server has closed too."""
        if not self._is_closing:
            self._is_closing = True
            self._transport.write(client_frame(_NORMAL, CLOSE))
        await asyncio.wait([self.closed], timeout=CLOSING_SECONDS)
        self._transport.abort()

    # For the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the upgrade request."""
        self._transport = transport
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, which is a fault unless the load closed the connection."""
        self._counters.connections.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)
        if not self._is_closing:
            self._fail(f"the server closed a connection ({exc or 'without an error'})")

    def data_received(self, data: bytes) -> None:
        """Handle received bytes: count the events in them, and acknowledge if it is time."""
        self._counters.wire_bytes += len(data)
        data = self._rest + data if self._rest else data
        position = 0 if self._is_upgraded else self._upgrade(data)
        if not self._is_upgraded:
            self._rest = data
            return
        events, last_data, last, last_end = 0, data, 0, 0
        while True:
            start, end = bounds(data, position)
            if end == INCOMPLETE:
                break
            if data[position] & _COMPRESSED:
                payload = _inflated(data[start:end])
                if self._handle(data[position], payload):
                    events += 1
                    last_data, last, last_end = payload, 0, len(payload)
                position = end
                continue
            is_delta = data.startswith(self._delta, start)
            if is_delta and self.on_delta is not None:
                self.on_delta(data, start, end)
            if is_delta or self._handle(data[position], data[start:end]):
                events += 1
                last_data, last, last_end = data, start, end
            position = end
        self._rest = data[position:]
        self._counters.events += events
        if events and self._has_numbers:
            self._note_number(last_data, last, last_end)

    def _note_number(self, data: bytes, start: int, end: int) -> None:
        """Note the number of the last event in the received bytes."""
        if data.startswith(b"[", start):  # a compact delta
            found = start
        else:
            found = data.rfind(_NUMBER, start, end) + len(_NUMBER) - 1
            if found < start:
                self._fail(f"an event without a number: {data[start:end]!r}")
                return
        seq = int(data[found + 1 : end].partition(b",")[0].rstrip(b"}"))
        self._counters.numbers += seq - self.seen
        self.seen = seq
        if seq - self._acknowledged >= ACK_EVENTS:
            self.acknowledge()

    def _upgrade(self, data: bytes) -> int:
        """Check the response to the upgrade request, and return where the frames begin."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if not data.startswith(b"HTTP/1.1 101 "):
            self._fail(f"refused: {data[:200].decode('latin-1')}")
            return 0
        if self.dialect.extension is not None and _EXTENSIONS not in data[:end].lower():
            self._fail("the server does not compress")
            return 0
        self._is_upgraded = True
        return end + 4

    def _handle(self, first: int, payload: bytes) -> bool:
        """Handle one frame that is not a delta; return whether it is an event."""
        opcode = first & 0x0F
        if opcode == TEXT and first & _FINAL:
            if self.dialect.engine_io:
                self._answer_engine(payload)
            return self._message(payload)
        if opcode == PING:
            self._transport.write(client_frame(payload, PONG))
        elif opcode == CLOSE:
            if not self._is_closing:
                self._fail(f"the server closes with {int.from_bytes(payload[:2], 'big')}")
            self._transport.close()
        elif opcode != PONG:
            self._fail(f"unexpected frame: {first:#x}")
        return False

    def _answer_engine(self, payload: bytes) -> None:
        """Answer the packets of Engine.IO."""
        if payload[:1] == b"0":  # open: connect to the default namespace
            self.send(b"40")
        elif payload[:1] == b"2":  # its own ping
            self.send(b"3")

    def _message(self, payload: bytes) -> bool:
        kind = self.dialect.kind(payload)
        if is_event(kind):
            self.on_event(self, kind, payload)
            return True
        if is_of_room(kind):
            self.on_room(self, kind, payload)
            return False
        if kind == b"connection_established":
            self._hello = payload
            self._counters.connections.add(self)
            if not self.opened.done():
                self.opened.set_result(None)
        elif kind == b"heartbeat":
            self.send(self.dialect.message("pong", {}))
        elif kind == b"pong":
            self.on_pong()
        elif kind in (b"error", b"server_draining"):
            self._fail(payload[:500].decode())
        return False

    def _fail(self, why: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(LoadError(why))
        self._counters.fail(why)


def _inflated(payload: bytes) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload + _TAIL)


def _ignore(connection: Connection, kind: bytes, frame: bytes) -> None:
    """Ignore an event."""


def _do_nothing() -> None:
    """Do nothing."""


async def open_connection(
    target: Target,
    token: str,
    counters: Counters,
    resume: ResumePoint | None = None,
    *,
    acknowledges: bool = True,
) -> Connection:
    """Connect, and wait for `connection_established`; resume a session if one is given.

    Without `acknowledges`, the connection never acknowledges an event.

    Raises:
        LoadError: If the server refuses, or does not answer within 30 s.
    """
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(
            target.dialect,
            target.request(token, resume),
            counters,
            seen=0 if resume is None else resume.seq,
            acknowledges=acknowledges,
        ),
        target.host,
        target.port,
    )
    started = perf_counter()
    done, _ = await asyncio.wait([connection.opened], timeout=OPENING_SECONDS)
    if not done:
        raise LoadError(f"not established after {perf_counter() - started:.0f} s")
    connection.opened.result()
    return connection
