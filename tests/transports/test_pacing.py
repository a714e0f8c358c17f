"""Floods of small frames: how many are handled in a row, and how many in a second."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from support.wire import CONT, PING, PONG, TEXT, client_frame
from trio.testing import MockClock

from netra_trio.errors import TransportClosed
from netra_trio.transports import inbound
from netra_trio.transports.inbound import Alive, InboundFrames, Received
from netra_trio.transports.pacing import (
    FRAMES_IN_A_ROW,
    SMALL_BURST,
    SMALL_BYTES,
    SMALL_RATE,
    FramePacer,
    Turns,
)
from netra_trio.transports.websocket import WebSocketTransport

READ = 16 * 1024  # bytes of one read
MAX_BYTES = 160 * 1024

FLOODS = {
    "pings": client_frame(PING, b""),
    "pongs": client_frame(PONG, b""),
    "fragments": client_frame(CONT, b"x", final=False),
    "messages": client_frame(TEXT, b"{}"),
}


class Flood:
    """A byte stream that always has a whole read of frames."""

    def __init__(self, frame: bytes) -> None:
        self.left = b""
        if frame == FLOODS["fragments"]:
            self.left = client_frame(TEXT, b"x", final=False)
        self.frame = frame
        self.written = 0

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        data = self.left + self.frame * (READ // len(self.frame) + 1)
        self.left = data[READ:]
        return data[:READ]

    async def write(self, data: bytes) -> bool:
        self.written += len(data)
        return False

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        raise AssertionError("aborted")


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the frames that are handled, of all connections."""
    count = [0]
    next_event = InboundFrames.next_event

    def counting(self: InboundFrames) -> inbound.InboundEvent | None:
        event = next_event(self)
        count[0] += event is not None
        return event

    with monkeypatch.context() as patch:
        patch.setattr(InboundFrames, "next_event", counting)
        yield count


async def receive_all(stream: Flood, turns: Turns) -> None:
    transport = WebSocketTransport(stream, response=b"", max_bytes=MAX_BYTES, turns=turns)
    while True:
        await transport.receive()


@pytest.mark.parametrize("connections", [1, 5, 50])
@pytest.mark.parametrize("name", FLOODS)
async def test_other_tasks_run_between_the_frames_of_a_flood(
    name: str, connections: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """After the first pass, all floods together have one turn in each pass of the scheduler."""
    turns = Turns()
    with counted(monkeypatch) as count:
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(receive_all, Flood(FLOODS[name]), turns)
            handled: list[int] = []
            for _ in range(300):
                before = count[0]
                await trio.lowlevel.checkpoint()
                handled.append(count[0] - before)
            nursery.cancel_scope.cancel()
    assert sum(handled) >= 900  # there was a flood
    assert max(handled[5:]) <= 3 * FRAMES_IN_A_ROW


@pytest.mark.parametrize("name", ["pings", "pongs", "fragments"])
async def test_small_frames_that_are_no_messages_have_a_rate(
    name: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    seconds = 100
    with counted(monkeypatch) as count, trio.move_on_after(seconds):
        await receive_all(Flood(FLOODS[name]), Turns())
    expected = SMALL_BURST + SMALL_RATE * seconds
    assert 0.5 * expected < count[0] <= expected + 1


def is_due(pacer: FramePacer) -> bool:
    return pacer.is_due


async def test_the_burst_at_its_limit_and_one_frame_beyond(autojump_clock: MockClock) -> None:
    pacer = FramePacer(Turns(), in_a_row=10**6)
    for _ in range(SMALL_BURST):
        pacer.count(SMALL_BYTES - 1, is_message=False)
    assert not is_due(pacer)
    pacer.count(SMALL_BYTES, is_message=False)
    pacer.count(0, is_message=True)
    assert not is_due(pacer)
    pacer.count(SMALL_BYTES - 1, is_message=False)
    assert is_due(pacer)
    begun = trio.current_time()
    await pacer.wait()
    assert trio.current_time() > begun
    assert not is_due(pacer)


async def test_frames_in_a_row_at_the_limit() -> None:
    pacer = FramePacer(Turns())
    for _ in range(FRAMES_IN_A_ROW - 1):
        pacer.count(1, is_message=True)
    assert not is_due(pacer)
    pacer.count(1, is_message=True)
    assert is_due(pacer)
    pacer.has_waited()
    assert not is_due(pacer)


async def test_a_wait_that_is_cancelled_loses_no_frame(autojump_clock: MockClock) -> None:
    stream = Flood(FLOODS["messages"])
    transport = WebSocketTransport(stream, response=b"", max_bytes=MAX_BYTES)
    for _ in range(100):
        with trio.move_on_after(0) as scope:
            received = await transport.receive()
        if not scope.cancelled_caught:
            assert received == "{}"
    assert await transport.receive() == "{}"


async def test_turns_are_handed_out_in_order_one_in_each_pass() -> None:
    turns, order = Turns(), []

    async def take(number: int) -> None:
        await turns.take()
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(take, number)
            await trio.lowlevel.checkpoint()
    assert order == sorted(order)


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
def test_an_unfinished_message_takes_the_memory_of_its_bytes(size: int) -> None:
    frames = InboundFrames(MAX_BYTES)
    fragment = client_frame(CONT, b"x" * size, final=False)
    frames.feed(client_frame(TEXT, b"", final=False))
    assert frames.next_event() == Alive(0)
    kept = 0
    for _ in range((MAX_BYTES - 1) // size):
        frames.feed(fragment)
        assert frames.next_event() == Alive(size)
        assert frames.next_event() is None
        kept += size
    # A bytearray grows by an eighth at most.
    held = frames._message.__alloc__() + len(frames._core.reader.buffer)
    assert held <= 1.2 * kept + 100
    assert not frames._frames
    frames.feed(client_frame(CONT, b""))
    assert frames.next_event() == Received("x" * kept)


async def test_nothing_is_sent_behind_our_close(autojump_clock: MockClock) -> None:
    stream = Flood(b"")
    transport = WebSocketTransport(stream, response=b"", max_bytes=MAX_BYTES)
    await transport.close(1000, "")
    size = stream.written
    with pytest.raises(TransportClosed):
        await transport.send([b"late"], ping=True)
    assert stream.written == size
