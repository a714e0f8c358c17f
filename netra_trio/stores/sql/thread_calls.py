"""The calls of `SqlStore` about threads, notifications and stops of runs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from netra_trio.errors import DatabaseUnusable, NotStorable, StoreUnavailable
from netra_trio.ids import MessageId, NotificationId, QuestionId, RunId, ThreadId, UserId
from netra_trio.protocol.threads import Rating
from netra_trio.stores.notifications import DueNotification, Notification
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.outbox import (
    add_notifications,
    drop,
    is_any_due,
    postpone,
    take_notifications,
)
from netra_trio.stores.sql.questions import find_question_thread
from netra_trio.stores.sql.stops import find_stops, request_stop
from netra_trio.stores.sql.threads import (
    count_unattended,
    delete_thread,
    find_room,
    get_thread,
    list_threads,
    mark_read,
    set_feedback,
    set_title,
    unfinished_runs,
)
from netra_trio.stores.sql.write_behind import WriteBehind
from netra_trio.stores.threads import StoredThread, UnfinishedRun, feedback_of

_T = TypeVar("_T")


class ThreadCalls:
    """A part of `SqlStore`, which sets the attributes.

    Attributes:
        database: The database.
    """

    database: Database
    _writes: WriteBehind

    async def _read(self, work: Callable[[Connection], _T]) -> _T:
        """Write the queued entries, then read."""
        await self._writes.flush()
        return await self.database.read(work)

    async def _change(self, work: Callable[[Connection], _T]) -> _T:
        """Write the queued entries, then do work that may be repeated."""
        await self._writes.flush()
        return await self._write_now(work)

    async def _write_now(self, work: Callable[[Connection], _T]) -> _T:
        """Do work that may be repeated, without waiting for the queue."""
        try:
            return await self.database.write_repeatable(work)
        except (DatabaseUnusable, NotStorable) as error:  # it was usable at the start
            raise StoreUnavailable(str(error)) from error

    # Threads

    async def list_threads(
        self,
        user_id: UserId,
        *,
        limit: int,
        before: ThreadId | None = None,
        query: str | None = None,
    ) -> tuple[Sequence[StoredThread], bool]:
        """Return threads, newest update first, and whether there are more."""
        return await self._read(
            partial(list_threads, user_id=user_id, limit=limit, before=before, query=query)
        )

    async def get_thread(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        """Return one listed thread, None if the user has no such thread."""
        return await self._read(partial(get_thread, user_id=user_id, thread_id=thread_id))

    async def find_room(self, room: str) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a room, or None."""
        return await self._read(partial(find_room, room=room))

    async def find_question_thread(self, question_id: QuestionId) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a question of an unfinished run, or None."""
        return await self._read(partial(find_question_thread, question_id=question_id))

    async def set_title(
        self, user_id: UserId, thread_id: ThreadId, title: str, *, by_user: bool
    ) -> bool:
        """Set the title of a thread; return whether it was set."""
        return await self._change(
            partial(set_title, user_id=user_id, thread_id=thread_id, title=title, by_user=by_user)
        )

    async def mark_read(self, user_id: UserId, thread_id: ThreadId, message_id: MessageId) -> bool:
        """Set the read mark to a message; return whether there is such a thread."""
        return await self._change(
            partial(mark_read, user_id=user_id, thread_id=thread_id, message_id=message_id)
        )

    async def set_feedback(
        self, user_id: UserId, message_id: MessageId, rating: Rating | None, comment: str | None
    ) -> ThreadId | None:
        """Store, replace or remove the feedback on an answer; return its thread."""
        return await self._change(
            partial(
                set_feedback,
                user_id=user_id,
                message_id=message_id,
                feedback=feedback_of(rating, comment),
            )
        )

    async def unfinished_runs(
        self, user_id: UserId | None = None, thread_id: ThreadId | None = None
    ) -> Sequence[UnfinishedRun]:
        """Return the runs that have not ended, oldest first: all, a user's, or a thread's."""
        return await self._read(partial(unfinished_runs, user_id=user_id, thread_id=thread_id))

    async def count_unattended(self, user_id: UserId) -> int:
        """Return the number of a user's unattended runs that have not ended."""
        return await self._read(partial(count_unattended, user_id=user_id))

    async def delete_thread(self, user_id: UserId, thread_id: ThreadId) -> bool:
        """Delete a thread with all that belongs to it; return whether there was such a thread."""
        was_found = False

        def delete(connection: Connection) -> bool:
            nonlocal was_found  # by an earlier attempt, whose answer was lost
            was_found = delete_thread(connection, user_id, thread_id) or was_found
            return was_found

        return await self._change(delete)

    # Notifications, and stops of runs

    async def add_notification(self, notification: Notification) -> None:
        """Store a notification, due at once; it replaces one with its id."""
        await self._write_now(partial(add_notifications, new=[notification]))

    async def take_notifications(self, *, limit: int, seconds: float) -> Sequence[DueNotification]:
        """Take due notifications; no node takes them again for `seconds`."""
        if not await self.database.read(is_any_due):
            return ()
        return await self._write_now(partial(take_notifications, limit=limit, seconds=seconds))

    async def postpone_notification(
        self, notification_id: NotificationId, *, seconds: float
    ) -> None:
        """Make a notification due again in `seconds`."""
        await self._write_now(partial(postpone, notification_id=notification_id, seconds=seconds))

    async def drop_notification(self, notification_id: NotificationId) -> None:
        """Delete a notification."""
        await self._write_now(partial(drop, notification_id=notification_id))

    async def request_stop(self, run_id: RunId) -> bool:
        """Request that the node of a run stops it; return whether the run is unfinished."""
        return await self._change(partial(request_stop, run_id=run_id))

    async def stop_requests(self, after: int) -> tuple[int, Sequence[RunId]]:
        """Return the newest number of a request, and the runs of requests after `after`."""
        return await self.database.read(partial(find_stops, after=after))
