"""The store of a server that is killed: its reads fail and its writes are lost."""

from collections.abc import Awaitable, Callable

import pytest

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import (
    CorrelationId,
    FileId,
    MessageId,
    NodeId,
    NotificationId,
    QuestionId,
    RunId,
    SessionId,
    ThreadId,
    UsageId,
    UserId,
)
from netra_trio.protocol.messages import QuestionKind, QuestionOutcome, RunStatus
from netra_trio.protocol.usage import NOTHING, UsageKey
from netra_trio.stores.base import NewMessage, RunEnd, interrupted
from netra_trio.stores.files import StoredFile
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.notifications import Notification
from netra_trio.stores.questions import NewQuestion, QuestionEnd
from netra_trio.stores.usage import Usage
from netra_trio.testing.killable_store import KillableStore

ALICE, RUN = UserId("alice"), RunId("run_1")
SESSION, GONE = SessionId("sess_1"), NodeId("own_1")
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

QUESTION = NewQuestion(
    QuestionId("q_1"), RUN, ALICE, QuestionKind.QUESTION, "Well?", created_at=1.0, expires_at=9.0
)
ANSWER = QuestionEnd(QUESTION.question_id, RUN, QuestionOutcome.ANSWERED, b"1", ALICE)
THREAD = ThreadId("t")
NOTIFICATION = Notification(NotificationId("ntf_1"), "agent_asking", ALICE, THREAD, RUN)
USAGE = Usage(UsageId("use_1"), RUN, ALICE, "a", "qwen3", 1, 1, None, 1.0)
FILE = StoredFile(FileId("file_1"), ALICE, "a.txt", "text/plain", 9, "0" * 64, 1.0)

READS: dict[str, Callable[[KillableStore], Awaitable[object]]] = {
    "check": lambda killable: killable.check(),
    "get_user": lambda killable: killable.get_user(ALICE),
    "create_user": lambda killable: killable.create_user(ALICE),
    "set_user_enabled": lambda killable: killable.set_user_enabled(ALICE, enabled=True),
    "record": lambda killable: killable.record(MESSAGE),
    "find": lambda killable: killable.find(MESSAGE),
    "record_question": lambda killable: killable.record_question(QUESTION),
    "find_question": lambda killable: killable.find_question(ALICE, QUESTION.question_id),
    "changed_users": lambda killable: killable.changed_users(0),
    "take_over": lambda killable: killable.take_over(SESSION, owner=GONE, runs=[RUN]),
    "hand_over": lambda killable: killable.hand_over([RUN], seconds=9),
    "note_uncopied": lambda killable: killable.note_uncopied(SESSION, 1),
    "uncopied_from": lambda killable: killable.uncopied_from(SESSION),
    "find_run": lambda killable: killable.find_run(ALICE, RUN),
    "interrupt_run": lambda killable: killable.interrupt_run(RUN, owner=GONE),
    "history": lambda killable: killable.history(ALICE, THREAD, limit=1),
    "list_threads": lambda killable: killable.list_threads(ALICE, limit=1),
    "get_thread": lambda killable: killable.get_thread(ALICE, THREAD),
    "find_room": lambda killable: killable.find_room("thread:x"),
    "find_question_thread": lambda killable: killable.find_question_thread(QUESTION.question_id),
    "set_title": lambda killable: killable.set_title(ALICE, THREAD, "x", by_user=True),
    "mark_read": lambda killable: killable.mark_read(ALICE, THREAD, MessageId("m")),
    "set_feedback": lambda killable: killable.set_feedback(ALICE, MessageId("m"), None, None),
    "unfinished_runs": lambda killable: killable.unfinished_runs(),
    "count_unattended": lambda killable: killable.count_unattended(ALICE),
    "delete_thread": lambda killable: killable.delete_thread(ALICE, THREAD),
    "add_notification": lambda killable: killable.add_notification(NOTIFICATION),
    "take_notifications": lambda killable: killable.take_notifications(limit=1, seconds=1),
    "postpone": lambda killable: killable.postpone_notification(NOTIFICATION.id, seconds=1),
    "drop_notification": lambda killable: killable.drop_notification(NOTIFICATION.id),
    "run_status": lambda killable: killable.run_status(RUN),
    "request_stop": lambda killable: killable.request_stop(RUN),
    "stop_requests": lambda killable: killable.stop_requests(0),
    "reserve_file": lambda killable: killable.reserve_file(FILE, max_bytes=9),
    "finish_file": lambda killable: killable.finish_file(FILE.file_id),
    "get_file": lambda killable: killable.get_file(FILE.file_id),
    "find_files": lambda killable: killable.find_files(ALICE, [FILE.file_id]),
    "count_file_bytes": lambda killable: killable.count_file_bytes(ALICE),
    "deleted_files": lambda killable: killable.deleted_files(),
    "forget_files": lambda killable: killable.forget_files([FILE.file_id]),
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
    assert dead.owner == store.owner
    await alive.record(MESSAGE)
    for killable, status in ((dead, RunStatus.QUEUED), (alive, RunStatus.RUNNING)):
        killable.start_run(RUN)
        known = await alive.find(MESSAGE)
        assert known is not None
        assert known.status is status
    for killable, runs in ((dead, 1), (alive, 0)):
        assert await killable.end_run(END) is None
        assert store.statistics()["runs"] == runs


async def test_an_end_that_comes_too_late() -> None:
    store = MemoryStore()
    killable = KillableStore(store)
    await killable.record(MESSAGE)
    store.end_runs_of(killable.owner)
    assert await killable.end_run(END) == interrupted(RUN)


async def test_writes_of_questions_and_usage() -> None:
    class Counting(MemoryStore):
        reports = 0

        async def record_usage(self, usage: Usage) -> None:
            self.reports += usage.input_tokens

    store = Counting()
    dead, alive = KillableStore(store, is_killed=True), KillableStore(store)
    await alive.record(MESSAGE)
    await alive.record_question(QUESTION)
    for killable, outcome, reports in ((dead, None, 0), (alive, QuestionOutcome.ANSWERED, 1)):
        await killable.end_question(ANSWER)
        await killable.record_usage(USAGE)
        found = await alive.find_question(ALICE, QUESTION.question_id)
        assert found is not None
        assert (found.outcome, store.reports) == (outcome, reports)
    key = UsageKey(ALICE, "chat", "2027-01-15")
    assert await alive.used_in_day(key) == NOTHING
    with pytest.raises(StoreUnavailable):
        await dead.used_in_day(key)


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
