"""Migrations: upgrades and downgrades with existing rows, and several processes at once."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from attrs import evolve
from sqlalchemy import (
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    UniqueConstraint,
    inspect,
    text,
)
from sqlalchemy.exc import OperationalError
from stores.file_samples import answering, naming, page, upload
from stores.samples import ALICE, BOB, MAIN, PATIENCE, change, end_of, new, page_of, record

from netra_trio.errors import DatabaseUnusable, KeyConflict
from netra_trio.ids import CorrelationId, MessageId, RunId, ThreadId
from netra_trio.protocol.messages import HistoryMessage, HistoryRun, RunStatus
from netra_trio.protocol.rooms import thread_room
from netra_trio.stores.base import Duplicate, User
from netra_trio.stores.sql import migrate as migrating
from netra_trio.stores.sql.migrate import SCRIPTS, current_revision, migrate
from netra_trio.stores.sql.migrations.versions import v0006_threads
from netra_trio.stores.sql.schema import REVISIONS, exact, metadata
from netra_trio.stores.sql.store import SqlStore

OLD = Path(__file__).with_name("old_0001.sql")
OURS = sorted(metadata.tables)
LATER = {
    "deleted_keys",
    "files",
    "message_files",
    "notifications",
    "owners",
    "questions",
    "stops",
    "uncopied",
    "usage",
    "user_changes",
}  # tables that the first revision does not have
PROCESSES = 8

# Forked from a process that has imported everything, so that they start at the same time.
OPEN_AT_ONCE = """
import os, sys, trio
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.stores.sql.store import SqlStore

async def main(url, name):
    store = SqlStore(url)
    async with store.open():
        while True:
            try:
                await store.create_user(UserId(name))
                await store.check()
            except StoreUnavailable:
                await trio.sleep(0.1)
            else:
                break

def fork(ready, number):
    pid = os.fork()
    if pid == 0:
        os.read(ready, 1)
        trio.run(main, sys.argv[1], f"user-{number}")
        sys.stdout.flush()
        os._exit(0)
    return pid

ready, go = os.pipe()
children = []
for number in range(int(sys.argv[2])):
    children.append(fork(ready, number))
os.write(go, b"." * len(children))
print("ended", [os.waitpid(pid, 0)[1] for pid in children], flush=True)
"""


def tables(url: str) -> list[str]:
    names = change(url, lambda connection: inspect(connection).get_table_names())
    return sorted(name for name in names if name != "alembic_version")


def to(revision: str) -> Callable[[Connection], None]:
    """Return a unit of work that migrates a database to a revision."""
    return lambda connection: migrate(connection, revision)


def differences(url: str, wanted: MetaData = metadata) -> list[Any]:
    """Return the differences between a database and the expected schema."""

    def work(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        found: list[Any] = compare_metadata(
            MigrationContext.configure(connection, opts=options), wanted
        )
        return found

    return change(url, work)


def indexes(url: str) -> list[str]:
    """Return the definitions of the indexes, with their conditions."""
    statements = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
    }

    def work(connection: Connection) -> list[str]:
        rows = connection.scalars(text(statements[connection.dialect.name]))
        return sorted(" ".join(row.split()) for row in rows if "alembic" not in row)

    return change(url, work)


def table_sql(url: str) -> list[str]:
    """Return the definitions of SQLite's tables."""
    statement = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'alembic%'"
    rows = change(url, lambda connection: connection.scalars(text(statement)).all())
    return sorted("AUTOINCREMENT" * ("AUTOINCREMENT" in row) + row.split()[2] for row in rows)


# Upgrade and downgrade


def test_the_schema_is_upgraded_downgraded_and_upgraded(fresh_url: str) -> None:
    assert change(fresh_url, current_revision) is None
    change(fresh_url, migrate)
    made = differences(fresh_url), indexes(fresh_url)
    assert change(fresh_url, current_revision) == REVISIONS[-1]
    assert tables(fresh_url) == OURS
    for revision in reversed(REVISIONS[:-1]):
        change(fresh_url, to(revision))
        assert change(fresh_url, current_revision) == revision
    assert tables(fresh_url) == [name for name in OURS if name not in LATER]
    change(fresh_url, down_to_nothing)
    assert tables(fresh_url) == []
    for revision in REVISIONS:
        change(fresh_url, to(revision))
        assert change(fresh_url, current_revision) == revision
    assert (differences(fresh_url), indexes(fresh_url)) == made


