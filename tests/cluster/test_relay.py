"""A relayed connection: the transport at the owner, and the frames that the edge passes."""

import pytest
import trio
from support.linked import pair
from trio.testing import MockClock

from netra_trio.cluster.relay import RelayTransport, relay
from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.protocol.binary import BinaryFrame
from netra_trio.transports.memory import memory_pair


async def test_frames_pass_both_ways(autojump_clock: MockClock) -> None:
    near, far, _ = pair()
    socket, client = memory_pair(max_bytes=100)
    owner = RelayTransport(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, socket, near)
        await owner.accept()
        assert not await owner.send([b"one", "zwö".encode()])
        assert [await client.receive() for _ in range(2)] == [b"one", "zwö".encode()]
        await owner.send([b"one", BinaryFrame(b"\xff\x00"), b"two", BinaryFrame(b"")])
        frames = [await client.receive() for _ in range(4)]
        assert frames == [b"one", b"\xff\x00", b"two", b""]
        kinds = [isinstance(frame, BinaryFrame) for frame in frames]
        assert kinds == [False, True, False, True]
        await client.send("téxt")
        await client.send(b"\x00binary")
        await client.pong()
        await client.send("x" * 101)
        assert await owner.receive() == "téxt"
        assert await owner.receive() == b"\x00binary"
        assert await owner.receive() is None
        with pytest.raises(MessageTooBig):
            await owner.receive()
        await owner.send([b"last"], ping=True)
        await owner.close(4403, "user_disabled")
        assert await client.receive() == b"last"
        with pytest.raises(TransportClosed) as closed:
            await client.receive()
        assert closed.value.code == 4403
        for _ in range(2):  # it stays closed
            with pytest.raises(TransportClosed) as told:
                await owner.receive()
        assert told.value.code in {4403, None}


async def test_a_lost_socket_is_told(autojump_clock: MockClock) -> None:
    near, far, _ = pair()
    socket, client = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, socket, near)
        await trio.sleep(1)
        client.cut()
        with pytest.raises(TransportClosed) as closed:
            await RelayTransport(far).receive()
    assert closed.value.code == 1006


async def test_a_broken_link_closes_the_socket(autojump_clock: MockClock) -> None:
    near, _, _ = pair()
    socket, client = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, socket, near)
        await trio.sleep(1)
        near.break_off()
        with pytest.raises(TransportClosed) as closed:
            await client.receive()
    assert closed.value.code == 1012


async def test_a_client_that_takes_nothing_is_given_up(autojump_clock: MockClock) -> None:
    near, far, _ = pair()
    socket, _ = memory_pair(buffer_bytes=10, send_timeout=1.0)
    owner = RelayTransport(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, socket, near)
        await owner.send([b"x" * 10, b"x" * 10])
        with pytest.raises(TransportClosed) as closed:
            await owner.receive()
    assert closed.value.timed_out


async def test_cancelling_a_relay(autojump_clock: MockClock) -> None:
    near, _, _ = pair()
    socket, _ = memory_pair()
    with trio.move_on_after(1) as scope:
        await relay(socket, near)
    assert scope.cancelled_caught
