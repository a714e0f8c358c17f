"""The handover between the threads: its bound, its wake-ups, and its end."""

import asyncio
from typing import Any

import pytest
import trio

from netra_trio.aio.handover import (
    HANDOVER_CHARACTERS,
    HANDOVER_ITEMS,
    Handover,
    HandoverClosed,
    try_call,
)
from netra_trio.aio.thread import AsyncioThread, open_thread

SECONDS = 60.0  # a bound on what hangs


async def in_thread(thread: AsyncioThread, function: Any) -> Any:
    """Call an async function in the asyncio thread, and return its result."""
    done, results = trio.Event(), []

    async def call() -> None:
        results.append(await function())
        thread.call_trio(done.set)

    tasks: list[asyncio.Task[None]] = []
    thread.call(lambda: tasks.append(thread.loop.create_task(call())))
    with trio.fail_after(SECONDS):
        await done.wait()
    return results[0]


@pytest.mark.parametrize("size", [0, 1, HANDOVER_CHARACTERS])
async def test_it_is_full_at_its_bounds(size: int) -> None:
    async with open_thread() as thread:
        handover = Handover(thread.loop, thread.token)
        room = HANDOVER_ITEMS if size < 2 else 1
        for number in range(room):
            assert handover.put_nowait(number, size)
        assert not handover.put_nowait("beyond", size)
        assert handover.put_nowait("end", size, beyond=True)
        assert await handover.take() == [*range(room), "end"]
        assert handover.put_nowait("again", size)


async def test_one_character_below_the_bound_an_item_of_any_size_is_accepted() -> None:
    async with open_thread() as thread:
        handover = Handover(thread.loop, thread.token)
        assert handover.put_nowait("a", HANDOVER_CHARACTERS - 1)
        assert handover.put_nowait("b", 10 * HANDOVER_CHARACTERS)
        assert not handover.put_nowait("c", 1)


async def test_a_full_handover_makes_the_asyncio_task_wait() -> None:
    async with open_thread() as thread:
        handover = Handover(thread.loop, thread.token)
        count = 10 * HANDOVER_ITEMS
        most = 0

        async def produce() -> int:
            for number in range(count):
                await handover.put(number)
            return count

        received: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, thread, produce)
            while len(received) < count:
                await trio.sleep(0.001)  # let it run full
                batch = await handover.take()
                most = max(most, len(batch))
                received += batch
    assert received == list(range(count))
    assert most <= HANDOVER_ITEMS


async def test_several_tasks_that_wait_all_go_on() -> None:
    async with open_thread() as thread:
        handover = Handover(thread.loop, thread.token)

        async def produce() -> None:
            puts = [handover.put(number) for number in range(3 * HANDOVER_ITEMS)]
            await asyncio.gather(*puts)

        received: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, thread, produce)
            while len(received) < 3 * HANDOVER_ITEMS:
                received += await handover.take()
    assert sorted(received) == list(range(3 * HANDOVER_ITEMS))


async def test_many_items_need_one_wake_up() -> None:
    async with open_thread() as thread:
        handover = Handover(thread.loop, thread.token)
        wake_ups = 0
        original = thread.token

        class Token:
            def run_sync_soon(self, function: Any) -> None:
                nonlocal wake_ups
                wake_ups += 1
                original.run_sync_soon(function)

        handover._token = Token()  # type: ignore[assignment]
        taken: list[list[int]] = []
        async with trio.open_nursery() as nursery:

            async def take() -> None:
                taken.append(await handover.take())

            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(50):  # the Trio task gets no turn in between
                handover.put_nowait(number)
    assert (taken, wake_ups) == ([list(range(50))], 1)


async def test_take_can_be_cancelled_and_nothing_is_lost() -> None:
    async with open_thread() as thread:
        handover = Handover(thread.loop, thread.token)
        with trio.move_on_after(0.01) as scope:
            await handover.take()
        assert scope.cancelled_caught
        handover.put_nowait("kept")
        with trio.CancelScope() as scope:
            scope.cancel()
            await handover.take()
        assert await handover.take() == ["kept"]


async def test_a_closed_handover_refuses_and_wakes_those_that_wait() -> None:
    async with open_thread() as thread:
        handover = Handover(thread.loop, thread.token)
        for number in range(HANDOVER_ITEMS):
            handover.put_nowait(number)
        waiting = trio.Event()

        async def put() -> str:
            thread.loop.call_soon(thread.call_trio, waiting.set)
            with pytest.raises(HandoverClosed):
                await handover.put("beyond")
            return "refused"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, thread, put)
            await waiting.wait()
            handover.close()
        with pytest.raises(HandoverClosed):
            handover.put_nowait("x")


async def test_a_task_that_waits_for_room_can_be_cancelled() -> None:
    async with open_thread() as thread:
        handover = Handover(thread.loop, thread.token)
        for number in range(HANDOVER_ITEMS):
            handover.put_nowait(number)

        async def put() -> bool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await handover.put("beyond")
            return True

        assert await in_thread(thread, put)
        assert await handover.take() == list(range(HANDOVER_ITEMS))


async def test_a_task_that_puts_without_a_pause_gives_way_to_others() -> None:
    async with open_thread() as thread:
        handover = Handover(thread.loop, thread.token)

        async def produce() -> int:
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(count())
            for number in range(HANDOVER_ITEMS):
                await handover.put(number)
            task.cancel()
            return turns

        assert await in_thread(thread, produce) >= 3


def test_a_call_into_a_loop_that_is_closed_has_no_effect() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    try_call(loop, print)
