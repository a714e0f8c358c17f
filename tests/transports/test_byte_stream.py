"""Byte streams over real sockets: blocking, time-outs and ends."""

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from support.wire import pipe
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from netra_trio.errors import TransportClosed
from netra_trio.transports.byte_stream import (
    READ_BYTES,
    ByteStream,
    SocketByteStream,
    TrioByteStream,
)

SEND_TIMEOUT = 0.2  # seconds
BUFFER = 16 * 1024  # bytes of each socket buffer; the kernel doubles them
MUCH = 4 * 1024 * 1024  # bytes: far more than the kernel takes
QUIET = 0.1  # seconds of real time without an event, after which virtual time moves on


@asynccontextmanager
async def connected(
    send_timeout: float = SEND_TIMEOUT,
) -> AsyncIterator[tuple[SocketByteStream, socket.socket]]:
    """Yield a byte stream and the peer's socket, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        peer.connect(server.getsockname())
        sock, _ = server.accept()
    sock.setblocking(False)
    peer.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = SocketByteStream(sock, send_timeout=send_timeout)
    try:
        with trio.fail_after(100):
            yield stream, peer
    finally:
        stream.abort()
        peer.close()


async def take(peer: socket.socket, size: int = READ_BYTES) -> bytes:
    """Read at most this many bytes as the peer."""
    while True:
        try:
            return peer.recv(size)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(peer)


async def take_all(peer: socket.socket, size: int) -> int:
    """Read this many bytes as the peer, or up to the end; return how many."""
    taken = 0
    while taken < size and (data := await take(peer)):
        taken += len(data)
    return taken


async def until_closed(call: Callable[[], Awaitable[object]]) -> TransportClosed:
    """Repeat a call until it raises `TransportClosed`; return that."""
    while True:
        try:
            await call()
        except TransportClosed as closed:
            return closed


def reset(peer: socket.socket) -> None:
    """Close with RST."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


# --- writing


async def test_a_write_that_the_kernel_takes_has_no_checkpoint() -> None:
    async with connected() as (stream, peer):
        with assert_no_checkpoints():
            await stream.write(b"hello")
            await stream.write(b"")
        assert await take(peer) == b"hello"


