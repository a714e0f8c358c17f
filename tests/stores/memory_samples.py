"""Calls of the store in memory without an event loop."""

import itertools
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import NewMessage, RunEnd
from netra_trio.stores.memory import MemoryStore

T = TypeVar("T")

NOW = 1_640_995_200.0  # Unix seconds
ALICE, BOB = UserId("alice"), UserId("bob")
COMPLETED = b"{}"

_count = itertools.count()


def result(call: Awaitable[T]) -> T:
    """Run a call without an event loop: it must not wait."""
    try:
        call.__await__().send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    pytest.fail("a call waited")


def new(
    content: str = "x",
    *,
    user: UserId = ALICE,
    thread: str = "main",
    key: str | None = None,
    fingerprint: bytes = b"same",
    at: float = NOW,
) -> NewMessage:
    n = next(_count)
    return NewMessage(
        user_id=user,
        thread_id=ThreadId(thread),
        message_id=MessageId(f"m{n}"),
        run_id=RunId(f"r{n}"),
        agent_name="echo",
        correlation_id=CorrelationId(key if key is not None else f"c{n}"),
        key=None if key is None else CorrelationId(key),
        fingerprint=fingerprint,
        content=content,
        created_at=at,
    )


def end_of(
    message: NewMessage, text: str = "", *, completed: bytes = COMPLETED, at: float = NOW
) -> RunEnd:
    return RunEnd(
        run_id=message.run_id,
        status=RunStatus.COMPLETED,
        message_id=MessageId(f"m{next(_count)}"),
        text=text,
        truncated=False,
        created_at=at,
        completed=completed,
    )


def record(store: MemoryStore, *messages: NewMessage) -> None:
    for message in messages:
        assert result(store.record(message)) is None


def settle(store: MemoryStore, *messages: NewMessage, text: str = "") -> None:
    """Record messages and end their runs."""
    for message in messages:
        record(store, message)
        result(store.end_run(end_of(message, text)))


def contents(store: MemoryStore, thread: str = "main", user: UserId = ALICE) -> list[str] | None:
    """Return the texts of a thread, None if there is none."""
    page = result(store.history(user, ThreadId(thread), limit=1000))
    return None if page is None else [message.content for message in page[0]]


def unavailable(store: MemoryStore, message: NewMessage) -> bool:
    """Return whether the message is rejected and nothing has changed."""
    before = store.statistics()
    try:
        result(store.record(message))
    except StoreUnavailable:
        assert store.statistics() == before
        return True
    return False
