"""Finds what was recorded under idempotency keys, and the keys of deleted threads.

known = find_known(connection, keys)
forget_deleted(connection)              # in a transaction, may be executed twice
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, select, tuple_

from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import Duplicate
from netra_trio.stores.sql.ends import stored_end
from netra_trio.stores.sql.entries import Key, Known
from netra_trio.stores.sql.leases import now
from netra_trio.stores.sql.schema import deleted_keys, messages, runs, threads
from netra_trio.stores.threads import DELETED_KEY_SECONDS


def find_known(connection: Connection, keys: Sequence[Key]) -> dict[Key, Known]:
    """Return what is recorded under these keys, without the keys that are unknown."""
    these = tuple_(runs.c.user_id, runs.c.correlation_id).in_(keys)
    rows = connection.execute(_RECORDED.where(runs.c.keyed, these))
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
