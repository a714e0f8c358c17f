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

import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from heapq import heappop, heappush

from attrs import define, evolve, field
from orjson import dumps

from netra_trio.errors import KeyConflict, MessageNotFound, StoreUnavailable
from netra_trio.ids import CorrelationId, MessageId, QuestionId, RunId, ThreadId, UserId
from netra_trio.protocol.codec import payload_of
from netra_trio.protocol.messages import (
    AgentCompleted,
    HistoryMessage,
    HistoryQuestion,
    HistoryRun,
    RunStatus,
)
from netra_trio.stores.base import (
    HISTORY_LISTED_BYTES,
    HISTORY_PAGE_BYTES,
    STORED,
    Duplicate,
    NewMessage,
    NewQuestion,
    QuestionEnd,
    RunEnd,
    StoredQuestion,
    Usage,
    User,
    listed_question,
    outcome_of,
    questions_size,
    questions_within,
)
from netra_trio.stores.memory_users import MemoryUsers

USERS = 100_000  # some 40 MB
THREADS = 20_000  # of all users: five messages in each thread are MESSAGES
MESSAGES = 100_000  # of all threads: some 100 MB without their texts
TEXT_BYTES = 256 * 1024 * 1024  # of all messages: 2.6 KiB for each of MESSAGES


KEY_HOURS = 24  # for which docs/protocol.md promises that a key is known

_NO_ROOM = "no room for {} bytes beside messages of unfinished runs"

_ThreadKey = tuple[UserId, ThreadId]


@define(eq=False, repr=False)
class _Question:
    """A question, kept as long as its run; `end` is how it was closed."""

    asked: NewQuestion
    end: QuestionEnd | None = None

    @property
    def size(self) -> int:
        return self.asked.size + (0 if self.end is None else self.end.size)

    def stored(self, status: RunStatus) -> StoredQuestion:
        outcome = outcome_of(None if self.end is None else self.end.outcome, status)
        return StoredQuestion(outcome)

    def listed(self, status: RunStatus) -> HistoryQuestion:
        return listed_question(self.asked, self.end, status)


@define(eq=False, repr=False)
class _Run:
    """A run, kept as long as its message."""

    id: RunId
    agent_name: str
    correlation_id: CorrelationId
    key: CorrelationId | None
    fingerprint: bytes
    status: RunStatus = RunStatus.QUEUED
    completed: bytes | None = None
    questions: dict[QuestionId, _Question] = field(factory=dict)

    @property
    def size(self) -> int:
        completed = 0 if self.completed is None else len(self.completed)
        return completed + sum(question.size for question in self.questions.values())

    def listed(self) -> HistoryRun:
        asked = [(each.listed(self.status), each.size) for each in self.questions.values()]
        return HistoryRun(self.id, self.agent_name, self.status, questions_within(asked))

    @property
    def questions_size(self) -> int:
        total = sum(question.size for question in self.questions.values())
        return questions_size(total, len(self.questions))


@define(eq=False, repr=False)
class _Message:
    """A message, linked with the older and the newer one of its thread.

    Attributes:
        number: Its position in the order of recording, over all threads.
        text: In UTF-8: in a `str`, one emoji makes every character take four bytes.
        run: The run that it started; None for an agent's message.
    """

    number: int
    thread: "_Thread"
    id: MessageId
    text: bytes
    created_at: float
    run: _Run | None = None
    truncated: bool = False
    older: "_Message | None" = None
    newer: "_Message | None" = None

    @property
    def size(self) -> int:
        """The bytes that count against the bound: its text, questions, and end for duplicates."""
        return len(self.text) + (0 if self.run is None else self.run.size)

    def listed(self) -> HistoryMessage:
        """Return the message as an item of history."""
        text, run = self.text.decode(), self.run
        if run is None:
            truncated = self.truncated or None
            return HistoryMessage(self.id, "agent", text, self.created_at, truncated=truncated)
        return HistoryMessage(
            self.id, "user", text, self.created_at, run.correlation_id, run.listed()
        )


