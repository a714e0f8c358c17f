"""Sends the changes of a user's threads to the sessions of the user at this node.

    changes = ThreadChanges(users, store, start_soon)
    changes.publish(Change(user_id, thread_id, ThreadChange.RENAMED))
    changes.note(session_id, user_id, thread_id)            # `updated`, for several changes at once

The entry of a thread is read when a connection has space for a frame, so it is always current. A
connection that does not read costs one pending change for each changed thread.
"""

import random
from collections.abc import Callable
from typing import Any

import trio
from attrs import frozen

from netra_trio.connections.thread_commands import listed_thread
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import SessionId, ThreadId, UserId, is_listed
from netra_trio.protocol.threads import ThreadChange, ThreadChanged
from netra_trio.sessions.users import User, UserConnection, Users
from netra_trio.stores.threads import StoredThread, ThreadStore

COALESCE_SECONDS = 0.2  # several changes of a thread by runs in this time are sent as one
COALESCE_SPREAD = 0.25  # of these seconds, at random
FULL_SECONDS = 0.2  # before a full connection is tried again
STORE_SECONDS = 1.0  # before a request to the store is repeated
PENDING_CHANGES = 256  # of one connection that does not read; the oldest are dropped beyond it


@frozen
class Change:
    """A change of a thread.

    Attributes:
        excluded: The session that does not get the change; None for none.
    """

    user_id: UserId
    thread_id: ThreadId
    change: ThreadChange
    excluded: SessionId | None = None

    @property
    def key(self) -> tuple[UserId, ThreadId, bool]:
        """Equal for changes that are sent as one."""
        return self.user_id, self.thread_id, self.change is ThreadChange.DELETED

    def merged(self, later: "Change") -> "Change":
        """Return the change that replaces this and a later one of the same key."""
        change = _stronger(self.change, later.change)
        excluded = self.excluded if self.excluded == later.excluded else None
        return Change(self.user_id, self.thread_id, change, excluded)


