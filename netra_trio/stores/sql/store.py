"""Users, threads, messages and runs in a database: SQLite or PostgreSQL.

    store = SqlStore("sqlite:///netra.db")
    async with store.open():
        await store.create_user(UserId("alice"))

Reads are short units of work in worker threads. All writes of conversations go through one queue,
in order and in batches (`write_behind.py`, `batch.py`): the end of a run is never stored before its
message, and a hundred messages cost a few statements.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
import trio
from sqlalchemy import select, text

from netra_trio.errors import FilesNotFound, MessageNotFound, StoreUnavailable
from netra_trio.ids import (
    MessageId,
    NodeId,
    QuestionId,
    RunId,
    SessionId,
    ThreadId,
    UserId,
    new_node_id,
)
from netra_trio.protocol.messages import HistoryMessage, RunStatus
from netra_trio.protocol.usage import Amounts, UsageKey
from netra_trio.stores.base import (
    HAND_OVER_SECONDS,
    STORED,
    Duplicate,
    NewMessage,
    RunEnd,
    RunOwner,
    StoredEnd,
    User,
)
from netra_trio.stores.questions import NewQuestion, QuestionEnd, StoredQuestion
from netra_trio.stores.sql.batch_writer import BatchWriter
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.entries import (
    CreateUser,
    EndQuestion,
    EndRun,
    Key,
    RecordMessage,
    RecordQuestion,
    RecordUsage,
    StartRun,
)
from netra_trio.stores.sql.file_calls import FileCalls
from netra_trio.stores.sql.history import read_page
from netra_trio.stores.sql.known_keys import find_known
from netra_trio.stores.sql.lookups import Lookups
from netra_trio.stores.sql.ownership import (
    find_run,
    hand_over,
    interrupt_run,
    run_status,
    take_over,
)
from netra_trio.stores.sql.questions import UsageSum, find_question, sum_usage, used_in_day
from netra_trio.stores.sql.schema import users
from netra_trio.stores.sql.uncopied import find_uncopied, note_uncopied
from netra_trio.stores.sql.upkeep import Upkeep
from netra_trio.stores.sql.user_changes import find_changes, set_enabled
from netra_trio.stores.sql.write_behind import Entry, WriteBehind
from netra_trio.stores.usage import Usage

FLUSH_SECONDS = 1.0  # on closing, for what is not written yet: the whole drain has 10 s
ROW_BYTES = 200  # of a row without its text
ROOM_SECONDS = 3.0  # that a report of usage waits for room, as a message does

_log = structlog.get_logger(__name__)


class SqlStore(FileCalls):
    """A `Store` in a database.

    Args:
        database: `sqlite://`, `sqlite:///path`, `postgresql://…`, or a database that is set up.
        retention_days: For how long messages are kept; 0 for ever.
        wall_clock: Returns Unix seconds.
        owner: The node that uses the store; None for a new one.

    Attributes:
        owner: The node, and its lease.

    Raises:
        DatabaseUnusable: If the URL can never work.
    """

    def __init__(
        self,
        database: str | Database,
        *,
        retention_days: int = 0,
        wall_clock: Callable[[], float] = time.time,
        owner: NodeId | None = None,
    ) -> None:
        self.database = Database(database) if isinstance(database, str) else database
        self.owner = new_node_id() if owner is None else owner
        self._wall_clock = wall_clock
        self._upkeep = Upkeep(
            self.database, retention_days=retention_days, wall_clock=wall_clock, owner=self.owner
        )
        self._writer = BatchWriter(self.database, self._upkeep)
        self._writes = WriteBehind(self._write)
        self._lookups = Lookups(self._find_users)
        self._queued: dict[RunId, RecordMessage] = {}  # recordings written behind, in no batch yet
        self._awaited: set[RunId] = set()  # runs at work whose end is waited for
        self._recording: dict[Key, trio.Event] = {}  # set when the key is free again
        self._is_open = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the store open: bring the schema up to date, end runs of processes that are gone.

        A database that does not answer is waited for in the background; until it does, every call
        raises `StoreUnavailable`. On closing, what is queued is written, for a second at most.

        Raises:
            DatabaseUnusable: If the database can never work: it has a newer schema.
        """
        try:
            try:
                await self._upkeep.prepare()
            except StoreUnavailable as unavailable:
                self._writes.mark_unavailable(str(unavailable))
            async with trio.open_nursery() as nursery:
                stop = await nursery.start(self._work)
                self._is_open = True
                try:
                    yield
                finally:
                    self._is_open = False
                    try:
                        await self._flush()
                    finally:
                        stop.cancel()
        finally:
            self._upkeep.lease.forget()
            self.database.close()

    async def bring_up(self) -> None:
        """Bring the schema up to date without opening the store; enough for calls about users.

        Raises:
            StoreUnavailable: If the database does not answer.
            DatabaseUnusable: If it has a newer schema.
        """
        await self._upkeep.migrate()

    def statistics(self) -> dict[str, int]:
        """Return how many entries wait to be written, and their size."""
        return self._writes.statistics()

    async def check(self) -> None:
        """Return if the store can answer now, and can write."""
        self._check_available()
        await self.database.read(lambda connection: connection.execute(text("SELECT 1")).close())

    # Users

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user, None if there is none.

        Raises `StoreUnavailable` also while only writing is impossible: the user could do nothing.
        """
        self._check_available()
        return await self._lookups.get(user_id)

    async def _find_users(self, user_ids: Collection[UserId]) -> Mapping[UserId, User]:
        # In the driver's own SQL: SQLAlchemy takes ten times as long for so short a query.
        mark = "?" if self.database.is_sqlite else "%s"
        marks = ", ".join([mark] * len(user_ids))
        sql = f"SELECT user_id, enabled FROM users WHERE user_id IN ({marks})"  # noqa: S608 - marks
        rows = await self.database.find(sql, tuple(user_ids))
        return {UserId(user_id): User(UserId(user_id), bool(enabled)) for user_id, enabled in rows}

    async def create_user(self, user_id: UserId) -> User:
        """Create the user, enabled, and return it; return the existing one, if there is one.

        Users that are created at the same time are written in one transaction.
        """
        self._check_available()
        entry = CreateUser(user_id, self._wall_clock(), size=ROW_BYTES)
        if self._is_open:
            await self._writes.write(entry)
        else:
            await self._writer.write_one(entry)
        return entry.user or User(user_id)

    async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user; return whether there is such a user."""
        return await self.database.write_repeatable(
            partial(set_enabled, user_id=user_id, enabled=enabled)
        )

    async def changed_users(self, after: int) -> tuple[int, Sequence[UserId]]:
        """Return the newest change of users, and the users that were changed after another one."""
        return await self.database.read(partial(find_changes, after=after))

    async def list_users(self, *, after: UserId | None = None, limit: int = 1000) -> list[User]:
        """Return the next users, in the order of their ids."""
        page = select(users).order_by(users.c.user_id).limit(limit)
        if after is not None:
            page = page.where(users.c.user_id > after)
        rows = await self.database.read(lambda connection: connection.execute(page).all())
        return [User(UserId(row.user_id), row.enabled) for row in rows]

    # Messages and runs

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run; with a key or a session id, return when both are stored.

        Otherwise it is written behind: this waits only while too much is queued.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            ThreadDeleted: If the key belongs to a message of a deleted thread.
            MessageNotFound: If the replaced message is not in the thread.
            FilesNotFound: If the user does not have a finished file that the message names.
            NotStorable: If the database can never store it; only with a key or a session id.
        """
        rows = 1 + len(message.attachments)
        entry = RecordMessage(message, size=rows * ROW_BYTES + len(message.content))
        if not message.is_awaited:
            await self._writes.send(entry)
            self._queued[message.run_id] = entry
            return None
        await self._writes.admit()
        if message.key is None:
            await self._writes.write(entry)
        else:
            await self._write_alone((message.user_id, message.key), entry)
        if entry.known is not None:
            return entry.known.duplicate_of(message)
        if entry.missing_files:
            raise FilesNotFound(entry.missing_files)
        if entry.lacks_branch:
            raise MessageNotFound(message.replaces)
        self._awaited.add(message.run_id)
        return None

    async def _write_alone(self, key: Key, entry: RecordMessage) -> None:
        """Record a message while no other message of its key is being recorded.

        Otherwise its caller could be told of one whose caller was cancelled, and that is deleted.
        """
        while (other := self._recording.get(key)) is not None:
            await other.wait()
        over = self._recording[key] = trio.Event()
        try:
            await self._writes.write(entry)
        finally:
            del self._recording[key]
            over.set()

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return what was recorded before under the message's key; record nothing.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
            ThreadDeleted: If the key belongs to a message of a deleted thread.
        """
        if message.key is None:
            return None
        key = (message.user_id, message.key)
        await self._writes.flush()
        known = (await self.database.read(partial(find_known, keys=[key]))).get(key)
        return None if known is None else known.duplicate_of(message)

    def start_run(self, run_id: RunId) -> None:
        """Note that the run is `running`."""
        recording = self._queued.get(run_id)
        if recording is not None:
            recording.is_started = True
        else:
            self._writes.put(StartRun(run_id, size=ROW_BYTES))

    def end_run(self, end: RunEnd) -> Awaitable[StoredEnd | None]:
        """Note how the run ended; only its first end counts, and unknown runs are ignored."""
        size = len(end.text) + len(end.steps or b"") + len(end.completed)
        entry = EndRun(end, size=(1 + len(end.attachments)) * ROW_BYTES + size)
        if end.run_id not in self._awaited:
            self._writes.put(entry)
            return STORED
        self._awaited.discard(end.run_id)
        stored = entry.complete()
        self._writes.put(entry, urgent=True)
        return _stood(entry, stored)

    # Runs of several nodes

    async def take_over(
        self,
        session_id: SessionId,
        *,
        owner: NodeId,
        runs: Collection[RunId],
        waiting: Collection[RunId] = (),
    ) -> Mapping[RunId, StoredEnd | None]:
        """Adopt the queued ones of `waiting`, and end the other runs of a session that moves."""
        taken = await self._change(
            partial(
                take_over,
                session_id=session_id,
                owner=owner,
                taker=self.owner,
                asked=runs,
                waiting=waiting,
            )
        )
        self._awaited.update(taken.adopted)
        return taken.ends

    async def hand_over(self, runs: Collection[RunId], *, seconds: float) -> NodeId:
        """Give the queued ones of these runs to a lease that no process renews."""
        lease = new_node_id()
        given = await self._change(
            partial(
                hand_over,
                run_ids=runs,
                owner=self.owner,
                lease=lease,
                seconds=min(seconds, HAND_OVER_SECONDS),
            )
        )
        self._awaited.difference_update(given)
        return lease

    async def note_uncopied(self, session_id: SessionId, number: int) -> None:
        """Note that a session sends an event, and later ones, without a copy."""
        await self._write_now(partial(note_uncopied, session_id=session_id, number=number))

    async def uncopied_from(self, session_id: SessionId) -> int | None:
        """Return the number that was noted last for a session, None if none was."""
        return await self.database.read(partial(find_uncopied, session_id=session_id))

    async def find_run(self, user_id: UserId, run_id: RunId) -> RunOwner | None:
        """Return the node of an unfinished run of this user, None if there is none."""
        return await self._read(partial(find_run, user_id=user_id, run_id=run_id))

    async def end_gone_runs(self) -> int:
        """End the runs of ended processes; return their number. The store need not be open."""
        return await self._write_now(self._upkeep.lease.end_gone)

    async def run_status(self, run_id: RunId) -> RunStatus | None:
        """Return the status of a run, None if it is unknown."""
        return await self._read(partial(run_status, run_id=run_id))

    async def interrupt_run(self, run_id: RunId, *, owner: NodeId) -> StoredEnd | None:
        """End a run of a node that is gone; return the end that it has afterwards."""
        return await self._change(partial(interrupt_run, run_id=run_id, owner=owner))

    # Questions and usage

    async def record_question(self, question: NewQuestion) -> None:
        """Record a question of a run; return once it is stored permanently."""
        entry = RecordQuestion(question, size=ROW_BYTES + question.size)
        await self._writes.admit()
        await self._writes.write(entry)

    def end_question(self, end: QuestionEnd) -> Awaitable[None]:
        """Store how a question was closed."""
        entry = EndQuestion(end, size=ROW_BYTES + end.size)
        stored = entry.complete()
        self._writes.put(entry, urgent=True)
        return stored.wait()

    async def find_question(
        self, user_id: UserId, question_id: QuestionId
    ) -> StoredQuestion | None:
        """Return a question that this user may answer, None if there is none."""
        return await self._read(partial(find_question, user_id=user_id, question_id=question_id))

    async def record_usage(self, usage: Usage) -> None:
        """Store later what a run has used; wait for room in the queue, for a while."""
        with suppress(StoreUnavailable):  # it is queued all the same
            with trio.move_on_after(ROOM_SECONDS):
                await self._writes.admit()
        self._writes.put(RecordUsage(usage, size=ROW_BYTES))

    async def used_in_day(self, key: UsageKey) -> Amounts:
        """Return what an agent has used for a user in a day, after all that is queued."""
        await self._writes.flush()
        return await self.database.read(partial(used_in_day, key=key))

    async def sum_usage(self, by: Sequence[str], since: str | None = None) -> list[UsageSum]:
        """Return the usage that is written, summed by `day`, `user`, `agent` or `model`.

        Args:
            by: One or more of these, in the order of the result.
            since: The first day that counts, as `2026-11-30`, in UTC; None for all.
        """
        return await self.database.read(partial(sum_usage, by=by, since=since))

    async def history(
        self,
        user_id: UserId,
        thread_id: ThreadId,
        *,
        limit: int,
        before: MessageId | None = None,
    ) -> tuple[Sequence[HistoryMessage], bool] | None:
        """Return the newest `limit` messages strictly before `before`, oldest first."""
        return await self._read(
            partial(read_page, user_id=user_id, thread_id=thread_id, limit=limit, before=before)
        )

    # The tasks of an open store

    async def _work(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Write, and keep the database in order, also while the store's user is cancelled."""
        with trio.CancelScope(shield=True) as stop:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._writes.run)
                nursery.start_soon(self._upkeep.run, self._writes.mark_unavailable)
                task_status.started(stop)

    async def _write(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if type(entry) is RecordMessage:  # from now on its start is an entry of its own
                self._queued.pop(entry.message.run_id, None)
        await self._writer.write(entries)

    async def _flush(self) -> None:
        """Write what is queued, and release the lease; what the database does not take is lost."""
        with trio.move_on_after(FLUSH_SECONDS, shield=True):
            while not await self._try_to_release():  # noqa: ASYNC110 - a database sends no event
                await trio.sleep(FLUSH_SECONDS / 10)
        if self._writes.unwritten:
            reason = self._writes.unavailable_reason or f"no answer within {FLUSH_SECONDS:g} s"
            _log.error("writes_lost", writes=self._writes.unwritten, reason=reason)

    async def _try_to_release(self) -> bool:
        try:
            await self._writes.flush()
            await self._upkeep.release()
        except StoreUnavailable:
            return False
        return True

    def _check_available(self) -> None:
        if self._writes.unavailable_reason is not None:
            raise StoreUnavailable(self._writes.unavailable_reason)


async def _stood(entry: EndRun, stored: trio.Event) -> StoredEnd | None:
    await stored.wait()
    return entry.stood
