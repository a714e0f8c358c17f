"""A store in this process's memory, within bounds.

    >>> store = MemoryStore(messages=10_000)
    >>> store.statistics()["messages"]
    0

For development, tests and demos: it answers at once, and everything is lost with the process.

There are two kinds of message. A message whose run has not ended is *held*: it is never dropped,
because the end of its run refers to it. All others are *loose*, and may be dropped to make room. So
the held messages decide whether a call can succeed, before anything is dropped for it:

    held + new ≤ bound   loose messages are dropped until the new one fits; there are enough of them
    held + new > bound   StoreUnavailable; nothing is dropped

The end of a run only makes a held message loose, so it always fits, at worst by dropping the
agent's message that it has just added.
"""

import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

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
    new_node_id,
)
from netra_trio.protocol.messages import HistoryMessage, RunStatus
from netra_trio.protocol.threads import Rating
from netra_trio.protocol.usage import Amounts, UsageKey
from netra_trio.stores.base import (
    STORED,
    Duplicate,
    NewMessage,
    RunEnd,
    RunOwner,
    Settled,
    StoredEnd,
    User,
)
from netra_trio.stores.files import DELETED_PAGE, StoredFile
from netra_trio.stores.memory_data import MemoryData
from netra_trio.stores.notifications import DueNotification, Notification
from netra_trio.stores.questions import NewQuestion, QuestionEnd, StoredQuestion
from netra_trio.stores.threads import StoredThread, UnfinishedRun, feedback_of
from netra_trio.stores.usage import Usage

USERS = 100_000  # some 40 MB
THREADS = 20_000  # of all users: five messages in each thread are MESSAGES
MESSAGES = 100_000  # of all threads: some 100 MB without their texts
TEXT_BYTES = 256 * 1024 * 1024  # of all messages: 2.6 KiB for each of MESSAGES
FILES = 100_000  # of all users, without their content: some 60 MB


