"""Ends the connections of users that are disabled or deleted, on every node, within two seconds.

nursery.start_soon(UserWatch(users, store).run)
"""

import trio

from netra_trio.auth.identity import user_refusal
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.protocol.codes import EndReason
from netra_trio.sessions.users import Users
from netra_trio.stores.base import Store

POLL_SECONDS = 1.0
OPENING_SECONDS = 10.0  # a connection whose upgrade checked the user before is open after that time


class UserWatch:
    """Polls the store for users that were enabled, disabled or deleted.

    Args:
        users: The users of this node.
        store: Holds the users.
    """

    def __init__(self, users: Users, store: Store) -> None:
        self._users = users
        self._store = store
        # Users to check, until when on Trio's clock: an upgrade in progress may have seen the user
        # before the change, and its connection is not open yet.
        self._changed: dict[UserId, float] = {}

    async def run(self) -> None:
        """Poll until cancelled; while the store cannot answer, this continues a second later."""
        newest = -1
        while True:
            try:
                newest, changed = await self._store.changed_users(newest)
                until = trio.current_time() + OPENING_SECONDS
                self._changed.update(dict.fromkeys(changed, until))
                for user_id in list(self._changed):
                    await self._check(user_id)
            except StoreUnavailable:
                pass
            await trio.sleep(POLL_SECONDS)

    async def _check(self, user_id: UserId) -> None:
        """End the connections of a user who is not enabled."""
        user = self._users.find(user_id)
        if user is not None and user.connections:
            refusal = user_refusal(await self._store.get_user(user_id))
            if refusal is not None:
                for connection in list(user.connections):
                    connection.end(EndReason.USER_DISABLED, refusal)
        if self._changed[user_id] <= trio.current_time():
            del self._changed[user_id]
