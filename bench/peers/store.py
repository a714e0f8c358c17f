"""The store of the peers: users, messages and runs in SQLite, with write-behind by one thread.

    store = Store(Path("peer.db"))
    await store.find_user("alice")
    store.write(Message(...))             # committed within a batch, later
    await store.commit(Message(...))      # committed when it returns

It works as this project's store: up to 1 000 rows or 50 ms are one batch, a batch is one
transaction with one statement for all rows of a kind, and the file has the same durability (WAL,
every commit on disk).
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import define, frozen

BATCH = 1000  # rows in one transaction
DELAY = 0.05  # seconds that a row may wait for others, unless a caller waits for its commit

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    user_id TEXT PRIMARY KEY, enabled INTEGER NOT NULL, created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY, message_id TEXT NOT NULL UNIQUE, thread_id TEXT NOT NULL,
    user_id TEXT NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, created_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_of_thread ON messages (user_id, thread_id, number);
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, message_id TEXT NOT NULL,
    user_id TEXT NOT NULL, key TEXT, status TEXT NOT NULL, completed BLOB
);
CREATE UNIQUE INDEX IF NOT EXISTS runs_by_key ON runs (user_id, key) WHERE key IS NOT NULL;
"""


@frozen
class Message:
    """A message of a user or an agent."""

    message_id: str
    thread_id: str
    user_id: str
    role: str
    content: str
    created_at: float


@frozen
class RunRow:
    """A run: written when it starts, and again when it has ended."""

    run_id: str
    message_id: str
    user_id: str
    key: str | None
    status: str
    completed: bytes | None = None


Row = Message | RunRow


@define(eq=False)
class _Job:
    rows: Sequence[Row]
    done: "asyncio.Future[None] | None" = None


class Store:
    """A SQLite file with one thread that writes and one that finds users."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lookups = ThreadPoolExecutor(1)
        self._reading = _open(file)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    async def find_user(self, user_id: str) -> bool:
        """Return whether the user is enabled; a new one is added."""
        return await self._loop.run_in_executor(self._lookups, self._find_user, user_id)

    def write(self, *rows: Row) -> None:
        """Write in one of the next batches."""
        self._jobs.put(_Job(rows))

    async def commit(self, *rows: Row) -> None:
        """Write, and wait for the commit."""
        done = self._loop.create_future()
        self._jobs.put(_Job(rows, done))
        await done

    async def close(self) -> None:
        """Write all pending rows, and end the threads."""
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        self._lookups.shutdown()
        self._reading.close()

    def _find_user(self, user_id: str) -> bool:
        found = self._reading.execute("SELECT enabled FROM users WHERE user_id = ?", (user_id,))
        row = found.fetchone()
        if row is None:
            values = (user_id, True, time.time())
            self._reading.execute("INSERT OR IGNORE INTO users VALUES (?, ?, ?)", values)
            return True
        return bool(row[0])

    def _work(self) -> None:
        connection = _open(self._file)
        is_open = True
        while is_open:
            batch, is_open = self._batch()
            self._write_batch(connection, [row for job in batch for row in job.rows])
            waiting = [job.done for job in batch if job.done is not None]
            if waiting:
                self._loop.call_soon_threadsafe(_settle, waiting)
        connection.close()

    def _batch(self) -> tuple[list[_Job], bool]:
        """Wait for rows, and up to 50 ms for more of them; False after `close`."""
        batch: list[_Job] = []
        rows, deadline = 0, 0.0
        while rows < BATCH:
            try:
                wait = max(0.0, deadline - time.monotonic()) if batch else None
                job = self._jobs.get(timeout=wait) if wait != 0.0 else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, False
            deadline = deadline or time.monotonic() + DELAY
            if job.done is not None:
                deadline = time.monotonic()  # take only jobs that wait already
            batch.append(job)
            rows += len(job.rows)
        return batch, True

    def _write_batch(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        messages = [row for row in rows if isinstance(row, Message)]
        # A run that starts and ends within a batch is one row.
        runs = {row.run_id: row for row in rows if isinstance(row, RunRow)}
        connection.execute("BEGIN IMMEDIATE")
        if messages:
            _insert(
                connection,
                "messages (message_id, thread_id, user_id, role, content, created_at)",
                [
                    (m.message_id, m.thread_id, m.user_id, m.role, m.content, m.created_at)
                    for m in messages
                ],
            )
        if runs:
            _insert(
                connection,
                "runs (run_id, message_id, user_id, key, status, completed)",
                [
                    (r.run_id, r.message_id, r.user_id, r.key, r.status, r.completed)
                    for r in runs.values()
                ],
                "ON CONFLICT (run_id) DO UPDATE SET "
                "status = excluded.status, completed = excluded.completed",
            )
        connection.execute("COMMIT")


def _insert(
    connection: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]], also: str = ""
) -> None:
    """Insert all rows with one statement: each step of one releases the interpreter lock."""
    places = ", ".join([f"({', '.join('?' * len(rows[0]))})"] * len(rows))
    values = [value for row in rows for value in row]
    connection.execute(f"INSERT INTO {into} VALUES {places} {also}", values)  # noqa: S608 - ours


def _settle(waiting: "Sequence[asyncio.Future[None]]") -> None:
    for done in waiting:
        if not done.done():
            done.set_result(None)


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(_SCHEMA)
    return connection
