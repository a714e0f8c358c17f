"""A store that takes too long is unavailable; results in time are passed on."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from stores.file_samples import ROOM, a_file
from stores.samples import ALICE, BOB, MAIN, again, duplicate_of, end_of, new, of_user, page_of
from support.stores import ScriptedStore
from trio.testing import MockClock

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import new_file_id, new_node_id, new_session_id
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import RunOwner, User, interrupted
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.timeout import STORE_SECONDS, TimeoutStore

SESSION, FILE = new_session_id(), new_file_id()


async def test_every_call_is_passed_on(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    store = TimeoutStore(memory)
    assert store.owner == memory.owner
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


async def test_every_call_about_nodes_is_passed_on(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    store, other = TimeoutStore(memory), TimeoutStore(memory.for_node(new_node_id()))
    await store.create_user(ALICE)
    await store.set_user_enabled(ALICE, enabled=False)
    assert await other.changed_users(0) == (1, [ALICE])
    await store.note_uncopied(SESSION, 7)
    assert await other.uncopied_from(SESSION) == 7
    first, second = new(session=SESSION), new(session=SESSION)
    for message in (first, second):
        assert await store.record(message) is None
    ids = [first.run_id, second.run_id]
    lease = await store.hand_over(ids[:1], seconds=9)
    taken = await other.take_over(SESSION, owner=lease, runs=ids, waiting=ids)
    assert taken == dict.fromkeys(ids)
    assert await store.find_run(ALICE, ids[0]) == RunOwner(other.owner, RunStatus.QUEUED)
    stands = await other.interrupt_run(ids[1], owner=store.owner)
    assert stands == interrupted(ids[1])
    assert await store.end_run(end_of(second)) == stands
    assert trio.current_time() == 0


QUESTIONS: dict[str, Callable[[TimeoutStore], Awaitable[Any]]] = {
    "get_user": lambda store: store.get_user(ALICE),
    "record": lambda store: store.record(new()),
    "record of a session": lambda store: store.record(new(keyed=False, session=SESSION)),
    "history": lambda store: store.history(ALICE, MAIN, limit=1),
    "reserve_file": lambda store: store.reserve_file(a_file(), max_bytes=ROOM),
    "finish_file": lambda store: store.finish_file(FILE),
    "get_file": lambda store: store.get_file(FILE),
    "find_files": lambda store: store.find_files(ALICE, [FILE]),
    "count_file_bytes": lambda store: store.count_file_bytes(ALICE),
    "deleted_files": lambda store: store.deleted_files(),
    "forget_files": lambda store: store.forget_files([FILE]),
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
