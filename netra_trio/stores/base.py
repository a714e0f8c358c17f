"""The interface `Store`, and the values that it takes and returns.

An implementation needs no base class; docs/stores.md says what it has to guarantee, and the
contract suite `tests/stores/test_contract.py` checks that.
"""

from collections.abc import Awaitable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar

from orjson import dumps

from netra_trio.ids import (
    CorrelationId,
    FileId,
    MessageId,
    NodeId,
    QuestionId,
    RunId,
    SessionId,
    ThreadId,
    UserId,
)
from netra_trio.protocol.codec import payload_of
from netra_trio.protocol.messages import (
    AgentCompleted,
    HistoryMessage,
    RunStatus,
)
from netra_trio.stores.files import FileStore
from netra_trio.stores.notifications import Notification, NotificationStore
from netra_trio.stores.questions import NewQuestion, QuestionEnd, StoredQuestion
from netra_trio.stores.threads import ThreadStore
from netra_trio.stores.usage import UsageStore
from netra_trio.values import frozen

HAND_OVER_SECONDS = 86_400.0  # the longest lease of `Store.hand_over`: the longest resume window
UNCOPIED_SECONDS = 86_400.0  # for which `Store.note_uncopied` is known: likewise

_T_co = TypeVar("_T_co", covariant=True)


@frozen
class User:
    """A row of the users table."""

    id: UserId
    enabled: bool = True


@frozen
class NewMessage:
    """A message to record together with the run it starts.

    Attributes:
        key: The client's idempotency key; None if the client sent none.
        fingerprint: Equal for two messages that may have the same key.
        content: The text that history shows.
        created_at: Unix seconds.
        session_id: The session of its run, if another node may take that session over; else None.
        replaces: A message of the thread; it and all later messages are removed from the history.
        unattended: Whether its run outlives its session.
        attachments: Finished files of the user, which this message names from now on.
    """

    user_id: UserId
    thread_id: ThreadId
    message_id: MessageId
    run_id: RunId
    agent_name: str
    correlation_id: CorrelationId
    key: CorrelationId | None
    fingerprint: bytes
    content: str
    created_at: float
    session_id: SessionId | None = None
    replaces: MessageId | None = None
    unattended: bool = False
    attachments: tuple[FileId, ...] = ()

    @property
    def is_awaited(self) -> bool:
        """Whether it is recorded before `Store.record` returns, and its end is waited for."""
        return (self.key or self.session_id or self.replaces) is not None or bool(self.attachments)


@frozen
class RunEnd:
    """How a run ended.

    Attributes:
        text: What the agent emitted, at most `HISTORY_TEXT_BYTES`.
        truncated: Whether `text` was cut.
        created_at: Unix seconds.
        completed: The payload of its `agent_completed` as JSON, for duplicates of its message.
        duration_ms: From its start; 0 if it has not started.
        steps: The steps of the agent as JSON, see `HistoryMessage.steps`; None for none.
        notification: Stored with the end, if this is the first end of the run.
        attachments: Finished files of the user, which the agent's message names from now on.
    """

    run_id: RunId
    status: RunStatus
    message_id: MessageId
    text: str
    truncated: bool
    created_at: float
    completed: bytes
    duration_ms: int = 0
    steps: bytes | None = None
    notification: Notification | None = None
    attachments: tuple[FileId, ...] = ()

    @property
    def has_answer(self) -> bool:
        """Whether there is a message of the agent."""
        return bool(self.text) or self.steps is not None or bool(self.attachments)


@frozen
class StoredEnd:
    """The end of a run in the store.

    Attributes:
        completed: The payload of its `agent_completed` as JSON.
    """

    run_id: RunId
    status: RunStatus
    completed: bytes


def interrupted(run_id: RunId) -> StoredEnd:
    """Return the end of a run whose node is gone."""
    completed = AgentCompleted(run_id, RunStatus.INTERRUPTED, 0)
    return StoredEnd(run_id, completed.status, dumps(payload_of(completed)))


