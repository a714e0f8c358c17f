"""Finds what was recorded under idempotency keys, and the keys of deleted threads.

known = find_known(connection, keys)
forget_deleted(connection)              # in a transaction, may be executed twice
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    column,
    delete,
    literal_column,
    select,
    values,
)

from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import Duplicate
from netra_trio.stores.sql.ends import stored_end
from netra_trio.stores.sql.entries import Key, Known
from netra_trio.stores.sql.leases import now
from netra_trio.stores.sql.schema import ExactText, deleted_keys, messages, runs, threads
from netra_trio.stores.threads import DELETED_KEY_SECONDS


def find_known(connection: Connection, keys: Sequence[Key]) -> dict[Key, Known]:
    """Return what is recorded under these keys, without the keys that are unknown."""
    # A join: with a condition of pairs, SQLite would read all runs.
    given = _GIVEN.data(list(keys)).cte("given")
    is_given = and_(
        runs.c.user_id == given.c.user_id, runs.c.correlation_id == given.c.correlation_id
    )
    rows = connection.execute(_RECORDED.join(given, is_given).where(_IS_KEYED))
    known = {
        (UserId(row.user_id), CorrelationId(row.correlation_id)): Known(
            row.fingerprint, _duplicate(row)
        )
        for row in rows
    }
    # After the runs: in one transaction a run is deleted and its key is added to these.
    correlation_ids = {correlation_id for _, correlation_id in keys}
    deleted = select(deleted_keys).where(deleted_keys.c.correlation_id.in_(correlation_ids))
    for row in connection.execute(deleted):
        known.setdefault((row.user_id, row.correlation_id), Known(row.fingerprint, None))
    return known


def forget_deleted(connection: Connection) -> None:
    """Delete the keys of threads that were deleted a day ago."""
    old = deleted_keys.c.deleted_at < now(connection) - DELETED_KEY_SECONDS
    connection.execute(delete(deleted_keys).where(old))


# In the words of the index: with `keyed = 1`, as SQLAlchemy writes it, SQLite would not use it.
_IS_KEYED: ColumnElement[bool] = literal_column("runs.keyed")

_GIVEN = values(column("user_id", ExactText), column("correlation_id", ExactText), name="given")

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