class ThreadChanges:
    """The changes of threads for the connections of this node.

    Args:
        users: The users of this node.
        store: Has the threads.
        start_soon: Starts a task that ends with the node.

    Attributes:
        relay: Sends a change to the other nodes; None if there are none.
    """

    def __init__(self, users: Users, store: ThreadStore, start_soon: Callable[..., Any]) -> None:
        self.relay: Callable[[Change], None] | None = None
        self._users = users
        self._store = store
        self._start_soon = start_soon
        self._noted: dict[tuple[UserId, ThreadId], SessionId | None] = {}
        self._pending: dict[UserConnection, dict[tuple[ThreadId, bool], ThreadChange]] = {}
        self._sending: set[UserId] = set()
        self._reads: dict[tuple[UserId, ThreadId], list[trio.Event]] = {}  # that are in progress

    def note(self, session_id: SessionId, user_id: UserId, thread_id: ThreadId) -> None:
        """Send `updated` to the other sessions of a user, shortly later and once."""
        if not is_listed(thread_id):
            return
        key = (user_id, thread_id)
        if key in self._noted:
            if self._noted[key] != session_id:
                self._noted[key] = None  # both sessions have changed it: each one gets the change
        elif self.relay is not None or self._has_other(user_id, session_id):
            if not self._noted:
                self._start_soon(self._publish_noted)
            self._noted[key] = session_id

    def publish(self, change: Change) -> None:
        """Send a change to the sessions of a user, on all nodes."""
        self.deliver(change)
        if self.relay is not None and is_listed(change.thread_id):
            self.relay(change)

    def deliver(self, change: Change) -> None:
        """Send a change to the sessions of a user at this node."""
        for is_outdated in self._reads.get((change.user_id, change.thread_id), ()):
            is_outdated.set()
        user = self._users.find(change.user_id)
        if user is None or not is_listed(change.thread_id):
            return
        for connection in user.connections:
            if connection.reason is None and connection.session_id != change.excluded:
                self._add(connection, change)
        if self._first(user, ()) is not None and user.id not in self._sending:
            self._sending.add(user.id)
            self._start_soon(self._send, user.id)

    async def read(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        """Return a thread as it is now, for a frame that is sent without another checkpoint.

        A thread that changes meanwhile is read again: otherwise the last of several frames could
        have an entry from before the last change. Cancelling is safe.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        key = (user_id, thread_id)
        while True:
            is_outdated = trio.Event()
            self._reads.setdefault(key, []).append(is_outdated)
            try:
                stored = await self._store.get_thread(user_id, thread_id)
            finally:
                self._reads[key].remove(is_outdated)
                if not self._reads[key]:
                    del self._reads[key]
            if not is_outdated.is_set():
                return stored

    def forget(self, connection: UserConnection) -> None:
        """Forget a connection that has ended."""
        self._pending.pop(connection, None)

    def _has_other(self, user_id: UserId, session_id: SessionId) -> bool:
        user = self._users.find(user_id)
        if user is not None:
            for connection in user.connections:  # twice for each run: `any` would be slower
                if connection.session_id != session_id:
                    return True
        return False

    async def _publish_noted(self) -> None:
        # Spread over time, so that several nodes do not read the store at the same moment.
        await trio.sleep(COALESCE_SECONDS * (1 - COALESCE_SPREAD * random.random()))  # noqa: S311 - no secret
        noted, self._noted = self._noted, {}
        for (user_id, thread_id), excluded in noted.items():
            self.publish(Change(user_id, thread_id, ThreadChange.UPDATED, excluded))

    def _add(self, connection: UserConnection, change: Change) -> None:
        pending = self._pending.setdefault(connection, {})
        thread_id, kind = change.thread_id, change.change
        key = (thread_id, kind is ThreadChange.DELETED)
        if kind is ThreadChange.DELETED:
            pending.pop((thread_id, False), None)
        pending[key] = _stronger(pending.get(key, kind), kind)
        if len(pending) > PENDING_CHANGES:
            del pending[next(iter(pending))]

    def _first(
        self, user: User, full: "set[UserConnection] | tuple[()]"
    ) -> tuple[ThreadId, bool] | None:
        """Return the oldest change of a connection that may have space."""
        for connection in user.connections:
            if connection not in full and (pending := self._pending.get(connection)):
                return next(iter(pending))
        return None

    async def _send(self, user_id: UserId) -> None:
        """Send the pending changes of a user, until there are none."""
        full: set[UserConnection] = set()
        try:
            while (user := self._users.find(user_id)) is not None:
                key = self._first(user, full)
                if key is not None:
                    full |= await self._send_one(user, key)
                elif full:
                    await trio.sleep(FULL_SECONDS)
                    full.clear()
                else:
                    return
        finally:
            self._sending.discard(user_id)

    async def _send_one(self, user: User, key: tuple[ThreadId, bool]) -> set[UserConnection]:
        """Send a change to each connection whose oldest it is; return the full connections."""
        thread_id, is_deleted = key
        changes = {
            connection: pending.pop(key)
            for connection in user.connections
            if (pending := self._pending.get(connection)) and next(iter(pending)) == key
        }
        thread = None
        if not is_deleted:
            try:
                stored = await self.read(user.id, thread_id)
            except StoreUnavailable:
                self._put_back(changes, key)
                await trio.sleep(STORE_SECONDS)
                return set()
            if stored is None:  # it was deleted meanwhile: that is another change
                return set()
            thread = listed_thread(user.id, stored)
        full = {
            connection: change
            for connection, change in changes.items()
            if connection.reason is None
            and not connection.try_send(ThreadChanged(thread_id, change, thread))
        }
        self._put_back(full, key)
        return set(full)

    def _put_back(
        self, changes: dict[UserConnection, ThreadChange], key: tuple[ThreadId, bool]
    ) -> None:
        """Keep a change for connections that did not get it, unless a later one replaces it."""
        for connection, change in changes.items():
            pending = self._pending.get(connection)
            if pending is None or (key[0], True) in pending:
                continue
            kept = _stronger(change, pending.pop(key, change))
            self._pending[connection] = {key: kept, **pending}  # it stays the oldest


_RANK = (ThreadChange.UPDATED, ThreadChange.RENAMED, ThreadChange.DELETED)


def _stronger(one: ThreadChange, other: ThreadChange) -> ThreadChange:
    """Return the change that replaces both."""
    return max(one, other, key=_RANK.index)
