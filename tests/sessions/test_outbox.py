"""The joint before the writer: no frame is lost or overtaken, and no bell is missed."""

from collections.abc import Awaitable, Callable

import outcome
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.sessions.outbox import CONTROL_BYTES, CONTROL_FRAMES, TURNS, Outbox


def frame(number: int) -> bytes:
    return b"frame %d" % number


async def is_waiting(outbox: Outbox) -> bool:
    """Return whether a writer would have to wait now."""
    with trio.move_on_after(1) as waiting:
        await outbox.wait()
    return waiting.cancelled_caught


async def woken(outbox: Outbox) -> list[bytes]:
    """Return what the writer takes, which has to be there by now."""
    with trio.fail_after(5):
        return await outbox.wait()


def run_virtual(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_what_is_offered_is_taken_in_order() -> None:
    outbox = Outbox()
    assert outbox.take() == []
    assert all(outbox.offer(frame(number)) for number in range(3))
    assert outbox.take() == [frame(0), frame(1), frame(2)]
    await outbox.put(frame(3))
    outbox.ring()
    await outbox.put(frame(4))
    assert await woken(outbox) == [frame(3), frame(4)]
    assert outbox.take() == []


async def test_a_bell_rings_once_until_it_is_heard(autojump_clock: trio.testing.MockClock) -> None:
    outbox = Outbox()
    for _ in range(2 * CONTROL_FRAMES):
        outbox.ring()
    assert outbox.offer(frame(0))
    assert await woken(outbox) == [frame(0)]
    assert await is_waiting(outbox)
    outbox.ring()
    assert await woken(outbox) == []
    assert autojump_clock.autojump_threshold == 0


async def test_a_full_channel_refuses_and_forgets_no_news(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outbox = Outbox()
    assert all(outbox.offer(frame(number)) for number in range(CONTROL_FRAMES))
    assert not outbox.offer(frame(CONTROL_FRAMES))
    outbox.ring()  # no room for the bell, and none needed: the writer has something to do
    assert await woken(outbox) == [frame(number) for number in range(CONTROL_FRAMES)]
    outbox.ring()
    assert await woken(outbox) == []
    assert autojump_clock.autojump_threshold == 0


async def test_a_bell_takes_no_place() -> None:
    outbox = Outbox()
    assert all(outbox.offer(frame(number)) for number in range(CONTROL_FRAMES - 1))
    outbox.ring()
    assert outbox.offer(frame(0))
    assert not outbox.offer(frame(1))
    assert len(outbox.take()) == CONTROL_FRAMES


async def test_putting_waits_for_room_and_keeps_the_order() -> None:
    outbox = Outbox()
    for number in range(CONTROL_FRAMES):
        assert outbox.offer(frame(number))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.put, frame(CONTROL_FRAMES))
        await trio.testing.wait_all_tasks_blocked()
        taken: list[bytes] = []
        while len(taken) <= CONTROL_FRAMES:
            taken += await woken(outbox)
    assert taken == [frame(number) for number in range(CONTROL_FRAMES + 1)]


async def test_a_put_that_is_cancelled_leaves_nothing() -> None:
    outbox = Outbox()
    while outbox.offer(frame(0)):
        pass
    with trio.move_on_after(0) as scope:
        await outbox.put(frame(1))
    assert scope.cancelled_caught
    assert frame(1) not in outbox.take()


async def test_closing_keeps_what_is_in_and_frees_who_waits() -> None:
    outbox = Outbox()
    while outbox.offer(frame(0)):
        pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.put, frame(1))
        await trio.testing.wait_all_tasks_blocked()
        outbox.close()
    assert outbox.offer(frame(2))  # taken and forgotten
    await outbox.put(frame(3))
    outbox.ring()
    assert await woken(outbox) == [frame(0)] * CONTROL_FRAMES
    assert outbox.take() == []
    with pytest.raises(trio.EndOfChannel):
        await woken(outbox)
    outbox.close()


async def test_closing_wakes_the_writer() -> None:
    outbox = Outbox()
    ended = trio.Event()

    async def write() -> None:
        with pytest.raises(trio.EndOfChannel):
            await woken(outbox)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        outbox.close()
    assert ended.is_set()


async def test_what_comes_while_the_writer_wakes_goes_out_with_it() -> None:
    outbox = Outbox()
    taken: list[list[bytes]] = []

    async def write() -> None:
        taken.append(await woken(outbox))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        outbox.ring()
        await outbox.put(frame(0))
        await outbox.put(frame(1))
    assert taken == [[frame(0), frame(1)]]


STEPS = st.lists(
    st.sampled_from(["ring", "ring", "offer", "flood", "take", "wait", "put"]), max_size=40
)