@define(eq=False, repr=False)
class _Thread:
    """A thread of a user, with its messages as a doubly linked list.

    Attributes:
        loose: The messages that may be dropped, as a heap by number: a run may end before an older
            run of the thread.
        held: How many messages may not be dropped.
    """

    key: _ThreadKey
    messages: dict[MessageId, _Message] = field(factory=dict)
    newest: _Message | None = None
    loose: list[tuple[int, _Message]] = field(factory=list)
    held: int = 0

    def append(self, message: _Message) -> None:
        message.older = self.newest
        if self.newest is not None:
            self.newest.newer = message
        self.newest = message
        self.messages[message.id] = message

    def loosen(self, message: _Message) -> None:
        heappush(self.loose, (message.number, message))

    def drop_oldest(self) -> _Message:
        """Remove the oldest message that may be dropped, and return it."""
        _, message = heappop(self.loose)
        if message.newer is None:
            self.newest = message.older
        else:
            message.newer.older = message.older
        if message.older is not None:
            message.older.newer = message.newer
        del self.messages[message.id]
        return message


class MemoryStore:
    """A `Store` in memory, within bounds.

    No method has a checkpoint, so every call is atomic.

    When a bound is reached, the oldest message of the least recently written thread is dropped (a
    message or the end of a run writes to a thread), but never a message whose run has not ended. A
    thread without messages is deleted. A message takes its idempotency key with it, at any age:
    `statistics()["early_keys_dropped"]` counts the keys that were dropped before the 24 hours that
    docs/protocol.md promises. Choose the bounds so that this stays 0.

    If no message may be dropped, `record` raises `StoreUnavailable`.

    Args:
        users: The bound on users. Beyond it, the user created first is dropped who is enabled and
            has no thread; a disabled user is kept, or could be created again, enabled. If there is
            no such user, `create_user` raises `StoreUnavailable`.
        threads: The bound on threads of all users. Beyond it, the least recently written thread
            whose runs have all ended is dropped, with its messages.
        messages: The bound on messages of all threads.
        text_bytes: The bound on bytes of their texts and of the ends of their runs, in UTF-8.
    """

    def __init__(
        self,
        *,
        users: int = USERS,
        threads: int = THREADS,
        messages: int = MESSAGES,
        text_bytes: int = TEXT_BYTES,
    ) -> None:
        self._max_threads = threads
        self._max_messages = messages
        self._max_bytes = text_bytes
        self._number = itertools.count()

        self._threads_of: dict[UserId, int] = {}
        self._users = MemoryUsers(users, self._threads_of)

        self._threads: dict[_ThreadKey, _Thread] = {}
        # Both in the order of their threads' last write: those with a loose message, and those
        # without a held one. The second one needs no sorting: a message removes a thread from it,
        # and an end adds it.
        self._droppable: OrderedDict[_Thread, None] = OrderedDict()
        self._idle: OrderedDict[_Thread, None] = OrderedDict()

        self._keys: dict[tuple[UserId, CorrelationId], _Message] = {}
        self._questions: dict[QuestionId, _Run] = {}
        self._held: dict[RunId, _Message] = {}
        self._held_bytes = 0
        self._messages = 0
        self._bytes = 0
        self._messages_dropped = 0
        self._early_keys_dropped = 0
        self._openings = 0  # servers that hold it open

    def statistics(self) -> dict[str, int]:
        """Return how much is kept, how many runs have not ended, and how much was dropped."""
        return {
            "users": len(self._users.rows),
            "threads": len(self._threads),
            "messages": self._messages,
            "text_bytes": self._bytes,
            "keys": len(self._keys),
            "runs": len(self._held),
            "users_dropped": self._users.dropped,
            "messages_dropped": self._messages_dropped,
            "early_keys_dropped": self._early_keys_dropped,
        }

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the store open; the first server to do so ends the unfinished runs."""
        if not self._openings:
            for run_id in list(self._held):
                await self._interrupt(run_id)
        self._openings += 1
        try:
            yield
        finally:
            self._openings -= 1

    async def check(self) -> None:
        """Return: this store always answers, also when it is full."""

    # Users.

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user, None if there is none."""
        row = self._users.rows.get(user_id)
        return None if row is None else row.user

    async def create_user(self, user_id: UserId) -> User:
        """Create the user, enabled, and return it; return the existing one, if there is one.

        Raises:
            StoreUnavailable: If there are too many users, and each is disabled or has a thread.
        """
        return self._users.add(user_id).user

    async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user; return whether there is such a user."""
        row = self._users.rows.get(user_id)
        if row is None:
            return False
        row.user = evolve(row.user, enabled=enabled)
        self._users.reconsider(user_id)
        return True

    # Messages and runs.

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run, `queued`; create the thread if there is none yet.

        If the key is known and the fingerprint is the same, record nothing and return the earlier
        message.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            StoreUnavailable: If the messages of unfinished runs leave no room.
        """
        known = await self.find(message)
        if known is not None:
            return known
        text = message.content.encode()
        key = (message.user_id, message.thread_id)
        self._check_room(key, len(text))
        self._make_room_for_thread(key, message.created_at)
        self._touch(key)
        self._make_room(1, len(text), message.created_at)
        self._insert(message, text, self._open_thread(key))
        return None

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return the message that was recorded earlier under this message's key; record nothing.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
        """
        if message.key is None:
            return None
        known = self._keys.get((message.user_id, message.key))
        return None if known is None else _duplicate(known, message.fingerprint)

    def start_run(self, run_id: RunId) -> None:
        """Set the status of the run to `running`, unless it has ended or is unknown."""
        message = self._held.get(run_id)
        if message is not None and message.run is not None:
            message.run.status = RunStatus.RUNNING

    def end_run(self, end: RunEnd) -> Awaitable[None]:
        """Store how the run ended, with the agent's message unless its text is empty.

        Only the first end of a run counts; the end of an unknown run is ignored.
        """
        message = self._held.pop(end.run_id, None)
        if message is None or message.run is None:
            return STORED
        thread, text = message.thread, end.text.encode()
        self._held_bytes -= message.size
        thread.held -= 1
        message.run.status = end.status
        message.run.completed = end.completed
        self._bytes += len(end.completed)
        thread.loosen(message)
        if text:
            self._answer(thread, end, text)
        self._droppable[thread] = None
        if not thread.held:
            self._idle[thread] = None
        self._touch(thread.key)
        self._make_room(0, 0, end.created_at)
        return STORED

    async def _interrupt(self, run_id: RunId) -> None:
        """End a run whose server is gone."""
        completed = AgentCompleted(run_id, RunStatus.INTERRUPTED, 0)
        end = RunEnd(
            run_id=run_id,
            status=completed.status,
            message_id=MessageId(""),  # not used without a text
            text="",
            truncated=False,
            created_at=self._held[run_id].created_at,
            completed=dumps(payload_of(completed)),
        )
        await self.end_run(end)

    async def record_question(self, question: NewQuestion) -> None:
        """Record a question of a run that has not ended.

        Raises:
            StoreUnavailable: If the messages and questions of unfinished runs leave no room.
        """
        message = self._held.get(question.run_id)
        if message is None or message.run is None:
            return
        new = _Question(question)
        if self._held_bytes + new.size > self._max_bytes:
            raise StoreUnavailable(_NO_ROOM.format(new.size))
        self._make_room(0, new.size, question.created_at)
        message.run.questions[question.question_id] = new
        self._questions[question.question_id] = message.run
        self._hold(new.size)

    def end_question(self, end: QuestionEnd) -> Awaitable[None]:
        """Store how a question was closed, without its answer if there is no room for that."""
        message = self._held.get(end.run_id)
        run = None if message is None else message.run
        question = None if run is None else run.questions.get(end.question_id)
        if question is None or question.end is not None:
            return STORED
        size = end.size
        if self._held_bytes + size > self._max_bytes:
            end, size = evolve(end, answer=None), 0
        self._make_room(0, size, question.asked.created_at)
        question.end = end
        self._hold(size)
        return STORED

    def _hold(self, size: int) -> None:
        self._bytes += size
        self._held_bytes += size

    async def find_question(
        self, user_id: UserId, question_id: QuestionId
    ) -> StoredQuestion | None:
        """Return a question that this user may answer, None if there is none."""
        run = self._questions.get(question_id)
        if run is None or run.questions[question_id].asked.user_id != user_id:
            return None
        return run.questions[question_id].stored(run.status)

    async def record_usage(self, usage: Usage) -> None:
        """Do nothing: the metrics count usage, and a sum by day needs a database."""

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
        thread = self._threads.get((user_id, thread_id))
        if thread is None:
            return None
        if before is None:
            message = thread.newest
        elif before in thread.messages:
            message = thread.messages[before].older
        else:
            raise MessageNotFound(before)
        page: list[HistoryMessage] = []
        size = 0
        while message is not None and len(page) < limit:
            size += len(message.text) + HISTORY_LISTED_BYTES
            size += 0 if message.run is None else message.run.questions_size
            if page and size > HISTORY_PAGE_BYTES:
                break
            page.append(message.listed())
            message = message.older
        page.reverse()
        return page, message is not None

    def _insert(self, new: NewMessage, text: bytes, thread: _Thread) -> None:
        run = _Run(new.run_id, new.agent_name, new.correlation_id, new.key, new.fingerprint)
        message = _Message(next(self._number), thread, new.message_id, text, new.created_at, run)
        self._append(message)
        thread.held += 1
        self._idle.pop(thread, None)
        self._held[new.run_id] = message
        self._held_bytes += message.size
        if new.key is not None:
            self._keys[new.user_id, new.key] = message

    def _answer(self, thread: _Thread, end: RunEnd, text: bytes) -> None:
        message = _Message(
            next(self._number),
            thread,
            end.message_id,
            text,
            end.created_at,
            truncated=end.truncated,
        )
        self._append(message)
        thread.loosen(message)

    def _append(self, message: _Message) -> None:
        message.thread.append(message)
        self._messages += 1
        self._bytes += message.size

    def _open_thread(self, key: _ThreadKey) -> _Thread:
        thread = self._threads.get(key)
        if thread is None:
            thread = self._threads[key] = _Thread(key)
            self._threads_of[key[0]] = self._threads_of.get(key[0], 0) + 1
        return thread

    def _touch(self, key: _ThreadKey) -> None:
        """Make the thread the most recently written one."""
        thread = self._threads.get(key)
        if thread is not None and thread in self._droppable:
            self._droppable.move_to_end(thread)

    # Room.

    def _check_room(self, key: _ThreadKey, size: int) -> None:
        """Raise `StoreUnavailable` if dropping every loose message would not make room."""
        if len(self._held) >= self._max_messages:
            raise StoreUnavailable(f"all {self._max_messages} messages have unfinished runs")
        if self._held_bytes + size > self._max_bytes:
            raise StoreUnavailable(_NO_ROOM.format(size))
        busy = len(self._threads) - len(self._idle)
        if key not in self._threads and busy >= self._max_threads:
            raise StoreUnavailable(f"all {self._max_threads} threads have unfinished runs")

    def _make_room_for_thread(self, key: _ThreadKey, now: float) -> None:
        if key not in self._threads and len(self._threads) >= self._max_threads:
            thread = next(iter(self._idle))
            while thread.messages:
                self._drop_message(thread, now)

    def _make_room(self, messages: int, size: int, now: float) -> None:
        while (
            self._messages + messages > self._max_messages or self._bytes + size > self._max_bytes
        ):
            self._drop_message(next(iter(self._droppable)), now)

    def _drop_message(self, thread: _Thread, now: float) -> None:
        message = thread.drop_oldest()
        self._messages -= 1
        self._bytes -= message.size
        self._messages_dropped += 1
        run, user_id = message.run, thread.key[0]
        if run is not None and run.key is not None:
            del self._keys[user_id, run.key]
            self._early_keys_dropped += now - message.created_at < KEY_HOURS * 3600
        if run is not None:
            for question_id in run.questions:
                del self._questions[question_id]
        if not thread.loose:
            del self._droppable[thread]
        if not thread.messages:
            self._forget_thread(thread)

    def _forget_thread(self, thread: _Thread) -> None:
        del self._idle[thread]
        del self._threads[thread.key]
        user_id = thread.key[0]
        self._threads_of[user_id] -= 1
        if not self._threads_of[user_id]:
            del self._threads_of[user_id]
            self._users.reconsider(user_id)


def _duplicate(known: _Message, fingerprint: bytes) -> Duplicate:
    """Return the duplicate of a known key.

    Raises:
        KeyConflict: If the fingerprint differs.
    """
    run = known.run
    if run is None or run.fingerprint != fingerprint:
        raise KeyConflict
    return Duplicate(known.id, run.id, known.thread.key[1], run.status, run.completed)
