"""Messages to record, ends of their runs, and the results that a store should return.

message = new("hello", key="c-1")
end = end_of(message, "answer")
assert page == [of_user(message, RunStatus.COMPLETED), of_agent(end, message)]
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from typing import TypeVar

import trio
from sqlalchemy import Connection

from netra_trio.ids import (
    CorrelationId,
    MessageId,
    SessionId,
    ThreadId,
    UserId,
    new_correlation_id,
    new_message_id,
    new_question_id,
    new_run_id,
)
from netra_trio.protocol.messages import (
    HistoryMessage,
    HistoryRun,
    QuestionKind,
    QuestionOutcome,
    RunStatus,
)
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd, Store
from netra_trio.stores.notifications import Notification
from netra_trio.stores.questions import NewQuestion, QuestionEnd
from netra_trio.stores.sql.database import Database

T = TypeVar("T")

NOW = 1_640_995_200.25  # Unix seconds
PATIENCE = 100  # seconds, a bound on a hang, until queued writes must be stored
ALICE, BOB = UserId("alice"), UserId("bob")
MAIN, OTHER = ThreadId("main"), ThreadId("other")


def new(
    content: str = "hello",
    *,
    user: UserId = ALICE,
    thread: ThreadId = MAIN,
    key: str | None = None,
    keyed: bool = True,
    fingerprint: bytes = b"same",
    at: float = NOW,
    agent: str = "echo",
    session: SessionId | None = None,
    replaces: MessageId | None = None,
    unattended: bool = False,
) -> NewMessage:
    """Return a message to record, by default with a unique key."""
    correlation_id = CorrelationId(key) if key is not None else new_correlation_id()
    return NewMessage(
        user_id=user,
        thread_id=thread,
        message_id=new_message_id(),
        run_id=new_run_id(),
        agent_name=agent,
        correlation_id=correlation_id,
        key=correlation_id if keyed else None,
        fingerprint=fingerprint,
        content=content,
        created_at=at,
        session_id=session,
        replaces=replaces,
        unattended=unattended,
    )


def end_of(
    message: NewMessage,
    text: str = "answer",
    *,
    status: RunStatus = RunStatus.COMPLETED,
    truncated: bool = False,
    at: float = NOW + 1,
    steps: object = None,
    notification: Notification | None = None,
) -> RunEnd:
    """Return an end of the message's run."""
    payload = {"run_id": message.run_id, "status": status, "duration_ms": 1}
    return RunEnd(
        run_id=message.run_id,
        status=status,
        message_id=new_message_id(),
        text=text,
        truncated=truncated,
        created_at=at,
        completed=json.dumps(payload).encode(),
        duration_ms=1,
        steps=None if steps is None else json.dumps(steps).encode(),
        notification=notification,
    )


def of_user(message: NewMessage, status: RunStatus = RunStatus.QUEUED) -> HistoryMessage:
    """Return a user's message as an item of history."""
    return HistoryMessage(
        message_id=message.message_id,
        role="user",
        content=message.content,
        created_at=message.created_at,
        correlation_id=message.correlation_id,
        run=HistoryRun(message.run_id, message.agent_name, status),
    )


def of_agent(end: RunEnd, message: NewMessage) -> HistoryMessage:
    """Return the answer to a message as an item of history."""
    return HistoryMessage(
        message_id=end.message_id,
        role="agent",
        content=end.text,
        created_at=end.created_at,
        run=HistoryRun(message.run_id, message.agent_name, end.status, duration_ms=end.duration_ms),
        truncated=True if end.truncated else None,
        reply_to=message.message_id,
        steps=None if end.steps is None else json.loads(end.steps),
    )


def duplicate_of(
    message: NewMessage, status: RunStatus = RunStatus.QUEUED, completed: bytes | None = None
) -> Duplicate:
    """Return the expected result of recording the message again."""
    return Duplicate(message.message_id, message.run_id, message.thread_id, status, completed)


def again(message: NewMessage, *, fingerprint: bytes = b"same") -> NewMessage:
    """Return the message as if its client sent it again: the same key, and new ids."""
    return new("again", user=message.user_id, key=message.key, fingerprint=fingerprint)


async def page_of(
    store: Store,
    *,
    user: UserId = ALICE,
    thread: ThreadId = MAIN,
    limit: int = 100,
    before: MessageId | None = None,
) -> tuple[list[HistoryMessage], bool]:
    """Return a page of an existing thread."""
    page = await store.history(user, thread, limit=limit, before=before)
    assert page is not None
    messages, has_more = page
    return list(messages), has_more


async def record(store: Store, *messages: NewMessage) -> None:
    """Record messages that are not recorded yet, one after the other."""
    for message in messages:
        assert await store.record(message) is None


async def wait_until(holds: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Wait for queued writes."""
    with trio.fail_after(seconds):
        while not await holds():  # noqa: ASYNC110 - a store has no event for its writes
            await trio.sleep(0.01)


async def wait_for_history(
    store: Store, expected: Sequence[HistoryMessage], thread: ThreadId = MAIN
) -> None:
    """Wait until Alice's thread has exactly these messages."""

    async def holds() -> bool:
        page = await store.history(ALICE, thread, limit=100)
        return page is not None and list(page[0]) == list(expected)

    await wait_until(holds)


def asked_by(message: NewMessage, *, user: UserId = ALICE, at: float = NOW) -> NewQuestion:
    """Return an approval that a run of a message asks for."""
    return NewQuestion(
        question_id=new_question_id(),
        run_id=message.run_id,
        user_id=user,
        kind=QuestionKind.APPROVAL,
        prompt="Allow\x00 it, é?",
        created_at=at,
        expires_at=at + 300,
        schema=b'{"type":"string"}',
        tool_name="delete",
        arguments=b'{"path":"x"}',
        digest=b"\x00\xff",
    )


def answer_to(question: NewQuestion, answer: bytes | None = b'"yes"') -> QuestionEnd:
    """Return Alice's answer to a question."""
    outcome = QuestionOutcome.ANSWERED
    return QuestionEnd(question.question_id, question.run_id, outcome, answer, ALICE)


def change(url: str, work: Callable[[Connection], T]) -> T:
    """Run a transaction on a database without the store."""
    with closing(Database(url)) as database, database.engine.begin() as connection:
        return work(connection)
