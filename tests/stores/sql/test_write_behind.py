"""The queue of writes: in order, within its bounds, nothing lost and nothing written twice."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from netra_trio.errors import StoreUnavailable
from netra_trio.stores.sql.write_behind import (
    BATCH,
    BATCH_BYTES,
    DELAY,
    QUEUE,
    QUEUE_BYTES,
    RETRY_SECONDS,
    SLOW_SECONDS,
    Entry,
    WriteBehind,
)


@define(eq=False)
class Item(Entry):
    """An entry with a name, which can be taken back."""

    name: str = field(kw_only=True)

    def compensation(self) -> Entry:
        return Undo(name=self.name)


@define(eq=False)
class Undo(Entry):
    """What takes an item back."""

    name: str = field(kw_only=True)


@define
class Fate:
    """What becomes of a write.

    Attributes:
        seconds: How long it takes.
        fails: Whether it is told to have failed.
        is_stored: Whether it is stored; one that is told to have failed may be.
    """

    seconds: float = 0.0
    fails: bool = False
    is_stored: bool = True


FAILS = Fate(fails=True, is_stored=False)
ANSWER_LOST = Fate(fails=True)
SLOW = Fate(seconds=SLOW_SECONDS + 1)
SLOW_AND_FAILS = Fate(seconds=SLOW_SECONDS + 1, fails=True, is_stored=False)
SLOW_AND_ANSWER_LOST = Fate(seconds=SLOW_SECONDS + 1, fails=True)


class Disk:
    """What writes are done to.

    Attributes:
        fates: Of the next writes; all is well afterwards.
        written: The batches, each with the time at which it came.
        kept: The names of what is stored.
    """

    def __init__(self, *fates: Fate) -> None:
        self.fates = deque(fates)
        self.written: list[tuple[float, list[str]]] = []
        self.kept: list[str] = []
        self._may_be_partial = False

    @property
    def batches(self) -> list[list[str]]:
        return [names for _, names in self.written]

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.written]

    async def write(self, entries: Sequence[Entry]) -> None:
        fate = self.fates.popleft() if self.fates else Fate()
        self.written.append((trio.current_time(), [_name(entry) for entry in entries]))
        if fate.is_stored:
            self._store(entries)
        await trio.sleep(fate.seconds)
        self._may_be_partial = fate.fails
        if fate.fails:
            raise StoreUnavailable("scripted")

    def _store(self, entries: Sequence[Entry]) -> None:
        gone = [entry.name for entry in entries if isinstance(entry, Undo)]
        self.kept = [name for name in self.kept if name not in gone]
        for entry in entries:
            if isinstance(entry, Item):
                assert entry.name not in self.kept or self._may_be_partial, "written twice"
                if entry.name not in self.kept:
                    self.kept.append(entry.name)


def _name(entry: Entry) -> str:
    if isinstance(entry, Undo):
        return f"-{entry.name}"
    return entry.name if isinstance(entry, Item) else "."


@asynccontextmanager
async def at_work(disk: Disk) -> AsyncIterator[WriteBehind]:
    """Run the task that writes."""
    writes = WriteBehind(disk.write)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writes.run)
        yield writes
        nursery.cancel_scope.cancel()


def items(count: int, size: int = 0) -> list[Item]:
    return [Item(name=f"{n}", size=size) for n in range(count)]


def names(entries: Sequence[Item]) -> list[str]:
    return [entry.name for entry in entries]


async def told(call: Awaitable[None]) -> str:
    """Return how a call ended, and when."""
    try:
        await call
    except StoreUnavailable as unavailable:
        return f"{unavailable} at {trio.current_time():g}"
    return f"stored at {trio.current_time():g}"


async def outcomes(writes: WriteBehind, *entries: Item) -> list[str]:
    """Write entries that somebody waits for, all at once; return how each ended."""
    found: dict[str, str] = {}

    async def wait(entry: Item) -> None:
        found[entry.name] = await told(writes.write(entry))

    async with trio.open_nursery() as nursery:
        for entry in entries:
            nursery.start_soon(wait, entry)
            await trio.testing.wait_all_tasks_blocked()
    return [found[entry.name] for entry in entries]


def trouble(writes: WriteBehind) -> str | None:
    return writes.unavailable_reason


# In order, in batches, in time


async def test_what_is_put_is_written_in_order(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        entries = items(5)
        stored = [entry.complete() for entry in entries]
        for entry in entries:
            writes.put(entry)
        await writes.flush()
        assert disk.batches == [[*names(entries), "."]]
        assert all(event.is_set() for event in stored)


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 1])
async def test_a_batch_is_a_hundred_at_most(autojump_clock: MockClock, count: int) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        for entry in items(count):
            writes.put(entry)
        await trio.sleep(1)
    sizes = [len(batch) for batch in disk.batches]
    whole, rest = divmod(count, BATCH)
    assert sizes == [BATCH] * whole + [rest] * bool(rest)
    assert disk.kept == names(items(count))
    # One that is full does not wait, nor does what it left over.
    assert set(disk.times) == ({0.0} if whole else {DELAY})


@pytest.mark.parametrize(("beyond", "expected"), [(0, [2]), (1, [1, 1])])
async def test_a_batch_is_a_megabyte_at_most(
    autojump_clock: MockClock, beyond: int, expected: list[int]
) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        writes.put(Item(name="a", size=BATCH_BYTES // 2))
        writes.put(Item(name="b", size=BATCH_BYTES // 2 + beyond))
        await trio.sleep(1)
    assert [len(batch) for batch in disk.batches] == expected


async def test_one_that_is_larger_than_a_batch_goes_alone(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        for name, size in (("a", 1), ("b", BATCH_BYTES + 1), ("c", 1)):
            writes.put(Item(name=name, size=size))
        assert writes.statistics() == {"waiting": 3, "waiting_bytes": BATCH_BYTES + 3}
        await trio.sleep(1)
        assert disk.batches == [["a"], ["b"], ["c"]]
        assert writes.statistics() == {"waiting": 0, "waiting_bytes": 0}


async def test_what_nobody_waits_for_lies_for_a_moment(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        await trio.sleep(1)
        writes.put(Item(name="a"))
        await trio.sleep(DELAY / 2)
        writes.put(Item(name="b"))
        await trio.sleep(1)
    assert disk.written == [(1 + DELAY, ["a", "b"])]


async def test_what_somebody_waits_for_goes_at_once_with_all_that_is_there(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        await writes.write(Item(name="b"))
    assert disk.written == [(0.0, ["a", "b"])]


async def test_what_is_put_at_once_does_not_lie(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        entry = Item(name="b")
        stored = entry.complete()
        writes.put(entry, urgent=True)
        await stored.wait()
    assert disk.written == [(0.0, ["a", "b"])]


async def test_what_comes_while_a_batch_is_written_is_the_next_one(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(Fate(seconds=1))
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        writes.put(Item(name="b"))
        await writes.flush()
    assert disk.written == [(0.0, ["a"]), (1.0, ["b", "."])]


async def test_settling_waits_for_a_batch_that_is_being_written(autojump_clock: MockClock) -> None:
    disk = Disk(Fate(seconds=1))
    async with at_work(disk) as writes:
        await told(writes.flush())
        assert disk.written == []  # nothing there, nothing to wait for
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        assert await told(writes.flush()) == "stored at 1"


async def test_a_cancelled_settling_changes_nothing(autojump_clock: MockClock) -> None:
    disk = Disk(Fate(seconds=1))
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.1)
        with trio.move_on_after(0.5):
            await writes.flush()
        with trio.move_on_after(1):
            await writes.flush()
        assert disk.batches == [["a"], ["."]]
        assert writes.statistics() == {"waiting": 0, "waiting_bytes": 0}


# Bounds


async def has_room(writes: WriteBehind) -> bool:
    with trio.move_on_after(1) as scope:
        await writes.admit()
    return not scope.cancelled_caught


@pytest.mark.parametrize(("count", "expected"), [(QUEUE - 1, True), (QUEUE, False)])
async def test_there_is_room_for_so_many(
    autojump_clock: MockClock, count: int, expected: bool
) -> None:
    writes = WriteBehind(Disk().write)
    for entry in items(count):
        writes.put(entry)
    assert await has_room(writes) is expected
    writes.put(Item(name="an end"))  # is taken all the same
    assert writes.statistics()["waiting"] == count + 1


@pytest.mark.parametrize(("size", "expected"), [(QUEUE_BYTES - 1, True), (QUEUE_BYTES, False)])
async def test_there_is_room_for_so_many_bytes(
    autojump_clock: MockClock, size: int, expected: bool
) -> None:
    writes = WriteBehind(Disk().write)
    writes.put(Item(name="large", size=size))
    assert await has_room(writes) is expected


async def test_who_waits_for_room_goes_on_when_there_is_some(autojump_clock: MockClock) -> None:
    disk = Disk(Fate(seconds=1))
    async with at_work(disk) as writes:
        writes.put(Item(name="first"), urgent=True)
        await trio.sleep(0.5)
        for entry in items(QUEUE):
            writes.put(entry)
        with trio.move_on_after(0.1) as scope:
            await writes.admit()
        assert scope.cancelled_caught
        assert await told(writes.admit()) == "stored at 1"
        assert writes.statistics()["waiting"] == QUEUE - BATCH


async def test_many_that_wait_for_room_stay_within_it(autojump_clock: MockClock) -> None:
    disk = Disk(*[Fate(seconds=0.1)] * 30)
    largest = 0

    async def write(entry: Item) -> None:
        nonlocal largest
        await writes.admit()
        writes.put(entry)
        largest = max(largest, writes.statistics()["waiting"])

    async with at_work(disk) as writes:
        async with trio.open_nursery() as nursery:
            for entry in items(2 * QUEUE):
                nursery.start_soon(write, entry)
        await writes.flush()
    assert largest == QUEUE
    assert sorted(disk.kept) == sorted(names(items(2 * QUEUE)))


async def test_nobody_overtakes_who_waits_for_room(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netra_trio.stores.sql.write_behind.QUEUE", 2)
    monkeypatch.setattr("netra_trio.stores.sql.write_behind.BATCH", 1)
    disk = Disk(*[Fate(seconds=0.1)] * 30)

    async def write(name: str) -> None:
        for number in range(4):
            await writes.admit()
            writes.put(Item(name=f"{name}{number}"))

    async with at_work(disk) as writes:
        for entry in items(3):  # one is being written, and two fill the queue
            writes.put(entry)
            await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(write, name)
                await trio.testing.wait_all_tasks_blocked()
        await writes.flush()
    assert [name for name in disk.kept if name[0] in "abc"] == [
        f"{name}{number}" for number in range(4) for name in "abc"
    ]


async def test_who_waits_for_room_is_told_of_trouble(autojump_clock: MockClock) -> None:
    writes = WriteBehind(Disk().write)
    for entry in items(QUEUE):
        writes.put(entry)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            with pytest.raises(StoreUnavailable, match="gone"):
                await writes.admit()

        await trio.testing.wait_all_tasks_blocked()
        writes.mark_unavailable("gone")
    with pytest.raises(StoreUnavailable, match="gone"):
        await writes.admit()
    with pytest.raises(StoreUnavailable, match="gone"):
        await writes.flush()


# Failures


async def test_a_failure_is_told_at_once_and_the_rest_comes_again_in_order(
    autojump_clock: MockClock, logs: list[Any]
) -> None:
    disk = Disk(FAILS, FAILS)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def behind() -> None:
                await trio.sleep(0.5)
                assert trouble(writes) == "scripted"
                writes.put(Item(name="c"))

            assert await outcomes(writes, Item(name="b")) == ["scripted at 0"]
        await trio.sleep(2 * RETRY_SECONDS)
        assert trouble(writes) is None
    assert disk.written == [
        (0.0, ["a", "b"]),
        (RETRY_SECONDS, ["a", "-b", "c"]),
        (2 * RETRY_SECONDS, ["a", "-b", "c"]),
    ]
    assert disk.kept == ["a", "c"]
    assert logs == [
        {"event": "store_unavailable", "log_level": "warning", "reason": "scripted", "waiting": 2},
        {"event": "store_available", "log_level": "info", "waiting": 0},
    ]


async def test_an_answer_that_was_lost_is_taken_back_before_anything_else(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(Fate(seconds=1), ANSWER_LOST)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        writes.put(Item(name="b"))
        told_first = await outcomes(writes, Item(name="c"), Item(name="d"))
        assert told_first == ["scripted at 1", "scripted at 1"]
        assert disk.kept == ["a", "b", "c", "d"]
        writes.put(Item(name="e"))
        await trio.sleep(RETRY_SECONDS + DELAY)
        assert await outcomes(writes, Item(name="f")) == [f"stored at {2 + DELAY:g}"]
    assert disk.kept == ["a", "b", "e", "f"]
    assert disk.batches == [["a"], ["b", "c", "d"], ["b", "-c", "-d", "e"], ["f"]]


async def test_who_waits_in_the_queue_is_told_when_a_batch_fails(autojump_clock: MockClock) -> None:
    disk = Disk(Fate(seconds=1, fails=True))
    async with at_work(disk) as writes:
        assert await outcomes(writes, Item(name="a"), Item(name="b", size=7)) == [
            "scripted at 1",
            "scripted at 1",
        ]
        assert writes.statistics() == {"waiting": 1, "waiting_bytes": 0}  # what takes `a` back
        await trio.sleep(RETRY_SECONDS + 1)
    assert disk.batches == [["a"], ["-a"]]  # `b` was never begun


async def test_whoever_comes_during_trouble_is_told_with_the_next_try(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(FAILS, FAILS)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        assert await outcomes(writes, Item(name="b")) == ["scripted at 1"]
        assert await outcomes(writes, Item(name="c")) == ["stored at 2"]
    assert disk.kept == ["a", "c"]


async def test_trouble_that_others_met_is_looked_into_at_once(
    autojump_clock: MockClock, logs: list[Any]
) -> None:
    disk = Disk(FAILS)
    async with at_work(disk) as writes:
        await trio.sleep(1)
        writes.mark_unavailable("no lease")
        assert trouble(writes) == "no lease"
        await trio.sleep(RETRY_SECONDS + 1)
        assert trouble(writes) is None
    assert disk.written == [(1.0, []), (1.0 + RETRY_SECONDS, [])]
    assert [log["event"] for log in logs] == ["store_unavailable", "store_available"]


async def test_trouble_before_the_start_is_looked_into(
    autojump_clock: MockClock, logs: list[Any]
) -> None:
    disk = Disk()
    writes = WriteBehind(disk.write)
    writes.mark_unavailable("no answer")
    writes.put(Item(name="a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writes.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert disk.written == [(0.0, ["a"])]
    assert [log["event"] for log in logs] == ["store_unavailable", "store_available"]


async def test_a_fault_of_the_program_is_not_hidden(autojump_clock: MockClock) -> None:
    async def write(entries: Sequence[Entry]) -> None:
        raise ValueError("a bug")

    writes = WriteBehind(write)
    writes.put(Item(name="a"))
    with pytest.RaisesGroup(ValueError):
        await writes.run()


# What takes too long


async def test_a_slow_write_is_told_and_taken_back(
    autojump_clock: MockClock, logs: list[Any]
) -> None:
    disk = Disk(SLOW)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        assert await outcomes(writes, Item(name="b")) == ["no answer within 2 s at 2"]
        assert trouble(writes) == "no answer within 2 s"
        writes.put(Item(name="c"))
        await trio.sleep(1)
        assert disk.kept == ["a", "b"]
        await trio.sleep(DELAY)
        assert trouble(writes) is None
        assert disk.kept == ["a", "c"]
    assert disk.batches == [["a", "b"], ["-b", "c"]]
    assert [log["event"] for log in logs] == ["store_unavailable", "store_available"]


async def test_just_in_time_is_in_time(autojump_clock: MockClock) -> None:
    disk = Disk(Fate(seconds=SLOW_SECONDS - 0.001))
    async with at_work(disk) as writes:
        assert await outcomes(writes, Item(name="a")) == ["stored at 1.999"]
    assert disk.kept == ["a"]


async def test_what_takes_too_long_back_is_in_the_order_of_the_batch(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(Fate(), SLOW)
    async with at_work(disk) as writes:
        await writes.write(Item(name="first"))
        async with trio.open_nursery() as nursery:
            for entry in items(3):
                nursery.start_soon(told, writes.write(entry))
        await trio.sleep(2)
        await writes.flush()
    assert disk.batches[2][0].startswith("-")
    assert disk.batches[2] == [f"-{name}" for name in disk.batches[1]]
    assert disk.kept == ["first"]


@pytest.mark.parametrize("fate", [SLOW_AND_FAILS, SLOW_AND_ANSWER_LOST])
async def test_a_slow_write_that_fails_is_taken_back_once(
    autojump_clock: MockClock, fate: Fate
) -> None:
    disk = Disk(fate)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        assert await outcomes(writes, Item(name="b")) == ["no answer within 2 s at 2"]
        await trio.sleep(10)
    assert disk.batches == [["a", "b"], ["a", "-b"]]
    assert disk.kept == ["a"]


# Cancelling who waits


async def test_cancelled_before_it_is_written_it_is_never_begun(autojump_clock: MockClock) -> None:
    disk = Disk(Fate(seconds=1))
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.1)
        with trio.move_on_after(0.1):
            await writes.write(Item(name="b", size=9))
        await writes.write(Item(name="c"))
        assert writes.statistics() == {"waiting": 0, "waiting_bytes": 0}
    assert disk.batches == [["a"], ["c"]]


async def test_cancelled_from_the_start_it_is_never_begun(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        with trio.CancelScope() as scope:
            scope.cancel()
            await writes.write(Item(name="a"))
        assert scope.cancelled_caught
        await trio.sleep(1)
    assert disk.kept == []


@pytest.mark.parametrize("fate", [Fate(seconds=1), Fate(1, fails=True), Fate(1, True, False)])
async def test_cancelled_while_it_is_written_it_is_taken_back(
    autojump_clock: MockClock, fate: Fate
) -> None:
    disk = Disk(fate)
    async with at_work(disk) as writes:
        with trio.move_on_after(0.5):
            await writes.write(Item(name="a"))
        writes.put(Item(name="b"))
        await trio.sleep(5)
    assert disk.batches == [["a"], ["-a", "b"]]
    assert disk.kept == ["b"]


async def test_cancelled_in_the_moment_it_was_written_it_is_taken_back(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    entry = Item(name="a")
    scope = trio.CancelScope()

    async def write(entries: Sequence[Entry]) -> None:
        await disk.write(entries)
        scope.cancel()  # who waits is about to hear of both

    writes = WriteBehind(write)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writes.run)
        with scope:
            await writes.write(entry)
        assert scope.cancelled_caught
        await writes.flush()
        nursery.cancel_scope.cancel()
    assert disk.batches[0] == ["a"]
    assert "-a" in disk.batches[1]
    assert disk.kept == []


async def test_cancelled_after_it_was_told_it_stands(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        with trio.CancelScope() as scope:
            await writes.write(Item(name="a"))
            scope.cancel()
        await trio.sleep(1)
    assert disk.kept == ["a"]


async def test_the_end_of_the_task_leaves_the_rest(autojump_clock: MockClock) -> None:
    disk = Disk(Fate(seconds=1))
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        writes.put(Item(name="b"))
    assert writes.statistics()["waiting"] == 1


# Whatever happens

FATES = st.sampled_from(
    [
        Fate(),
        Fate(),
        Fate(seconds=0.3),
        FAILS,
        ANSWER_LOST,
        SLOW,
        SLOW_AND_FAILS,
        SLOW_AND_ANSWER_LOST,
        Fate(0.3, True, False),
        Fate(0.3, True, True),
    ]
)
PAUSES = st.sampled_from([0.0, 0.0, 0.005, 0.3, 1.0, 2.5])
SMALL = 100  # entries in a batch here: what matters is a burst beyond it, not how many they are
SIZES = st.sampled_from([0, 0, 1, BATCH_BYTES // 2, BATCH_BYTES, BATCH_BYTES + 1])


@define
class Step:
    """What somebody does: how, after which pause, how large, and how long it is waited for."""

    how: str
    pause: float
    size: int
    patience: float


STEPS = st.builds(
    Step,
    st.sampled_from(["put", "put at once", "do", "do", "burst", "settle", "look"]),
    PAUSES,
    SIZES,
    st.sampled_from([0.0, 0.3, 1.0, 30.0, 30.0, 30.0]),
)


class Crowd:
    """Those who write, and what they were told.

    Attributes:
        accepted: What was put, in order.
        stored: What was told to be stored.
        failed: What was told to be not, or was cancelled.
        behind: What nobody waits for.
    """

    def __init__(self, writes: WriteBehind, disk: Disk) -> None:
        self.writes = writes
        self.disk = disk
        self.accepted: list[str] = []
        self.stored: list[str] = []
        self.failed: list[str] = []
        self.behind: list[str] = []

    async def play(self, steps: Sequence[Step]) -> None:
        async with trio.open_nursery() as nursery:
            for step in steps:
                await trio.sleep(step.pause)
                if step.how == "do":
                    nursery.start_soon(self.do, step)
                    await trio.testing.wait_all_tasks_blocked()
                elif step.how == "settle":
                    nursery.start_soon(self.settle, step)
                elif step.how == "look":
                    self.writes.mark_unavailable("seen elsewhere")
                elif step.how == "burst":
                    for _ in range(SMALL + 1):
                        self.put(step)
                else:
                    self.put(step, urgent=step.how == "put at once")

    def put(self, step: Step, *, urgent: bool = False) -> None:
        name = self.next_name()
        self.behind.append(name)
        self.writes.put(Item(name=name, size=step.size), urgent=urgent)

    async def do(self, step: Step) -> None:
        name = self.next_name()
        ended = self.failed
        with trio.move_on_after(step.patience):
            try:
                await self.writes.write(Item(name=name, size=step.size))
            except StoreUnavailable:
                pass
            else:
                ended = self.stored
        ended.append(name)

    async def settle(self, step: Step) -> None:
        before = list(self.behind)
        with trio.move_on_after(step.patience):
            try:
                await self.writes.flush()
            except StoreUnavailable:
                return
            assert set(before) <= set(self.disk.kept), "settled, and not there"

    def next_name(self) -> str:
        name = f"{len(self.accepted)}"
        self.accepted.append(name)
        return name


@given(st.lists(STEPS, max_size=25), st.lists(FATES, max_size=12))
@settings(
    max_examples=100,
    deadline=None,
)
def test_nothing_is_lost_or_written_twice_whatever_happens(
    steps: list[Step], fates: list[Fate]
) -> None:
    """Play a script; compare what is kept in the end with what everybody was told."""

    async def play() -> None:
        disk = Disk(*fates)
        async with at_work(disk) as writes:
            crowd = Crowd(writes, disk)
            await crowd.play(steps)
            await trio.sleep(100)
            assert trouble(writes) is None
            assert writes.statistics() == {"waiting": 0, "waiting_bytes": 0}
        assert sorted(crowd.stored + crowd.failed + crowd.behind) == sorted(crowd.accepted)
        wanted = {*crowd.stored, *crowd.behind}
        assert disk.kept == [name for name in crowd.accepted if name in wanted]
        assert all(len(batch) <= SMALL for batch in disk.batches)

    with capture_logs() as logs, pytest.MonkeyPatch.context() as patch:
        patch.setattr("netra_trio.stores.sql.write_behind.BATCH", SMALL)
        run_virtual(play)
    events = [log["event"] for log in logs]
    # One after the other: never two of a kind.
    assert events == ["store_unavailable", "store_available"] * (len(events) // 2)


def run_virtual(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0))
