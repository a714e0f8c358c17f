"""The plans of the statements about threads and files: each uses an index, for any number."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from attrs import evolve
from sqlalchemy import Connection, event, insert
from stores.samples import ALICE, MAIN, NOW, change, end_of, new

from netra_trio.ids import FileId, MessageId, NodeId, NotificationId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryFeedback
from netra_trio.protocol.rooms import thread_room
from netra_trio.stores.files import DELETED_PAGE, ORPHAN_SECONDS, StoredFile
from netra_trio.stores.sql import files as sql_files
from netra_trio.stores.sql import outbox, stops
from netra_trio.stores.sql import threads as sql_threads
from netra_trio.stores.sql.batch import Batch
from netra_trio.stores.sql.entries import EndRun, RecordMessage, StartRun
from netra_trio.stores.sql.history import read_page
from netra_trio.stores.sql.known_keys import forget_deleted
from netra_trio.stores.sql.ownership import run_status
from netra_trio.stores.sql.retention import delete_old
from netra_trio.stores.sql.schema import (
    deleted_keys,
    files,
    message_files,
    messages,
    notifications,
    runs,
    threads,
)
from netra_trio.stores.sql.thread_numbers import ThreadNumbers

ROWS = 3000  # threads, every other one of Alice
THREAD, ANSWER, RUN = ThreadId("thread-1"), MessageId("msg-1-1"), RunId("run-1")
LARGE = "threads|messages|runs|deleted_keys|notifications|files|message_files"
FULL_SCAN = {
    "sqlite": re.compile(rf"SCAN ({LARGE}|question)$"),
    "postgresql": re.compile(rf"Seq Scan on ({LARGE})"),
}
EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}

Work = Callable[[Connection], object]


def user_of(n: int) -> UserId:
    return ALICE if n % 2 else UserId(f"user-{n % 100}")


def many_rows() -> list[tuple[Any, list[dict[str, Any]]]]:
    """Return the rows of many threads, each with a message and an answer."""
    numbers = range(1, ROWS + 1)
    return [
        (
            threads,
            [
                {
                    "number": n,
                    "user_id": user_of(n),
                    "thread_id": f"thread-{n}",
                    "created_at": NOW,
                    "room": thread_room(user_of(n), ThreadId(f"thread-{n}")),
                    "updated_at": NOW + n,
                }
                for n in numbers
            ],
        ),
        (
            messages,
            [
                {
                    "number": 2 * n + is_answer,
                    "place": 2 * n,
                    "thread": n,
                    "message_id": f"msg-{n}-{is_answer}",
                    "role": "agent" if is_answer else "user",
                    "content": f"text {n}",
                    "bytes": 8,
                    "truncated": False,
                    "created_at": NOW,
                }
                for n in numbers
                for is_answer in (0, 1)
            ],
        ),
        (
            runs,
            [
                {
                    "message": 2 * n,
                    "run_id": f"run-{n}",
                    "user_id": user_of(n),
                    "correlation_id": f"c-{n}",
                    "keyed": True,
                    "fingerprint": b"",
                    "agent_name": "echo",
                    "status": "completed" if n > 3 else "running",
                    "owner": None if n > 3 else "own_x",
                }
                for n in numbers
            ],
        ),
        (
            files,
            [
                {
                    "file_id": f"file-{n}",
                    "user_id": ALICE if n < 10 else f"user-{n % 100}",
                    "name": f"{n}.txt",
                    "media_type": "text/plain",
                    "bytes": n,
                    "sha256": "0" * 64,
                    "created_at": NOW + n,
                    "state": "named" if n > 9 else "unnamed",
                }
                for n in numbers
            ],
        ),
        (
            message_files,
            [{"message": 2 * n, "position": 0, "file_id": f"file-{n}"} for n in numbers if n > 9],
        ),
        (
            deleted_keys,
            [
                {
                    "correlation_id": f"d-{n}",
                    "user_id": ALICE,
                    "fingerprint": b"",
                    "deleted_at": 4e9 + n,
                }
                for n in numbers
            ],
        ),
        (
            notifications,
            [
                {
                    "notification_id": f"n-{n}",
                    "type": "x",
                    "user_id": ALICE,
                    "thread_id": MAIN,
                    "run_id": f"run-{n}",
                    "attempts": 0,
                    "created_at": 4e9,
                    "due_at": 4e9 + n,
                }
                for n in numbers
            ],
        ),
    ]


def write_batch(connection: Connection) -> None:
    """Write messages, one of which replaces another, and the end of an earlier run."""
    some = [new(thread=ThreadId(f"thread-{n}"), key=f"k-{n}") for n in range(1, 99, 2)]
    entries = [
        *(RecordMessage(message) for message in some),
        RecordMessage(new(thread=THREAD, replaces=MessageId("msg-1-0"))),
        StartRun(RunId("run-3")),
        EndRun(evolve(end_of(new()), run_id=RUN)),
    ]
    Batch(entries, NodeId("own_x"), ThreadNumbers()).write(connection)


def write_files(connection: Connection) -> None:
    """Write messages that name files, and an answer that does."""
    named = tuple(FileId(f"file-{n}") for n in range(1, 9, 2))
    entries = [
        RecordMessage(evolve(new(), attachments=named)),
        EndRun(evolve(end_of(new()), run_id=RunId("run-3"), attachments=named)),
    ]
    Batch(entries, NodeId("own_x"), ThreadNumbers()).write(connection)


WORK: dict[str, Work] = {
    "list": partial(
        sql_threads.list_threads,
        user_id=ALICE,
        limit=50,
        before=ThreadId("thread-2901"),
        query=None,
    ),
    "search": partial(
        sql_threads.list_threads, user_id=ALICE, limit=50, before=None, query="TEXT 7"
    ),
    "get": partial(sql_threads.get_thread, user_id=ALICE, thread_id=THREAD),
    "room": partial(sql_threads.find_room, room="thread:1"),
    "title": partial(
        sql_threads.set_title, user_id=ALICE, thread_id=THREAD, title="x", by_user=False
    ),
    "mark": partial(sql_threads.mark_read, user_id=ALICE, thread_id=THREAD, message_id=ANSWER),
    "feedback": partial(
        sql_threads.set_feedback,
        user_id=ALICE,
        message_id=ANSWER,
        feedback=HistoryFeedback("up"),
    ),
    "unfinished": partial(sql_threads.unfinished_runs, user_id=ALICE, thread_id=None),
    "unfinished of all": partial(sql_threads.unfinished_runs, user_id=None, thread_id=None),
    "unattended": partial(sql_threads.count_unattended, user_id=ALICE),
    "delete": partial(sql_threads.delete_thread, user_id=ALICE, thread_id=ThreadId("thread-2001")),
    "history": partial(read_page, user_id=ALICE, thread_id=THREAD, limit=50, before=ANSWER),
    "batch": write_batch,
    "batch of files": write_files,
    "reserve file": partial(
        sql_files.reserve,
        file=StoredFile(FileId("file-x"), ALICE, "", "text/plain", 1, "0" * 64, NOW),
        max_bytes=10**9,
    ),
    "finish file": partial(sql_files.finish, file_id=FileId("file-1")),
    "files": partial(sql_files.find, file_ids=[FileId("file-1")]),
    "bytes of files": partial(sql_files.count_bytes, user_id=ALICE),
    "due file": partial(sql_files.is_any_due, moment=NOW),
    "deleted files": partial(
        sql_files.take_deleted, moment=NOW + ORPHAN_SECONDS + 5, limit=DELETED_PAGE
    ),
    "forget files": partial(sql_files.forget, file_ids=[FileId("file-1"), FileId("file-999")]),
    "old messages": partial(delete_old, older_than=NOW),
    "old keys": forget_deleted,
    "take": partial(outbox.take_notifications, limit=10, seconds=1.0),
    "due": outbox.is_any_due,
    "postpone": partial(outbox.postpone, notification_id=NotificationId("n-1"), seconds=1.0),
    "drop": partial(outbox.drop, notification_id=NotificationId("n-1")),
    "status": partial(run_status, run_id=RUN),
    "stop": partial(stops.request_stop, run_id=RUN),
}


def plans_of(connection: Connection, work: Work) -> list[str]:
    """Return the plans of the statements of a piece of work, line by line."""
    found: list[str] = []
    prefix = EXPLAIN[connection.dialect.name]

    def explain(_: object, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            cursor.execute(prefix + statement, values[0] if rest[-1] else values)
            found.extend(str(row[-1]).strip() for row in cursor.fetchall())

    event.listen(connection, "before_cursor_execute", explain)
    work(connection)
    event.remove(connection, "before_cursor_execute", explain)
    return found


@pytest.mark.parametrize("is_analyzed", [True, False])
def test_every_statement_uses_an_index(url: str, is_analyzed: bool) -> None:
    """Also without statistics: nothing runs ANALYZE for SQLite."""

    def look(connection: Connection) -> dict[str, list[str]]:
        for table, rows in many_rows():
            connection.execute(insert(table), rows)
        for table in ("threads", "messages"):
            if connection.dialect.name == "postgresql":
                sequence = f"pg_get_serial_sequence('{table}', 'number')"
                connection.exec_driver_sql(f"SELECT setval({sequence}, {3 * ROWS})")
                # As for a disk without heads: to read some thousand rows is cheap otherwise.
                connection.exec_driver_sql("SET LOCAL random_page_cost = 1.1")
        if is_analyzed:
            connection.exec_driver_sql("ANALYZE")
        return {name: plans_of(connection, work) for name, work in WORK.items()}

    plans = change(url, look)
    full_scan = FULL_SCAN[url.partition(":")[0]]
    for name, lines in plans.items():
        assert lines, name
        assert [line for line in lines if full_scan.search(line)] == [], (name, lines)
    # Else each page would sort all threads of the user.
    assert any("threads_by_update" in line for line in plans["list"]), plans["list"]
    assert not any(re.search("Sort Key: threads|FOR ORDER BY", line) for line in plans["list"]), (
        plans["list"]
    )
