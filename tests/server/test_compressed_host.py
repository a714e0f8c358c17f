"""Compression of WebSockets that Hypercorn serves as we patch it, over HTTP/1.1 and HTTP/2."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
import trio
from attrs import define, field
from support.deflating import MIB, bomb, compressed_frame, deflated_frame, server_messages
from support.http2 import Http2Client
from support.stock_host import (
    BINARY,
    CLOSE,
    TEXT,
    Handler,
    Message,
    Peer,
    Receive,
    Recorder,
    Send,
    Server,
    accept,
    bystander,
    close_frame,
    echo,
    serving,
    upgrade,
)

from netra_trio.errors import TransportClosed
from netra_trio.transports.deflate import PIECE_BYTES, Compression
from netra_trio.transports.frames import SharedPayload

LIMIT = 10_000
OFFER = "permessage-deflate; client_max_window_bits"
ACCEPTED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
LARGE = b"a large text, " * 200


@define
class Counter:
    """The counted messages."""

    counted: list[tuple[str, int]] = field(factory=list)

    def __call__(self, direction: str, plain: int, _compressed: int) -> None:
        self.counted.append((direction, plain))


class Line:
    """A WebSocket over HTTP/1.1 or HTTP/2: the frames of both sides.

    Attributes:
        extension: The extension that the server has selected.
    """

    def __init__(self, extension: bytes | None, source: Peer | Http2Client) -> None:
        self.extension = None if extension is None else extension.decode()
        self._source = source
        self._taken = 0

    @classmethod
    async def open(cls, server: Server, version: str, *offers: str) -> Self:
        """Open one, with these offers."""
        peer = await server.peer()
        if version == "2":
            client = Http2Client(peer.stream)
            await client.start()
            headers = [("sec-websocket-extensions", offer) for offer in offers]
            await client.open_websocket(1, headers=headers)
            assert client.statuses[1] == 200
            return cls(client.headers[1].get(b"sec-websocket-extensions"), client)
        lines = [f"Sec-WebSocket-Extensions: {offer}".encode() for offer in offers]
        await peer.stream.send_all(upgrade(*lines))
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 101 ")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        return cls(fields.get(b"sec-websocket-extensions"), peer)

    async def send(self, *frames: bytes) -> None:
        """Send frames."""
        if isinstance(self._source, Http2Client):
            await self._source.send(1, b"".join(frames))
        else:
            await self._source.stream.send_all(b"".join(frames))

    async def next(self) -> tuple[int, bytes, bool]:
        """Return the next frame of the server, and whether it was compressed."""
        head = await self._take(2)
        if head[1] == 126:
            head += await self._take(2)
        size = head[1] if len(head) == 2 else int.from_bytes(head[2:], "big")
        [message] = server_messages(head + await self._take(size))
        return message

    async def leave(self) -> None:
        """Close, and check that the server does it too."""
        await self.send(BYE)
        assert await self.next() == (CLOSE, (1000).to_bytes(2, "big"), False)

    async def rest(self) -> bytes:
        """Return what follows, up to the end of the connection."""
        assert isinstance(self._source, Peer)
        return await self._source.to_the_end()

    async def _take(self, size: int) -> bytes:
        source = self._source
        if isinstance(source, Peer):
            return await source.take(size)
        start, self._taken = self._taken, self._taken + size
        await source.until(lambda: len(source.data[1]) >= self._taken)
        return source.data[1][start : self._taken]


@pytest.fixture
def counter() -> Counter:
    return Counter()


@asynccontextmanager
async def opened(
    version: str, handler: Handler, counter: Counter, *offers: str, **settings: Any
) -> AsyncIterator[Line]:
    """Open a WebSocket to a host that compresses, beside another client's."""
    compression = Compression(counter)
    host = serving(handler, limit=LIMIT, compression=compression, **settings)
    async with host as server, bystander(server):
        yield await Line.open(server, version, *offers)


VERSIONS = pytest.mark.parametrize("version", ["1.1", "2"])
BYE = close_frame(1000)


