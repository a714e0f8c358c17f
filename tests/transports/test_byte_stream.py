"""Lines over real sockets, in real time: who waits for whom, and for how long."""

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from support.wire import pipe
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from netra_trio.errors import TransportClosed
from netra_trio.transports.byte_stream import (
    READ_BYTES,
    ByteStream,
    SocketByteStream,
    TrioByteStream,
)

SEND_TIMEOUT = 0.2  # seconds
BUFFER = 16 * 1024  # bytes asked of the kernel each way; it doubles them
MUCH = 4 * 1024 * 1024  # bytes: far more than the kernel takes


@asynccontextmanager
async def connected(
    send_timeout: float = SEND_TIMEOUT,
) -> AsyncIterator[tuple[SocketByteStream, socket.socket]]:
    """Give a line and the peer's socket, over TCP, where the kernel tells what the peer took."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        peer.connect(server.getsockname())
        sock, _ = server.accept()
    sock.setblocking(False)
    peer.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = SocketByteStream(sock, send_timeout=send_timeout)
    try:
        with trio.fail_after(20):
            yield line, peer
    finally:
        line.abort()
        peer.close()


async def take(peer: socket.socket, size: int = READ_BYTES) -> bytes:
    """Read at most so much as the peer."""
    while True:
        try:
            return peer.recv(size)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(peer)


async def take_all(peer: socket.socket, size: int) -> int:
    """Read so many bytes as the peer, or up to the end; return how many."""
    taken = 0
    while taken < size and (data := await take(peer)):
        taken += len(data)
    return taken


async def until_closed(call: Callable[[], Awaitable[object]]) -> TransportClosed:
    """Return what a call raised, again and again made if it must."""
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


async def test_a_write_that_is_taken_at_once_has_no_checkpoint() -> None:
    async with connected() as (line, peer):
        with assert_no_checkpoints():
            await line.write(b"hello")
            await line.write(b"")
        assert await take(peer) == b"hello"


async def test_such_a_write_is_done_though_its_task_is_cancelled() -> None:
    async with connected() as (line, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await line.write(b"hello")
        assert not scope.cancelled_caught
        assert await take(peer) == b"hello"


async def test_much_arrives_whole_and_in_order() -> None:
    data = bytes(range(256)) * (MUCH // 256)
    async with connected() as (line, peer), trio.open_nursery() as nursery:
        nursery.start_soon(line.write, data)
        received = bytearray()
        while len(received) < len(data):
            received += await take(peer)
        assert received == data


async def test_a_peer_that_stops_reading_is_given_up() -> None:
    async with connected() as (line, _):
        begun = trio.current_time()
        with pytest.raises(TransportClosed) as caught:
            await line.write(b"x" * MUCH)
        assert caught.value.timed_out
        assert SEND_TIMEOUT <= trio.current_time() - begun < 10 * SEND_TIMEOUT
        assert line.sock.fileno() == -1
        for call in (line.read, lambda: line.write(b"x")):
            with pytest.raises(TransportClosed) as caught:
                await call()
            assert not caught.value.timed_out


async def test_whoever_reads_hears_when_the_peer_is_given_up() -> None:
    async with connected() as (line, _):
        heard: list[TransportClosed] = []

        async def read() -> None:
            heard.append(await until_closed(line.read))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            closed = await until_closed(lambda: line.write(b"x" * MUCH))
        assert closed.timed_out
        assert len(heard) == 1


async def test_a_peer_that_reads_slowly_but_steadily_is_kept() -> None:
    size = 20 * BUFFER
    async with connected() as (line, peer), trio.open_nursery() as nursery:
        begun = trio.current_time()
        nursery.start_soon(line.write, b"x" * size)
        taken = 0
        while taken < size:
            await trio.sleep(SEND_TIMEOUT / 4)
            taken += len(await take(peer, BUFFER))
        assert trio.current_time() - begun > 3 * SEND_TIMEOUT


async def test_cancelling_in_mid_write_cuts() -> None:
    async with connected(send_timeout=10) as (line, peer):
        with trio.move_on_after(0.05) as scope:
            await line.write(b"x" * MUCH)
        assert scope.cancelled_caught
        assert line.sock.fileno() == -1
        assert 0 < await take_all(peer, MUCH) < MUCH
        with pytest.raises(TransportClosed):
            await line.write(b"x")


async def test_a_peer_that_is_reset_in_mid_write_is_no_timeout() -> None:
    async with connected(send_timeout=10) as (line, peer):
        heard: list[TransportClosed] = []

        async def write() -> None:
            heard.append(await until_closed(lambda: line.write(b"x" * MUCH)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            reset(peer)
        assert not heard[0].timed_out


async def test_writing_to_a_peer_that_left_ends() -> None:
    async with connected() as (line, peer):
        peer.close()

        async def write() -> None:
            await line.write(b"x")
            await trio.sleep(0.001)

        assert not (await until_closed(write)).timed_out


# --- the end


async def test_cut_wakes_whoever_waits() -> None:
    async with connected(send_timeout=10) as (line, _):
        heard: list[TransportClosed] = []

        async def hear(call: Callable[[], Awaitable[object]]) -> None:
            heard.append(await until_closed(call))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear, line.read)
            nursery.start_soon(hear, lambda: line.write(b"x" * MUCH))
            await wait_all_tasks_blocked()
            line.abort()
            line.abort()
        assert [closed.timed_out for closed in heard] == [False, False]
        await line.send_eof()  # says nothing any more, and does no harm


async def test_the_end_of_what_the_peer_sends_is_no_bytes() -> None:
    async with connected() as (line, peer):
        peer.send(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert await line.read() == b"last"
        assert await line.read() == b""
        assert await line.read() == b""
        await line.write(b"still heard")
        assert await take(peer) == b"still heard"


async def test_a_reset_is_heard_by_whoever_reads() -> None:
    async with connected() as (line, peer), trio.open_nursery() as nursery:
        heard = trio.Event()

        async def read() -> None:
            await until_closed(line.read)
            heard.set()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        reset(peer)
        await heard.wait()


async def test_after_end_the_peer_hears_it_and_can_still_be_read() -> None:
    async with connected() as (line, peer):
        await line.write(b"bye")
        await line.send_eof()
        await line.send_eof()
        assert await take(peer) == b"bye"
        assert await take(peer) == b""
        peer.send(b"and you")
        assert await line.read() == b"and you"
        with pytest.raises(TransportClosed):
            await line.write(b"more")


async def test_cancelling_a_read_loses_nothing() -> None:
    async with connected() as (line, peer):
        with trio.move_on_after(0.01) as scope:
            await line.read()
        assert scope.cancelled_caught
        peer.send(b"kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            assert await line.read() == b"kept"


# --- who else has a turn


@pytest.mark.parametrize("size", [1, 100, READ_BYTES - 1, READ_BYTES])
async def test_a_peer_that_floods_does_not_stop_another_task(size: int) -> None:
    """A turn is one read, of 16 KiB at most."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with connected() as (line, peer), trio.open_nursery() as nursery:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MUCH)
        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        before = turns
        for _ in range(5):
            peer.send(b"x" * size)
            assert await line.read()
        assert turns > before + 2  # one for each read, give or take who comes first in a turn
        nursery.cancel_scope.cancel()


