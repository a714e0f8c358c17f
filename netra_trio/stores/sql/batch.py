"""The SQL of a batch: what a sequence of writes becomes in one transaction.

Rows are numbered in the order of the batch, which is that of history, so messages of users and of
agents go in with one statement. The others are one each too, however many rows they have.

    1  take back     what was told that it failed
    2  look up       keys that are known; after a failure, messages that are
    3  insert        threads, then messages, then runs
    4  end           runs that were recorded earlier
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen
from orjson import dumps
from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    delete,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from netra_trio.errors import KeyConflict
from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId, UserId
from netra_trio.protocol.codec import payload_of
from netra_trio.protocol.messages import AgentCompleted, RunStatus
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd, User
from netra_trio.stores.sql.rows import Insert, Values
from netra_trio.stores.sql.schema import exact, messages, runs, threads, users
from netra_trio.stores.sql.write_behind import Entry

THREADS_KNOWN = 10_000  # numbers of threads kept, some 3 MB: one for each connection there may be

USER, AGENT = "user", "agent"

Key = tuple[UserId, CorrelationId]
Place = tuple[UserId, ThreadId]


@frozen
class Known:
    """A message that was recorded before under a key.

    Attributes:
        fingerprint: What has to be equal for the key to mean it.
    """

    fingerprint: bytes
    duplicate: Duplicate

    def answer(self, new: NewMessage) -> Duplicate:
        """Return what this is to a message of the same key.

        Raises:
            KeyConflict: If it is another message.
        """
        if self.fingerprint != new.fingerprint:
            raise KeyConflict
        return self.duplicate


@define(eq=False)
class Recording(Entry):
    """A message to record; with a key somebody waits for it.

    Attributes:
        known: What was recorded before under its key, once it is done.
    """

    new: NewMessage = field(kw_only=True)
    known: Known | None = None

    def undo(self) -> Entry:
        """Return what takes it back."""
        return TakingBack(run_id=self.new.run_id)


@define(eq=False)
class Joining(Entry):
    """A user who comes for the first time; there is nothing to undo.

    Attributes:
        user: The one there is, once it is done.
    """

    user_id: UserId = field(kw_only=True)
    created_at: float = field(kw_only=True)
    user: User | None = None


@define(eq=False)
class Starting(Entry):
    """A run that is at work now."""

    run_id: RunId = field(kw_only=True)


@define(eq=False)
class Ending(Entry):
    """A run that has ended."""

    end: RunEnd = field(kw_only=True)


@define(eq=False)
class TakingBack(Entry):
    """A message that was told to be not stored, and may be."""

    run_id: RunId = field(kw_only=True)


class ThreadNumbers:
    """The numbers of the threads that were written to last.

    A number is kept once its thread is committed, and is never another thread's.
    """

    def __init__(self) -> None:
        self._numbers: OrderedDict[Place, int] = OrderedDict()

    def find(self, connection: Connection, new: Iterable[NewMessage]) -> dict[Place, int]:
        """Return the numbers of these messages' threads, which are made where there are none."""
        wanted = {(message.user_id, message.thread_id): message for message in new}
        missing = [
            {"user_id": user_id, "thread_id": thread_id, "created_at": message.created_at}
            for (user_id, thread_id), message in wanted.items()
            if (user_id, thread_id) not in self._numbers
        ]
        found = {place: self._numbers[place] for place in wanted if place in self._numbers}
        if missing:
            connection.execute(insert_new(connection, threads), missing)
            places = [(row["user_id"], row["thread_id"]) for row in missing]
            made = tuple_(threads.c.user_id, threads.c.thread_id).in_(places)
            for row in connection.execute(select(threads).where(made)):
                found[UserId(row.user_id), ThreadId(row.thread_id)] = row.number
        return found

    def keep(self, numbers: Mapping[Place, int]) -> None:
        """Keep what is committed."""
        for place, number in numbers.items():
            self._numbers[place] = number
            self._numbers.move_to_end(place)
        while len(self._numbers) > THREADS_KNOWN:
            self._numbers.popitem(last=False)

    def forget(self) -> None:
        """Ask the database again: a thread may be gone."""
        self._numbers.clear()


_INSERT_MESSAGES = Insert(messages, returning=("message_id", "number"))
_INSERT_RUNS = Insert(runs)
# In the driver's own words, as inserts are: a hundred at once cost a third.
_END_RUN = "UPDATE runs SET status = {0}, completed = {0}, owner = NULL WHERE message = {0}"


