"""The queue of writes when writes fail, are slow, or are cancelled."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing
from stores.write_behind_samples import (
    ANSWER_LOST,
    FAILS,
    SLOW,
    SLOW_AND_ANSWER_LOST,
    SLOW_AND_FAILS,
    Disk,
    Item,
    Outcome,
    at_work,
    items,
    result,
    results,
    unavailable_reason,
)
from trio.testing import MockClock

from netra_trio.stores.sql.write_behind import (
    BATCH,
    DELAY,
    RETRY_SECONDS,
    SLOW_SECONDS,
    Entry,
    WriteBehind,
)

# Failures


async def test_a_failure_is_reported_at_once_and_other_entries_are_retried_in_order(
    autojump_clock: MockClock, logs: list[Any]
) -> None:
    disk = Disk(FAILS, FAILS)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def put_later() -> None:
                await trio.sleep(0.5)
                assert unavailable_reason(writes) == "scripted"
                writes.put(Item(name="c"))

            assert await results(writes, Item(name="b")) == ["scripted at 0"]
        await trio.sleep(2 * RETRY_SECONDS)
        assert unavailable_reason(writes) is None
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


async def test_awaited_entries_are_compensated_first_after_a_lost_answer(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(Outcome(seconds=1), ANSWER_LOST)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        writes.put(Item(name="b"))
        first_results = await results(writes, Item(name="c"), Item(name="d"))
        assert first_results == ["scripted at 1", "scripted at 1"]
        assert disk.kept == ["a", "b", "c", "d"]
        writes.put(Item(name="e"))
        await trio.sleep(RETRY_SECONDS + DELAY)
        assert await results(writes, Item(name="f")) == [f"stored at {2 + DELAY:g}"]
    assert disk.kept == ["a", "b", "e", "f"]
    assert disk.batches == [["a"], ["b", "c", "d"], ["b", "-c", "-d", "e"], ["f"]]


async def test_queued_awaited_entries_fail_with_a_batch(autojump_clock: MockClock) -> None:
    disk = Disk(Outcome(seconds=1, fails=True))
    async with at_work(disk) as writes:
        assert await results(writes, Item(name="a"), Item(name="b", size=7)) == [
            "scripted at 1",
            "scripted at 1",
        ]
        assert writes.statistics() == {"waiting": 1, "waiting_bytes": 0}  # the compensation of `a`
        await trio.sleep(RETRY_SECONDS + 1)
    assert disk.batches == [["a"], ["-a"]]  # `b` was never written


async def test_entries_awaited_during_an_outage_get_the_result_of_the_next_attempt(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(FAILS, FAILS)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        assert await results(writes, Item(name="b")) == ["scripted at 1"]
        assert await results(writes, Item(name="c")) == ["stored at 2"]
    assert disk.kept == ["a", "c"]


async def test_an_outage_reported_from_outside_is_tested_at_once(
    autojump_clock: MockClock, logs: list[Any]
) -> None:
    disk = Disk(FAILS)
    async with at_work(disk) as writes:
        await trio.sleep(1)
        writes.mark_unavailable("no lease")
        assert unavailable_reason(writes) == "no lease"
        await trio.sleep(RETRY_SECONDS + 1)
        assert unavailable_reason(writes) is None
    assert disk.written == [(1.0, []), (1.0 + RETRY_SECONDS, [])]
    assert [log["event"] for log in logs] == ["store_unavailable", "store_available"]


async def test_an_outage_reported_before_the_start_is_tested(
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


async def test_unexpected_exceptions_propagate(autojump_clock: MockClock) -> None:
    async def write(entries: Sequence[Entry]) -> None:
        raise ValueError("a bug")

    writes = WriteBehind(write)
    writes.put(Item(name="a"))
    with pytest.RaisesGroup(ValueError):
        await writes.run()


# Slow writes


async def test_a_slow_write_is_reported_and_compensated(
    autojump_clock: MockClock, logs: list[Any]
) -> None:
    disk = Disk(SLOW)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        assert await results(writes, Item(name="b")) == ["no answer within 2 s at 2"]
        assert unavailable_reason(writes) == "no answer within 2 s"
        writes.put(Item(name="c"))
        await trio.sleep(1)
        assert disk.kept == ["a", "b"]
        await trio.sleep(DELAY)
        assert unavailable_reason(writes) is None
        assert disk.kept == ["a", "c"]
    assert disk.batches == [["a", "b"], ["-b", "c"]]
    assert [log["event"] for log in logs] == ["store_unavailable", "store_available"]


async def test_a_write_just_within_the_time_limit_succeeds(autojump_clock: MockClock) -> None:
    disk = Disk(Outcome(seconds=SLOW_SECONDS - 0.001))
    async with at_work(disk) as writes:
        assert await results(writes, Item(name="a")) == ["stored at 1.999"]
    assert disk.kept == ["a"]


async def test_compensations_are_in_the_order_of_the_batch(
    autojump_clock: MockClock,
) -> None:
    disk = Disk(Outcome(), SLOW)
    async with at_work(disk) as writes:
        await writes.write(Item(name="first"))
        async with trio.open_nursery() as nursery:
            for entry in items(3):
                nursery.start_soon(result, writes.write(entry))
        await trio.sleep(2)
        await writes.flush()
    assert disk.batches[2][0].startswith("-")
    assert disk.batches[2] == [f"-{name}" for name in disk.batches[1]]
    assert disk.kept == ["first"]


@pytest.mark.parametrize("outcome", [SLOW_AND_FAILS, SLOW_AND_ANSWER_LOST])
async def test_a_slow_write_that_fails_is_compensated_once(
    autojump_clock: MockClock, outcome: Outcome
) -> None:
    disk = Disk(outcome)
    async with at_work(disk) as writes:
        writes.put(Item(name="a"))
        assert await results(writes, Item(name="b")) == ["no answer within 2 s at 2"]
        await trio.sleep(10)
    assert disk.batches == [["a", "b"], ["a", "-b"]]
    assert disk.kept == ["a"]


# Cancellation


async def test_an_entry_cancelled_in_the_queue_is_not_written(autojump_clock: MockClock) -> None:
    disk = Disk(Outcome(seconds=1))
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.1)
        with trio.move_on_after(0.1):
            await writes.write(Item(name="b", size=9))
        await writes.write(Item(name="c"))
        assert writes.statistics() == {"waiting": 0, "waiting_bytes": 0}
    assert disk.batches == [["a"], ["c"]]


async def test_an_entry_of_a_cancelled_caller_is_not_written(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        with trio.CancelScope() as scope:
            scope.cancel()
            await writes.write(Item(name="a"))
        assert scope.cancelled_caught
        await trio.sleep(1)
    assert disk.kept == []


@pytest.mark.parametrize(
    "outcome", [Outcome(seconds=1), Outcome(1, fails=True), Outcome(1, True, False)]
)
async def test_an_entry_cancelled_during_the_write_is_compensated(
    autojump_clock: MockClock, outcome: Outcome
) -> None:
    disk = Disk(outcome)
    async with at_work(disk) as writes:
        with trio.move_on_after(0.5):
            await writes.write(Item(name="a"))
        writes.put(Item(name="b"))
        await trio.sleep(5)
    assert disk.batches == [["a"], ["-a", "b"]]
    assert disk.kept == ["b"]


async def test_an_entry_cancelled_as_it_is_stored_is_compensated(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    entry = Item(name="a")
    scope = trio.CancelScope()

    async def write(entries: Sequence[Entry]) -> None:
        await disk.write(entries)
        scope.cancel()  # the caller is cancelled and confirmed at the same time

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


async def test_a_whole_batch_cancelled_as_it_is_stored_is_compensated(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    scope = trio.CancelScope()

    async def write(entries: Sequence[Entry]) -> None:
        await disk.write(entries)
        scope.cancel()

    writes = WriteBehind(write)
    async with trio.open_nursery() as nursery:
        with scope:
            async with trio.open_nursery() as callers:
                for entry in items(BATCH):
                    callers.start_soon(writes.write, entry)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(writes.run)
        assert scope.cancelled_caught
        await writes.flush()
        nursery.cancel_scope.cancel()
    assert [len(batch) for batch in disk.batches] == [BATCH, BATCH, 1]
    assert disk.kept == []


async def test_an_entry_cancelled_after_its_confirmation_stays(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with at_work(disk) as writes:
        with trio.CancelScope() as scope:
            await writes.write(Item(name="a"))
            scope.cancel()
        await trio.sleep(1)
    assert disk.kept == ["a"]


async def test_entries_that_are_left_at_the_end_are_counted(autojump_clock: MockClock) -> None:
    disk = Disk(Outcome(seconds=1))
    async with at_work(disk) as writes:
        writes.put(Item(name="a"), urgent=True)
        await trio.sleep(0.5)
        writes.put(Item(name="b"))
    assert writes.statistics()["waiting"] == 1
