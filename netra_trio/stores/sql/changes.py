"""Numbered changes that other nodes poll: each node selects those after the last known number.

changes = Changes(user_changes, user_changes.c.user_id, kept_seconds=3600.0)
changes.note(connection, user_id)                       # in a transaction
newest, user_ids = changes.find(connection, after=newest)
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, func, insert, or_, select, text

from netra_trio.stores.sql.leases import now

LOCK = 7_145_623_919  # the key of an advisory lock of PostgreSQL; the same in every version

_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")


class Changes:
    """A table of changes: `number`, the changed subject, and `changed_at`.

    Args:
        table: The table.
        subject: Its column of the changed subjects.
        kept_seconds: The minimum time for which a change is kept.
    """

    def __init__(self, table: Table, subject: ColumnElement[Any], *, kept_seconds: float) -> None:
        self._table = table
        self._subject = subject.label("subject")
        self._name = str(subject.key)
        self._kept_seconds = kept_seconds
        every = table.alias("every")
        self._newest = select(func.max(every.c.number)).scalar_subquery()

    def lock(self, connection: Connection) -> None:
        """Prevent changes by other transactions until this one ends.

        Numbers are taken before the commit. Without the lock, a change could become visible after
        one with a higher number, and a node that has read that one would never read it.
        """
        if connection.dialect.name == "postgresql":
            connection.execute(_LOCK, {"lock": LOCK})

    def note(self, connection: Connection, subject: str) -> None:
        """Note a change, with the lock.

        Old changes are deleted with the next one, so that the newest number is always in the table.
        """
        table, moment = self._table, now(connection)
        old = table.c.changed_at < moment - self._kept_seconds
        connection.execute(delete(table).where(old))
        connection.execute(insert(table).values({self._name: subject, "changed_at": moment}))

    def find(self, connection: Connection, after: int) -> tuple[int, list[str]]:
        """Return the newest number, and the subjects that changed after a number; none for -1."""
        number = self._table.c.number
        is_newest = number == self._newest
        these = is_newest if after < 0 else or_(number > after, is_newest)
        rows = connection.execute(select(number, self._subject).where(these).order_by(number)).all()
        if not rows:
            return 0, []
        changed = [row.subject for row in rows if 0 <= after < row.number]
        # The last occurrence of each subject counts.
        return rows[-1].number, list(dict.fromkeys(reversed(changed)))[::-1]
