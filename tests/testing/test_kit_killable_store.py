"""The store of a server that is killed: its reads fail and its writes are lost."""

from collections.abc import Awaitable, Callable

import pytest

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import NewMessage, RunEnd
from netra_trio.stores.memory import MemoryStore
from netra_trio.testing.killable_store import KillableStore

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

READS: dict[str, Callable[[KillableStore], Awaitable[object]]] = {
    "check": lambda killable: killable.check(),
    "get_user": lambda killable: killable.get_user(ALICE),
    "create_user": lambda killable: killable.create_user(ALICE),
    "set_user_enabled": lambda killable: killable.set_user_enabled(ALICE, enabled=True),
    "record": lambda killable: killable.record(MESSAGE),
    "find": lambda killable: killable.find(MESSAGE),
    "history": lambda killable: killable.history(ALICE, ThreadId("t"), limit=1),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_reads(read: Callable[[KillableStore], Awaitable[object]]) -> None:
    store = MemoryStore()
    killable = KillableStore(store)
    await read(killable)
    killable.is_killed = True
    before = store.statistics()
    with pytest.raises(StoreUnavailable):
        await read(killable)
    assert store.statistics() == before


async def test_writes() -> None:
    store = MemoryStore()
    dead, alive = KillableStore(store, is_killed=True), KillableStore(store)
    await alive.record(MESSAGE)
    for killable, status in ((dead, RunStatus.QUEUED), (alive, RunStatus.RUNNING)):
        killable.start_run(RUN)
        known = await alive.find(MESSAGE)
        assert known is not None
        assert known.status is status
    for killable, runs in ((dead, 1), (alive, 0)):
        await killable.end_run(END)
        assert store.statistics()["runs"] == runs


async def test_the_next_server_ends_the_runs_that_were_left() -> None:
    store = MemoryStore()
    async with KillableStore(store).open():
        await store.record(MESSAGE)
        async with KillableStore(store).open():  # another server beside the one that has the run
            known = await store.find(MESSAGE)
            assert known is not None
            assert known.status is RunStatus.QUEUED
    async with KillableStore(store).open():
        known = await store.find(MESSAGE)
        assert known is not None
        assert known.status is RunStatus.INTERRUPTED
        assert known.completed == b'{"run_id":"run_1","status":"interrupted","duration_ms":0}'
        assert store.statistics()["messages"] == 1
