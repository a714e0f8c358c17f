"""Finds the runs that were recorded under idempotency keys, and the keys of deleted threads.

known = find_known(connection, keys)
forget_deleted(connection)              # in a transaction; may be repeated
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import Duplicate
from netra_trio.stores.sql.ends import stored_end
from netra_trio.stores.sql.entries import Key, Known
from netra_trio.stores.sql.leases import now
from netra_trio.stores.sql.schema import as_written, deleted_keys, exact
from netra_trio.stores.threads import DELETED_KEY_SECONDS

# Without SQLAlchemy, like the inserts: each batch with keys executes it. It is a join, because with
# a condition on pairs SQLite would read all runs.
_RECORDED = (
    "WITH given (user_id, correlation_id) AS ({}) "
    "SELECT runs.run_id, runs.user_id, runs.correlation_id, runs.fingerprint, runs.status, "
    "runs.completed, messages.message_id, threads.thread_id FROM given "
    "JOIN runs ON runs.user_id = given.user_id "
    "AND runs.correlation_id = given.correlation_id AND runs.keyed "
    "JOIN messages ON messages.number = runs.message "
    "JOIN threads ON threads.number = messages.thread"
)
_ARRAYS = "SELECT * FROM unnest(%s::text[], %s::text[])"


def find_known(connection: Connection, keys: Sequence[Key]) -> dict[Key, Known]:
    """Return what is recorded under these keys, without the keys that are unknown."""
    known: dict[Key, Known] = {}
    for row in _recorded(connection, keys):
        key = (UserId(as_written(row.user_id)), CorrelationId(as_written(row.correlation_id)))
        known[key] = Known(row.fingerprint, _duplicate(row))
    # After the runs: one transaction deletes a run and adds its key here.
    correlation_ids = {correlation_id for _, correlation_id in keys}
    deleted = select(deleted_keys).where(deleted_keys.c.correlation_id.in_(correlation_ids))
    for row in connection.execute(deleted):
        known.setdefault((row.user_id, row.correlation_id), Known(row.fingerprint, None))
    return known


def _recorded(connection: Connection, keys: Sequence[Key]) -> Sequence[Row[Any]]:
    stored = [(exact(user_id), exact(correlation_id)) for user_id, correlation_id in keys]
    if connection.dialect.name == "postgresql":
        values: tuple[object, ...] = tuple(list(column) for column in zip(*stored, strict=True))
        return connection.exec_driver_sql(_RECORDED.format(_ARRAYS), values).all()
    # The number of rows is rounded up, so that few statements are prepared; a key may be repeated.
    size = 4
    while size < len(stored):
        size *= 4
    stored += stored[-1:] * (size - len(stored))
    rows = "VALUES " + ", ".join(["(?, ?)"] * size)
    values = tuple(text for pair in stored for text in pair)
    return connection.exec_driver_sql(_RECORDED.format(rows), values).all()


def forget_deleted(connection: Connection) -> None:
    """Delete the keys of threads that were deleted a day ago."""
    old = deleted_keys.c.deleted_at < now(connection) - DELETED_KEY_SECONDS
    connection.execute(delete(deleted_keys).where(old))


def _duplicate(row: Row[Any]) -> Duplicate:
    end = stored_end(row)
    return Duplicate(
        MessageId(as_written(row.message_id)),
        RunId(as_written(row.run_id)),
        ThreadId(as_written(row.thread_id)),
        RunStatus(row.status),
        None if end is None else end.completed,
    )
