"""Ends of runs in the database: as what a run ended, and runs whose node is gone.

    ended = interrupt(connection, runs.c.owner == lease)       # in a transaction
    stood = find_ends(connection, run_ids)

Every statement that ends or moves runs locks their rows first, in the order of their messages, and
only rows that still have the expected owner: two nodes that write to the same run wait for each
other, and the second one finds that the first was there.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, literal_column, select

from netra_trio.ids import NodeId, RunId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import StoredEnd, interrupted
from netra_trio.stores.sql.rows import placeholder
from netra_trio.stores.sql.schema import runs
from netra_trio.stores.threads import UNFINISHED

is_unfinished: ColumnElement[Any] = literal_column("runs.status IN ('queued', 'running')")
"""A condition in the words of the indexes: with parameters, SQLite would not use them."""

# Past SQLAlchemy, as the inserts are: a hundred at once cost a third.
_END_RUN = (
    "UPDATE runs SET status = {0}, completed = {0}, duration_ms = {0}, owner = NULL "
    "WHERE message = {0}"
)


def locked(query: Select[Any]) -> Select[Any]:
    """Return a query of runs that locks their rows, in one order for all transactions.

    SQLite has no such locks, and needs none: one transaction writes at a time. The lock still
    permits questions of these runs to be inserted.
    """
    return query.order_by(runs.c.message).with_for_update(of=runs, key_share=True)


def end_rows(connection: Connection, ends: Collection[tuple[int, StoredEnd, int]]) -> None:
    """Store ends of locked runs, each with the number of the run's message, and its duration."""
    if ends:
        rows: list[tuple[object, ...]] = [
            (str(end.status), end.completed, duration, message) for message, end, duration in ends
        ]
        connection.exec_driver_sql(_END_RUN.format(placeholder(connection)), rows)


def interrupt(connection: Connection, *these: ColumnElement[bool]) -> int:
    """End the unfinished runs of a condition as `interrupted`; return how many there were."""
    query = select(runs.c.message, runs.c.run_id).where(is_unfinished, *these)
    rows = connection.execute(locked(query)).all()
    interrupt_rows(connection, rows)
    return len(rows)


def interrupt_rows(connection: Connection, rows: Collection[Row[Any]]) -> None:
    """End locked runs as `interrupted`; each row has a run and the number of its message."""
    end_rows(connection, [(row.message, interrupted(RunId(row.run_id)), 0) for row in rows])


def find_ends(
    connection: Connection, run_ids: Collection[RunId]
) -> dict[RunId, tuple[NodeId | None, StoredEnd | None]]:
    """Return owner and end of those of these runs that are known; no end of an unfinished one."""
    if not run_ids:
        return {}
    columns = (runs.c.run_id, runs.c.status, runs.c.completed, runs.c.owner)
    query: Select[Any] = select(*columns).where(runs.c.run_id.in_(run_ids))
    rows = connection.execute(query)
    return {RunId(row.run_id): (row.owner, stored_end(row)) for row in rows}


def stored_end(row: Row[Any]) -> StoredEnd | None:
    """Return the end of a run, None if it is unfinished.

    An older version stores no payload with an end whose process is gone.
    """
    run_id, status = RunId(row.run_id), RunStatus(row.status)
    if status in UNFINISHED:
        return None
    if row.completed is None:
        return interrupted(run_id)
    return StoredEnd(run_id, status, row.completed)
