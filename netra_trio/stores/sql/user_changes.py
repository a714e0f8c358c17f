"""Users that were enabled or disabled, numbered, so that other nodes notice it soon.

is_known = set_enabled(connection, user_id, enabled=False)
newest, user_ids = find_changes(connection, after=newest)
"""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, or_, select, text, update

from netra_trio.ids import UserId
from netra_trio.stores.sql.leases import now
from netra_trio.stores.sql.schema import user_changes, users

KEPT_SECONDS = 3600.0
LOCK = 7_145_623_919  # the key of an advisory lock of PostgreSQL; the same in every version

_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_ALL = user_changes.alias("all_changes")
_NEWEST = select(func.max(_ALL.c.number)).scalar_subquery()


def set_enabled(connection: Connection, user_id: UserId, *, enabled: bool) -> bool:
    """Enable or disable a user, and note it; return whether there is such a user.

    Old changes are deleted with the next one, so that the newest number is always in the table.
    """
    if connection.dialect.name == "postgresql":
        # Numbers are taken before the commit: without the lock, a change could become visible
        # after one with a higher number, and who has seen that one would never see it.
        connection.execute(_LOCK, {"lock": LOCK})
    change = update(users).where(users.c.user_id == user_id).values(enabled=enabled)
    if not connection.execute(change).rowcount:
        return False
    moment = now(connection)
    connection.execute(
        delete(user_changes).where(user_changes.c.changed_at < moment - KEPT_SECONDS)
    )
    connection.execute(insert(user_changes).values(user_id=user_id, changed_at=moment))
    return True


def find_changes(connection: Connection, after: int) -> tuple[int, Sequence[UserId]]:
    """Return the newest number, and the users that were changed after a number; -1: none."""
    is_newest = user_changes.c.number == _NEWEST
    these = is_newest if after < 0 else or_(user_changes.c.number > after, is_newest)
    rows = connection.execute(
        select(user_changes.c.number, user_changes.c.user_id)
        .where(these)
        .order_by(user_changes.c.number)
    ).all()
    if not rows:
        return 0, ()
    changed = [UserId(row.user_id) for row in rows if 0 <= after < row.number]
    # The last place of each user counts.
    return rows[-1].number, list(dict.fromkeys(reversed(changed)))[::-1]
