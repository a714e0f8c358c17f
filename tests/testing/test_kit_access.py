"""A store as a server sees it that was killed: nothing of it arrives any more."""

from collections.abc import Awaitable, Callable

import pytest

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import NewMessage, RunEnd
from netra_trio.stores.memory import MemoryStore
from netra_trio.testing.access import Access

ALICE, RUN = UserId("alice"), RunId("run_1")
MESSAGE = NewMessage(
    user_id=ALICE,
    thread_id=ThreadId("t"),
    message_id=MessageId("m"),
    run_id=RUN,
    agent_name="a",
    correlation_id=CorrelationId("k"),
    key=CorrelationId("k"),
    fingerprint=b"f",
    content="hello",
    created_at=1.0,
)
END = RunEnd(RUN, RunStatus.COMPLETED, MessageId("n"), "hi", False, 2.0, b"{}")

QUESTIONS: dict[str, Callable[[Access], Awaitable[object]]] = {
    "check": lambda access: access.check(),
    "get_user": lambda access: access.get_user(ALICE),
    "create_user": lambda access: access.create_user(ALICE),
    "set_user_enabled": lambda access: access.set_user_enabled(ALICE, enabled=True),
    "record": lambda access: access.record(MESSAGE),
    "find": lambda access: access.find(MESSAGE),
    "history": lambda access: access.history(ALICE, ThreadId("t"), limit=1),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
async def test_questions(question: Callable[[Access], Awaitable[object]]) -> None:
    store = MemoryStore()
    access = Access(store)
    await question(access)
    access.is_cut = True
    before = store.statistics()
    with pytest.raises(StoreUnavailable):
        await question(access)
    assert store.statistics() == before


async def test_what_is_written() -> None:
    store = MemoryStore()
    dead, alive = Access(store, is_cut=True), Access(store)
    await alive.record(MESSAGE)
    for access, status in ((dead, RunStatus.QUEUED), (alive, RunStatus.RUNNING)):
        access.start_run(RUN)
        known = await alive.find(MESSAGE)
        assert known is not None
        assert known.status is status
    for access, runs in ((dead, 1), (alive, 0)):
        await access.end_run(END)
        assert store.statistics()["runs"] == runs


async def test_who_opens_the_store_next_ends_what_was_left() -> None:
    store = MemoryStore()
    async with Access(store).open():
        await store.record(MESSAGE)
        async with Access(store).open():  # another server beside the one that has it at work
            known = await store.find(MESSAGE)
            assert known is not None
            assert known.status is RunStatus.QUEUED
    async with Access(store).open():
        known = await store.find(MESSAGE)
        assert known is not None
        assert known.status is RunStatus.INTERRUPTED
        assert known.completed == b'{"run_id":"run_1","status":"interrupted","duration_ms":0}'
        assert store.statistics()["messages"] == 1
