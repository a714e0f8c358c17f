"""Deletes messages that are too old, with their runs and keys, and threads that are left empty."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, exists, select

from netra_trio.stores.sql.leases import UNFINISHED
from netra_trio.stores.sql.schema import messages, runs, threads

CHUNK = 500  # messages of one transaction: some ms, so that it delays no other write
DAY = 86_400.0  # seconds


class Progress(NamedTuple):
    """The progress of a deletion.

    Attributes:
        last: The number of the last message that was examined; None if there are no more.
        deleted: How many messages were deleted this time.
    """

    last: int | None
    deleted: int


def delete_old(connection: Connection, *, older_than: float, after: int = 0) -> Progress:
    """Delete the next messages that are older than `older_than`, and threads that are left empty.

    A message whose run has not ended is kept, with its key.

    Args:
        connection: In a transaction.
        older_than: Unix seconds.
        after: The number of the last message that was examined.
    """
    examined = connection.execute(
        select(messages.c.number, messages.c.thread, messages.c.created_at, runs.c.status)
        .outerjoin(runs, runs.c.message == messages.c.number)
        .where(messages.c.number > after)
        .order_by(messages.c.number)
        .limit(CHUNK)
    ).all()
    old = [row for row in examined if row.created_at < older_than and row.status not in UNFINISHED]
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
    # Numbers grow with time: no old message comes after a young one.
    is_done = len(examined) < CHUNK or examined[-1].created_at >= older_than
    return Progress(None if is_done else examined[-1].number, len(old))


def _lock(connection: Connection, numbers: Collection[int]) -> Sequence[int]:
    """Lock those of these threads that no other transaction writes to, and return them.

    A transaction that inserts a message locks its thread until the commit. If this waited for that
    lock, the thread would still look empty, and be deleted with the message that was inserted.
    """
    these = select(threads.c.number).where(threads.c.number.in_(numbers))
    return connection.scalars(these.with_for_update(skip_locked=True)).all()