@VERSIONS
async def test_large_messages_are_compressed_both_ways(version: str, counter: Counter) -> None:
    async with opened(version, echo, counter, OFFER) as line:
        assert line.extension == ACCEPTED
        await line.send(compressed_frame(b"small"), compressed_frame(LARGE))
        await line.send(compressed_frame(LARGE, BINARY))
        assert await line.next() == (TEXT, b"small", False)
        assert await line.next() == (TEXT, LARGE, True)
        assert await line.next() == (BINARY, LARGE, True)
        await line.leave()
    size = len(LARGE)
    assert sorted(counter.counted) == [
        ("received", 5),
        ("received", size),
        ("received", size),
        ("sent", size),
        ("sent", size),
    ]


@VERSIONS
@pytest.mark.parametrize("offers", [(), ("permessage-deflate; unknown",), ("other",)])
async def test_without_an_acceptable_offer_nothing_is_compressed(
    version: str, counter: Counter, offers: tuple[str, ...]
) -> None:
    async with opened(version, echo, counter, *offers) as line:
        assert line.extension is None
        await line.send(compressed_frame(LARGE))
        assert await line.next() == (CLOSE, (1002).to_bytes(2, "big"), False)


@VERSIONS
async def test_the_window_that_the_client_offers_is_selected(
    version: str, counter: Counter
) -> None:
    offers = ("permessage-deflate; unknown", "permessage-deflate; server_max_window_bits=9")
    async with opened(version, echo, counter, *offers) as line:
        assert line.extension == f"{ACCEPTED}; server_max_window_bits=9"
        await line.leave()


HOSTILE = {
    "noise": (deflated_frame(b"noise"), 1007),
    "RSV1 on a ping": (deflated_frame(b"", 9), 1002),
    "RSV1 on a continuation": (deflated_frame(b"", 0), 1002),
}


@VERSIONS
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_fault_ends_the_connection_with_its_code(
    version: str, counter: Counter, name: str
) -> None:
    data, code = HOSTILE[name]
    recorder = Recorder()
    async with opened(version, recorder, counter, OFFER) as line:
        await line.send(data)
        assert await line.next() == (CLOSE, code.to_bytes(2, "big"), False)
        assert (await recorder.got.receive())["code"] == code


@VERSIONS
@pytest.mark.parametrize("size", [LIMIT + 1, 50 * MIB])
async def test_a_message_that_grows_beyond_the_limit_is_too_big(
    version: str, counter: Counter, size: int
) -> None:
    recorder = Recorder()
    async with opened(version, recorder, counter, OFFER) as line:
        await line.send(deflated_frame(bomb(LIMIT)), deflated_frame(bomb(size)))
        assert await line.next() == (CLOSE, (1009).to_bytes(2, "big"), False)
        assert (await recorder.got.receive())["text"] == "a" * LIMIT
        assert await recorder.got.receive() == {"type": "netra_trio.too_big"}


@VERSIONS
async def test_many_frames_are_compressed_in_one_write(version: str, counter: Counter) -> None:
    shared = SharedPayload(LARGE)

    async def sends(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        await send({"type": "netra_trio.send", "frames": [b"small", shared, LARGE]})
        await send({"type": "websocket.close"})

    async with opened(version, sends, counter, OFFER) as line:
        assert await line.next() == (TEXT, b"small", False)
        assert [await line.next() for _ in range(2)] == [(TEXT, LARGE, True)] * 2
    assert list(shared.compressed) == [15]


async def test_nothing_is_sent_to_a_peer_that_closes_while_it_is_compressed(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close frame of the peer was answered: nothing may follow it."""
    checkpoint, ended = trio.lowlevel.checkpoint, trio.Event()
    errors: list[TransportClosed] = []

    async def sends(_scope: Message, receive: Receive, send: Send) -> None:
        await accept(receive, send)

        async def closed_meanwhile() -> None:
            monkeypatch.setattr(trio.lowlevel, "checkpoint", checkpoint)
            assert (await receive())["type"] == "websocket.disconnect"

        await receive()
        monkeypatch.setattr(trio.lowlevel, "checkpoint", closed_meanwhile)
        try:
            await send({"type": "netra_trio.send", "frames": [b"x" * 2 * PIECE_BYTES]})
        except TransportClosed as closed:
            errors.append(closed)
        ended.set()

    async with opened("1.1", sends, counter, OFFER) as line:
        await line.send(compressed_frame(b"begin"))
        await line.leave()
        await ended.wait()
        assert await line.rest() == b""
    assert [error.code for error in errors] == [1000]
