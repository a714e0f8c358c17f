"""The part of the interface `Store` for threads, and the values that it takes and returns.

>>> auto_title("  Which day   is it? ")
'Which day is it?'
"""

from collections.abc import Sequence
from typing import Protocol

from netra_trio.ids import MessageId, NodeId, QuestionId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryFeedback, RunStatus
from netra_trio.protocol.threads import Rating
from netra_trio.values import frozen

AUTO_TITLE_CHARACTERS = 80  # of the first words of the first message
DELETED_KEY_SECONDS = 86_400.0  # for which the keys of a deleted thread are refused
UNFINISHED = frozenset({RunStatus.QUEUED, RunStatus.RUNNING})


@frozen
class StoredThread:
    """A thread in the list of its user.

    Attributes:
        title: The first words of its first message, until an agent or the user sets another one.
        created_at: Unix seconds.
        updated_at: The time of its newest message, in Unix seconds.
        runs_active: The number of its runs that have not ended.
        asks: Whether one of them has an open question.
        unread: The number of agents' messages after the read mark.
    """

    thread_id: ThreadId
    title: str
    created_at: float
    updated_at: float
    runs_active: int
    asks: bool
    unread: int


@frozen
class UnfinishedRun:
    """A run that has not ended.

    Attributes:
        owner: Its node.
        unattended: Whether it outlives its session.
        created_at: The time of its message, in Unix seconds.
    """

    run_id: RunId
    user_id: UserId
    thread_id: ThreadId
    agent_name: str
    status: RunStatus
    owner: NodeId
    unattended: bool
    created_at: float


def auto_title(content: str) -> str:
    """Return the title of a thread with this first message: its first words."""
    title = ""
    for word in content.lstrip()[: 2 * AUTO_TITLE_CHARACTERS].split():
        longer = f"{title} {word}" if title else word[:AUTO_TITLE_CHARACTERS]
        if len(longer) > AUTO_TITLE_CHARACTERS:
            break
        title = longer
    return title


def feedback_of(rating: Rating | None, comment: str | None) -> HistoryFeedback | None:
    """Return the feedback for the history; None without a rating."""
    return None if rating is None else HistoryFeedback(rating, comment)


class ThreadStore(Protocol):
    """The threads of users. The rules of `Store` hold: errors, cancelling, several nodes.

    Every method reads all earlier writes of this node, also those that are still queued.
    """

    async def list_threads(
        self,
        user_id: UserId,
        *,
        limit: int,
        before: ThreadId | None = None,
        query: str | None = None,
    ) -> tuple[Sequence[StoredThread], bool]:
        """Return threads, newest update first, and whether there are more.

        Those that `netra_trio.ids.is_listed` excludes are left out.

        Args:
            user_id: The user.
            limit: The most threads to return.
            before: The list begins after this thread.
            query: Only threads with this text, in any case, in their title or a listed message.

        Raises:
            ThreadNotFound: If `before` is not a thread of the user.
        """
        ...

    async def get_thread(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        """Return one thread as a list has it, None if the user has no such thread."""
        ...

    async def find_room(self, room: str) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a room (`protocol.rooms.thread_room`), or None."""
        ...

    async def find_question_thread(self, question_id: QuestionId) -> tuple[UserId, ThreadId] | None:
        """Return the user and the thread of a question of an unfinished run, or None."""
        ...

    async def set_title(
        self, user_id: UserId, thread_id: ThreadId, title: str, *, by_user: bool
    ) -> bool:
        """Set the title of a thread; an agent does not replace a title of the user.

        Returns:
            Whether the title was set: there is such a thread, and its title may be replaced.
        """
        ...

    async def mark_read(self, user_id: UserId, thread_id: ThreadId, message_id: MessageId) -> bool:
        """Set the read mark to a message; it never moves back.

        Returns:
            Whether there is such a thread.

        Raises:
            MessageNotFound: If the message is not in the thread.
        """
        ...

    async def set_feedback(
        self, user_id: UserId, message_id: MessageId, rating: Rating | None, comment: str | None
    ) -> ThreadId | None:
        """Store, replace or remove the feedback on an agent's message.

        Returns:
            The thread of the message; None if the user has no such message of an agent.
        """
        ...

    async def unfinished_runs(
        self, user_id: UserId | None = None, thread_id: ThreadId | None = None
    ) -> Sequence[UnfinishedRun]:
        """Return the runs that have not ended, oldest first: all, a user's, or a thread's."""
        ...

    async def count_unattended(self, user_id: UserId) -> int:
        """Return the number of a user's unattended runs that have not ended."""
        ...

    async def delete_thread(self, user_id: UserId, thread_id: ThreadId) -> bool:
        """Delete a thread with its messages, runs, questions and feedback.

        The end of a run of the thread that is stored later is ignored. The keys of its messages are
        kept for `DELETED_KEY_SECONDS`: `record` and `find` raise `ThreadDeleted` for them.

        Returns:
            Whether there was such a thread.
        """
        ...