def down_to_nothing(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - as in the package

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", SCRIPTS)
    command.downgrade(config, "base")


def test_migrating_twice_changes_nothing(fresh_url: str, logs: list[Any]) -> None:
    change(fresh_url, migrate)
    change(fresh_url, migrate)
    changed = {"event": "schema_changed", "log_level": "info", "before": None, "now": REVISIONS[-1]}
    assert logs == [changed]


def test_the_revisions_are_those_of_the_scripts() -> None:
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in scripts.walk_revisions()] == list(reversed(REVISIONS))
    assert scripts.get_heads() == [REVISIONS[-1]]


# The migrations result in schema.py


def test_the_migrations_result_in_the_schema(fresh_url: str, tmp_path: Path) -> None:
    change(fresh_url, migrate)
    assert differences(fresh_url) == []


def test_the_migrations_result_in_the_same_indexes_and_keys(
    tmp_path: Path, database_url: str
) -> None:
    """Alembic does not compare conditions of indexes and AUTOINCREMENT."""
    made, said = f"sqlite:///{tmp_path}/made.db", f"sqlite:///{tmp_path}/said.db"
    change(made, migrate)
    change(said, metadata.create_all)
    assert indexes(made) == indexes(said)
    assert table_sql(made) == table_sql(said)
    assert sum(row.startswith("AUTOINCREMENT") for row in table_sql(made)) == 4
    change(database_url, migrate)
    migrated = indexes(database_url)
    change(database_url, metadata.drop_all)
    change(database_url, metadata.create_all)
    assert indexes(database_url) == migrated
    assert sum(" WHERE " in index for index in migrated) == 5


def _without_a_table(other: MetaData) -> None:
    other.remove(other.tables["owners"])


def _with_a_column(other: MetaData) -> None:
    other.tables["runs"].append_column(Column("extra", Integer))


def _of_another_type(other: MetaData) -> None:
    other.tables["messages"].c.content.type = Integer()


def _that_may_be_empty(other: MetaData) -> None:
    other.tables["messages"].c.content.nullable = True


def _with_an_index(other: MetaData) -> None:
    Index("extra", other.tables["runs"].c.status)


def _with_a_constraint(other: MetaData) -> None:
    other.tables["threads"].append_constraint(UniqueConstraint("thread_id", name="extra"))


@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        (_without_a_table, ["remove_index", "remove_table"]),
        (_with_a_column, ["add_column"]),
        (_of_another_type, ["modify_type"]),
        (_that_may_be_empty, ["modify_nullable"]),
        (_with_an_index, ["add_index"]),
        (_with_a_constraint, ["add_constraint"]),
    ],
)
def test_the_comparison_finds_every_difference(
    url: str, alter: Callable[[MetaData], None], expected: list[str]
) -> None:
    other = MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(other)
    assert differences(url, other) == []
    alter(other)
    found = [(each[0] if isinstance(each, list) else each)[0] for each in differences(url, other)]
    assert set(found) <= set(expected)
    assert found


# From an old schema with rows


def build_old(url: str) -> None:
    """Create a database of the schema 0001 with rows."""
    script = OLD.read_text(encoding="utf-8")
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(script)
        return
    rows = script[script.index("INSERT INTO users") :]
    rows = re.sub(r"X'(\w+)'", r"'\\x\1'", rows)

    def work(connection: Connection) -> None:
        migrate(connection, "0001")
        for statement in rows.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)

    change(url, work)


def test_the_old_file_is_the_result_of_the_first_migration(tmp_path: Path) -> None:
    old, made = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/made.db"
    build_old(old)
    change(made, to("0001"))
    assert indexes(old) == indexes(made)
    assert table_sql(old) == table_sql(made)
    reflected = MetaData()
    change(made, reflected.reflect)
    reflected.remove(reflected.tables["alembic_version"])
    assert differences(old, reflected) == []


