"""The users of the store in memory, within a bound.

>>> users = MemoryUsers(2, threads_of=())
>>> users.add(UserId("alice")).user.enabled
True
"""

import itertools
from collections.abc import Container
from heapq import heappop, heappush

from attrs import define

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.stores.base import User


@define(eq=False, repr=False)
class UserRow:
    """A user.

    Attributes:
        number: The position in the order of creation.
        is_candidate: Whether the user is in the heap of those that may be dropped.
    """

    number: int
    user: User
    is_candidate: bool = False


class MemoryUsers:
    """Users, within a bound.

    Args:
        bound: The maximum number of users.
        threads_of: The users that have a thread.

    Attributes:
        rows: The users by id.
        dropped: How many were dropped.
    """

    def __init__(self, bound: int, threads_of: Container[UserId]) -> None:
        self.rows: dict[UserId, UserRow] = {}
        self.dropped = 0
        self._bound = bound
        self._changes: dict[UserId, int] = {}  # the last change of each user, the oldest first
        self._changed = 0  # the number of the newest one
        self._threads_of = threads_of
        self._number = itertools.count()
        # A heap of the users that may be dropped, by number. A user that must be kept after all is
        # removed when it comes up, and added again later; each user is in it at most once.
        self._candidates: list[tuple[int, UserId]] = []

    def add(self, user_id: UserId) -> UserRow:
        """Return the row of a user, which is created if there is none.

        Raises:
            StoreUnavailable: If no user may be dropped for it.
        """
        row = self.rows.get(user_id)
        if row is None:
            if len(self.rows) >= self._bound:
                self._drop()
            row = self.rows[user_id] = UserRow(next(self._number), User(user_id))
            self.reconsider(user_id)
        return row

    def set_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user; return whether there is such a user."""
        row = self.rows.get(user_id)
        if row is None:
            return False
        row.user = User(user_id, enabled)
        self.reconsider(user_id)
        self._changed += 1
        self._changes.pop(user_id, None)
        self._changes[user_id] = self._changed
        if len(self._changes) > self._bound:  # of a user that was dropped
            del self._changes[next(iter(self._changes))]
        return True

    def changed(self, after: int) -> tuple[int, list[UserId]]:
        """Return the newest change, and the users that were changed after another one; -1: none."""
        users: list[UserId] = []
        if after >= 0:
            newest_first = reversed(self._changes.items())
            later = itertools.takewhile(lambda change: change[1] > after, newest_first)
            users = [user_id for user_id, _ in later]
        return self._changed, users[::-1]

    def reconsider(self, user_id: UserId) -> None:
        """Add the user to those that may be dropped, if that is so."""
        row = self.rows.get(user_id)
        if row is not None and not row.is_candidate and self._may_be_dropped(row):
            row.is_candidate = True
            heappush(self._candidates, (row.number, user_id))

    def _may_be_dropped(self, row: UserRow) -> bool:
        return row.user.enabled and row.user.id not in self._threads_of

    def _drop(self) -> None:
        while self._candidates:
            _, user_id = heappop(self._candidates)
            row = self.rows[user_id]
            row.is_candidate = False
            if self._may_be_dropped(row):
                del self.rows[user_id]
                self.dropped += 1
                return
        raise StoreUnavailable(f"all of {self._bound} users are disabled or have a thread")
