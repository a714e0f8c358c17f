"""The contract of `Transport`, which every transport has to pass.

To add a transport, add its factory to `TRANSPORTS`: an async context manager that opens a
connection and yields both ends, the server's as a `Transport` and the client's as a `Peer`.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol
from unittest.mock import patch

import pytest
import trio
from attrs import define
from support.server import KEY
from support.wire import PipeEnd, pipe
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.protocol.binary import BinaryFrame
from netra_trio.transports import byte_stream
from netra_trio.transports.base import Transport
from netra_trio.transports.byte_stream import TrioByteStream
from netra_trio.transports.handshake import accepting
from netra_trio.transports.memory import MemoryClient, memory_pair
from netra_trio.transports.websocket import WebSocketTransport

SEND_TIMEOUT = 5.0  # seconds
MAX_BYTES = 1000  # of a frame from the peer
BUFFER_BYTES = 64 * 1024  # in flight to a peer that does not read
READ_BYTES = 8 * 1024  # of a peer that reads bytes
FRAME = b'{"type": "pong", "payload": {"text": "h\xc3\xa9"}}'
ABNORMAL = 1006
TEXTS = ["", "x", "héllo", "日本語 😀", "a\x00b", '{"type": "ping"}']


class Peer(Protocol):
    """The client's end."""

    async def send(self, frame: str | bytes) -> None:
        """Send a text frame (`str`) or a binary frame (`bytes`)."""
        ...

    async def pong(self) -> None:
        """Send a protocol pong."""
        ...

    async def receive(self) -> bytes:
        """Wait for a text frame, or a `BinaryFrame`; raise `TransportClosed` with the code."""
        ...

    async def close(self, code: int) -> None:
        """Send a close frame."""
        ...

    async def vanish(self) -> None:
        """Lose the connection, without a close frame."""
        ...

    @property
    def pings(self) -> int:
        """How many protocol pings came before the last received frame."""
        ...


Ends = tuple[Transport, Peer]
Factory = Callable[[], AbstractAsyncContextManager[Ends]]


@define
class MemoryPeer:
    """The client's end of a connection in memory."""

    client: MemoryClient

    async def send(self, frame: str | bytes) -> None:
        await self.client.send(frame)

    async def pong(self) -> None:
        await self.client.pong()

    async def receive(self) -> bytes:
        return await self.client.receive()

    async def close(self, code: int) -> None:
        self.client.close(code)

    async def vanish(self) -> None:
        self.client.cut()

    @property
    def pings(self) -> int:
        return self.client.pings


@asynccontextmanager
async def memory() -> AsyncIterator[Ends]:
    """Open a connection in memory."""
    transport, client = memory_pair(
        buffer_bytes=BUFFER_BYTES, send_timeout=SEND_TIMEOUT, max_bytes=MAX_BYTES
    )
    yield transport, MemoryPeer(client)


