"""One connection of the load generator: it counts frames and looks into as few as it can.

    connection = await open_connection(server, token, tally)
    connection.on_event = lambda connection, kind, frame: ...
    connection.send(connection.dialect.message("user_message", {...}))

Deltas are counted by how they begin. The other events are given to who asked, as bytes. Pings and
heartbeats are answered, and events acknowledged as the contract says (section 4): every 32
numbers, and every second by `Tally.acknowledge_all`.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any

from attrs import define, field, frozen

from bench.dialects import Dialect, is_event
from bench.frames import CLOSE, INCOMPLETE, KEY, PING, PONG, TEXT, bounds, client_frame

ACK_EVENTS = 32  # numbers, at most, from one acknowledgement to the next
ACK_SECONDS = 1.0  # likewise, while there is something to acknowledge
OPENING_SECONDS = 30.0  # for a connection to be welcomed: what takes longer is a failure
CLOSING_SECONDS = 5.0  # for a server to answer a close

_FINAL = 0x80
_NORMAL = (1000).to_bytes(2, "big")


class LoadError(Exception):
    """The server did not do what it was asked; figures would say nothing."""


@frozen
class Place:
    """Where a client was in a session: the last number that it has seen."""

    session_id: str
    seq: int = 0


@frozen
class Target:
    """Where a server listens, and what it speaks."""

    host: str
    port: int
    dialect: Dialect

    def request(self, token: str, place: "Place | None" = None) -> bytes:
        """Return the opening request, of a new session or of one that is gone on with."""
        offer = self.dialect.subprotocol
        query = "" if place is None else f"&session_id={place.session_id}&last_seq={place.seq}"
        lines = [
            f"GET {self.dialect.target.format(token=token)}{query} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {KEY}",
            "Sec-WebSocket-Version: 13",
            *([f"Sec-WebSocket-Protocol: {offer}"] if offer is not None else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode()


@define(eq=False)
class Tally:
    """What all connections of a load count together.

    Attributes:
        events: Frames with an event in them.
        numbers: Numbers those stand for: more than events where the server merged some.
        fault: The first thing that went wrong.
    """

    events: int = 0
    numbers: int = 0
    connections: "set[Connection]" = field(factory=set)
    fault: "asyncio.Future[str]" = field(factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, why: str) -> None:
        """Note that the load cannot go on."""
        if not self.fault.done():
            self.fault.set_result(why)

    async def acknowledge_all(self) -> None:
        """Acknowledge every second what has come in, until cancelled."""
        while True:
            await asyncio.sleep(ACK_SECONDS)
            for connection in list(self.connections):
                connection.acknowledge()


OnEvent = Callable[["Connection", bytes, bytes], None]


class Connection(asyncio.Protocol):
    """A WebSocket of a client that may send no more than it has to.

    Attributes:
        seen: The last number that came.
    """

    def __init__(
        self,
        dialect: Dialect,
        request: bytes,
        tally: Tally,
        *,
        seen: int = 0,
        is_silent: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.dialect = dialect
        self.on_event: OnEvent = _ignore
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._delta = dialect.delta
        self._has_numbers = dialect.numbers
        self._is_silent = is_silent or not dialect.acknowledges
        self.seen = seen
        self._request = request
        self._tally = tally
        self._transport: Any = None
        self._is_upgraded = False
        self._is_closing = False
        self._rest = b""
        self._acknowledged = seen
        self._welcome = b""

    # What the load does with it.

    def send(self, payload: bytes) -> None:
        """Send a text frame."""
        self._transport.write(client_frame(payload))

    def acknowledge(self) -> None:
        """Say which events have been seen, if there is news."""
        if not (self._is_silent or self._is_closing) and self.seen > self._acknowledged:
            self._acknowledged = self.seen
            self.send(b'{"type":"ack","payload":{"seq":%d}}' % self.seen)

    @property
    def welcome(self) -> dict[str, Any]:
        """What the first message said."""
        return self.dialect.payload(self._welcome)

    def drop(self) -> None:
        """Lose the line: nobody says goodbye."""
        self._is_closing = True
        self._transport.abort()

    async def close(self) -> None:
        """Close, and wait for the server to do so too."""
        if not self._is_closing:
            self._is_closing = True
            self._transport.write(client_frame(_NORMAL, CLOSE))
        await asyncio.wait([self.closed], timeout=CLOSING_SECONDS)
        self._transport.abort()

    # What the event loop does with it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = transport
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, which is a fault where nobody asked for it."""
        self._tally.connections.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)
        if not self._is_closing:
            self._fail(f"the server closed a connection ({exc or 'without an error'})")

    def data_received(self, data: bytes) -> None:
        """Take in what came: the events in it are counted, and perhaps acknowledged."""
        data = self._rest + data if self._rest else data
        position = 0 if self._is_upgraded else self._upgrade(data)
        if not self._is_upgraded:
            self._rest = data
            return
        events, last, last_end = 0, 0, 0
        while True:
            start, end = bounds(data, position)
            if end == INCOMPLETE:
                break
            if data.startswith(self._delta, start) or self._take(data[position], data[start:end]):
                events += 1
                last, last_end = start, end
            position = end
        self._rest = data[position:]
        self._tally.events += events
        if events and self._has_numbers:
            self._see(data, last, last_end)

    def _see(self, data: bytes, start: int, end: int) -> None:
        """Note the number of the last event of a piece."""
        found = data.rfind(b'"seq":', start, end)
        if found < 0:
            self._fail(f"an event without a number: {data[start:end]!r}")
            return
        seq = int(data[found + 6 : end].partition(b",")[0].rstrip(b"}"))
        self._tally.numbers += seq - self.seen
        self.seen = seq
        if seq - self._acknowledged >= ACK_EVENTS:
            self.acknowledge()

    def _upgrade(self, data: bytes) -> int:
        """Look at the answer to the request, and return where the frames begin."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if not data.startswith(b"HTTP/1.1 101 "):
            self._fail(f"refused: {data[:200].decode('latin-1')}")
            return 0
        self._is_upgraded = True
        return end + 4

    def _take(self, first: int, payload: bytes) -> bool:
        """Take one frame that is no delta; return whether it is an event."""
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
        """Answer what belongs to Engine.IO."""
        if payload[:1] == b"0":  # it is open: connect to the default namespace
            self.send(b"40")
        elif payload[:1] == b"2":  # a ping of its own
            self.send(b"3")

    def _message(self, payload: bytes) -> bool:
        kind = self.dialect.kind(payload)
        if is_event(kind):
            self.on_event(self, kind, payload)
            return True
        if kind == b"connection_established":
            self._welcome = payload
            self._tally.connections.add(self)
            if not self.opened.done():
                self.opened.set_result(None)
        elif kind == b"heartbeat":
            self.send(self.dialect.message("pong", {}))
        elif kind in (b"error", b"server_draining"):
            self._fail(payload[:500].decode())
        return False

    def _fail(self, why: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(LoadError(why))
        self._tally.fail(why)


def _ignore(connection: Connection, kind: bytes, frame: bytes) -> None:
    """Take an event that nobody asked for."""


async def open_connection(
    target: Target, token: str, tally: Tally, place: Place | None = None, *, is_silent: bool = False
) -> Connection:
    """Connect, and wait for the welcome; from `place` on, where there is one.

    A silent one never acknowledges anything.

    Raises:
        LoadError: If the server refuses, or does not answer.
    """
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(
            target.dialect,
            target.request(token, place),
            tally,
            seen=0 if place is None else place.seq,
            is_silent=is_silent,
        ),
        target.host,
        target.port,
    )
    started = perf_counter()
    done, _ = await asyncio.wait([connection.opened], timeout=OPENING_SECONDS)
    if not done:
        raise LoadError(f"no welcome after {perf_counter() - started:.0f} s")
    connection.opened.result()
    return connection