@frozen
class RunOwner:
    """The node that has an unfinished run.

    Attributes:
        status: As the store has it: `queued` may be a run that has started a moment ago.
    """

    owner: NodeId
    status: RunStatus


@frozen
class Duplicate:
    """A message that was recorded earlier under the same key.

    Attributes:
        completed: The payload of its run's `agent_completed` as JSON, None until the run has ended.
    """

    message_id: MessageId
    run_id: RunId
    thread_id: ThreadId
    status: RunStatus
    completed: bytes | None


class Settled(Generic[_T_co]):
    """An awaitable that completes at once, any number of times.

    Args:
        value: The result.
    """

    __slots__ = ("_value",)

    def __init__(self, value: _T_co) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, Any, _T_co]:
        """Return the value without a checkpoint."""
        yield from ()
        return self._value


STORED: Awaitable[None] = Settled(None)
"""The result of `Store.end_run` if its caller has nothing to wait for: it need not be awaited."""


class Store(ThreadStore, NotificationStore, FileStore, UsageStore, Protocol):
    """Users, threads, messages, runs and files, which several nodes may share.

    Every method raises `StoreUnavailable` if the store cannot answer now, unless it says otherwise.
    Cancelling is always safe. After a call that raised or was cancelled, the change may be stored
    all the same, unless the method says otherwise.

    A run belongs to the node that recorded it, until it has ended or another node takes it over.
    Only the first end that is stored counts, whichever node stores it.
    """

    @property
    def owner(self) -> NodeId:
        """The node that uses this store: its runs are the ones that it starts and ends."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold the store open while a server uses it; entered once, before any other call.

        Entering ends the unfinished runs of nodes that are gone, as `interrupted`. It does not
        wait for a database that does not answer. Leaving stores all writes that are queued.
        """
        ...

    async def check(self) -> None:
        """Return if the store can answer now; for health."""
        ...

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user, None if there is none."""
        ...

    async def create_user(self, user_id: UserId) -> User:
        """Create the user, enabled, and return it; return the existing one, if there is one.

        Raises:
            NotStorable: If the user can never be stored.
        """
        ...

    async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user; return whether there is such a user.

        `changed_users` then names the user. The store need not be open.
        """
        ...

    async def changed_users(self, after: int) -> tuple[int, Sequence[UserId]]:
        """Return the users that were enabled or disabled after a change; one cheap query.

        Changes are known for an hour at least. Each user is named once.

        Args:
            after: The number of that change; -1 for the newest number only.

        Returns:
            The newest number, to pass the next time, and the users, in the order of their last
            changes. Every change with a number up to it is visible to later calls of all nodes.
        """
        ...

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run, `queued`; create the thread if there is none yet.

        With a key, or a session id, this returns once both are stored permanently. Otherwise they
        may be stored later; this then waits only for room in a queue, for 3 seconds at most. If the
        key is known and the fingerprint is the same, this records nothing and returns the earlier
        message. If it raises or is cancelled, the message is not stored, or is deleted before
        `record` or `find` look its key up again, unless another node has ended or adopted its run
        by then.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            ThreadDeleted: If the key belongs to a message of a deleted thread.
            MessageNotFound: If the replaced message is not in the thread.
            FilesNotFound: If the user does not have a finished file that the message names.
            NotStorable: If the message can never be stored; its sender is not asked to retry.
        """
        ...

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return the message that was recorded earlier under this message's key; record nothing.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            ThreadDeleted: If the key belongs to a message of a deleted thread.
        """
        ...

    def start_run(self, run_id: RunId) -> None:
        """Set the status of this node's run to `running`; this neither waits nor raises.

        It may be stored later: until then the run is `queued` for other nodes.
        """
        ...

    def end_run(self, end: RunEnd) -> Awaitable[StoredEnd | None]:
        """Store how this node's run ended, with the agent's message; async, or `STORED`.

        If the run's message had a key or a session id, awaiting the result returns once the end is
        stored permanently, otherwise at once. From the call on, `record` and `find` return the end.
        This does not raise `StoreUnavailable`, and cancelling the wait does not undo the end: a
        store that cannot write it now writes it as soon as it can.

        Returns:
            None if this end stands. If the run has another end already, that one: this end and its
            text were not stored, and no client may get them. Also None if the run is unknown,
            if nothing is waited for, or if another node has the run now, unfinished.
        """
        ...

    async def take_over(
        self,
        session_id: SessionId,
        *,
        owner: NodeId,
        runs: Collection[RunId],
        waiting: Collection[RunId] = (),
    ) -> Mapping[RunId, StoredEnd | None]:
        """Take the runs of a session from another node, in one transaction.

        Of the unfinished runs of the session that `owner` still has, those in `waiting` that are
        `queued` belong to this node afterwards; all others end as `interrupted`. Runs of any other
        node are left alone, so that one of two nodes that call this at once gets them. The queued
        writes of this store are written before. Calling it again is safe, also after a call that
        raised or was cancelled.

        The start of a run is stored a moment later than it starts: of a node that was killed,
        `waiting` may only name runs that cannot have started.

        Args:
            session_id: The session.
            owner: The node that had the runs, or the lease of `hand_over`.
            runs: The runs to return.
            waiting: The runs to adopt instead of ending them.

        Returns:
            For each of `runs` that the store knows: its end, or None while it is unfinished.
        """
        ...

    async def hand_over(self, runs: Collection[RunId], *, seconds: float) -> NodeId:
        """Give the queued ones of these runs to a lease that no process renews.

        A node adopts them with `take_over` of that lease. Those that are left when the lease ends
        are ended as `interrupted`, by any node; closing this store does not end them. Runs that
        have started, or that this node does not have, are left alone. The queued writes of this
        store are written before. After a call that raised or was cancelled, the runs may belong to
        a lease whose id is lost, and then end with it.

        Args:
            runs: The runs.
            seconds: How long the lease lasts, at most `HAND_OVER_SECONDS`.
        """
        ...

    async def note_uncopied(self, session_id: SessionId, number: int) -> None:
        """Note that a session sends an event, and later ones, that no other node can know.

        Known for a day. Calling it again replaces the number.

        Args:
            session_id: The session.
            number: The number of the event.
        """
        ...

    async def uncopied_from(self, session_id: SessionId) -> int | None:
        """Return the number that was noted last for a session, None if none was."""
        ...

    async def find_run(self, user_id: UserId, run_id: RunId) -> RunOwner | None:
        """Return the node of an unfinished run of this user.

        None if it has ended, if it is another user's, or if it is unknown.
        """
        ...

    async def interrupt_run(self, run_id: RunId, *, owner: NodeId) -> StoredEnd | None:
        """End a run as `interrupted` if it is unfinished and `owner`, which is gone, still has it.

        Returns:
            The end that the run has afterwards; None if it is unknown, or another node has it.
        """
        ...

    async def record_question(self, question: NewQuestion) -> None:
        """Record a question of this node's run; return once it is stored permanently.

        A question of a run that has ended, that another node has, or that the store does not know,
        is ignored.
        """
        ...

    def end_question(self, end: QuestionEnd) -> Awaitable[None]:
        """Store how a question of this node's run was closed; only its first end counts.

        Awaiting the result returns once the end is stored permanently; an async function, or
        `STORED`. Like `end_run` this does not raise `StoreUnavailable`, and cancelling the wait
        does not undo the end.
        """
        ...

    async def find_question(
        self, user_id: UserId, question_id: QuestionId
    ) -> StoredQuestion | None:
        """Return a question that this user may answer, None if there is none."""
        ...

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
        of `HISTORY_PAGE_BYTES`. None if the user has no such thread.

        Raises:
            MessageNotFound: If `before` is no message of the thread.
        """
        ...
