# ruff: noqa: ARG002
"""Threads, notifications and stops of runs in a database: the calls of `SqlStore` about them."""

from collections.abc import Sequence

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import MessageId, NotificationId, RunId, ThreadId, UserId
from netra_trio.protocol.threads import Rating
from netra_trio.stores.notifications import DueNotification, Notification
from netra_trio.stores.threads import StoredThread, UnfinishedRun


class ThreadCalls:
    """The calls."""

    async def list_threads(
        self,
        user_id: UserId,
        *,
        limit: int,
        before: ThreadId | None = None,
        query: str | None = None,
    ) -> tuple[Sequence[StoredThread], bool]:
        """Return threads, the newest update first, and whether there are more."""
        raise StoreUnavailable

    async def get_thread(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        """Return one thread as it is listed, None if the user has no such thread."""
        raise StoreUnavailable

    async def find_room(self, room: str) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a room, or None."""
        raise StoreUnavailable

    async def set_title(
        self, user_id: UserId, thread_id: ThreadId, title: str, *, by_user: bool
    ) -> bool:
        """Set the title of a thread; return whether it was set."""
        raise StoreUnavailable

    async def mark_read(self, user_id: UserId, thread_id: ThreadId, message_id: MessageId) -> bool:
        """Set the read mark to a message; return whether there is such a thread."""
        raise StoreUnavailable

    async def set_feedback(
        self, user_id: UserId, message_id: MessageId, rating: Rating | None, comment: str | None
    ) -> ThreadId | None:
        """Store, replace or remove the feedback on an answer; return its thread."""
        raise StoreUnavailable

    async def unfinished_runs(
        self, user_id: UserId | None = None, thread_id: ThreadId | None = None
    ) -> Sequence[UnfinishedRun]:
        """Return the runs that have not ended, oldest first: all, a user's, or a thread's."""
        raise StoreUnavailable

    async def count_unattended(self, user_id: UserId) -> int:
        """Return how many unattended runs of a user have not ended."""
        raise StoreUnavailable

    async def delete_thread(self, user_id: UserId, thread_id: ThreadId) -> bool:
        """Delete a thread with all that belongs to it; return whether there was such a thread."""
        raise StoreUnavailable

    # Notifications, and stops of runs

    async def add_notification(self, notification: Notification) -> None:
        """Store a notification, due at once; one that comes twice is stored once."""
        raise StoreUnavailable

    async def take_notifications(self, *, limit: int, seconds: float) -> Sequence[DueNotification]:
        """Take notifications that are due; no node takes them again for some seconds."""
        raise StoreUnavailable

    async def postpone_notification(
        self, notification_id: NotificationId, *, seconds: float
    ) -> None:
        """Make a notification due again in some seconds."""
        raise StoreUnavailable

    async def drop_notification(self, notification_id: NotificationId) -> None:
        """Delete a notification."""
        raise StoreUnavailable

    async def request_stop(self, run_id: RunId) -> bool:
        """Ask the node of a run to stop it; return whether the run has not ended."""
        raise StoreUnavailable

    async def stop_requests(self, after: int) -> tuple[int, Sequence[RunId]]:
        """Return the newest request, and the runs whose stop was requested after another one."""
        raise StoreUnavailable
