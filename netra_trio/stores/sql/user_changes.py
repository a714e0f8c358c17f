"""Users that were enabled or disabled, numbered, so that other nodes notice it soon.

is_known = set_enabled(connection, user_id, enabled=False)
newest, user_ids = find_changes(connection, after=newest)
"""

from collections.abc import Sequence

from sqlalchemy import Connection, update

from netra_trio.ids import UserId
from netra_trio.stores.sql.changes import Changes
from netra_trio.stores.sql.schema import user_changes, users

KEPT_SECONDS = 3600.0

CHANGES = Changes(user_changes, user_changes.c.user_id, kept_seconds=KEPT_SECONDS)
"""The users that were enabled, disabled or removed."""


def set_enabled(connection: Connection, user_id: UserId, *, enabled: bool) -> bool:
    """Enable or disable a user, and note it; return whether there is such a user."""
    CHANGES.lock(connection)
    change = update(users).where(users.c.user_id == user_id).values(enabled=enabled)
    if not connection.execute(change).rowcount:
        return False
    CHANGES.note(connection, user_id)
    return True


def find_changes(connection: Connection, after: int) -> tuple[int, Sequence[UserId]]:
    """Return the newest number, and the users that were changed after a number; -1: none."""
    newest, found = CHANGES.find(connection, after)
    return newest, [UserId(user_id) for user_id in found]