class MemoryStore:
    """A `Store` in memory, within bounds.

    No method has a checkpoint, so every call is atomic.

    When a bound is reached, the oldest message of the least recently written thread is dropped (a
    message or the end of a run writes to a thread), but never a message whose run has not ended. A
    thread without messages is deleted. A message takes its idempotency key with it, at any age:
    `statistics()["early_keys_dropped"]` counts the keys that were dropped before the 24 hours that
    docs/protocol.md promises. Choose the bounds so that this stays 0. A file is deleted with
    its last message, also if that is dropped.

    If no message may be dropped, `record` raises `StoreUnavailable`.

    Several nodes of one process may share its data, each through a store of its own: `for_node`.

    Args:
        owner: The node that uses the store; None for a new one.
        users: The bound on users. Beyond it, the user created first is dropped who is enabled and
            has no thread; a disabled user is kept, or could be created again, enabled. If there is
            no such user, `create_user` raises `StoreUnavailable`.
        threads: The bound on threads of all users. Beyond it, the least recently written thread
            whose runs have all ended is dropped, with its messages.
        messages: The bound on messages of all threads.
        text_bytes: The bound on bytes of their texts and of the ends of their runs, in UTF-8.
        files: The bound on files of all users. Beyond it, `reserve_file` raises `StoreUnavailable`.
        wall_clock: Returns Unix seconds, for the age of files.

    Attributes:
        owner: The node.
    """

    def __init__(
        self,
        owner: NodeId | None = None,
        *,
        users: int = USERS,
        threads: int = THREADS,
        messages: int = MESSAGES,
        text_bytes: int = TEXT_BYTES,
        files: int = FILES,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.owner = new_node_id() if owner is None else owner
        self._data = MemoryData(
            users=users,
            threads=threads,
            messages=messages,
            text_bytes=text_bytes,
            files=files,
            wall_clock=wall_clock,
        )

    def for_node(self, owner: NodeId) -> Self:
        """Return a store of another node with the same data.

        The runs of a node are ended when the first node opens the store, and by `end_runs_of`; a
        store in memory has no leases that a node which is gone would leave behind.
        """
        node = copy.copy(self)
        node.owner = owner
        return node

    def statistics(self) -> dict[str, int]:
        """Return how much is kept, how many runs have not ended, and how much was dropped."""
        return self._data.statistics()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the store open; the first server to do so ends the unfinished runs."""
        data = self._data
        if not data.openings:
            data.interrupt_all()
        data.openings += 1
        try:
            yield
        finally:
            data.openings -= 1

    async def check(self) -> None:
        """Return: this store always answers, also when it is full."""

    # Users.

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user, None if there is none."""
        row = self._data.users.rows.get(user_id)
        return None if row is None else row.user

    async def create_user(self, user_id: UserId) -> User:
        """Create the user, enabled, and return it; return the existing one, if there is one.

        Raises:
            StoreUnavailable: If there are too many users, and each is disabled or has a thread.
        """
        return self._data.users.add(user_id).user

    async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user; return whether there is such a user."""
        return self._data.users.set_enabled(user_id, enabled=enabled)

    async def changed_users(self, after: int) -> tuple[int, Sequence[UserId]]:
        """Return the newest change of users, and the users that were changed after another one."""
        return self._data.users.changed(after)

    # Messages and runs.

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run, `queued`; create the thread if there is none yet.

        If the key is known and the fingerprint is the same, record nothing and return the earlier
        message.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            ThreadDeleted: If the key belongs to a message of a deleted thread.
            MessageNotFound: If the replaced message is not in the thread.
            FilesNotFound: If the user does not have a finished file that the message names.
            StoreUnavailable: If the messages of unfinished runs leave no room.
        """
        return self._data.record(message, self.owner)

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return the message that was recorded earlier under this message's key; record nothing.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            ThreadDeleted: If the key belongs to a message of a deleted thread.
        """
        return self._data.find(message)

    def start_run(self, run_id: RunId) -> None:
        """Set the status of this node's run to `running`, unless it has ended or is unknown."""
        self._data.start_run(run_id, self.owner)

    def end_run(self, end: RunEnd) -> Awaitable[StoredEnd | None]:
        """Store how this node's run ended, with the agent's message unless its text is empty.

        Only the first end of a run counts; the end of an unknown run is ignored.
        """
        stood = self._data.end_run(end, self.owner)
        return STORED if stood is None else Settled(stood)

    # Runs of several nodes.

    async def take_over(
        self,
        session_id: SessionId,
        *,
        owner: NodeId,
        runs: Collection[RunId],
        waiting: Collection[RunId] = (),
    ) -> Mapping[RunId, StoredEnd | None]:
        """Adopt the queued ones of `waiting`, and end the other runs of a session that moves."""
        return self._data.take_over(
            session_id, owner=owner, taker=self.owner, asked=runs, waiting=waiting
        )

    async def hand_over(self, runs: Collection[RunId], *, seconds: float) -> NodeId:
        """Give the queued ones of these runs to a lease on Trio's clock."""
        return self._data.hand_over(runs, self.owner, seconds)

    async def note_uncopied(self, session_id: SessionId, number: int) -> None:
        """Note that a session sends an event, and later ones, that no other node can know."""
        self._data.uncopied.note(session_id, number)

    async def uncopied_from(self, session_id: SessionId) -> int | None:
        """Return the number that was noted last for a session, None if none was."""
        return self._data.uncopied.find(session_id)

    async def find_run(self, user_id: UserId, run_id: RunId) -> RunOwner | None:
        """Return the node of an unfinished run of this user, None if there is none."""
        return self._data.find_run(user_id, run_id)

    async def interrupt_run(self, run_id: RunId, *, owner: NodeId) -> StoredEnd | None:
        """End a run of a node that is gone; return the end that it has afterwards."""
        return self._data.interrupt_run(run_id, owner)

    def end_runs_of(self, owner: NodeId) -> int:
        """End the unfinished runs of a node as a database does once the node is gone.

        Returns:
            The number of these runs.
        """
        return self._data.end_runs_of(owner)

    # Questions, usage and history.

    async def record_question(self, question: NewQuestion) -> None:
        """Record a question of this node's run, which has not ended.

        Raises:
            StoreUnavailable: If the messages and questions of unfinished runs leave no room.
        """
        self._data.record_question(question, self.owner)

    def end_question(self, end: QuestionEnd) -> Awaitable[None]:
        """Store how a question was closed, without its answer if there is no room for that."""
        self._data.end_question(end, self.owner)
        return STORED

    async def find_question(
        self, user_id: UserId, question_id: QuestionId
    ) -> StoredQuestion | None:
        """Return a question that this user may answer, None if there is none."""
        return self._data.find_question(user_id, question_id)

    async def record_usage(self, usage: Usage) -> None:
        """Add a report to the sums of the newest day; those of earlier days need a database."""
        self._data.usage.record(usage)

    async def used_in_day(self, key: UsageKey) -> Amounts:
        """Return what an agent has used for a user in a day, 0 for any but the newest one."""
        return self._data.usage.of(key)

    async def history(
        self,
        user_id: UserId,
        thread_id: ThreadId,
        *,
        limit: int,
        before: MessageId | None = None,
    ) -> tuple[Sequence[HistoryMessage], bool] | None:
        """Return the newest `limit` messages strictly before `before`, oldest first.

        The second value tells whether older messages were left out, because of `limit` or because
        of `HISTORY_PAGE_BYTES`, which a single message may exceed. None if the user has no such
        thread.

        Raises:
            MessageNotFound: If `before` is no message of the thread, or was dropped.
        """
        return self._data.history(user_id, thread_id, limit=limit, before=before)

    # Threads.

    async def list_threads(
        self,
        user_id: UserId,
        *,
        limit: int,
        before: ThreadId | None = None,
        query: str | None = None,
    ) -> tuple[Sequence[StoredThread], bool]:
        """Return threads, newest update first, and whether there are more."""
        return self._data.list_threads(user_id, limit=limit, before=before, query=query)

    async def get_thread(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        """Return one listed thread, None if the user has no such thread."""
        return self._data.get_thread((user_id, thread_id))

    async def find_room(self, room: str) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a room, or None."""
        return self._data.threads.find_room(room)

    async def find_question_thread(self, question_id: QuestionId) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a question of an unfinished run, or None."""
        return self._data.find_question_thread(question_id)

    async def set_title(
        self, user_id: UserId, thread_id: ThreadId, title: str, *, by_user: bool
    ) -> bool:
        """Set the title of a thread; return whether it was set."""
        return self._data.threads.set_title((user_id, thread_id), title, by_user=by_user)

    async def mark_read(self, user_id: UserId, thread_id: ThreadId, message_id: MessageId) -> bool:
        """Set the read mark to a message; return whether there is such a thread."""
        return self._data.threads.mark_read((user_id, thread_id), message_id)

    async def set_feedback(
        self, user_id: UserId, message_id: MessageId, rating: Rating | None, comment: str | None
    ) -> ThreadId | None:
        """Store, replace or remove the feedback on an answer; return its thread."""
        return self._data.set_feedback(user_id, message_id, feedback_of(rating, comment))

    async def unfinished_runs(
        self, user_id: UserId | None = None, thread_id: ThreadId | None = None
    ) -> Sequence[UnfinishedRun]:
        """Return the runs that have not ended, oldest first: all, a user's, or a thread's."""
        return self._data.unfinished_runs(user_id, thread_id)

    async def count_unattended(self, user_id: UserId) -> int:
        """Return the number of a user's unattended runs that have not ended."""
        return sum(run.unattended for run in self._data.unfinished_runs(user_id, None))

    async def delete_thread(self, user_id: UserId, thread_id: ThreadId) -> bool:
        """Delete a thread with all that belongs to it; return whether there was such a thread."""
        return self._data.delete_thread((user_id, thread_id))

    # Notifications, and stops of runs.

    async def add_notification(self, notification: Notification) -> None:
        """Store a notification, due at once; it replaces one with its id."""
        self._data.notifications.add(notification)

    async def take_notifications(self, *, limit: int, seconds: float) -> Sequence[DueNotification]:
        """Take due notifications; no node takes them again for `seconds`."""
        return self._data.notifications.take(limit=limit, seconds=seconds)

    async def postpone_notification(
        self, notification_id: NotificationId, *, seconds: float
    ) -> None:
        """Make a notification due again in `seconds`."""
        self._data.notifications.postpone(notification_id, seconds=seconds)

    async def drop_notification(self, notification_id: NotificationId) -> None:
        """Delete a notification."""
        self._data.notifications.drop(notification_id)

    async def run_status(self, run_id: RunId) -> RunStatus | None:
        """Return the status of a run, None if it is unknown."""
        return self._data.run_status(run_id)

    async def request_stop(self, run_id: RunId) -> bool:
        """Request that the node of a run stops it; return whether the run is unfinished."""
        return self._data.request_stop(run_id)

    async def stop_requests(self, after: int) -> tuple[int, Sequence[RunId]]:
        """Return the newest number of a request, and the runs of requests after `after`."""
        return self._data.notifications.stops(after)

    # Files.

    async def reserve_file(self, file: StoredFile, *, max_bytes: int) -> bool:
        """Record a file whose content is not written yet; return whether there is room for it."""
        return self._data.files.reserve(file, max_bytes)

    async def finish_file(self, file_id: FileId) -> bool:
        """Make a file readable; return False if it was deleted."""
        return self._data.files.finish(file_id)

    async def get_file(self, file_id: FileId) -> StoredFile | None:
        """Return a file that can be read, None if there is none."""
        return self._data.files.get(file_id)

    async def find_files(
        self, user_id: UserId, file_ids: Collection[FileId]
    ) -> Sequence[StoredFile]:
        """Return those of the files that this user has and that can be read."""
        return self._data.files.find(user_id, file_ids)

    async def count_file_bytes(self, user_id: UserId) -> int:
        """Return the bytes of all files of a user that are not deleted."""
        return self._data.files.count_bytes(user_id)

    async def deleted_files(self, limit: int = DELETED_PAGE) -> Sequence[FileId]:
        """Return files whose content is to be deleted, oldest first."""
        return self._data.files.deleted(limit)

    async def forget_files(self, file_ids: Collection[FileId]) -> None:
        """Delete the rows of files whose content is deleted."""
        self._data.files.forget(file_ids)
