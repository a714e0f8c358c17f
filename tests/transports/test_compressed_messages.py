"""Compressed messages on our WebSocket: what they become, and with which code hostile ones end."""

import socket
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
import trio
from support.deflating import (
    MIB,
    RSV1,
    bomb,
    compressed_frame,
    deflate,
    deflated_frame,
    final_block,
    fragments,
    server_messages,
)
from support.wire import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    PING,
    PONG,
    TEXT,
    client_frame,
    close_frame,
    pipe,
    raw_frame,
    server_frames,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.transports.base import Sent
from netra_trio.transports.byte_stream import SocketByteStream, TrioByteStream
from netra_trio.transports.deflate import PIECE_BYTES, SMALLEST, Deflate
from netra_trio.transports.frames import SharedPayload
from netra_trio.transports.inflate import compressed_limit
from netra_trio.transports.websocket import WebSocketTransport

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
LIMIT = 160 * 1024  # bytes of a message: the hard limit by default
PROTOCOL_ERROR, INVALID_DATA = 1002, 1007
TOO_BIG = "too big"  # `MessageTooBig` was raised; the connection closes with 1009
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"


def ignore(_direction: str, _plain: int, _compressed: int) -> None:
    """Count nothing."""


AGREED = Deflate(15, "permessage-deflate", ignore)


class Script:
    """A byte stream that plays the peer's reads, then ends, and keeps the writes."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.out = b""

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return next(self._pieces, b"")

    async def write(self, data: bytes) -> bool:
        self.out += data
        return False

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        raise AssertionError("nothing aborts here")


async def play(
    pieces: Iterable[bytes], *, agreed: Deflate | None = AGREED, max_bytes: int = LIMIT
) -> list[str | bytes | int | None]:
    """Return the received messages, and what the connection ended with."""
    script = Script(pieces)
    transport = WebSocketTransport(script, response=ANSWER, max_bytes=max_bytes, deflate=agreed)
    received: list[str | bytes | int | None] = []
    code: int | None = None
    try:
        while True:
            message = await transport.receive()
            if message is not None:
                received.append(message)
    except MessageTooBig:
        return [*received, TOO_BIG]
    except TransportClosed as closed:
        code = closed.code
    if code in {PROTOCOL_ERROR, INVALID_DATA}:
        assert list(server_frames(script.out)) == [(CLOSE, code.to_bytes(2, "big"))]
    return [*received, code]


def cut(data: bytes, size: int = 16 * 1024) -> Iterator[bytes]:
    """Yield data as reads of this size."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


BYE = close_frame(1000)
TEXT_OF_2000 = "a text äöü " * 200


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_messages_are_inflated(autojump_clock: MockClock, size: int) -> None:
    data = TEXT_OF_2000.encode()
    sent = (
        compressed_frame(data)
        + compressed_frame(data, BINARY)
        + b"".join(fragments(deflate(data), 5))
        + client_frame(TEXT, b"plain")
        + b"".join(fragments(deflate(b"x" * LIMIT), 1000, BINARY))
        + deflated_frame(b"\x00")
        + deflated_frame(final_block(b"an end"))
        + BYE
    )
    assert await play(cut(sent, size)) == [
        TEXT_OF_2000,
        data,
        TEXT_OF_2000,
        "plain",
        b"x" * LIMIT,
        "",
        "an end",
        1000,
    ]


async def test_control_frames_may_stand_between_fragments() -> None:
    first, *others = fragments(deflate(TEXT_OF_2000.encode()), 10)
    between = client_frame(PING, b"p") + client_frame(PONG)
    assert await play([first, between, *others, BYE]) == [TEXT_OF_2000, 1000]


