"""Finds what was recorded under idempotency keys."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, select, tuple_

from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import Duplicate
from netra_trio.stores.sql.ends import stored_end
from netra_trio.stores.sql.entries import Key, Known
from netra_trio.stores.sql.schema import messages, runs, threads


def find_known(connection: Connection, keys: Sequence[Key]) -> dict[Key, Known]:
    """Return what is recorded under these keys, without the keys that are unknown."""
    these = tuple_(runs.c.user_id, runs.c.correlation_id).in_(keys)
    rows = connection.execute(_RECORDED.where(runs.c.keyed, these))
    return {
        (UserId(row.user_id), CorrelationId(row.correlation_id)): Known(
            row.fingerprint, _duplicate(row)
        )
        for row in rows
    }


_RECORDED: Select[Any] = (
    select(
        runs.c.run_id,
        runs.c.user_id,
        runs.c.correlation_id,
        runs.c.fingerprint,
        runs.c.status,
        runs.c.completed,
        messages.c.message_id,
        threads.c.thread_id,
    )
    .join(messages, messages.c.number == runs.c.message)
    .join(threads, threads.c.number == messages.c.thread)
)


def _duplicate(row: Row[Any]) -> Duplicate:
    end = stored_end(row)
    return Duplicate(
        MessageId(row.message_id),
        RunId(row.run_id),
        ThreadId(row.thread_id),
        RunStatus(row.status),
        None if end is None else end.completed,
    )
