"""Users, threads, messages and runs in this process's memory, within bounds.

    >>> store = MemoryStore(messages=10_000)
    >>> store.statistics()["messages"]
    0

For development, tests and demos: it answers at once and forgets everything with the process.

Two kinds of message are told apart. One whose run goes on is *held*: it never goes, because its
end has yet to find it. All others are *loose*, and any of them may go when room is needed. So what
is held decides whether a call can succeed at all, before anything is dropped for it:

    held + new ≤ bound   drop loose ones until it fits; there are always enough of them
    held + new > bound   StoreUnavailable, and nothing was dropped in vain

An end only turns held into loose, so it always fits, at worst by dropping what it has just added.
"""

import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from heapq import heappop, heappush

from attrs import define, evolve, field
from orjson import dumps

from netra_trio.errors import KeyConflict, MessageNotFound, StoreUnavailable
from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.codec import payload_of
from netra_trio.protocol.messages import AgentCompleted, HistoryMessage, HistoryRun, RunStatus
from netra_trio.stores.base import (
    HISTORY_LISTED_BYTES,
    HISTORY_PAGE_BYTES,
    STORED,
    Duplicate,
    NewMessage,
    RunEnd,
    User,
)

USERS = 100_000  # rows: some 40 MB; then one without a thread goes, or create_user is unavailable
THREADS = 20_000  # in all: five messages each fill MESSAGES; then the one idle longest goes
MESSAGES = 100_000  # in all: some 100 MB beside their texts; then the oldest go
TEXT_BYTES = 256 * 1024 * 1024  # in all: 2.6 KiB for each of MESSAGES; then the oldest go

KEY_HOURS = 24  # what the contract asks for; a key that had to go earlier shows in statistics()
_ThreadKey = tuple[UserId, ThreadId]


@define(eq=False, repr=False)
class _Run:
    """A run, from its message to its end and for as long as its message is kept."""

    id: RunId
    agent_name: str
    correlation_id: CorrelationId
    key: CorrelationId | None
    fingerprint: bytes
    status: RunStatus = RunStatus.QUEUED
    completed: bytes | None = None


@define(eq=False, repr=False)
class _Message:
    """One message, a link in its thread.

    Attributes:
        number: Its place in the order of recording, over all threads.
        text: In UTF-8: one rare character makes a `str` take four bytes for every character.
        run: The run that it started; None marks the agent's message.
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
        """What it counts in bytes: its text, and the end that a duplicate would be told."""
        completed = self.run.completed if self.run is not None else None
        return len(self.text) + (len(completed) if completed is not None else 0)

    def listed(self) -> HistoryMessage:
        """Return it as history lists it."""
        text, run = self.text.decode(), self.run
        if run is None:
            truncated = self.truncated or None
            return HistoryMessage(self.id, "agent", text, self.created_at, truncated=truncated)
        listed_run = HistoryRun(run.id, run.agent_name, run.status)
        return HistoryMessage(
            self.id, "user", text, self.created_at, run.correlation_id, listed_run
        )


@define(eq=False, repr=False)
class _Thread:
    """One user's thread: its messages as a chain, to take any out and to walk from any.

    Attributes:
        loose: The messages that may go, as a heap by number: a run may end before an older one.
        held: How many messages may not go.
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
        """Take out the oldest message that may go, and return it."""
        _, message = heappop(self.loose)
        if message.newer is None:
            self.newest = message.older
        else:
            message.newer.older = message.older
        if message.older is not None:
            message.older.newer = message.newer
        del self.messages[message.id]
        return message


@define(eq=False, repr=False)
class _Row:
    """A row of the users table.

    Attributes:
        number: Its place in the order of creation.
        is_candidate: Whether it stands in the heap of those that might go.
    """

    number: int
    user: User
    is_candidate: bool = False


