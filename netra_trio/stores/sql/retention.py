"""Deletes messages that are too old, with their runs, keys and answers, and then empty threads.

Reports of usage have no content, and are kept for at least 400 days.
"""

from sqlalchemy import Connection, delete, exists, select

from netra_trio.stores.sql.branches import delete_messages
from netra_trio.stores.sql.files import DELETED
from netra_trio.stores.sql.schema import messages, runs, usage
from netra_trio.stores.threads import UNFINISHED

CHUNK = (
    500  # messages of one transaction, without answers: some ms, so that other writes wait little
)
DAY = 86_400.0  # seconds
USAGE_DAYS = 400  # the shortest time to keep reports of usage: a year, and a month to compare


def delete_old(connection: Connection, *, older_than: float) -> int:
    """Delete messages of users that are older than `older_than`, and threads that are left empty.

    An answer goes with its question. A message whose run has not ended is kept, with its key.

    Args:
        connection: In a transaction.
        older_than: Unix seconds.

    Returns:
        How many messages were deleted, without their answers; if it is less than `CHUNK`, none
        is left, except those that another server deletes at the same time.
    """
    is_unfinished = exists().where(
        runs.c.message == messages.c.number, runs.c.status.in_(UNFINISHED)
    )
    old = connection.execute(
        select(messages.c.number, messages.c.thread)
        .where(
            messages.c.created_at < older_than,
            messages.c.number == messages.c.place,
            ~is_unfinished,
        )
        .order_by(messages.c.created_at)
        .limit(CHUNK)
        .with_for_update(skip_locked=True)
    ).all()
    if old:
        numbers = {row.number: row.thread for row in old}
        delete_messages(connection, numbers, files_become=DELETED)
    return len(old)


def delete_old_usage(connection: Connection, *, before: str) -> int:
    """Delete reports of usage before a day, as `2026-11-30`; return how many, at most `CHUNK`."""
    old = select(usage.c.usage_id).where(usage.c.day < before).limit(CHUNK)
    return connection.execute(delete(usage).where(usage.c.usage_id.in_(old))).rowcount