async def test_giving_others_their_turn_loses_nothing_where_it_is_cancelled() -> None:
    async with connected() as (line, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            for n in range(200):
                peer.send(bytes([n]))
                assert await line.read() == bytes([n])
        assert scope.cancelled_caught
        assert await line.read() == bytes([n])


# --- over a stream


def stream_line(capacity: int = BUFFER) -> tuple[ByteStream, trio.abc.Stream]:
    ours, theirs = pipe(capacity)
    return TrioByteStream(ours, send_timeout=SEND_TIMEOUT, before=b"early "), theirs


async def test_a_line_over_a_stream_reads_what_came_before_first() -> None:
    line, peer = stream_line()
    await peer.send_all(b"later")
    assert [await line.read(), await line.read()] == [b"early ", b"later"]
    await peer.aclose()
    assert await line.read() == b""


async def test_a_line_over_a_stream_gives_up_a_peer_that_stops_reading() -> None:
    line, _ = stream_line()
    with trio.fail_after(5), pytest.raises(TransportClosed) as caught:
        await line.write(b"x" * MUCH)
    assert caught.value.timed_out
    assert await line.read() == b"early "
    with pytest.raises(TransportClosed):
        await line.read()


async def test_a_line_over_a_stream_is_cut_by_cancelling_in_mid_write() -> None:
    line, _ = stream_line()
    with trio.move_on_after(SEND_TIMEOUT / 4) as scope:
        await line.write(b"x" * MUCH)
    assert scope.cancelled_caught
    with pytest.raises(TransportClosed):
        await line.write(b"x")


async def test_the_end_of_a_line_over_a_stream_leaves_the_other_way_open() -> None:
    line, peer = stream_line()
    await line.write(b"bye")
    await line.send_eof()
    assert await peer.receive_some() == b"bye"
    assert await peer.receive_some() == b""
    await peer.send_all(b"and you")
    assert [await line.read(), await line.read()] == [b"early ", b"and you"]
    line.abort()
    await line.send_eof()
    with pytest.raises(TransportClosed):
        await line.read()
