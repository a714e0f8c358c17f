"""A store that takes too long is unavailable; results in time are passed on."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from stores.samples import ALICE, BOB, MAIN, again, duplicate_of, end_of, new, of_user, page_of
from support.stores import ScriptedStore
from trio.testing import MockClock

from netra_trio.errors import StoreUnavailable
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import User
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.timeout import STORE_SECONDS, TimeoutStore


async def test_every_call_is_passed_on(autojump_clock: MockClock) -> None:
    store = TimeoutStore(MemoryStore())
    async with store.open():
        await store.check()
        assert await store.create_user(ALICE) == User(ALICE)
        assert await store.set_user_enabled(BOB, enabled=True) is False
        assert await store.get_user(BOB) is None
        message = new()
        assert await store.find(message) is None
        assert await store.record(message) is None
        store.start_run(message.run_id)
        end = end_of(message, "")
        await store.end_run(end)
        expected = duplicate_of(message, RunStatus.COMPLETED, end.completed)
        assert await store.find(again(message)) == expected
        assert await page_of(store) == ([of_user(message, RunStatus.COMPLETED)], False)
    assert trio.current_time() == 0


QUESTIONS: dict[str, Callable[[TimeoutStore], Awaitable[Any]]] = {
    "get_user": lambda store: store.get_user(ALICE),
    "record": lambda store: store.record(new()),
    "history": lambda store: store.history(ALICE, MAIN, limit=1),
}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_a_call_without_an_answer_times_out(autojump_clock: MockClock, name: str) -> None:
    hung = ScriptedStore()
    hung.hold()
    with pytest.raises(StoreUnavailable, match="no answer within 3 s"):
        await QUESTIONS[name](TimeoutStore(hung))
    assert trio.current_time() == STORE_SECONDS


async def test_an_error_is_passed_on_at_once(autojump_clock: MockClock) -> None:
    down = ScriptedStore()
    down.is_down = True
    with pytest.raises(StoreUnavailable, match="scripted"):
        await TimeoutStore(down).get_user(ALICE)
    assert trio.current_time() == 0


async def test_an_end_has_no_timeout(autojump_clock: MockClock) -> None:
    class Slow(MemoryStore):
        async def end_run(self, _: object) -> None:
            await trio.sleep(10 * STORE_SECONDS)

    await TimeoutStore(Slow()).end_run(end_of(new()))
    assert trio.current_time() == 10 * STORE_SECONDS
