"""The commands of a client for threads: list, title, read mark, deletion and feedback.

    commands = ThreadCommands(client, user_id=user_id, session_id=session_id, store=…, threads=…)
    await commands.list_threads(frame)
    await commands.rename(frame, commands.turn_of(frame.message))

Each one uses the store, so the dispatcher runs it as a background request. The changes of one
thread are executed in the order of arrival.
"""

from types import TracebackType
from typing import Protocol, Self

import trio
from attrs import define, field

from netra_trio.errors import MessageNotFound, ThreadNotFound
from netra_trio.ids import MessageId, SessionId, ThreadId, UserId
from netra_trio.protocol.codec import Frame, show
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import Outbound
from netra_trio.protocol.problem import Refused, problem
from netra_trio.protocol.rooms import thread_room
from netra_trio.protocol.threads import (
    DeleteThread,
    Feedback,
    ListedThread,
    MarkRead,
    RenameThread,
    ThreadChange,
    ThreadChanged,
    ThreadList,
)
from netra_trio.services import UserThreads
from netra_trio.stores.threads import StoredThread, ThreadStore

ChangeCommand = RenameThread | MarkRead | DeleteThread | Feedback


class ReplyClient(Protocol):
    """The part of a connection that the commands use."""

    async def send(self, message: Outbound, correlation_id: str | None = None) -> None:
        """Send a control frame; waits for room if the peer does not read."""
        ...


def listed_thread(user_id: UserId, stored: StoredThread) -> ListedThread:
    """Return a thread of a user for clients."""
    return ListedThread(
        stored.thread_id,
        thread_room(user_id, stored.thread_id),
        stored.title,
        stored.created_at,
        stored.updated_at,
        stored.runs_active,
        stored.asks,
        stored.unread,
    )


def thread_not_found() -> Refused:
    """Return the error for a thread that the user does not have."""
    text = "You have no thread of that id."
    return Refused(problem(ErrorCode.THREAD_NOT_FOUND, text))


@define(eq=False)
class Turn:
    """The place of a command among those of one thread: `async with` waits for those before it.

    Attributes:
        has_ended: Set when the next command may continue.
    """

    _turns: "dict[object, Turn]"
    _key: object
    _before: "Turn | None"
    has_ended: trio.Event = field(factory=trio.Event)

    async def __aenter__(self) -> Self:
        """Wait for the commands before it."""
        if self._before is not None:
            await self._before.has_ended.wait()
            self._before = None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the next command continue."""
        self.has_ended.set()
        if self._turns[self._key] is self:
            del self._turns[self._key]


class ThreadCommands:
    """Executes the commands of one client for threads.

    Args:
        client: Gets the replies.
        user_id: The user.
        session_id: The session of the client.
        store: Has the threads.
        threads: Sends changes to the other sessions of the user.
    """

    def __init__(
        self,
        client: ReplyClient,
        *,
        user_id: UserId,
        session_id: SessionId,
        store: ThreadStore,
        threads: UserThreads,
    ) -> None:
        self._client = client
        self._user_id = user_id
        self._session_id = session_id
        self._store = store
        self._threads = threads
        self._turns: dict[object, Turn] = {}

    def turn_of(self, command: ChangeCommand) -> Turn:
        """Return the place of a command after the earlier ones; the caller has to enter it."""
        key = (
            ("message", command.message_id)
            if isinstance(command, Feedback)
            else ("thread", command.thread_id)
        )
        turn = Turn(self._turns, key, self._turns.get(key))
        self._turns[key] = turn
        return turn

    async def list_threads(self, frame: Frame) -> None:
        """Reply with a page of the threads.

        Raises:
            Refused: THREAD_NOT_FOUND, if the user has no thread `before`.
            StoreUnavailable: If the store cannot answer now.
        """
        request = frame.message
        # From now on, changes are received, also from other nodes: none after the page is missed.
        await self._threads.wait_until_ready(self._user_id)
        try:
            threads, has_more = await self._store.list_threads(
                self._user_id, limit=request.limit, before=request.before, query=request.query
            )
        except ThreadNotFound:
            raise thread_not_found() from None
        listed = tuple(listed_thread(self._user_id, each) for each in threads)
        await self._client.send(ThreadList(listed, has_more), frame.correlation_id)

    async def rename(self, frame: Frame, turn: Turn) -> None:
        """Set the title of a thread.

        Raises:
            Refused: THREAD_NOT_FOUND.
            StoreUnavailable: If the store cannot answer now.
        """
        async with turn:
            command = frame.message
            is_set = await self._store.set_title(
                self._user_id, command.thread_id, command.title, by_user=True
            )
            if not is_set:
                raise thread_not_found()
            await self._changed(command.thread_id, ThreadChange.RENAMED, frame)

    async def mark_read(self, frame: Frame, turn: Turn) -> None:
        """Set the read mark of a thread.

        Raises:
            Refused: THREAD_NOT_FOUND, or VALIDATION_ERROR if the message is not in the thread.
            StoreUnavailable: If the store cannot answer now.
        """
        async with turn:
            thread_id, message_id = frame.message.thread_id, frame.message.message_id
            try:
                if not await self._store.mark_read(self._user_id, thread_id, message_id):
                    raise thread_not_found()
            except MessageNotFound:
                raise _no_message("a message of the thread", message_id) from None
            await self._changed(thread_id, ThreadChange.UPDATED, frame)

    async def rate(self, frame: Frame, turn: Turn) -> None:
        """Store the feedback on an agent's message.

        Raises:
            Refused: VALIDATION_ERROR, if the user has no such message of an agent.
            StoreUnavailable: If the store cannot answer now.
        """
        async with turn:
            command = frame.message
            thread_id = await self._store.set_feedback(
                self._user_id, command.message_id, command.rating, command.comment
            )
            if thread_id is None:
                raise _no_message("a message of an agent", command.message_id)
            await self._changed(thread_id, ThreadChange.UPDATED, frame)

    async def delete(self, frame: Frame, turn: Turn) -> None:
        """Delete a thread, after its runs were stopped.

        Raises:
            Refused: THREAD_NOT_FOUND.
            StoreUnavailable: If the store cannot answer now.
        """
        async with turn:
            thread_id = frame.message.thread_id
            if not await self._threads.delete(self._user_id, thread_id, by=self._session_id):
                raise thread_not_found()
            changed = ThreadChanged(thread_id, ThreadChange.DELETED)
            await self._client.send(changed, frame.correlation_id)

    async def _changed(self, thread_id: ThreadId, change: ThreadChange, frame: Frame) -> None:
        """Send a change to all sessions of the user; the client gets it as the reply."""
        self._threads.publish(self._user_id, thread_id, change, excluded=self._session_id)
        stored = await self._threads.read(self._user_id, thread_id)
        if stored is None:  # it was deleted a moment later
            raise thread_not_found()
        changed = ThreadChanged(thread_id, change, listed_thread(self._user_id, stored))
        await self._client.send(changed, frame.correlation_id)


def _no_message(expected: str, message_id: MessageId) -> Refused:
    text = f"$.payload.message_id: expected {expected}, got {show(message_id)}"
    return Refused(problem(ErrorCode.VALIDATION_ERROR, text))
