"""Deletes what is older than history is kept: messages with their runs and keys, and threads."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, exists, select

from netra_trio.stores.sql.leases import UNFINISHED
from netra_trio.stores.sql.schema import messages, runs, threads

CHUNK = 500  # messages looked at in one transaction: some ms, so that nobody waits for it
DAY = 86_400.0  # seconds


class Progress(NamedTuple):
    """How far a deletion has come.

    Attributes:
        last: The number of the last message that was looked at; None where it is done.
        deleted: How many messages went this time.
    """

    last: int | None
    deleted: int


def delete_old(connection: Connection, *, older_than: float, after: int = 0) -> Progress:
    """Delete the next messages that are older than that (Unix seconds), and threads left empty.

    A message whose run goes on stays, with its key.
    """
    looked_at = connection.execute(
        select(messages.c.number, messages.c.thread, messages.c.created_at, runs.c.status)
        .outerjoin(runs, runs.c.message == messages.c.number)
        .where(messages.c.number > after)
        .order_by(messages.c.number)
        .limit(CHUNK)
    ).all()
    old = [row for row in looked_at if row.created_at < older_than and row.status not in UNFINISHED]
    if old:
        connection.execute(
            delete(messages).where(messages.c.number.in_([row.number for row in old]))
        )
        is_empty = ~exists().where(messages.c.thread == threads.c.number)
        connection.execute(
            delete(threads).where(
                threads.c.number.in_(_hold(connection, {row.thread for row in old})), is_empty
            )
        )
    # Numbers grow with time: behind a young one there are no old ones.
    is_done = len(looked_at) < CHUNK or looked_at[-1].created_at >= older_than
    return Progress(None if is_done else looked_at[-1].number, len(old))


def _hold(connection: Connection, numbers: Collection[int]) -> Sequence[int]:
    """Hold those of these threads that nobody writes to now, and return them.

    Whoever writes to a thread holds it until the commit. Waited for instead of passed over, it
    would look empty still, and be deleted with the message that has just come.
    """
    these = select(threads.c.number).where(threads.c.number.in_(numbers))
    return connection.scalars(these.with_for_update(skip_locked=True)).all()