class Turns:
    """A writer and the others, one step at a time; `news` is what the writer has not looked at."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.offered: list[bytes] = []
        self.taken: list[bytes] = []
        self.news = False

    async def ring(self) -> None:
        self.news = True
        self.outbox.ring()

    async def offer(self) -> None:
        own = frame(len(self.offered))
        if self.outbox.offer(own):
            self.offered.append(own)

    async def flood(self) -> None:
        for _ in range(2 * CONTROL_FRAMES):
            await self.offer()

    async def put(self) -> None:
        own = frame(len(self.offered))
        with trio.move_on_after(1) as full:
            await self.outbox.put(own)
        if not full.cancelled_caught:
            self.offered.append(own)

    async def take(self) -> None:
        self.taken += self.outbox.take()
        self.news = False

    async def wait(self) -> None:
        """Wait where there is something to wait for: then it comes at once."""
        if self.news or len(self.taken) < len(self.offered):
            with trio.fail_after(1):
                self.taken += await self.outbox.wait()
            self.news = False


@given(STEPS)
def test_no_news_is_missed_by_a_writer_that_takes_turns(steps: list[str]) -> None:
    async def play() -> None:
        turns = Turns()
        for step in [*steps, "wait", "take"]:
            await getattr(turns, step)()
        assert turns.taken == turns.offered
        assert await is_waiting(turns.outbox)

    run_virtual(play)


class Crowd:
    """A writer and the others, all at once; `told` counts the news, `heard` what was looked at."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.offered: list[bytes] = []
        self.taken: list[bytes] = []
        self.told = self.heard = 0

    async def write(self) -> None:
        while True:
            try:
                self.taken += await self.outbox.wait()
            except trio.EndOfChannel:
                return
            self.heard = self.told  # a look at the log, right behind, as the writer does it
            await trio.sleep(0.5)

    async def act(self, actor: int, steps: list[str], pause: int) -> None:
        for number, step in enumerate(steps):
            own = b"%d %d" % (actor, number)
            if step == "flood":
                while self.outbox.offer(b"flood"):
                    pass
            elif step == "put":
                await self.outbox.put(own)
                self.offered.append(own)
            elif step == "offer":
                self.offered += [own] * self.outbox.offer(own)
            else:
                self.told += 1
                self.outbox.ring()
            if pause:
                await trio.sleep((number % pause) * 0.3)


@given(st.lists(st.tuples(STEPS, st.integers(0, 3)), min_size=1, max_size=4))
def test_no_news_is_missed_by_a_writer_beside_others(actors: list[tuple[list[str], int]]) -> None:
    async def everybody(crowd: Crowd) -> None:
        async with trio.open_nursery() as others:
            for actor, (steps, pause) in enumerate(actors):
                others.start_soon(crowd.act, actor, steps, pause)

    async def play() -> None:
        crowd = Crowd()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.write)
            with trio.fail_after(1000):
                await everybody(crowd)
            await trio.sleep(10)
            assert crowd.heard == crowd.told
            crowd.outbox.close()
        kept = [own for own in crowd.taken if own != b"flood"]
        assert sorted(kept) == sorted(crowd.offered)

    run_virtual(play)


async def test_closing_frees_whoever_waits_though_it_is_over_its_bytes() -> None:
    """A writer that is gone takes nothing out any more; nobody may wait for it for ever."""
    outbox = Outbox()
    assert outbox.offer(b"x" * (2 * CONTROL_BYTES))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.put, b"y")
            await trio.testing.wait_all_tasks_blocked()
            outbox.close()
    assert outbox.offer(b"z")


def turns(outbox: Outbox, between: Callable[[], None] = lambda: None) -> int:
    """Return how many turns of the loop a writer gives to others before it takes what is there."""
    waiting, counted = outbox.wait(), 0
    try:
        waiting.send(None)
        while True:
            counted += 1
            between()
            waiting.send(outcome.Value(None))
    except StopIteration:
        return counted


async def test_what_is_last_is_taken_at_once() -> None:
    outbox = Outbox()
    outbox.ring(is_last=True)
    assert turns(outbox) == 0


async def test_what_is_not_last_waits_for_more_to_join_it() -> None:
    outbox = Outbox()
    outbox.ring()
    assert turns(outbox) == 1


async def test_it_waits_for_two_turns_at_most() -> None:
    outbox = Outbox()
    outbox.ring()
    assert turns(outbox, between=outbox.ring) == TURNS


async def test_the_last_one_ends_the_wait() -> None:
    outbox = Outbox()
    outbox.ring()
    assert turns(outbox, between=lambda: outbox.ring(is_last=True)) == 1


async def test_control_frames_alone_wait_for_nothing() -> None:
    outbox = Outbox()
    assert outbox.offer(frame(0))
    assert turns(outbox) == 0