async def test_an_old_database_keeps_its_rows(fresh_url: str, logs: list[Any]) -> None:
    build_old(fresh_url)
    store = SqlStore(fresh_url)
    async with store.open():
        assert await store.list_users() == [User(ALICE), User(BOB, enabled=False)]
        interrupted = RunStatus.INTERRUPTED
        assert await page_of(store) == (
            [
                _said(1, "What is 6 * 7?", RunStatus.COMPLETED),
                HistoryMessage(
                    MessageId("msg_2"), "agent", "42, and so on", 1640995201.25, truncated=True
                ),
                _said(3, "Sure?", interrupted),
                _said(4, "Hello?", interrupted),
            ],
            False,
        )
        completed = b'{"run_id":"run_1"}'
        known = Duplicate(MessageId("msg_1"), RunId("run_1"), MAIN, RunStatus.COMPLETED, completed)
        assert await store.record(new(key="c-1")) == known
        with pytest.raises(KeyConflict):
            await store.find(new(key="c-1", fingerprint=b"other"))
        duplicate = await store.find(new(key="c-3"))
        assert duplicate is not None
        assert duplicate.status is interrupted
        assert await store.record(new(key="c-4")) is None  # it was no key
        page, _ = await page_of(store)
        assert len(page) == 5
    assert [(log["event"], log.get("runs")) for log in logs[-2:]] == [
        ("schema_changed", None),
        ("runs_interrupted", 2),
    ]
    assert differences(fresh_url) == []


async def test_an_old_database_gets_its_list_of_threads(
    fresh_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v0006_threads, "CHUNK", 2)
    build_old(fresh_url)
    change(fresh_url, _add_old_threads)
    store = SqlStore(fresh_url)
    async with store.open():
        page, has_more = await store.list_threads(ALICE, limit=10)
        assert ([(thread.thread_id, thread.title) for thread in page], has_more) == (
            [("t3", "zero\x00 in it"), ("t2", "x" * 80), ("t1", "question"), ("main", MAIN_TITLE)],
            False,
        )
        assert [thread.updated_at - thread.created_at for thread in page] == [1.0, 1.0, 1.0, 3.0]
        assert [thread.unread for thread in page] == [0, 0, 0, 0]
        for thread in ("main", "t1", "t2", "t3"):
            room = thread_room(ALICE, ThreadId(thread))
            assert await store.find_room(room) == (ALICE, thread)
        assert await store.get_thread(ALICE, ThreadId("empty")) is None
        # An old answer keeps its place, and is neither unread nor assigned to a question.
        old, _ = await page_of(store)
        assert [(each.reply_to, each.run) for each in old if each.role == "agent"] == [(None, None)]
        assert await store.mark_read(ALICE, MAIN, old[1].message_id)
        message = new("another")
        await store.record(message)
        await store.end_run(end_of(message))
        thread_ = await store.get_thread(ALICE, MAIN)
        assert thread_ is not None
        assert (thread_.unread, thread_.title) == (1, MAIN_TITLE)
        # An old answer is replaced from the user's message before it on.
        assert await store.record(new("again", replaces=old[1].message_id)) is None
        page_now, _ = await page_of(store)
        assert [each.content for each in page_now] == ["again"]


MAIN_TITLE = "What is 6 * 7?"


def _add_old_threads(connection: Connection) -> None:
    """Add threads of a user, and one without messages, to a database of the schema 0001."""
    texts = {"t1": "question", "t2": "x" * 300, "t3": exact("zero\x00 in it"), "empty": None}
    thread_sql = text(
        "INSERT INTO threads (user_id, thread_id, created_at) VALUES ('alice', :id, :at)"
    )
    message_sql = text(
        "INSERT INTO messages (thread, message_id, role, content, bytes, truncated, created_at) "
        "SELECT number, :message, 'user', :content, 1, :no, :at FROM threads WHERE thread_id = :id"
    )
    for place, (name, content) in enumerate(texts.items()):
        at = 1_700_000_000.0 + place
        connection.execute(thread_sql, {"id": name, "at": at})
        if content is not None:
            row = {"id": name, "message": f"m-{name}", "content": content, "no": False}
            connection.execute(message_sql, {**row, "at": at + 1})


