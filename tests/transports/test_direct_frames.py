"""Frames that are sent without the writer, over real sockets: whole, in part, or not at all."""

import socket
from collections.abc import Iterator

import pytest
import trio
from support.wire import CLOSE, TEXT, server_frames

from netra_trio.transports.base import Sent
from netra_trio.transports.byte_stream import SocketByteStream, TrioByteStream
from netra_trio.transports.frames import SharedPayload
from netra_trio.transports.websocket import WebSocketTransport

RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
BIG = b"x" * 1_000_000  # more than the buffers of a pair of sockets take

Pair = tuple[WebSocketTransport, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        stream = SocketByteStream(ours, send_timeout=5.0)
        yield WebSocketTransport(stream, response=RESPONSE, max_bytes=1000), theirs


def send(transport: WebSocketTransport, text: bytes) -> Sent:
    assert transport.send_shared is not None
    return transport.send_shared(SharedPayload(text))


def texts(data: bytes) -> list[bytes]:
    """Return the texts of the frames behind the accepted upgrade."""
    assert data.startswith(RESPONSE)
    frames = server_frames(data[len(RESPONSE) :])
    return [payload for opcode, payload in frames if opcode == TEXT]


async def read(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        await trio.lowlevel.wait_readable(sock)
        received += sock.recv(65_536)
    return received


def size_of(*payloads: bytes) -> int:
    """Return the bytes of the accepted upgrade and of these text frames."""
    return len(RESPONSE) + sum(len(SharedPayload(payload).text_frame) for payload in payloads)


async def test_a_frame_is_sent_at_once(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    assert send(transport, b"one") is Sent.ALL
    await transport.send([b"two"])
    assert send(transport, b"three") is Sent.ALL
    assert texts(theirs.recv(65_536)) == [b"one", b"two", b"three"]


async def test_nothing_is_sent_before_the_upgrade_is_accepted(pair: Pair) -> None:
    transport, theirs = pair
    assert send(transport, b"early") is Sent.NOTHING
    await transport.accept()
    assert texts(theirs.recv(65_536)) == []


async def test_nothing_is_sent_after_the_close_frame(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    await transport.close(1000, "done")
    assert send(transport, b"late") is Sent.NOTHING
    frames = server_frames(theirs.recv(65_536)[len(RESPONSE) :])
    assert [opcode for opcode, _ in frames] == [CLOSE]


async def test_nothing_is_sent_while_a_write_waits(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, [BIG])
        await trio.testing.wait_all_tasks_blocked()
        assert send(transport, b"between") is Sent.NOTHING
        received = await read(theirs, size_of(BIG))
    assert texts(received) == [BIG]
    assert send(transport, b"after") is Sent.ALL


async def test_the_rest_of_a_frame_is_sent_before_anything_else(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    assert send(transport, BIG) is Sent.PART
    assert send(transport, b"not now") is Sent.NOTHING
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, [b"end"])
        received = await read(theirs, size_of(BIG, b"end"))
    assert texts(received) == [BIG, b"end"]
    assert send(transport, b"again") is Sent.ALL


async def test_the_rest_of_a_frame_is_sent_without_another_frame(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    assert send(transport, BIG) is Sent.PART
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, [])
        received = await read(theirs, size_of(BIG))
    assert texts(received) == [BIG]


async def test_the_rest_of_a_frame_is_sent_before_the_close_frame(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    assert send(transport, BIG) is Sent.PART
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.close, 1000, "done")
        received = await read(theirs, size_of(BIG) + 8)
    assert texts(received) == [BIG]
    assert received.endswith(b"done")


async def test_a_full_socket_takes_nothing(pair: Pair) -> None:
    transport, _theirs = pair
    await transport.accept()
    sent = [send(transport, b"y" * 10_000) for _ in range(1000)]
    assert sent[0] is Sent.ALL
    assert sent[-1] is Sent.NOTHING


async def test_a_lost_connection_is_left_to_reader_and_writer(pair: Pair) -> None:
    transport, theirs = pair
    await transport.accept()
    theirs.close()
    assert {send(transport, b"gone") for _ in range(3)} == {Sent.NOTHING}


async def test_only_a_socket_sends_at_once() -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    transport = WebSocketTransport(TrioByteStream(ours), response=RESPONSE, max_bytes=1000)
    await transport.accept()
    assert transport.send_shared is None