FAULTS = {
    **{
        f"RSV1 on {name}": (raw_frame(FIN | RSV1 | opcode, b""), PROTOCOL_ERROR)
        for name, opcode in {"ping": PING, "pong": PONG, "close": CLOSE}.items()
    },
    **{
        f"RSV{bit} on {name}": (raw_frame(FIN | RSV1 | 0x40 >> bit - 1 | opcode, b"\0"), 1002)
        for bit in (2, 3)
        for name, opcode in {"text": TEXT, "binary": BINARY}.items()
    },
    "RSV2 alone": (raw_frame(FIN | 0x20 | TEXT, b"x"), PROTOCOL_ERROR),
    "RSV1 on a continuation": (
        raw_frame(RSV1 | TEXT, b"\0") + raw_frame(FIN | RSV1 | CONT, b"\0"),
        PROTOCOL_ERROR,
    ),
    "RSV1 on a continuation only": (
        client_frame(TEXT, b"a", final=False) + raw_frame(FIN | RSV1 | CONT, b"\0"),
        PROTOCOL_ERROR,
    ),
    "a continuation of nothing": (raw_frame(FIN | RSV1 | CONT, b"\0"), PROTOCOL_ERROR),
    "a message inside another one": (
        raw_frame(RSV1 | TEXT, b"\0") + deflated_frame(b"\0"),
        PROTOCOL_ERROR,
    ),
    "an unknown opcode": (deflated_frame(b"\0", 3), PROTOCOL_ERROR),
    "no block": (deflated_frame(b"plain text"), INVALID_DATA),
    "nothing": (deflated_frame(b""), INVALID_DATA),
    "a reference beyond the window": (deflated_frame(b"\x02\x02\x00\x00"), INVALID_DATA),
    "noise behind the final block": (
        deflated_frame(final_block(b"x") + b"\xff\xff"),
        INVALID_DATA,
    ),
    "a truncated stream": (deflated_frame(deflate(b"x" * 500 + b"y" * 500)[:-3]), INVALID_DATA),
    "a truncated stream in fragments": (
        b"".join(fragments(deflate(bytes(range(256)))[:-20], 20)),
        INVALID_DATA,
    ),
    "text that is not UTF-8": (compressed_frame(b"\xff" * 2000), INVALID_DATA),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_ends_the_connection_with_its_code(
    autojump_clock: MockClock, name: str
) -> None:
    data, code = FAULTS[name]
    before, behind = compressed_frame(b"before"), compressed_frame(b"behind")
    assert await play([before + data + behind]) == ["before", code]
    assert await play(cut(before + data + behind, 1)) == ["before", code]


async def test_compressed_data_needs_an_agreement() -> None:
    assert await play([compressed_frame(b"x"), BYE], agreed=None) == [PROTOCOL_ERROR]


@pytest.mark.parametrize("level", [0, 9])
async def test_the_limit_counts_inflated_bytes(level: int) -> None:
    at, beyond = (deflate(b"x" * size, level=level) for size in (1000, 1001))
    assert await play([deflated_frame(at), BYE], max_bytes=1000) == ["x" * 1000, 1000]
    assert await play([deflated_frame(beyond), BYE], max_bytes=1000) == [TOO_BIG]


async def test_a_message_that_is_not_compressed_has_its_own_limit() -> None:
    """The limit of compressed data is higher: some data grows."""
    at, beyond = (client_frame(TEXT, b"x" * size) for size in (1000, 1001))
    assert compressed_limit(1000) > 1001
    assert await play([at, BYE], max_bytes=1000) == ["x" * 1000, 1000]
    assert await play([beyond, BYE], max_bytes=1000) == [TOO_BIG]


BOMBS = {
    "in one frame": deflated_frame(bomb(50 * MIB)),
    "in fragments": b"".join(fragments(bomb(50 * MIB), 100)),
    "in fragments of a byte": b"".join(fragments(bomb(MIB), 1)),
    "one byte beyond": deflated_frame(bomb(LIMIT + 1)),
    "empty blocks": deflated_frame(EMPTY_BLOCK * (compressed_limit(LIMIT) // 5 + 1)),
}


@contextmanager
def peak_of_memory(peaks: list[int]) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_too_big_and_takes_no_memory(autojump_clock: MockClock, name: str) -> None:
    pieces, peaks = list(cut(BOMBS[name])), list[int]()
    with peak_of_memory(peaks):
        assert await play(pieces) == [TOO_BIG]
    assert peaks[0] < 6 * LIMIT


async def test_blocks_without_content_have_a_bound(autojump_clock: MockClock) -> None:
    """They never make a message longer, and a fragmented message need not end."""

    def endless() -> Iterator[bytes]:
        yield raw_frame(RSV1 | TEXT, EMPTY_BLOCK * 200)
        while True:
            yield raw_frame(CONT, EMPTY_BLOCK * 200)

    peaks = list[int]()
    with peak_of_memory(peaks):
        assert await play(endless()) == [TOO_BIG]
    assert peaks[0] < 6 * LIMIT


async def test_bombs_within_the_limit_let_other_tasks_run(autojump_clock: MockClock) -> None:
    """A message of the limit is inflated in parts, and other tasks run between them."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        received = await play(
            [deflated_frame(bomb(8 * MIB), BINARY)] * 2 + [BYE], max_bytes=8 * MIB
        )
        nursery.cancel_scope.cancel()
    assert [len(one) for one in received[:2] if isinstance(one, bytes)] == [8 * MIB, 8 * MIB]
    assert turns > 2 * 8 * MIB // (16 * 16 * 1024)


async def test_after_a_bomb_only_the_close_is_reported() -> None:
    ours, theirs = pipe(MIB)
    transport = WebSocketTransport(
        TrioByteStream(ours), response=ANSWER, max_bytes=LIMIT, deflate=AGREED
    )
    await transport.accept()
    await theirs.send_all(BOMBS["one byte beyond"] + compressed_frame(b"x") + close_frame(1009))
    with pytest.raises(MessageTooBig):
        await transport.receive()
    await transport.close(1009, "")
    with pytest.raises(TransportClosed) as closed:
        await transport.receive()
    assert closed.value.code == 1009


async def test_between_messages_no_memory_is_kept() -> None:
    """Beside a connection without compression: what each needs after messages both ways."""

    async def kept(agreed: Deflate | None) -> int:
        ours, theirs = pipe(MIB)
        transport = WebSocketTransport(
            TrioByteStream(ours), response=ANSWER, max_bytes=LIMIT, deflate=agreed
        )
        await transport.accept()
        text = b"some text " * 1000
        tracemalloc.start()
        try:
            for _ in range(3):
                frame = client_frame(TEXT, text) if agreed is None else compressed_frame(text)
                await theirs.send_all(frame)
                assert await transport.receive() == text.decode()
                await transport.send([text])
                await theirs.receive_some(MIB)
            del frame
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert await kept(AGREED) < await kept(None) + 1000


# --- sending

Pair = tuple[WebSocketTransport, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        stream = SocketByteStream(ours, send_timeout=5.0)
        yield (
            WebSocketTransport(stream, response=ANSWER, max_bytes=LIMIT, deflate=AGREED),
            theirs,
        )


def sent_to(theirs: socket.socket) -> list[tuple[int, bytes, bool]]:
    return list(server_messages(theirs.recv(MIB).removeprefix(ANSWER)))


async def test_large_messages_are_sent_compressed(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    large, small = b"x" * SMALLEST, b"y" * (SMALLEST - 1)
    await transport.send([small])
    await transport.send([small, large], ping=True)
    await transport.close(1000, "x" * 100)
    assert sent_to(theirs) == [
        (TEXT, small, False),
        (TEXT, small, False),
        (TEXT, large, True),
        (PING, b"", False),
        (CLOSE, b"\x03\xe8" + b"x" * 100, False),
    ]


async def test_shared_messages_are_sent_compressed(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    assert transport.send_shared is not None
    payloads = [SharedPayload(b"z" * size) for size in (10, SMALLEST)]
    assert [transport.send_shared(payload) for payload in payloads] == [Sent.ALL, Sent.ALL]
    await transport.send(payloads)
    assert sent_to(theirs) == 2 * [(TEXT, b"z" * 10, False), (TEXT, b"z" * SMALLEST, True)]


async def test_no_message_overtakes_one_that_is_being_compressed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, theirs = pair
    await transport.accept()
    assert transport.send_shared is not None
    large, is_inside, goes_on = b"x" * 2 * PIECE_BYTES, trio.Event(), trio.Event()

    async def pausing() -> None:
        is_inside.set()
        await goes_on.wait()

    monkeypatch.setattr(trio.lowlevel, "checkpoint", pausing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, [large])
        await is_inside.wait()
        assert transport.send_shared(SharedPayload(b"shared")) is Sent.NOTHING
        nursery.start_soon(transport.send, [b"next"])
        await wait_all_tasks_blocked()
        goes_on.set()
    assert sent_to(theirs) == [(TEXT, large, True), (TEXT, b"next", False)]


async def test_the_close_frame_follows_what_is_being_compressed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, theirs = pair
    await transport.accept()
    large = b"x" * 2 * PIECE_BYTES
    async with trio.open_nursery() as nursery:

        async def closing() -> None:
            nursery.start_soon(transport.close, 1000, "")
            await wait_all_tasks_blocked()

        monkeypatch.setattr(trio.lowlevel, "checkpoint", closing)
        await transport.send([large])
    assert sent_to(theirs) == [(TEXT, large, True), (CLOSE, b"\x03\xe8", False)]


async def test_cancelling_while_compressing_sends_nothing(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, [b"x" * 10 * PIECE_BYTES])
        nursery.cancel_scope.cancel()
    assert sent_to(theirs) == []
    await transport.send([b"after"])
    assert sent_to(theirs) == [(TEXT, b"after", False)]