@define(eq=False)
class Batch:
    """One transaction's worth of writes.

    Attributes:
        owner: Who has the runs at work.
        numbers: The threads that are known.
        may_be_partial: Whether a batch before this one failed, so that a part may be there already.
        places: The threads that it wrote to, once it is written.
    """

    entries: Sequence[Entry]
    owner: str
    numbers: ThreadNumbers
    may_be_partial: bool = False
    places: Mapping[Place, int] = field(factory=dict)

    def write(self, connection: Connection) -> dict[Recording, Known]:
        """Write it all; return what was recorded before, under the keys of its recordings."""
        self._add_users(connection)
        self._take_back(connection)
        duplicates = self._look_up(connection)
        recordings = [entry for entry in self._of(Recording) if entry not in duplicates]
        if self.may_be_partial:
            recordings = _not_there_yet(connection, recordings)
        earlier = self._find_earlier(connection, recordings)
        numbers = self._insert_messages(connection, recordings, earlier)
        self._insert_runs(connection, recordings, numbers)
        self._start_earlier(connection, recordings)
        self._end_earlier(connection, earlier)
        return duplicates

    def _of(self, kind: type[Any]) -> list[Any]:
        return [entry for entry in self.entries if type(entry) is kind]

    def _add_users(self, connection: Connection) -> None:
        joining = {entry.user_id: entry for entry in self._of(Joining)}
        if not joining:
            return
        rows = [
            {"user_id": entry.user_id, "enabled": True, "created_at": entry.created_at}
            for entry in joining.values()
        ]
        connection.execute(insert_new(connection, users), rows)
        there = select(users).where(users.c.user_id.in_(joining))
        found = {row.user_id: User(row.user_id, row.enabled) for row in connection.execute(there)}
        for entry in self._of(Joining):
            entry.user = found[entry.user_id]

    def _take_back(self, connection: Connection) -> None:
        run_ids = [entry.run_id for entry in self._of(TakingBack)]
        if run_ids:
            theirs = select(runs.c.message).where(runs.c.run_id.in_(run_ids))
            connection.execute(delete(messages).where(messages.c.number.in_(theirs)))

    def _look_up(self, connection: Connection) -> dict[Recording, Known]:
        """Return what was recorded before, here or earlier in the batch."""
        keyed = [entry for entry in self._of(Recording) if entry.new.key is not None]
        if not keyed:
            return {}
        known = look_up(connection, [(entry.new.user_id, entry.new.key) for entry in keyed])
        found: dict[Recording, Known] = {}
        for entry in keyed:
            key = (entry.new.user_id, entry.new.key)
            if key in known:
                found[entry] = known[key]
            else:
                known[key] = _as_known(entry.new)
        return found

    def _find_earlier(
        self, connection: Connection, recordings: Sequence[Recording]
    ) -> dict[RunId, tuple[int, int]]:
        """Return message and thread of the runs that end here and were recorded before."""
        here = {entry.new.run_id for entry in recordings}
        ending = [entry.end.run_id for entry in self._of(Ending) if entry.end.run_id not in here]
        if not ending:
            return {}
        rows = connection.execute(
            select(runs.c.run_id, runs.c.message, messages.c.thread)
            .join(messages, messages.c.number == runs.c.message)
            # Its owner goes with its end: who has none has told it.
            .where(runs.c.run_id.in_(ending), runs.c.owner == self.owner)
        )
        return {RunId(row.run_id): (row.message, row.thread) for row in rows}

    def _insert_messages(
        self,
        connection: Connection,
        recordings: Sequence[Recording],
        earlier: dict[RunId, tuple[int, int]],
    ) -> dict[MessageId, int]:
        """Insert what users and agents said, in order; return the numbers."""
        self.places = self.numbers.find(connection, [entry.new for entry in recordings])
        places = {run_id: thread for run_id, (_, thread) in earlier.items()}
        for new in (recording.new for recording in recordings):
            places[new.run_id] = self.places[new.user_id, new.thread_id]
        wanted = set(recordings)
        rows = []
        ended: set[RunId] = set()
        for entry in self.entries:
            if isinstance(entry, Recording):
                if entry in wanted:
                    rows.append(_said(entry.new, places[entry.new.run_id]))
            elif isinstance(entry, Ending):
                end, thread = entry.end, places.get(entry.end.run_id)
                if end.text and thread is not None and end.run_id not in ended:
                    rows.append(_answered(end, thread))
                ended.add(end.run_id)
        if not rows:
            return {}
        inserted = _INSERT_MESSAGES.execute(connection, rows)
        return {row.message_id: row.number for row in inserted}

    def _insert_runs(
        self,
        connection: Connection,
        recordings: Sequence[Recording],
        numbers: dict[MessageId, int],
    ) -> None:
        """Insert the runs, as they are by the end of the batch."""
        if not recordings:
            return
        started = {entry.run_id for entry in self._of(Starting)}
        ends = self._ends()
        rows = []
        for entry in recordings:
            end = ends.get(entry.new.run_id)
            number = numbers[entry.new.message_id]
            if end is not None:
                rows.append(_run(entry.new, number, end.status, end.completed, None))
            else:
                status = RunStatus.RUNNING if entry.new.run_id in started else RunStatus.QUEUED
                rows.append(_run(entry.new, number, status, None, self.owner))
        _INSERT_RUNS.execute(connection, rows)

    def _start_earlier(self, connection: Connection, recordings: Sequence[Recording]) -> None:
        done = {entry.new.run_id for entry in recordings} | self._ends().keys()
        run_ids = [entry.run_id for entry in self._of(Starting) if entry.run_id not in done]
        if run_ids:
            queued = and_(runs.c.run_id.in_(run_ids), runs.c.status == RunStatus.QUEUED)
            connection.execute(update(runs).where(queued).values(status=RunStatus.RUNNING))

    def _end_earlier(self, connection: Connection, earlier: dict[RunId, tuple[int, int]]) -> None:
        ends = self._ends()
        rows = [
            (exact(ends[run_id].status), ends[run_id].completed, message)
            for run_id, (message, _) in earlier.items()
        ]
        if rows:
            mark = "?" if connection.dialect.name == "sqlite" else "%s"
            connection.exec_driver_sql(_END_RUN.format(mark), rows)

    def _ends(self) -> dict[RunId, RunEnd]:
        """Return how runs end here; the first end stands."""
        ends: dict[RunId, RunEnd] = {}
        for entry in self._of(Ending):
            ends.setdefault(entry.end.run_id, entry.end)
        return ends