class WsprotoPeer:
    """The client's end of a byte stream, with wsproto's implementation."""

    def __init__(self, stream: PipeEnd) -> None:
        self.pings = 0
        self._stream = stream
        self._core = Connection(ConnectionType.CLIENT)
        self._head: bytes | None = b""
        self._events: deque[Event] = deque()

    async def send(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            await self._say(TextMessage(frame))
        else:
            await self._say(BytesMessage(bytearray(frame)))

    async def pong(self) -> None:
        await self._say(Pong())

    async def receive(self) -> bytes:
        text, data = "", b""
        while True:
            event = await self._next()
            if isinstance(event, Ping):
                self.pings += 1
                await self._say(event.response())
            elif isinstance(event, CloseConnection):
                if self._core.state is ConnectionState.REMOTE_CLOSING:
                    await self._say(event.response())
                raise TransportClosed(int(event.code))
            elif isinstance(event, TextMessage):
                text += event.data
                if event.message_finished:
                    return text.encode()
            elif isinstance(event, BytesMessage):
                data += event.data
                if event.message_finished:
                    return BinaryFrame(data)

    async def close(self, code: int) -> None:
        await self._say(CloseConnection(code))

    async def vanish(self) -> None:
        self._stream.close()

    async def _say(self, event: Event) -> None:
        await self._stream.send_all(self._core.send(event))

    async def _next(self) -> Event:
        while not self._events:
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                raise TransportClosed
            self._core.receive_data(self._without_answer(data))
            self._events.extend(self._core.events())
        return self._events.popleft()

    def _without_answer(self, data: bytes) -> bytes:
        if self._head is None:
            return data
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return b""
        assert head.startswith(b"HTTP/1.1 101 ")
        self._head = None
        return rest


@asynccontextmanager
async def native() -> AsyncIterator[Ends]:
    """Open a byte stream, with our WebSocket on the server's end."""
    ours, theirs = pipe(BUFFER_BYTES)
    # A piece has to leave within the send timeout. Here it is smaller than a frame, so that a frame
    # in time is progress.
    with patch.object(byte_stream, "TLS_PIECE", 4 * 1024):
        stream = TrioByteStream(ours, send_timeout=SEND_TIMEOUT)
        answer = accepting(KEY.encode(), None)
        yield WebSocketTransport(stream, response=answer, max_bytes=MAX_BYTES), WsprotoPeer(theirs)


TRANSPORTS: dict[str, Factory] = {"memory": memory, "native": native}


@pytest.fixture(params=list(TRANSPORTS.values()), ids=list(TRANSPORTS))
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    """Yield both ends of a connection of each kind."""
    factory: Factory = request.param
    with trio.fail_after(1000):
        async with factory() as both:
            yield both


async def fill(transport: Transport) -> None:
    """Send until the transport raises."""
    while True:
        await transport.send([FRAME])


# From the peer.


@pytest.mark.parametrize("text", TEXTS)
async def test_a_text_frame_is_received_as_str(
    autojump_clock: MockClock, ends: Ends, text: str
) -> None:
    transport, peer = ends
    await transport.accept()
    await peer.send(text)
    received = await transport.receive()
    assert received == text
    assert isinstance(received, str)


@pytest.mark.parametrize("data", [b"", b"x", b"\xff\x00", FRAME])
async def test_a_binary_frame_is_received_as_bytes(
    autojump_clock: MockClock, ends: Ends, data: bytes
) -> None:
    transport, peer = ends
    await transport.accept()
    await peer.send(data)
    received = await transport.receive()
    assert received == data
    assert isinstance(received, bytes)


async def test_a_pong_is_received_as_none(autojump_clock: MockClock, ends: Ends) -> None:
    transport, peer = ends
    await transport.accept()
    await peer.pong()
    assert await transport.receive() is None


async def test_frames_are_received_in_order(autojump_clock: MockClock, ends: Ends) -> None:
    transport, peer = ends
    await transport.accept()
    for n in range(20):
        await peer.send(str(n))
    assert [await transport.receive() for _ in range(20)] == [str(n) for n in range(20)]


async def test_frames_behind_the_handshake_are_received(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, peer = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.accept)
        nursery.start_soon(peer.send, "early")
    assert await transport.receive() == "early"


async def test_cancelling_a_receive_loses_nothing(autojump_clock: MockClock, ends: Ends) -> None:
    transport, peer = ends
    await transport.accept()
    received: list[str | bytes | None] = []

    async def receive_impatiently() -> None:
        while len(received) < 20:
            with trio.move_on_after(0.3):
                received.append(await transport.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_impatiently)
        for n in range(20):
            await trio.sleep(0.1)
            await peer.send(str(n))
    assert received == [str(n) for n in range(20)]


async def test_a_receive_cancelled_at_once_loses_nothing(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, peer = ends
    await transport.accept()
    await peer.send("kept")
    await wait_all_tasks_blocked()
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.receive()
    assert scope.cancelled_caught
    assert await transport.receive() == "kept"


@pytest.mark.parametrize("letter", ["x", "é", "😀"])
async def test_a_text_frame_is_bounded(autojump_clock: MockClock, ends: Ends, letter: str) -> None:
    transport, peer = ends
    await transport.accept()
    text = letter * (MAX_BYTES // len(letter.encode()))
    text += "x" * (MAX_BYTES - len(text.encode()))
    await peer.send(text)
    assert await transport.receive() == text
    await peer.send(text + "x")
    with pytest.raises(MessageTooBig):
        await transport.receive()


async def test_a_binary_frame_is_bounded(autojump_clock: MockClock, ends: Ends) -> None:
    transport, peer = ends
    await transport.accept()
    await peer.send(b"x" * MAX_BYTES)
    assert await transport.receive() == b"x" * MAX_BYTES
    await peer.send(b"x" * (MAX_BYTES + 1))
    with pytest.raises(MessageTooBig):
        await transport.receive()


# To the peer.


async def test_frames_are_sent_in_order(autojump_clock: MockClock, ends: Ends) -> None:
    transport, peer = ends
    await transport.accept()
    await transport.send([b"1", b"2", FRAME])
    await transport.send([])
    await transport.send([b"3"])
    assert [await peer.receive() for _ in range(4)] == [b"1", b"2", FRAME, b"3"]


@pytest.mark.parametrize("data", [b"", b"\xff\x00", FRAME, b"x" * 300])
async def test_binary_frames_are_sent_between_text_frames(
    autojump_clock: MockClock, ends: Ends, data: bytes
) -> None:
    transport, peer = ends
    await transport.accept()
    await transport.send([b"1", BinaryFrame(data), b"2", BinaryFrame(b"3")])
    await transport.send([BinaryFrame(data)])
    received = [await peer.receive() for _ in range(5)]
    assert received == [b"1", data, b"2", b"3", data]
    kinds = [isinstance(frame, BinaryFrame) for frame in received]
    assert kinds == [False, True, False, True, True]


async def test_a_ping_reaches_the_peer(autojump_clock: MockClock, ends: Ends) -> None:
    transport, peer = ends
    await transport.accept()
    await transport.send([b"1"], ping=True)
    await transport.send([b"2"])
    await peer.receive()
    assert peer.pings == 0
    await peer.receive()
    assert peer.pings == 1


async def test_one_task_sends_while_another_receives(autojump_clock: MockClock, ends: Ends) -> None:
    transport, peer = ends
    await transport.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.receive)
        await wait_all_tasks_blocked()
        await transport.send([b"1"])
        assert await peer.receive() == b"1"
        await peer.send("x")


async def test_a_peer_that_does_not_read_blocks_the_server(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, peer = ends
    await transport.accept()
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(100):
            await transport.send([b"x" * 8000])
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(SEND_TIMEOUT / 2)
        assert sent < 100
        for _ in range(100):
            await peer.receive()
    assert sent == 100


async def test_a_peer_that_stops_reading_times_out(autojump_clock: MockClock, ends: Ends) -> None:
    transport, _ = ends
    await transport.accept()
    begun = trio.current_time()
    with pytest.raises(TransportClosed) as caught:
        await fill(transport)
    assert caught.value.timed_out
    assert trio.current_time() - begun == pytest.approx(SEND_TIMEOUT)
    with pytest.raises(TransportClosed):
        await transport.send([FRAME])
    with pytest.raises(TransportClosed):
        await transport.receive()


async def test_a_slow_but_steady_reader_does_not_time_out(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, peer = ends
    await transport.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, [b"x" * 8000] * 20)
        for _ in range(20):
            await trio.sleep(SEND_TIMEOUT - 1)
            await peer.receive()


async def test_a_cancelled_send_aborts_the_connection(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, _ = ends
    await transport.accept()
    with trio.move_on_after(SEND_TIMEOUT / 2) as scope:
        await fill(transport)
    assert scope.cancelled_caught
    for again in (transport.send([FRAME]), transport.send([], ping=True)):
        with pytest.raises(TransportClosed):
            await again


# The end.


@pytest.mark.parametrize("code", [1000, 1001, 4400])
async def test_the_peers_close_code_is_raised(
    autojump_clock: MockClock, ends: Ends, code: int
) -> None:
    transport, peer = ends
    await transport.accept()
    await peer.send("last")
    await peer.close(code)
    assert await transport.receive() == "last"
    for _ in range(3):  # and raised again
        with pytest.raises(TransportClosed) as caught:
            await transport.receive()
        assert caught.value.code == code
        assert not caught.value.timed_out


async def test_a_lost_peer_ends_both_directions(autojump_clock: MockClock, ends: Ends) -> None:
    transport, peer = ends
    await transport.accept()
    await peer.vanish()
    with pytest.raises(TransportClosed) as caught:
        await transport.receive()
    assert caught.value.code in {None, ABNORMAL}
    with pytest.raises(TransportClosed):
        await fill(transport)
    with pytest.raises(TransportClosed):
        await transport.close(1000, "done")


async def test_a_blocked_receive_ends_with_the_connection(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, peer = ends
    await transport.accept()
    caught: list[TransportClosed] = []

    async def receive() -> None:
        try:
            await transport.receive()
        except TransportClosed as closed:
            caught.append(closed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await peer.vanish()
    assert len(caught) == 1


async def test_a_blocked_send_ends_with_the_connection(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, peer = ends
    await transport.accept()
    caught: list[TransportClosed] = []

    async def send() -> None:
        try:
            await fill(transport)
        except TransportClosed as closed:
            caught.append(closed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(1)
        await peer.vanish()
    assert len(caught) == 1
    assert not caught[0].timed_out


async def test_a_peer_lost_before_the_accept_is_noticed(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, peer = ends
    await peer.vanish()
    with suppress(TransportClosed):  # a transport may not know yet
        await transport.accept()
    with pytest.raises(TransportClosed):
        await fill(transport)


async def test_the_servers_close_code_arrives_behind_all_frames(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, peer = ends
    await transport.accept()
    await transport.send([b"1", b"2"])
    await transport.close(4429, "evicted")
    assert [await peer.receive(), await peer.receive()] == [b"1", b"2"]
    with pytest.raises(TransportClosed) as caught:
        await peer.receive()
    assert caught.value.code == 4429


async def test_frames_before_the_peers_close_are_received(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, peer = ends
    await transport.accept()
    await peer.send("before")
    await transport.close(1012, "drained")
    await peer.send("behind")
    assert [await transport.receive(), await transport.receive()] == ["before", "behind"]
    with pytest.raises(TransportClosed):
        await peer.receive()
    with pytest.raises(TransportClosed) as caught:
        await transport.receive()
    assert caught.value.code == 1012


async def test_without_the_peers_close_the_receive_goes_on(
    autojump_clock: MockClock, ends: Ends
) -> None:
    transport, _ = ends
    await transport.accept()
    await transport.close(1000, "done")
    with trio.move_on_after(60) as scope:
        await transport.receive()
    assert scope.cancelled_caught
