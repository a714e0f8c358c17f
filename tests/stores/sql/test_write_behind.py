"""The queue of writes: order, batches, bounds."""

from typing import Any

import pytest
import trio
import trio.testing
from stores.write_behind_samples import (
    Disk,
    Item,
    Outcome,
    at_work,
    items,
    names,
    result,
)
from trio.testing import MockClock

from netra_trio.errors import StoreUnavailable
from netra_trio.stores.sql.write_behind import (
    BATCH,
    BATCH_BYTES,
    CHANNEL,
    DELAY,
    QUEUE,
    QUEUE_BYTES,
    WriteBehind,
)

# Order, batches, delays


async def test_entries_are_written_in_order(autojump_clock: MockClock) -> None:
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
async def test_a_batch_has_a_bounded_number_of_entries(
    autojump_clock: MockClock, count: int
) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        for entry in items(count):
            writes.put(entry)
        await trio.sleep(1)
    sizes = [len(batch) for batch in disk.batches]
    whole, rest = divmod(count, BATCH)
    assert sizes == [BATCH] * whole + [rest] * bool(rest)
    assert disk.kept == names(items(count))
    # A full batch does not wait, nor do the entries that are left.
    assert set(disk.times) == ({0.0} if whole else {DELAY})


@pytest.mark.parametrize(("beyond", "expected"), [(0, [2]), (1, [1, 1])])
async def test_a_batch_has_a_bounded_size(
    autojump_clock: MockClock, beyond: int, expected: list[int]
) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        writes.put(Item(name="a", size=BATCH_BYTES // 2))
        writes.put(Item(name="b", size=BATCH_BYTES // 2 + beyond))
        await trio.sleep(1)
    assert [len(batch) for batch in disk.batches] == expected


async def test_an_entry_larger_than_a_batch_is_a_batch_of_its_own(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        for name, size in (("a", 1), ("b", BATCH_BYTES + 1), ("c", 1)):
            writes.put(Item(name=name, size=size))
        assert writes.statistics() == {"waiting": 3, "waiting_bytes": BATCH_BYTES + 3}
        await trio.sleep(1)
        assert disk.batches == [["a"], ["b"], ["c"]]
        assert writes.statistics() == {"waiting": 0, "waiting_bytes": 0}


async def test_entries_that_no_task_waits_for_are_collected(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        await trio.sleep(1)
        writes.put(Item(name="a"))
        await trio.sleep(DELAY / 2)
        writes.put(Item(name="b"))
        await trio.sleep(1)
    assert disk.written == [(1 + DELAY, ["a", "b"])]


async def test_an_awaited_entry_is_written_at_once_with_all_queued_entries(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        await writes.write(Item(name="b"))
    assert disk.written == [(0.0, ["a", "b"])]


async def test_an_urgent_entry_is_written_at_once(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        entry = Item(name="b")
        stored = entry.complete()
        writes.put(entry, urgent=True)
        await stored.wait()
    assert disk.written == [(0.0, ["a", "b"])]


async def test_entries_queued_during_a_write_are_the_next_batch(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(Outcome(seconds=1))
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        writes.put(Item(name="b"))
        await writes.flush()
    assert disk.written == [(0.0, ["a"]), (1.0, ["b", "."])]


async def test_flush_waits_for_the_batch_that_is_being_written(autojump_clock: MockClock) -> None:
    disk = Disk(Outcome(seconds=1))
    async with at_work(disk) as writes:
        await result(writes.flush())
        assert disk.written == []  # nothing is queued
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        assert await result(writes.flush()) == "stored at 1"


async def test_a_cancelled_flush_changes_nothing(autojump_clock: MockClock) -> None:
    disk = Disk(Outcome(seconds=1))
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
async def test_admission_is_bounded_in_entries(
    autojump_clock: MockClock, count: int, expected: bool
) -> None:
    writes = WriteBehind(Disk().write)
    for entry in items(count):
        writes.put(entry)
    assert await has_room(writes) is expected
    writes.put(Item(name="an end"))  # is queued without room
    assert writes.statistics()["waiting"] == count + 1


@pytest.mark.parametrize(("size", "expected"), [(QUEUE_BYTES - 1, True), (QUEUE_BYTES, False)])
async def test_admission_is_bounded_in_bytes(
    autojump_clock: MockClock, size: int, expected: bool
) -> None:
    writes = WriteBehind(Disk().write)
    writes.put(Item(name="large", size=size))
    assert await has_room(writes) is expected


async def test_the_channel_is_bounded_also_for_entries_that_cannot_wait(
    autojump_clock: MockClock, logs: list[Any]
) -> None:
    writes = WriteBehind(Disk().write)
    for entry in items(CHANNEL):
        writes.put(entry)
    assert writes.statistics()["waiting"] == writes.unwritten == CHANNEL
    assert logs == []
    lost = items(2)
    settled = [entry.complete() for entry in lost]
    for entry in lost:
        writes.put(entry)
    assert all(event.is_set() for event in settled)
    assert writes.statistics()["waiting"] == CHANNEL
    assert writes.unwritten == CHANNEL + 2
    assert [log["event"] for log in logs] == ["writes_lost"]


async def test_a_waiting_caller_is_admitted_when_there_is_room(autojump_clock: MockClock) -> None:
    disk = Disk(Outcome(seconds=1))
    async with at_work(disk) as writes:
        writes.put(Item(name="first"), urgent=True)
        await trio.sleep(0.5)
        for entry in items(QUEUE):
            writes.put(entry)
        with trio.move_on_after(0.1) as scope:
            await writes.admit()
        assert scope.cancelled_caught
        assert await result(writes.admit()) == "stored at 1"
        assert writes.statistics()["waiting"] == QUEUE - BATCH


async def test_many_waiting_callers_stay_within_the_bound(autojump_clock: MockClock) -> None:
    disk = Disk(*[Outcome(seconds=0.1)] * 30)
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


async def test_admission_is_first_in_first_out(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netra_trio.stores.sql.write_behind.QUEUE", 2)
    monkeypatch.setattr("netra_trio.stores.sql.write_behind.BATCH", 1)
    disk = Disk(*[Outcome(seconds=0.1)] * 30)

    async def write(name: str) -> None:
        for number in range(4):
            await writes.admit()
            writes.put(Item(name=f"{name}{number}"))

    async with at_work(disk) as writes:
        for entry in items(3):  # one is being written, two fill the queue
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


async def test_waiting_for_room_ends_when_the_store_becomes_unavailable(
    autojump_clock: MockClock,
) -> None:
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