async def test_such_a_write_is_done_in_a_cancelled_scope() -> None:
    async with connected() as (stream, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.write(b"hello")
        assert not scope.cancelled_caught
        assert await take(peer) == b"hello"


async def test_a_large_write_arrives_whole_and_in_order() -> None:
    data = bytes(range(256)) * (MUCH // 256)
    async with connected() as (stream, peer), trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, data)
        received = bytearray()
        while len(received) < len(data):
            received += await take(peer)
        assert received == data


async def test_a_peer_that_stops_reading_times_out() -> None:
    async with connected() as (stream, _):
        begun = trio.current_time()
        with pytest.raises(TransportClosed) as caught:
            await stream.write(b"x" * MUCH)
        assert caught.value.timed_out
        assert trio.current_time() - begun >= SEND_TIMEOUT
        assert stream.sock.fileno() == -1
        for call in (stream.read, lambda: stream.write(b"x")):
            with pytest.raises(TransportClosed) as caught:
                await call()
            assert not caught.value.timed_out


async def test_a_send_timeout_ends_the_blocked_read() -> None:
    async with connected() as (stream, _):
        caught_ends: list[TransportClosed] = []

        async def read() -> None:
            caught_ends.append(await until_closed(stream.read))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            closed = await until_closed(lambda: stream.write(b"x" * MUCH))
        assert closed.timed_out
        assert len(caught_ends) == 1


async def test_a_slow_but_steady_reader_does_not_time_out(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = QUIET
    size = 20 * BUFFER
    async with connected() as (stream, peer), trio.open_nursery() as nursery:
        begun = trio.current_time()
        nursery.start_soon(stream.write, b"x" * size)
        taken = 0
        while taken < size:
            await trio.sleep(SEND_TIMEOUT / 4)
            taken += len(await take(peer, BUFFER))
        assert trio.current_time() - begun > 3 * SEND_TIMEOUT


async def test_cancelling_in_mid_write_aborts() -> None:
    async with connected(send_timeout=10) as (stream, peer):
        with trio.move_on_after(0.05) as scope:
            await stream.write(b"x" * MUCH)
        assert scope.cancelled_caught
        assert stream.sock.fileno() == -1
        assert 0 < await take_all(peer, MUCH) < MUCH
        with pytest.raises(TransportClosed):
            await stream.write(b"x")


async def test_a_reset_in_mid_write_is_no_timeout() -> None:
    async with connected(send_timeout=10) as (stream, peer):
        caught_ends: list[TransportClosed] = []

        async def write() -> None:
            caught_ends.append(await until_closed(lambda: stream.write(b"x" * MUCH)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            reset(peer)
        assert not caught_ends[0].timed_out


async def test_writes_to_a_lost_peer_end() -> None:
    async with connected() as (stream, peer):
        peer.close()

        async def write() -> None:
            await stream.write(b"x")
            await trio.sleep(0.001)

        assert not (await until_closed(write)).timed_out


# --- the end


async def test_abort_wakes_every_waiting_task() -> None:
    async with connected(send_timeout=10) as (stream, _):
        caught_ends: list[TransportClosed] = []

        async def hear(call: Callable[[], Awaitable[object]]) -> None:
            caught_ends.append(await until_closed(call))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear, stream.read)
            nursery.start_soon(hear, lambda: stream.write(b"x" * MUCH))
            await wait_all_tasks_blocked()
            stream.abort()
            stream.abort()
        assert [closed.timed_out for closed in caught_ends] == [False, False]
        await stream.send_eof()  # has no effect


async def test_the_end_of_the_stream_is_no_bytes() -> None:
    async with connected() as (stream, peer):
        peer.send(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert await stream.read() == b"last"
        assert await stream.read() == b""
        assert await stream.read() == b""
        await stream.write(b"still caught_ends")
        assert await take(peer) == b"still caught_ends"


async def test_a_reset_ends_a_blocked_read() -> None:
    async with connected() as (stream, peer), trio.open_nursery() as nursery:
        caught_ends = trio.Event()

        async def read() -> None:
            await until_closed(stream.read)
            caught_ends.set()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        reset(peer)
        await caught_ends.wait()


async def test_after_send_eof_the_peer_can_still_be_read() -> None:
    async with connected() as (stream, peer):
        await stream.write(b"bye")
        await stream.send_eof()
        await stream.send_eof()
        assert await take(peer) == b"bye"
        assert await take(peer) == b""
        peer.send(b"and you")
        assert await stream.read() == b"and you"
        with pytest.raises(TransportClosed):
            await stream.write(b"more")


async def test_cancelling_a_read_loses_nothing() -> None:
    async with connected() as (stream, peer):
        with trio.move_on_after(0.01) as scope:
            await stream.read()
        assert scope.cancelled_caught
        peer.send(b"kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            assert await stream.read() == b"kept"


# --- fairness


@pytest.mark.parametrize("size", [1, 100, READ_BYTES - 1, READ_BYTES])
async def test_a_flood_does_not_stop_another_task(size: int) -> None:
    """Other tasks run between two reads of 16 KiB at most."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with connected() as (stream, peer), trio.open_nursery() as nursery:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MUCH)
        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        before = turns
        for _ in range(5):
            peer.send(b"x" * size)
            assert await stream.read()
        assert turns > before + 2  # one for each read, but for the order in a scheduler batch
        nursery.cancel_scope.cancel()


async def test_a_read_cancelled_at_its_checkpoint_loses_nothing() -> None:
    async with connected() as (stream, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            for n in range(200):
                peer.send(bytes([n]))
                assert await stream.read() == bytes([n])
        assert scope.cancelled_caught
        assert await stream.read() == bytes([n])


# --- over a Trio stream


def trio_byte_stream(capacity: int = BUFFER) -> tuple[ByteStream, trio.abc.Stream]:
    ours, theirs = pipe(capacity)
    return TrioByteStream(ours, send_timeout=SEND_TIMEOUT, before=b"early "), theirs


async def test_over_trio_early_bytes_are_read_first() -> None:
    stream, peer = trio_byte_stream()
    await peer.send_all(b"later")
    assert [await stream.read(), await stream.read()] == [b"early ", b"later"]
    await peer.aclose()
    assert await stream.read() == b""


async def test_over_trio_a_peer_that_stops_reading_times_out() -> None:
    stream, _ = trio_byte_stream()
    with trio.fail_after(100), pytest.raises(TransportClosed) as caught:
        await stream.write(b"x" * MUCH)
    assert caught.value.timed_out
    assert await stream.read() == b"early "
    with pytest.raises(TransportClosed):
        await stream.read()


async def test_over_trio_cancelling_in_mid_write_aborts() -> None:
    stream, _ = trio_byte_stream()
    with trio.move_on_after(SEND_TIMEOUT / 4) as scope:
        await stream.write(b"x" * MUCH)
    assert scope.cancelled_caught
    with pytest.raises(TransportClosed):
        await stream.write(b"x")


async def test_over_trio_send_eof_leaves_reading_open() -> None:
    stream, peer = trio_byte_stream()
    await stream.write(b"bye")
    await stream.send_eof()
    assert await peer.receive_some() == b"bye"
    assert await peer.receive_some() == b""
    await peer.send_all(b"and you")
    assert [await stream.read(), await stream.read()] == [b"early ", b"and you"]
    stream.abort()
    await stream.send_eof()
    with pytest.raises(TransportClosed):
        await stream.read()