def look_up(connection: Connection, keys: Sequence[Key]) -> dict[Key, Known]:
    """Return what is recorded under these keys."""
    wanted = tuple_(runs.c.user_id, runs.c.correlation_id).in_(keys)
    rows = connection.execute(_RECORDED.where(runs.c.keyed, wanted))
    return {
        (UserId(row.user_id), CorrelationId(row.correlation_id)): Known(
            row.fingerprint, _duplicate(row)
        )
        for row in rows
    }


_RECORDED: Select[Any] = (
    select(
        runs.c.run_id,
        runs.c.user_id,
        runs.c.correlation_id,
        runs.c.fingerprint,
        runs.c.status,
        runs.c.completed,
        messages.c.message_id,
        threads.c.thread_id,
    )
    .join(messages, messages.c.number == runs.c.message)
    .join(threads, threads.c.number == messages.c.thread)
)


def _duplicate(row: Row[Any]) -> Duplicate:
    status, completed = RunStatus(row.status), row.completed
    if status is RunStatus.INTERRUPTED and completed is None:  # its owner did not live to tell it
        completed = dumps(payload_of(AgentCompleted(RunId(row.run_id), status, 0)))
    return Duplicate(
        MessageId(row.message_id), RunId(row.run_id), ThreadId(row.thread_id), status, completed
    )


def _as_known(new: NewMessage) -> Known:
    """Return what a message of this batch is to a later one of the same key."""
    duplicate = Duplicate(new.message_id, new.run_id, new.thread_id, RunStatus.QUEUED, None)
    return Known(new.fingerprint, duplicate)


def _not_there_yet(connection: Connection, recordings: Sequence[Recording]) -> list[Recording]:
    ids = [entry.new.message_id for entry in recordings]
    there = connection.scalars(
        select(messages.c.message_id).where(messages.c.message_id.in_(ids))
    ).all()
    return [entry for entry in recordings if entry.new.message_id not in set(there)]


def _said(new: NewMessage, thread: int) -> Values:
    """Return the row of a user's message, as `schema.messages` has its columns."""
    size = len(new.content.encode())
    return (thread, new.message_id, USER, new.content, size, False, new.created_at)


def _answered(end: RunEnd, thread: int) -> Values:
    """Return the row of an agent's message, likewise."""
    size = len(end.text.encode())
    return (thread, end.message_id, AGENT, end.text, size, end.truncated, end.created_at)


def _run(
    new: NewMessage, number: int, status: RunStatus, completed: bytes | None, owner: str | None
) -> Values:
    """Return the row of a run, as `schema.runs` has its columns."""
    return (
        number,
        new.run_id,
        new.user_id,
        new.correlation_id,
        new.key is not None,
        new.fingerprint,
        new.agent_name,
        status,
        completed,
        owner,
    )


def insert_new(connection: Connection, table: Any) -> Any:
    """Return an insert into a table that passes over what is there."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()