def _said(number: int, content: str, status: RunStatus) -> HistoryMessage:
    return HistoryMessage(
        MessageId(f"msg_{number}"),
        "user",
        content,
        1640995199.25 + number,
        CorrelationId(f"c-{number}"),
        HistoryRun(RunId(f"run_{number}"), "echo", status),
    )


async def test_a_downgrade_and_an_upgrade_keep_messages(fresh_url: str) -> None:
    build_old(fresh_url)
    change(fresh_url, migrate)
    change(fresh_url, to("0001"))
    store = SqlStore(fresh_url)
    async with store.open():
        page, _ = await page_of(store)
    assert [message.message_id for message in page] == ["msg_1", "msg_2", "msg_3", "msg_4"]


async def test_the_schema_before_files_keeps_its_messages(fresh_url: str) -> None:
    store = SqlStore(fresh_url)
    async with store.open():
        file = await upload(store)
        message = naming(file)
        await record(store, message)
        await store.end_run(answering(message, file))
        before = await page(store)
    without = [evolve(each, attachments=None, files=None) for each in before]
    assert without != before
    change(fresh_url, to("0006"))
    change(fresh_url, migrate)
    async with store.open():
        assert await page(store) == without
        assert await store.get_file(file.file_id) is None
        await record(store, naming(await upload(store, file)))
        assert [each.attachments for each in await page(store)] == [None, None, (file.file_id,)]


# Databases that must not be changed


async def test_a_newer_schema_is_rejected(own_url: str) -> None:
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    change(own_url, lambda connection: connection.execute(newer))
    store = SqlStore(own_url)
    for use in (store.bring_up, partial(_open, store)):
        with pytest.raises(DatabaseUnusable) as refused:
            await use()
        assert str(refused.value) == (
            "DATABASE_URL: the database has the schema 9999, made by a newer version; this one "
            f"knows {REVISIONS[-1]} and before; install the newer one, or restore a backup"
        )
    assert tables(own_url) == OURS


async def _open(store: SqlStore) -> None:
    async with store.open():
        pass


def test_a_migration_that_fails_changes_nothing(
    fresh_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_old(fresh_url)
    before = tables(fresh_url), indexes(fresh_url)
    run = migrating._run

    def fails(connection: Connection, *revisions: Any) -> None:
        run(connection, *revisions)
        assert current_revision(connection) == REVISIONS[-1]
        raise OperationalError("ALTER TABLE", {}, Exception("no room"))

    monkeypatch.setattr(migrating, "_run", fails)
    with pytest.raises(OperationalError):
        change(fresh_url, migrate)
    assert change(fresh_url, current_revision) == "0001"
    assert (tables(fresh_url), indexes(fresh_url)) == before
    monkeypatch.undo()
    change(fresh_url, migrate)
    assert differences(fresh_url) == []


def test_a_migration_has_no_time_limit(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[str] = []

    def look(connection: Connection, *_: Any) -> None:
        names = ("statement_timeout", "lock_timeout")
        limits.extend(connection.scalar(text(f"SHOW {name}")) or "" for name in names)

    monkeypatch.setattr(migrating, "_run", look)
    change(database_url, migrate)
    assert limits == ["0", "0"]


# Several processes at once


def test_several_processes_may_open_an_empty_database_together(fresh_url: str) -> None:
    ended = subprocess.run(  # noqa: S603 - a test's own command line
        [sys.executable, "-c", OPEN_AT_ONCE, fresh_url, str(PROCESSES)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=PATIENCE,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[-1] == f"ended {[0] * PROCESSES}"
    assert ended.stdout.count("schema_changed") == 1
    count = text("SELECT count(*) FROM users")
    assert change(fresh_url, lambda connection: connection.scalar(count)) == PROCESSES
    assert differences(fresh_url) == []
