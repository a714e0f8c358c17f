"""The store of one server: once that server is killed, its writes are lost.

killable = KillableStore(store)
killable.is_killed = True
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from attrs import define

from netra_trio.errors import StoreUnavailable
from netra_trio.ids import (
    FileId,
    MessageId,
    NodeId,
    NotificationId,
    QuestionId,
    RunId,
    SessionId,
    ThreadId,
    UserId,
)
from netra_trio.protocol.messages import HistoryMessage, RunStatus
from netra_trio.protocol.threads import Rating
from netra_trio.protocol.usage import Amounts, UsageKey
from netra_trio.stores.base import (
    Duplicate,
    NewMessage,
    RunEnd,
    RunOwner,
    Store,
    StoredEnd,
    User,
)
from netra_trio.stores.files import DELETED_PAGE, StoredFile
from netra_trio.stores.notifications import DueNotification, Notification
from netra_trio.stores.questions import NewQuestion, QuestionEnd, StoredQuestion
from netra_trio.stores.threads import StoredThread, UnfinishedRun
from netra_trio.stores.usage import Usage


@define
class KillableStore:
    """Passes calls on to a store until the server is killed.

    Attributes:
        is_killed: Whether the server is killed: its writes are lost, and its reads fail.
    """

    store: Store
    is_killed: bool = False

    @property
    def owner(self) -> NodeId:
        """The node of the server."""
        return self.store.owner

    def open(self) -> AbstractAsyncContextManager[None]:
        """Open the store for a block."""
        return self.store.open()

    async def check(self) -> None:
        """Return if the store can answer now."""
        await self._reachable().check()

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user."""
        return await self._reachable().get_user(user_id)

    async def create_user(self, user_id: UserId) -> User:
        """Create the user."""
        return await self._reachable().create_user(user_id)

    async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user."""
        return await self._reachable().set_user_enabled(user_id, enabled=enabled)

    async def changed_users(self, after: int) -> tuple[int, Sequence[UserId]]:
        """Return the users that were enabled or disabled after a change."""
        return await self._reachable().changed_users(after)

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run."""
        return await self._reachable().record(message)

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return the recorded message with the same key."""
        return await self._reachable().find(message)

    def start_run(self, run_id: RunId) -> None:
        """Record that the run is `running`."""
        if not self.is_killed:
            self.store.start_run(run_id)

    async def end_run(self, end: RunEnd) -> StoredEnd | None:
        """Record the end of a run."""
        return None if self.is_killed else await self.store.end_run(end)

    async def take_over(
        self,
        session_id: SessionId,
        *,
        owner: NodeId,
        runs: Collection[RunId],
        waiting: Collection[RunId] = (),
    ) -> Mapping[RunId, StoredEnd | None]:
        """Take the runs of a session from another node."""
        return await self._reachable().take_over(
            session_id, owner=owner, runs=runs, waiting=waiting
        )

    async def hand_over(self, runs: Collection[RunId], *, seconds: float) -> NodeId:
        """Give queued runs to a lease."""
        return await self._reachable().hand_over(runs, seconds=seconds)

    async def note_uncopied(self, session_id: SessionId, number: int) -> None:
        """Note that a session sends events that no other node can know."""
        await self._reachable().note_uncopied(session_id, number)

    async def uncopied_from(self, session_id: SessionId) -> int | None:
        """Return the number that was noted last for a session."""
        return await self._reachable().uncopied_from(session_id)

    async def find_run(self, user_id: UserId, run_id: RunId) -> RunOwner | None:
        """Return the node of a run."""
        return await self._reachable().find_run(user_id, run_id)

    async def interrupt_run(self, run_id: RunId, *, owner: NodeId) -> StoredEnd | None:
        """End a run of a node that is gone."""
        return await self._reachable().interrupt_run(run_id, owner=owner)

    async def record_question(self, question: NewQuestion) -> None:
        """Record a question of a run."""
        await self._reachable().record_question(question)

    async def end_question(self, end: QuestionEnd) -> None:
        """Record how a question was closed."""
        if not self.is_killed:
            await self.store.end_question(end)

    async def find_question(
        self, user_id: UserId, question_id: QuestionId
    ) -> StoredQuestion | None:
        """Return a question."""
        return await self._reachable().find_question(user_id, question_id)

    async def record_usage(self, usage: Usage) -> None:
        """Record what a run has used."""
        if not self.is_killed:
            await self.store.record_usage(usage)

    async def used_in_day(self, key: UsageKey) -> Amounts:
        """Return what an agent has used for a user in a day."""
        return await self._reachable().used_in_day(key)

    async def history(
        self,
        user_id: UserId,
        thread_id: ThreadId,
        *,
        limit: int,
        before: MessageId | None = None,
    ) -> tuple[Sequence[HistoryMessage], bool] | None:
        """Return a page of a thread."""
        return await self._reachable().history(user_id, thread_id, limit=limit, before=before)

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
        return await self._reachable().list_threads(
            user_id, limit=limit, before=before, query=query
        )

    async def get_thread(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        """Return one listed thread, None if the user has no such thread."""
        return await self._reachable().get_thread(user_id, thread_id)

    async def find_room(self, room: str) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a room, or None."""
        return await self._reachable().find_room(room)

    async def find_question_thread(self, question_id: QuestionId) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a question of an unfinished run, or None."""
        return await self._reachable().find_question_thread(question_id)

    async def set_title(
        self, user_id: UserId, thread_id: ThreadId, title: str, *, by_user: bool
    ) -> bool:
        """Set the title of a thread; return whether it was set."""
        return await self._reachable().set_title(user_id, thread_id, title, by_user=by_user)

    async def mark_read(self, user_id: UserId, thread_id: ThreadId, message_id: MessageId) -> bool:
        """Set the read mark to a message; return whether there is such a thread."""
        return await self._reachable().mark_read(user_id, thread_id, message_id)

    async def set_feedback(
        self, user_id: UserId, message_id: MessageId, rating: Rating | None, comment: str | None
    ) -> ThreadId | None:
        """Store, replace or remove the feedback on an answer; return its thread."""
        return await self._reachable().set_feedback(user_id, message_id, rating, comment)

    async def unfinished_runs(
        self, user_id: UserId | None = None, thread_id: ThreadId | None = None
    ) -> Sequence[UnfinishedRun]:
        """Return the runs that have not ended, oldest first: all, a user's, or a thread's."""
        return await self._reachable().unfinished_runs(user_id, thread_id)

    async def count_unattended(self, user_id: UserId) -> int:
        """Return the number of a user's unattended runs that have not ended."""
        return await self._reachable().count_unattended(user_id)

    async def delete_thread(self, user_id: UserId, thread_id: ThreadId) -> bool:
        """Delete a thread with all that belongs to it; return whether there was such a thread."""
        return await self._reachable().delete_thread(user_id, thread_id)

    # Notifications, and stops of runs

    async def add_notification(self, notification: Notification) -> None:
        """Store a notification, due at once; it replaces one with its id."""
        await self._reachable().add_notification(notification)

    async def take_notifications(self, *, limit: int, seconds: float) -> Sequence[DueNotification]:
        """Take due notifications; no node takes them again for `seconds`."""
        return await self._reachable().take_notifications(limit=limit, seconds=seconds)

    async def postpone_notification(
        self, notification_id: NotificationId, *, seconds: float
    ) -> None:
        """Make a notification due again in `seconds`."""
        await self._reachable().postpone_notification(notification_id, seconds=seconds)

    async def drop_notification(self, notification_id: NotificationId) -> None:
        """Delete a notification."""
        await self._reachable().drop_notification(notification_id)

    async def run_status(self, run_id: RunId) -> RunStatus | None:
        """Return the status of a run, None if it is unknown."""
        return await self._reachable().run_status(run_id)

    async def request_stop(self, run_id: RunId) -> bool:
        """Request that the node of a run stops it; return whether the run is unfinished."""
        return await self._reachable().request_stop(run_id)

    async def stop_requests(self, after: int) -> tuple[int, Sequence[RunId]]:
        """Return the newest number of a request, and the runs of requests after `after`."""
        return await self._reachable().stop_requests(after)

    # Files

    async def reserve_file(self, file: StoredFile, *, max_bytes: int) -> bool:
        """Record a file whose content is not written yet; return whether there is room for it."""
        return await self._reachable().reserve_file(file, max_bytes=max_bytes)

    async def finish_file(self, file_id: FileId) -> bool:
        """Make a file readable; return False if it was deleted."""
        return await self._reachable().finish_file(file_id)

    async def get_file(self, file_id: FileId) -> StoredFile | None:
        """Return a file that can be read, None if there is none."""
        return await self._reachable().get_file(file_id)

    async def find_files(
        self, user_id: UserId, file_ids: Collection[FileId]
    ) -> Sequence[StoredFile]:
        """Return those of the files that this user has and that can be read."""
        return await self._reachable().find_files(user_id, file_ids)

    async def count_file_bytes(self, user_id: UserId) -> int:
        """Return the bytes of all files of a user that are not deleted."""
        return await self._reachable().count_file_bytes(user_id)

    async def deleted_files(self, limit: int = DELETED_PAGE) -> Sequence[FileId]:
        """Return files whose content is to be deleted, oldest first."""
        return await self._reachable().deleted_files(limit)

    async def forget_files(self, file_ids: Collection[FileId]) -> None:
        """Delete the rows of files whose content is deleted."""
        await self._reachable().forget_files(file_ids)

    def _reachable(self) -> Store:
        if self.is_killed:
            raise StoreUnavailable("the server was killed")
        return self.store
