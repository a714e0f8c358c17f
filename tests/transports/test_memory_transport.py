"""Connections in memory that are slow or stall; the rest is in the transport contract."""

from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.errors import TransportClosed
from netra_trio.transports.memory import NetworkConditions, memory_pair


async def test_delays_of_frames_overlap(autojump_clock: MockClock) -> None:
    server, client = memory_pair(conditions=NetworkConditions(delay=2))
    await server.send([b"one"])
    await trio.sleep(1)
    await server.send([b"two"])
    assert (await client.receive(), trio.current_time()) == (b"one", 2)
    assert (await client.receive(), trio.current_time()) == (b"two", 3)
    await client.send("three")
    assert (await server.receive(), trio.current_time()) == ("three", 5)


async def test_a_rate_delays_later_frames(autojump_clock: MockClock) -> None:
    conditions = NetworkConditions(rate=10)
    server, client = memory_pair(conditions=conditions)
    await server.send([b"x" * 10, b"y" * 20])
    assert (await client.receive(), trio.current_time()) == (b"x" * 10, 1)
    conditions.rate = inf  # frames on their way stay slow, and keep their order
    await server.send([b"z"])
    assert (await client.receive(), trio.current_time()) == (b"y" * 20, 3)
    assert (await client.receive(), trio.current_time()) == (b"z", 3)


async def test_frames_arrive_before_the_close(autojump_clock: MockClock) -> None:
    server, client = memory_pair(conditions=NetworkConditions(delay=2))
    await server.send([b"one"])
    await server.close(1000, "done")
    assert await client.receive() == b"one"
    with pytest.raises(TransportClosed) as caught:
        await client.receive()
    assert caught.value.code == 1000


async def test_a_wait_for_a_slow_frame_can_be_cancelled(autojump_clock: MockClock) -> None:
    server, client = memory_pair(conditions=NetworkConditions(delay=2))
    await server.send([b"one"])
    with trio.move_on_after(1):
        await client.receive()
    assert await client.receive() == b"one"


async def test_a_stalled_connection_delivers_nothing(autojump_clock: MockClock) -> None:
    server, client = memory_pair()
    await server.send([b"before"])
    client.stall()
    heard: list[object] = []

    async def listen() -> None:
        heard.append(await client.receive())

    async def serve() -> None:
        heard.append(await server.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(serve)
        await server.send([b"after"])
        await client.send("hello?")
        await server.close(1000, "done")
        client.cut()
        await trio.sleep(3600)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert heard == []


async def test_a_send_on_a_stalled_connection_times_out(autojump_clock: MockClock) -> None:
    server, client = memory_pair(buffer_bytes=10, send_timeout=5)
    client.stall()
    await server.send([b"x" * 10])
    with pytest.raises(TransportClosed) as caught:
        await server.send([b"y"])
    assert (caught.value.timed_out, trio.current_time()) == (True, 5)
    await client.send("x" * 10)
    with trio.move_on_after(60) as scope:
        await client.send("y")
    assert scope.cancelled_caught


async def test_a_ping_is_no_pending_frame() -> None:
    server, client = memory_pair()
    pending = []
    for frames in ([], [b"{}"]):
        await server.send(frames, ping=True)
        pending.append(client.has_pending)
    assert await client.receive() == b"{}"
    assert [*pending, client.has_pending] == [False, True, False]


async def test_a_frame_on_its_way_is_not_pending(autojump_clock: MockClock) -> None:
    server, client = memory_pair(conditions=NetworkConditions(delay=1))
    await server.send([b"{}"])
    pending = [client.has_pending]
    await trio.sleep(1)
    pending.append(client.has_pending)
    client.stall()
    assert [*pending, client.has_pending] == [False, True, False]
