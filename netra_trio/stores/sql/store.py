"""Users, threads, messages and runs in a database: SQLite or PostgreSQL.

    store = SqlStore("sqlite:///netra.db")
    async with store.open():
        await store.create_user(UserId("alice"))

Questions are answered by short units of work in worker threads. Whatever conversations write goes
one way, in order and in batches (`behind.py`, `batch.py`), so that an end is never stored before
its message, and a hundred messages cost a few statements.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import structlog
import trio
from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import DataError, IntegrityError

from netra_trio.errors import DatabaseUnusable, StoreUnavailable
from netra_trio.ids import MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryMessage
from netra_trio.stores.base import STORED, Duplicate, NewMessage, RunEnd, User
from netra_trio.stores.sql.batch import (
    Batch,
    Ending,
    Joining,
    Key,
    Known,
    Recording,
    Starting,
    ThreadNumbers,
    look_up,
)
from netra_trio.stores.sql.database import Database, reason
from netra_trio.stores.sql.history import read_page
from netra_trio.stores.sql.leases import RENEW_SECONDS, Owner
from netra_trio.stores.sql.lookups import Lookups
from netra_trio.stores.sql.migrate import migrate
from netra_trio.stores.sql.retention import DAY, delete_old
from netra_trio.stores.sql.schema import users
from netra_trio.stores.sql.write_behind import Entry, WriteBehind

FLUSH_SECONDS = 1.0  # at the end, for what is not written: the drain has 10 s for all
RETENTION_SECONDS = 3600.0  # between two looks for what is too old
CONFLICTS = 3  # tries of a batch that meets another process's: each time one of them has won
ROW_BYTES = 200  # of a row beside its text

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class SqlStore:
    """A `Store` in a database.

    Args:
        url: `sqlite://`, `sqlite:///path` or `postgresql://…`.
        retention_days: For how long messages are kept; 0 for ever.
        wall_clock: Returns Unix seconds.

    Raises:
        DatabaseUnusable: If the URL can never work.
    """

    def __init__(
        self,
        url: str,
        *,
        retention_days: int = 0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = Database(url)
        self._retention_days = retention_days
        self._wall_clock = wall_clock
        self._owner = Owner()
        self._writes = WriteBehind(self._write)
        self._numbers = ThreadNumbers()
        self._lookups = Lookups(self._find_users)
        self._keyed: set[RunId] = set()
        self._on_the_way: dict[Key, Recording] = {}
        self._may_be_partial = False
        self._is_ready = False
        self._is_open = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the store open: brings the schema up, and ends what owners that are gone have left.

        A database that does not answer is waited for in the background; until it does, every
        question raises `StoreUnavailable`. On leaving, what is still to be written is written,
        within a second.

        Raises:
            DatabaseUnusable: If the database can never work: it has a newer schema.
        """
        try:
            try:
                await self._get_ready()
            except StoreUnavailable as unavailable:
                self._writes.fail(str(unavailable))
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
            self._owner.forget()
            self.database.close()

    async def bring_up(self) -> None:
        """Bring the schema up, without serving; enough for what has to do with users.

        Raises:
            StoreUnavailable: If the database does not answer.
            DatabaseUnusable: If it has a newer schema.
        """
        await self.database.write(migrate)

    def statistics(self) -> dict[str, int]:
        """Return how much waits to be written."""
        return self._writes.statistics()

    async def check(self) -> None:
        """Return if the store can answer now, and can write."""
        self._check_trouble()
        await self.database.read(lambda connection: connection.execute(text("SELECT 1")).close())

    # Users.

    async def get_user(self, user_id: UserId) -> User | None:
        """Return the user, None if there is none.

        Not while nothing can be written: who comes in now could do nothing.
        """
        self._check_trouble()
        return await self._lookups.get(user_id)

    async def _find_users(self, user_ids: Collection[UserId]) -> Mapping[UserId, User]:
        # In the driver's own words: SQLAlchemy takes ten times as long for so short a question.
        mark = "?" if self.database.is_sqlite else "%s"
        marks = ", ".join([mark] * len(user_ids))
        sql = f"SELECT user_id, enabled FROM users WHERE user_id IN ({marks})"  # noqa: S608 - marks
        rows = await self.database.find(sql, tuple(user_ids))
        return {UserId(user_id): User(UserId(user_id), bool(enabled)) for user_id, enabled in rows}

    async def create_user(self, user_id: UserId) -> User:
        """Create the user, enabled, and return it; return the one there is, if there is one.

        A crowd that comes at once is written at once: one commit for all.
        """
        self._check_trouble()
        entry = Joining(user_id=user_id, created_at=self._wall_clock(), size=ROW_BYTES)
        if self._is_open:
            await self._writes.do(entry)
        else:
            await self.database.write(Batch([entry], self._owner.id, self._numbers).write)
        return entry.user or User(user_id)

    async def set_user_enabled(self, user_id: UserId, *, enabled: bool) -> bool:
        """Enable or disable the user; return whether there is such a user."""
        change = update(users).where(users.c.user_id == user_id).values(enabled=enabled)
        changed = await self.database.write(lambda connection: connection.execute(change).rowcount)
        return bool(changed)

    async def list_users(self, *, after: UserId | None = None, limit: int = 1000) -> list[User]:
        """Return the next users, by their ids."""
        page = select(users).order_by(users.c.user_id).limit(limit)
        if after is not None:
            page = page.where(users.c.user_id > after)
        rows = await self.database.read(lambda connection: connection.execute(page).all())
        return [User(UserId(row.user_id), row.enabled) for row in rows]

    # Messages and runs.

    async def record(self, message: NewMessage) -> Duplicate | None:
        """Record a message and its run; with a key, for good.

        Without a key it is written behind: this waits only where too much is to be written.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
        """
        entry = Recording(new=message, size=ROW_BYTES + len(message.content))
        await self._writes.wait_for_room()
        if message.key is None:
            self._writes.put(entry)
            return None
        await self._write_alone((message.user_id, message.key), entry)
        if entry.known is not None:
            return entry.known.answer(message)
        self._keyed.add(message.run_id)
        return None

    async def _write_alone(self, key: Key, entry: Recording) -> None:
        """Record a message while no other one of its key is on the way.

        Else it might be told of one that its sender gave up, and that is taken back.
        """
        while (other := self._on_the_way.get(key)) is not None:
            await other.settled.wait()
        self._on_the_way[key] = entry
        try:
            await self._writes.do(entry)
        finally:
            del self._on_the_way[key]

    async def find(self, message: NewMessage) -> Duplicate | None:
        """Return what was recorded before under the message's key; record nothing.

        Raises:
            KeyConflict: If the key is known with another fingerprint.
        """
        if message.key is None:
            return None
        key = (message.user_id, message.key)
        await self._writes.settle()
        known = (await self.database.read(partial(look_up, keys=[key]))).get(key)
        return None if known is None else known.answer(message)

    def start_run(self, run_id: RunId) -> None:
        """Note that the run is `running`."""
        self._writes.put(Starting(run_id=run_id, size=ROW_BYTES))

    def end_run(self, end: RunEnd) -> Awaitable[None]:
        """Note how the run ended; the first end stands, and an unknown run has none."""
        entry = Ending(end=end, size=ROW_BYTES + len(end.text) + len(end.completed))
        is_keyed = end.run_id in self._keyed
        self._keyed.discard(end.run_id)
        self._writes.put(entry, at_once=is_keyed)
        return entry.settled.wait() if is_keyed else STORED

    async def history(
        self,
        user_id: UserId,
        thread_id: ThreadId,
        *,
        limit: int,
        before: MessageId | None = None,
    ) -> tuple[Sequence[HistoryMessage], bool] | None:
        """Return the newest `limit` messages strictly before `before`, oldest first."""
        await self._writes.settle()
        return await self.database.read(
            partial(read_page, user_id=user_id, thread_id=thread_id, limit=limit, before=before)
        )

    # What goes on beside.

    async def _work(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Write, and keep the database in order; outlives the cancellation of those who wrote."""
        with trio.CancelScope(shield=True) as stop:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._writes.run)
                nursery.start_soon(self._keep)
                task_status.started(stop)

    async def _keep(self) -> None:
        """Renew the lease, look at other owners, and delete what is too old."""
        retention_due = trio.current_time()
        while True:
            if trio.current_time() >= retention_due and await self._try(self._delete_old):
                retention_due = trio.current_time() + RETENTION_SECONDS
            await trio.sleep(RENEW_SECONDS)
            await self._try(self._renew)

    async def _try(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something that can be done later just as well; return whether it is done."""
        if not self._is_ready:
            return False
        try:
            await work()
        except StoreUnavailable as unavailable:
            self._writes.fail(str(unavailable))
            return False
        return True

    async def _get_ready(self) -> None:
        await self.bring_up()
        await self._renew()
        self._is_ready = True

    async def _maintain(self, work: Callable[[Connection], _T]) -> _T:
        """Do what has nothing to do with a message; whatever is in its way may be gone later."""
        try:
            return await self.database.write(work)
        except (IntegrityError, DataError) as error:
            raise StoreUnavailable(reason(error)) from error
        except DatabaseUnusable as error:  # it was usable at the start
            raise StoreUnavailable(str(error)) from error

    async def _renew(self) -> None:
        ended = await self._maintain(self._owner.renew)
        if ended:
            _log.warning("runs_interrupted", runs=ended)

    async def _delete_old(self) -> None:
        if not self._retention_days:
            return
        older_than = self._wall_clock() - self._retention_days * DAY
        last: int | None = 0
        deleted = 0
        while last is not None:
            progress = await self._maintain(partial(delete_old, older_than=older_than, after=last))
            last = progress.last
            deleted += progress.deleted
        if deleted:
            _log.info("history_deleted", messages=deleted, days=self._retention_days)

    async def _flush(self) -> None:
        """Write what is to be written, and leave; what a database does not take now is lost."""
        with trio.move_on_after(FLUSH_SECONDS, shield=True):
            while not await self._try_to_leave():  # noqa: ASYNC110 - nobody tells that it is back
                await trio.sleep(FLUSH_SECONDS / 10)
        if self._writes.unwritten:
            why = self._writes.trouble or f"no answer within {FLUSH_SECONDS:g} s"
            _log.error("writes_lost", writes=self._writes.unwritten, reason=why)

    async def _try_to_leave(self) -> bool:
        try:
            await self._writes.settle()
            await self._maintain(self._owner.leave)
        except StoreUnavailable:
            return False
        return True

    async def _write(self, entries: Sequence[Entry]) -> None:
        """Write a batch, or find out whether writing works."""
        try:
            if not self._is_ready:
                await self._get_ready()
            elif self._may_be_partial or not entries:
                await self._renew()
            if not entries:
                # A lease finds a place on a full disk; a message would not.
                await self._maintain(self._owner.try_room)
            else:
                await self._write_batch(entries)
        except StoreUnavailable:
            self._may_be_partial = True
            raise
        except DatabaseUnusable as error:
            if not self._is_ready:
                raise
            self._may_be_partial = True
            raise StoreUnavailable(str(error)) from error
        self._may_be_partial = False

    async def _write_batch(self, entries: Sequence[Entry]) -> None:
        fault: Exception | None = None
        for _ in range(CONFLICTS):
            batch = Batch(entries, self._owner.id, self._numbers, self._may_be_partial)
            try:
                found = await self.database.write(batch.write)
            except (StoreUnavailable, DatabaseUnusable):
                raise
            except Exception as refused:
                # A key of another process's, or a thread that is gone: the next look finds it so.
                fault = refused
                self._numbers.forget()
                continue
            self._numbers.keep(batch.places)
            _tell(found)
            return
        if len(entries) > 1:
            for entry in entries:
                await self._write_batch([entry])
        elif fault is not None:
            self._refuse(entries[0], fault)

    def _refuse(self, entry: Entry, fault: Exception) -> None:
        """Let one that the database never takes not hold up the others."""
        _log.error("write_refused", write=type(entry).__name__, reason=reason(fault))
        entry.give_up(StoreUnavailable("the database refuses it"))

    def _check_trouble(self) -> None:
        if self._writes.trouble is not None:
            raise StoreUnavailable(self._writes.trouble)


def _tell(found: dict[Recording, Known]) -> None:
    for recording, known in found.items():
        recording.known = known
