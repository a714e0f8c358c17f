"""The SQL of a batch: how a sequence of entries is written in one transaction.

Messages are numbered in the order of the entries, which is the order of questions in the history,
so the messages of users and of agents are inserted together. Every step is one statement, or a few,
whatever the number of entries:

    1  create users, delete messages that are compensated
    2  select     keys that are known; after a failure, messages that are stored already
    3  lock       runs that an earlier batch inserted, and that this node still has
    4  insert     threads, then messages, then runs
    5  update     the locked runs, and the times of the threads
    6  insert     questions, usage and notifications, and update questions that were closed
    7  select     the ends of runs that this node does not have any more
    8  lock       files, and insert which messages name them

A message that names a missing file is not recorded: its files are selected after its key.

For a message that replaces another one, that one is selected first, and removed from the history
after the insert. Such messages are rare: each begins a part of the batch, and each part executes
the steps.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from attrs import define, field
from sqlalchemy import Connection, Row, select, text, update

from netra_trio.ids import MessageId, NodeId, RunId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.protocol.text import json_size
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd, StoredEnd, User
from netra_trio.stores.sql.branches import (
    AGENT,
    USER,
    Branch,
    delete_messages,
    find_branch,
    hide_branch,
)
from netra_trio.stores.sql.ends import end_rows, find_ends, is_unfinished, locked
from netra_trio.stores.sql.entries import (
    CreateUser,
    DeleteMessage,
    EndQuestion,
    EndRun,
    Key,
    Known,
    RecordMessage,
    RecordQuestion,
    RecordUsage,
    StartRun,
)
from netra_trio.stores.sql.files import UNNAMED, NamedFiles, missing_files, name_files
from netra_trio.stores.sql.known_keys import find_known
from netra_trio.stores.sql.outbox import add_notifications
from netra_trio.stores.sql.questions import write_questions, write_usage
from netra_trio.stores.sql.rows import Insert, insert_missing
from netra_trio.stores.sql.schema import exact, messages, runs, users
from netra_trio.stores.sql.thread_numbers import ThreadKey, ThreadNumbers, note_updates
from netra_trio.stores.sql.write_behind import Entry

_EntryT = TypeVar("_EntryT", bound=Entry)

_INSERT_MESSAGES = Insert(messages, omitted=("rating", "comment", "replaced_by"))
_INSERT_RUNS = Insert(runs)
_LAST_NUMBER = text("SELECT seq FROM sqlite_sequence WHERE name = 'messages'")
_NEXT_NUMBERS = text(
    "SELECT nextval(pg_get_serial_sequence('messages', 'number')) FROM generate_series(1, :count)"
)


@define(eq=False)
class Batch:
    """The entries of one transaction.

    Attributes:
        owner: The node: its runs are the ones to insert, start and end.
        numbers: The threads that are known.
        may_be_partial: Whether an earlier batch failed, so that some entries may be stored already.
        threads: The threads of the recorded messages; set by `write`.
    """

    entries: Sequence[Entry]
    owner: NodeId
    numbers: ThreadNumbers
    may_be_partial: bool = False
    threads: Mapping[ThreadKey, int] = field(factory=dict)
    _by_class: Mapping[type[Entry], list[Any]] = field(init=False)
    _named: list[NamedFiles] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        by_class = defaultdict(list)
        for entry in self.entries:
            by_class[type(entry)].append(entry)
        self._by_class = by_class

    def write(self, connection: Connection) -> dict[RecordMessage, Known]:
        """Write all entries; return the recordings whose key was known, with what is known."""
        self._named.clear()  # of an earlier attempt
        known = self._write_parts(connection)
        if self._named:
            name_files(connection, self._named)
        return known

    def _write_parts(self, connection: Connection) -> dict[RecordMessage, Known]:
        parts = list(_parts(self.entries))
        if len(parts) == 1:
            return self._write(connection)
        known: dict[RecordMessage, Known] = {}
        found: dict[ThreadKey, int] = {}
        for entries in parts:
            part = Batch(entries, self.owner, self.numbers, self.may_be_partial)
            known.update(part._write(connection))
            found.update(part.threads)
            self._named += part._named
        self.threads = found
        return known

    def _write(self, connection: Connection) -> dict[RecordMessage, Known]:
        self._create_users(connection)
        self._delete_messages(connection)
        duplicates = self._find_duplicates(connection)
        recorded = self._to_record(connection, duplicates)
        self._leave_out(connection, recorded)
        branch = self._find_branch(connection, recorded)
        ends = self._ends()
        earlier = self._lock_earlier(connection, (ends.keys() | self._asking()) - recorded.keys())
        numbers = self._insert_messages(connection, recorded, ends, earlier)
        if branch is not None:
            replacement = next(iter(recorded))  # the first message of its part
            hide_branch(connection, branch, numbers[replacement])
        self._insert_runs(connection, recorded, ends, numbers)
        self._start_earlier(connection, recorded.keys() | ends.keys())
        self._end_earlier(connection, ends, earlier)
        own = recorded.keys() | earlier.keys()
        self._write_questions(connection, own)
        self._write_notifications(connection, own, ends)
        self._find_stood(connection, own)
        return duplicates

    def _of(self, kind: type[_EntryT]) -> list[_EntryT]:
        return self._by_class.get(kind, [])

    def _create_users(self, connection: Connection) -> None:
        entries = self._of(CreateUser)
        if not entries:
            return
        by_id = {entry.user_id: entry for entry in entries}
        rows = [
            {"user_id": entry.user_id, "enabled": True, "created_at": entry.created_at}
            # In one order: two nodes that create the same users cannot deadlock.
            for _, entry in sorted(by_id.items())
        ]
        connection.execute(insert_missing(connection, users), rows)
        these = select(users).where(users.c.user_id.in_(by_id))
        found = {row.user_id: User(row.user_id, row.enabled) for row in connection.execute(these)}
        for entry in entries:
            entry.user = found[entry.user_id]

    def _delete_messages(self, connection: Connection) -> None:
        run_ids = [entry.run_id for entry in self._of(DeleteMessage)]
        if run_ids:
            these = (runs.c.run_id.in_(run_ids), runs.c.owner == self.owner)
            rows = connection.execute(
                locked(
                    select(runs.c.message, messages.c.thread)
                    .join(messages, messages.c.number == runs.c.message)
                    .where(*these)
                )
            ).all()
            if rows:
                # Its sender was told to send it again: it may name the same files.
                numbers = {row.message: row.thread for row in rows}
                delete_messages(connection, numbers, files_become=UNNAMED)
                self.numbers.clear()  # a thread may be deleted

    def _find_duplicates(self, connection: Connection) -> dict[RecordMessage, Known]:
        """Return the recordings whose key is in the database, or earlier in this batch."""
        keys: dict[RecordMessage, Key] = {}
        for entry in self._of(RecordMessage):
            if entry.message.key is not None:
                keys[entry] = (entry.message.user_id, entry.message.key)
        if not keys:
            return {}
        known = find_known(connection, list(keys.values()))
        found: dict[RecordMessage, Known] = {}
        for entry, key in keys.items():
            recorded = known.get(key)
            if recorded is None:
                known[key] = _as_known(entry.message)
            elif not recorded.is_of(entry.message):  # otherwise by an attempt whose answer was lost
                found[entry] = recorded
        return found

    def _to_record(
        self, connection: Connection, duplicates: Mapping[RecordMessage, Known]
    ) -> dict[RunId, RecordMessage]:
        """Return the recordings to insert, by their runs."""
        entries = self._of(RecordMessage)
        if duplicates:
            entries = [entry for entry in entries if entry not in duplicates]
        if self.may_be_partial:
            entries = _not_stored(connection, entries)
        return {entry.message.run_id: entry for entry in entries}

    def _leave_out(self, connection: Connection, recorded: dict[RunId, RecordMessage]) -> None:
        """Leave the messages out that name missing files."""
        entries = [entry for entry in recorded.values() if entry.message.attachments]
        if not entries:
            return
        wanted = [(entry.message.user_id, entry.message.attachments) for entry in entries]
        for entry, missing in zip(entries, missing_files(connection, wanted), strict=True):
            entry.missing_files = missing
            if missing:
                del recorded[entry.message.run_id]

    def _find_branch(
        self, connection: Connection, recorded: dict[RunId, RecordMessage]
    ) -> Branch | None:
        """Return the branch that a message replaces; leave the message out if there is none."""
        entry = next(iter(recorded.values()), None)
        if entry is None or entry.message.replaces is None:
            return None
        branch = find_branch(connection, entry.message)
        if branch is None:
            entry.lacks_branch = True
            del recorded[entry.message.run_id]
        return branch

    def _ends(self) -> dict[RunId, RunEnd]:
        """Return the ends by their runs; the first end of a run is the one that counts."""
        return {entry.end.run_id: entry.end for entry in reversed(self._of(EndRun))}

    def _asking(self) -> set[RunId]:
        """Return the runs of the questions."""
        return {
            *(entry.question.run_id for entry in self._of(RecordQuestion)),
            *(entry.end.run_id for entry in self._of(EndQuestion)),
        }

    def _lock_earlier(
        self, connection: Connection, run_ids: Collection[RunId]
    ) -> dict[RunId, Row[Any]]:
        """Lock these runs, which an earlier batch has inserted.

        Returns:
            The `message`, `thread` and `user_id` of each.
            Those that have ended, or that this node does not have any more, are left out.
        """
        if not run_ids:
            return {}
        rows = connection.execute(
            locked(
                select(runs.c.run_id, runs.c.message, runs.c.user_id, messages.c.thread)
                .join(messages, messages.c.number == runs.c.message)
                .where(runs.c.run_id.in_(run_ids), runs.c.owner == self.owner, is_unfinished)
            )
        )
        return {RunId(row.run_id): row for row in rows}

    def _insert_messages(
        self,
        connection: Connection,
        recorded: Mapping[RunId, RecordMessage],
        ends: Mapping[RunId, RunEnd],
        earlier: Mapping[RunId, Row[Any]],
    ) -> dict[RunId, int]:
        """Insert the messages in order; return the numbers of those that start a run."""
        if not recorded and earlier.keys().isdisjoint(ends):
            return {}
        threads = self.numbers.find(connection, (entry.message for entry in recorded.values()))
        self.threads = threads
        free = iter(_take_numbers(connection, len(recorded) + len(ends)))
        numbers: dict[RunId, int] = {}
        values: list[object] = []
        updated: dict[int, float] = {}
        for entry in self.entries:
            if type(entry) is RecordMessage:
                new = entry.message
                run_id = new.run_id
                if recorded.get(run_id) is entry:
                    number = numbers[run_id] = next(free)
                    thread = threads[new.user_id, new.thread_id]
                    values += _user_row(number, thread, new)
                    self._name_files(NamedFiles(number, new.user_id, new.attachments))
                    updated[thread] = max(updated.get(thread, 0.0), new.created_at)
            elif type(entry) is EndRun:
                end = entry.end
                run_id = end.run_id
                if end.has_answer and ends[run_id] is end:
                    if run_id in numbers:
                        new = recorded[run_id].message
                        place, thread = numbers[run_id], threads[new.user_id, new.thread_id]
                        user_id = new.user_id
                    elif run_id in earlier:
                        row = earlier[run_id]
                        place, thread, user_id = row.message, row.thread, UserId(row.user_id)
                    else:
                        continue
                    number = next(free)
                    values += _agent_row(number, thread, place, end)
                    self._name_files(NamedFiles(number, user_id, end.attachments, False))
                    updated[thread] = max(updated.get(thread, 0.0), end.created_at)
        _INSERT_MESSAGES.execute(connection, values)
        note_updates(connection, updated)
        return numbers

    def _name_files(self, named: NamedFiles) -> None:
        """Note the files of a message; they are locked after all other rows."""
        if named.file_ids:
            self._named.append(named)

    def _insert_runs(
        self,
        connection: Connection,
        recorded: Mapping[RunId, RecordMessage],
        ends: Mapping[RunId, RunEnd],
        numbers: Mapping[RunId, int],
    ) -> None:
        """Insert the runs with the status that they have at the end of the batch."""
        started = {entry.run_id for entry in self._of(StartRun)}
        values: list[object] = []
        for run_id, entry in recorded.items():
            end = ends.get(run_id)
            state: tuple[str, bytes | None, str | None]
            if end is not None:
                state = (str(end.status), end.completed, None)
            elif entry.is_started or run_id in started:
                state = ("running", None, self.owner)
            else:
                state = ("queued", None, self.owner)
            duration = None if end is None else end.duration_ms
            values += _run_row(numbers[run_id], entry.message, state, duration)
        _INSERT_RUNS.execute(connection, values)

    def _start_earlier(self, connection: Connection, done: Iterable[RunId]) -> None:
        starts = self._of(StartRun)
        if not starts:
            return
        run_ids = {entry.run_id for entry in starts}.difference(done)
        if run_ids:
            queued = (runs.c.status == RunStatus.QUEUED, runs.c.owner == self.owner)
            these = locked(select(runs.c.message).where(runs.c.run_id.in_(run_ids), *queued))
            started = update(runs).where(runs.c.message.in_(these.correlate(None)))
            connection.execute(started.values(status=RunStatus.RUNNING))

    def _end_earlier(
        self,
        connection: Connection,
        ends: Mapping[RunId, RunEnd],
        earlier: Mapping[RunId, Row[Any]],
    ) -> None:
        rows: list[tuple[int, StoredEnd, int]] = []
        for run_id, row in earlier.items():
            end = ends.get(run_id)
            if end is not None:
                stored = StoredEnd(run_id, end.status, end.completed)
                rows.append((row.message, stored, end.duration_ms))
        end_rows(connection, rows)

    def _write_questions(self, connection: Connection, own: Collection[RunId]) -> None:
        write_questions(
            connection,
            [e.question for e in self._of(RecordQuestion) if e.question.run_id in own],
            [e.end for e in self._of(EndQuestion) if e.end.run_id in own],
        )
        reports = [entry.usage for entry in self._of(RecordUsage)]
        if reports:
            write_usage(connection, reports)

    def _write_notifications(
        self, connection: Connection, own: Collection[RunId], ends: Mapping[RunId, RunEnd]
    ) -> None:
        asked = [entry.question for entry in self._of(RecordQuestion)]
        noted = [(end.run_id, end.notification) for end in ends.values()]
        noted += [(question.run_id, question.notification) for question in asked]
        new = [note for run_id, note in noted if note is not None and run_id in own]
        if new:
            add_notifications(connection, new)

    def _find_stood(self, connection: Connection, own: Collection[RunId]) -> None:
        """Find what stands instead of the ends that were not written, if a caller waits for them.

        After a failure, it may be the same end: an earlier attempt has stored it.
        """
        late = [e for e in self._of(EndRun) if e.completion is not None and e.end.run_id not in own]
        if late:
            found = find_ends(connection, {entry.end.run_id for entry in late})
            for entry in late:
                _, stands = found.get(entry.end.run_id, (None, None))
                own_end = StoredEnd(entry.end.run_id, entry.end.status, entry.end.completed)
                entry.stood = None if stands == own_end else stands


def _take_numbers(connection: Connection, count: int) -> Sequence[int]:
    """Take the next numbers of messages, in order; those that are not used are left out."""
    if connection.dialect.name == "sqlite":  # no other process writes during this transaction
        last = connection.scalar(_LAST_NUMBER) or 0
        return range(last + 1, last + 1 + count)
    return connection.scalars(_NEXT_NUMBERS, {"count": count}).all()


def _as_known(message: NewMessage) -> Known:
    """Return what a message of this batch is to a later one of the same key."""
    duplicate = Duplicate(
        message.message_id, message.run_id, message.thread_id, RunStatus.QUEUED, None
    )
    return Known(message.fingerprint, duplicate)


def _not_stored(connection: Connection, entries: Sequence[RecordMessage]) -> list[RecordMessage]:
    ids = [entry.message.message_id for entry in entries]
    these = select(messages.c.message_id).where(messages.c.message_id.in_(ids))
    stored = {MessageId(message_id) for message_id in connection.scalars(these)}
    return [entry for entry in entries if entry.message.message_id not in stored]


def _user_row(number: int, thread: int, new: NewMessage) -> tuple[object, ...]:
    """Return the row of a user's message, in the order of `schema.messages`."""
    content, size = exact(new.content), json_size(new.content)
    created_at = new.created_at
    return (number, thread, new.message_id, USER, content, size, False, created_at, number, None)


def _agent_row(number: int, thread: int, place: int, end: RunEnd) -> tuple[object, ...]:
    """Return the row of an agent's message, likewise."""
    content, steps = exact(end.text), end.steps
    size = json_size(end.text) + (0 if steps is None else len(steps))
    start = (number, thread, end.message_id, AGENT, content, size, end.truncated)
    return (*start, end.created_at, place, steps)


def _run_row(
    number: int,
    new: NewMessage,
    state: tuple[str, bytes | None, str | None],
    duration_ms: int | None,
) -> tuple[object, ...]:
    """Return the row of a run, in the order of `schema.runs`."""
    return (
        number,
        new.run_id,
        exact(new.user_id),
        exact(new.correlation_id),
        new.key is not None,
        new.fingerprint,
        exact(new.agent_name),
        *state,
        new.session_id,
        new.unattended,
        duration_ms,
    )


def _parts(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Return the parts of a batch: each message that replaces another one begins a part."""
    start = 0
    for place, entry in enumerate(entries):
        if place > start and type(entry) is RecordMessage and entry.message.replaces is not None:
            yield entries[start:place]
            start = place
    yield entries[start:]