class MemoryStore:
    """A `Store` that keeps everything in memory, within bounds.

    No method waits: each is done when it returns, without a checkpoint, so nothing can come
    between a look-up and what follows from it.

    Where a bound is reached, the oldest message goes from the thread that was written to longest
    ago (by a message or by a run's end), but never one whose run goes on. A thread without a
    message is no thread any more. A message takes its idempotency key with it, however young: keys
    have no time limit here, only that of room, and `statistics()["early_keys_dropped"]` says how
    many went before the 24 hours that the contract asks for. Choose the bounds so that it is 0.

    If every message goes on and there is no room for one more, `record` raises
    `StoreUnavailable`.

    Args:
        users: How many rows to keep. Beyond it the user created longest ago goes who is enabled
            and has no thread: a disabled one who went could be created anew, enabled. If there is
            none, `create_user` raises `StoreUnavailable`.
        threads: How many to keep, over all users. Beyond it goes, with all its messages, the
            thread written to longest ago in which no run goes on.
        messages: How many to keep, over all threads.
        text_bytes: How much to keep of their texts and of the ends of their runs, in UTF-8.
    """

    def __init__(
        self,
        *,
        users: int = USERS,
        threads: int = THREADS,
        messages: int = MESSAGES,
        text_bytes: int = TEXT_BYTES,
    ) -> None:
        self._max_users = users
        self._max_threads = threads
        self._max_messages = messages
        self._max_bytes = text_bytes
        self._number = itertools.count()

        self._rows: dict[UserId, _Row] = {}
        # Users that could go, by number. A row that cannot go after all is passed over and put
        # back when it can; each has one place at most, so this is never larger than the rows.
        self._candidates: list[tuple[int, UserId]] = []
        self._threads_of: dict[UserId, int] = {}

        self._threads: dict[_ThreadKey, _Thread] = {}
        # Both in the order of their threads' last write. One has those with a loose message; the
        # other those with no held one, and it needs no sorting: a write takes a thread out (a
        # message) or puts it in (an end).
        self._droppable: OrderedDict[_Thread, None] = OrderedDict()
        self._idle: OrderedDict[_Thread, None] = OrderedDict()

        self._keys: dict[tuple[UserId, CorrelationId], _Message] = {}
        self._held: dict[RunId, _Message] = {}
        self._held_bytes = 0
        self._messages = 0
        self._bytes = 0
        self._users_dropped = 0
        self._messages_dropped = 0
        self._early_keys_dropped = 0
        self._openings = 0  # how many servers hold it open

    def statistics(self) -> dict[str, int]:
        """Return how much is kept, how many runs go on, and how much has gone so far."""
        return {
            "users": len(self._rows),
            "threads": len(self._threads),
            "messages": self._messages,
            "text_bytes": self._bytes,
            "keys": len(self._keys),
            "runs": len(self._held),
            "users_dropped": self._users_dropped,
            "messages_dropped": self._messages_dropped,
            "early_keys_dropped": self._early_keys_dropped,
        }

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold it open; who is the first to do so ends the runs that are left unfinished."""
        if not self._openings:
            for run_id in list(self._held):
                await self._interrupt(run_id)
        self._openings += 1
        try:
            yield
        finally:
            self._openings -= 1

    async def check(self) -> None:
        """Return: memory always answers, a full one too."""

    # Users.

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user, None if there is none."""
        row = self._rows.get(user_id)
        return None if row is None else row.user

    async def create_user(self, user_id: UserId) -> User:
        """Create the user, enabled, and return it; return the one there is, if there is one.

        Raises:
            StoreUnavailable: If there are too many and each is disabled or has a thread.
        """
        row = self._rows.get(user_id)
        if row is None:
            if len(self._rows) >= self._max_users:
                self._drop_user()
            row = self._rows[user_id] = _Row(next(self._number), User(user_id))
            self._reconsider(user_id)
        return row.user

    async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user; return whether there is such a user."""
        row = self._rows.get(user_id)
        if row is None:
            return False
        row.user = evolve(row.user, enabled=enabled)
        self._reconsider(user_id)
        return True

    def _may_go(self, row: _Row) -> bool:
        return row.user.enabled and row.user.id not in self._threads_of

    def _reconsider(self, user_id: UserId) -> None:
        """Make the user one that might go, if nothing speaks against it."""
        row = self._rows.get(user_id)
        if row is not None and not row.is_candidate and self._may_go(row):
            row.is_candidate = True
            heappush(self._candidates, (row.number, user_id))

    def _drop_user(self) -> None:
        while self._candidates:
            _, user_id = heappop(self._candidates)
            row = self._rows[user_id]
            row.is_candidate = False
            if self._may_go(row):
                del self._rows[user_id]
                self._users_dropped += 1
                return
        raise StoreUnavailable(f"all of {self._max_users} users are disabled or have a thread")

    # Messages and runs.

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run, `queued`; create the thread where there is none yet.

        Returns what was recorded before if the key is known and the fingerprint is the same;
        then nothing is recorded.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            StoreUnavailable: If the bounds are full of messages whose runs go on.
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
        """Return what was recorded before under the message's key; record nothing.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
        """
        if message.key is None:
            return None
        known = self._keys.get((message.user_id, message.key))
        return None if known is None else _duplicate(known, message.fingerprint)

    def start_run(self, run_id: RunId) -> None:
        """Note that the run is `running`; nothing happens if it has ended or is unknown."""
        message = self._held.get(run_id)
        if message is not None and message.run is not None:
            message.run.status = RunStatus.RUNNING

    def end_run(self, end: RunEnd) -> Awaitable[None]:
        """Note how the run ended, with the agent's message; an empty text makes none.

        The first end stands: nothing happens if the run has ended or is unknown.
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
        """End a run whose server did not live to do so."""
        completed = AgentCompleted(run_id, RunStatus.INTERRUPTED, 0)
        end = RunEnd(
            run_id=run_id,
            status=completed.status,
            message_id=MessageId(""),  # of a text, and there is none
            text="",
            truncated=False,
            created_at=self._held[run_id].created_at,
            completed=dumps(payload_of(completed)),
        )
        await self.end_run(end)

    async def history(
        self,
        user_id: UserId,
        thread_id: ThreadId,
        *,
        limit: int,
        before: MessageId | None = None,
    ) -> tuple[Sequence[HistoryMessage], bool] | None:
        """Return the newest `limit` messages strictly before `before`, oldest first.

        The second value says whether older ones were left out, for `limit` or for the page's
        256 KiB; a single message may be larger than that. None if the user has no such thread.

        Raises:
            MessageNotFound: If `before` is no message of the thread, or has gone.
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
        """Make the thread, if there is one, the one written to last."""
        thread = self._threads.get(key)
        if thread is not None and thread in self._droppable:
            self._droppable.move_to_end(thread)

    # Room.

    def _check_room(self, key: _ThreadKey, size: int) -> None:
        """Raise `StoreUnavailable` if there is no room even with everything loose gone."""
        if len(self._held) >= self._max_messages:
            raise StoreUnavailable(f"the runs of all {self._max_messages} messages go on")
        if self._held_bytes + size > self._max_bytes:
            raise StoreUnavailable(f"{size} bytes do not fit beside messages whose runs go on")
        busy = len(self._threads) - len(self._idle)
        if key not in self._threads and busy >= self._max_threads:
            raise StoreUnavailable(f"a run goes on in each of {self._max_threads} threads")

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
            self._reconsider(user_id)


def _duplicate(known: _Message, fingerprint: bytes) -> Duplicate:
    """Return what a known key stands for.

    Raises:
        KeyConflict: If the fingerprint is another.
    """
    run = known.run
    if run is None or run.fingerprint != fingerprint:
        raise KeyConflict
    return Duplicate(known.id, run.id, known.thread.key[1], run.status, run.completed)
