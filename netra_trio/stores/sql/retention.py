"""Deletes messages that are too old, with their runs and keys, and threads that are left empty.

Reports of usage have no content, and are kept for at least 400 days.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, delete, exists, select

from netra_trio.stores.base import UNFINISHED
from netra_trio.stores.sql.schema import messages, runs, threads, usage

CHUNK = 500  # messages of one transaction: some ms, so that it delays no other write
DAY = 86_400.0  # seconds
USAGE_DAYS = 400  # the shortest time to keep reports of usage: a year, and a month to compare


def delete_old(connection: Connection, *, older_than: float) -> int:
    """Delete messages that are older than `older_than`, and threads that are left empty.

    A message whose run has not ended is kept, with its key.

    Args:
        connection: In a transaction.
        older_than: Unix seconds.

    Returns:
        How many messages were deleted; if it is less than `CHUNK`, no others are left, except those
        that another server deletes at the same time.
    """
    is_unfinished = exists().where(
        runs.c.message == messages.c.number, runs.c.status.in_(UNFINISHED)
    )
    old = connection.execute(
        select(messages.c.number, messages.c.thread)
        .where(messages.c.created_at < older_than, ~is_unfinished)
        .order_by(messages.c.created_at)
        .limit(CHUNK)
        .with_for_update(skip_locked=True)
    ).all()
    if old:
        connection.execute(
            delete(messages).where(messages.c.number.in_([row.number for row in old]))
        )
        is_empty = ~exists().where(messages.c.thread == threads.c.number)
        connection.execute(
            delete(threads).where(
                threads.c.number.in_(_lock(connection, {row.thread for row in old})), is_empty
            )
        )
    return len(old)


def delete_old_usage(connection: Connection, *, before: str) -> int:
    """Delete reports of usage before a day, as `2026-11-30`; return how many, at most `CHUNK`."""
    old = select(usage.c.usage_id).where(usage.c.day < before).limit(CHUNK)
    return connection.execute(delete(usage).where(usage.c.usage_id.in_(old))).rowcount


def _lock(connection: Connection, numbers: Collection[int]) -> Sequence[int]:
    """Lock those of these threads that no other transaction writes to, and return them.

    A transaction that inserts a message locks its thread until the commit. If this waited for that
    lock, the thread would still look empty, and be deleted with the message that was inserted.
    """
    these = select(threads.c.number).where(threads.c.number.in_(numbers))
    return connection.scalars(these.with_for_update(skip_locked=True)).all()
