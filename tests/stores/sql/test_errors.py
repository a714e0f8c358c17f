"""The classification of failures, and which work is attempted again."""

import doctest
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import trio
from sqlalchemy import Connection, exc, text
from stores.samples import (
    ALICE,
    duplicate_of,
    end_of,
    new,
    of_agent,
    of_user,
    page_of,
    record,
    wait_for_history,
    wait_until,
)
from stores.sql_samples import (
    concurrently,
    contents,
    events,
    is_unavailable,
    outcome,
    wait_for_event,
    wait_until_ready,
)
from support.postgres import PostgresServer

from netra_trio.errors import DatabaseUnusable, MessageNotFound, StoreUnavailable
from netra_trio.ids import UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.base import User
from netra_trio.stores.sql import database as databases
from netra_trio.stores.sql import errors, upkeep
from netra_trio.stores.sql.batch import Batch
from netra_trio.stores.sql.database import RETRY_PAUSES, Database
from netra_trio.stores.sql.errors import AnswerLost, Fault, advice, fault_of, is_answer, reason
from netra_trio.stores.sql.store import SqlStore

pytestmark = pytest.mark.usefixtures("short_retry")

SECRET = "hunter2"


def test_the_example() -> None:
    assert doctest.testmod(errors).failed == 0


# Classes


@pytest.mark.parametrize(
    ("sqlstate", "fault"),
    [
        ("08006", Fault.GONE),
        ("57P01", Fault.GONE),
        ("57P02", Fault.GONE),
        ("57P03", Fault.GONE),
        ("57P05", Fault.GONE),
        ("25P03", Fault.GONE),
        ("40003", Fault.GONE),
        ("0A000", Fault.GONE),
        ("25006", Fault.READ_ONLY),
        ("40001", Fault.TRANSIENT),
        ("40P01", Fault.TRANSIENT),
        ("53100", Fault.TRANSIENT),
        ("53200", Fault.TRANSIENT),
        ("53300", Fault.TRANSIENT),
        ("55P03", Fault.TRANSIENT),
        ("23503", Fault.CONFLICT),
        ("23505", Fault.CONFLICT),
        ("22001", Fault.NEVER),
        ("22021", Fault.NEVER),
        ("22P05", Fault.NEVER),
        ("23502", Fault.NEVER),
        ("23514", Fault.NEVER),
        ("44000", Fault.NEVER),
        ("54000", Fault.NEVER),
        ("P0001", Fault.NEVER),
        ("42501", Fault.UNAVAILABLE),
        ("42P01", Fault.UNAVAILABLE),
        ("57014", Fault.UNAVAILABLE),
        ("58030", Fault.UNAVAILABLE),
        ("XX000", Fault.UNAVAILABLE),
    ],
)
async def test_an_error_of_postgresql_is_classified_by_its_sqlstate(
    postgres_url: str, sqlstate: str, fault: Fault
) -> None:
    raised = f"DO $$ BEGIN RAISE 'text' USING ERRCODE = '{sqlstate}'; END $$"
    database = Database(postgres_url)
    found: list[BaseException] = []

    def work(connection: Connection) -> None:
        try:
            connection.exec_driver_sql(raised).close()
        except exc.DBAPIError as error:
            found.append(error)
            raise

    with pytest.raises(Exception):  # noqa: B017, PT011 - which one is another test
        await database.write(work)
    database.close()
    assert {fault_of(error) for error in found} == {fault}
    attempts = {Fault.GONE: 2, Fault.READ_ONLY: 2, Fault.TRANSIENT: 1 + len(RETRY_PAUSES)}
    assert len(found) == attempts.get(fault, 1)
    assert is_answer(found[0])


def of_sqlite(kind: type[sqlite3.Error], code: int) -> sqlite3.Error:
    """Return an error as the driver raises it."""
    error = kind("text")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_BUSY), Fault.TRANSIENT),
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_BUSY_SNAPSHOT), Fault.TRANSIENT),
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_LOCKED_SHAREDCACHE), Fault.TRANSIENT),
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_READONLY_DBMOVED), Fault.GONE),
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_READONLY), Fault.UNAVAILABLE),
        (of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_FULL), Fault.UNAVAILABLE),
        (of_sqlite(sqlite3.IntegrityError, sqlite3.SQLITE_CONSTRAINT_UNIQUE), Fault.CONFLICT),
        (of_sqlite(sqlite3.IntegrityError, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY), Fault.CONFLICT),
        (of_sqlite(sqlite3.IntegrityError, sqlite3.SQLITE_CONSTRAINT_CHECK), Fault.NEVER),
        (of_sqlite(sqlite3.IntegrityError, sqlite3.SQLITE_CONSTRAINT_NOTNULL), Fault.NEVER),
        (of_sqlite(sqlite3.DataError, sqlite3.SQLITE_TOOBIG), Fault.NEVER),
        (of_sqlite(sqlite3.DatabaseError, sqlite3.SQLITE_NOTADB), Fault.UNUSABLE),
        # Without a code
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), Fault.NEVER),
        (psycopg.ProgrammingError("cannot adapt type 'object'"), Fault.OTHER),
        (psycopg.OperationalError("connection failed"), Fault.UNAVAILABLE),
        (sqlite3.ProgrammingError("Incorrect number of bindings supplied"), Fault.OTHER),
        (exc.IntegrityError("", None, Exception("duplicate key")), Fault.CONFLICT),
        (exc.OperationalError("", None, Exception("no")), Fault.UNAVAILABLE),
        (
            exc.OperationalError("", None, Exception("gone"), connection_invalidated=True),
            Fault.GONE,
        ),
        # SQLAlchemy's own
        (exc.TimeoutError("no connection"), Fault.UNAVAILABLE),
        (exc.ArgumentError("a program's error"), Fault.OTHER),
        (exc.StatementError("text", "INSERT", None, TypeError()), Fault.OTHER),
        (
            exc.StatementError(
                "text", "INSERT", None, UnicodeEncodeError("utf-8", "\ud800", 0, 1, "")
            ),
            Fault.NEVER,
        ),
        # Raised without a database
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), Fault.NEVER),
        (OverflowError("Python int too large to convert to SQLite INTEGER"), Fault.NEVER),
        (MemoryError(), Fault.UNAVAILABLE),
        (OSError(24, "Too many open files"), Fault.UNAVAILABLE),
        (RuntimeError("can't start new thread"), Fault.UNAVAILABLE),
        (RuntimeError("another"), Fault.OTHER),
        (TypeError("a program's error"), Fault.OTHER),
        (MessageNotFound("m"), Fault.OTHER),
        (AnswerLost("lost"), Fault.OTHER),
    ],
)
def test_other_errors_are_classified(error: Exception, fault: Fault) -> None:
    assert fault_of(error) is fault
    if isinstance(error, sqlite3.Error):
        assert fault_of(exc.DBAPIError("INSERT", None, error)) is fault


def test_a_reason_shows_the_text_of_own_errors_only() -> None:
    assert reason(StoreUnavailable("the text")) == "the text"
    assert reason(ValueError(SECRET)) == "ValueError"


def test_advice_is_given_for_known_codes() -> None:
    read_only = psycopg.errors.ReadOnlySqlTransaction("text")
    full = of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_FULL)
    unwritable = of_sqlite(sqlite3.OperationalError, sqlite3.SQLITE_READONLY_DIRECTORY)
    assert "name the primary" in str(advice(read_only))
    assert "make room" in str(advice(exc.OperationalError("INSERT", None, full)))
    assert "writable" in str(advice(unwritable))
    for without in (None, TypeError(), psycopg.OperationalError("connection failed")):
        assert advice(without) is None
    assert not is_answer(None)
    assert not is_answer(full)


# Attempts


class Failing:
    """A unit of work that fails for some times, then inserts a user."""

    def __init__(self, times: int, statement: str) -> None:
        self.times = times
        self.attempts = 0
        self._statement = text(statement)

    def __call__(self, connection: Connection) -> None:
        self.attempts += 1
        add = text("INSERT INTO users VALUES (:name, true, 0) ON CONFLICT DO NOTHING")
        connection.execute(add, {"name": f"user {self.attempts}"})
        if self.attempts <= self.times:
            connection.execute(self._statement)


DEADLOCK = "DO $$ BEGIN RAISE 'text' USING ERRCODE = 'deadlock_detected'; END $$"
ENDED = "SELECT pg_terminate_backend(pg_backend_pid())"


async def users_of(database: Database) -> list[str]:
    names = text("SELECT user_id FROM users ORDER BY user_id")
    return list(await database.read(lambda connection: connection.scalars(names).all()))


@pytest.mark.parametrize(
    ("statement", "most"), [(DEADLOCK, len(RETRY_PAUSES)), (ENDED, 1)], ids=["transient", "gone"]
)
async def test_a_write_is_attempted_again_within_bounds(
    postgres_url: str, statement: str, most: int
) -> None:
    """A transaction whose commit was not sent is not committed, so it can be repeated."""
    database = Database(postgres_url)
    work = Failing(most, statement)
    await database.write(work)
    assert await users_of(database) == [f"user {most + 1}"]
    work = Failing(most + 1, statement)
    with pytest.raises(StoreUnavailable):
        await database.write(work)
    assert work.attempts == most + 1
    assert await users_of(database) == [f"user {most + 1}"]
    database.close()


async def test_a_write_that_took_long_is_not_attempted_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "RETRY_WITHIN", 0.0)
    database = Database(postgres_url)
    work = Failing(1, DEADLOCK)
    with pytest.raises(StoreUnavailable, match="DeadlockDetected"):
        await database.write(work)
    assert work.attempts == 1
    database.close()


async def test_a_transient_failure_of_a_read_is_attempted_again(postgres_url: str) -> None:
    database = Database(postgres_url)
    attempts = 0

    def work(connection: Connection) -> str:
        nonlocal attempts
        attempts += 1
        if attempts <= len(RETRY_PAUSES):
            connection.execute(text(DEADLOCK))
        return "found"

    assert await database.read(work) == "found"
    assert attempts == 1 + len(RETRY_PAUSES)
    database.close()


async def test_a_cancelled_attempt_returns_at_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "RETRY_PAUSES", (0.3,))
    database = Database(postgres_url)
    started = time.monotonic()
    with trio.move_on_after(0.05) as scope:
        await database.write(Failing(9, DEADLOCK))
    assert scope.cancelled_caught
    assert time.monotonic() - started < 0.3

    async def is_idle() -> bool:
        return database._writers.borrowed_tokens == 0

    await wait_until(is_idle)
    assert await users_of(database) == []
    database.close()


async def test_a_rehearsal_changes_nothing(url: str) -> None:
    database = Database(url)
    add = text("INSERT INTO users VALUES ('alice', true, 0)")
    count = text("SELECT count(*) FROM users")

    def work(connection: Connection) -> object:
        connection.execute(add)
        return connection.scalar(count)

    assert await database.rehearse(work) == 1
    assert await users_of(database) == []
    database.close()


async def test_a_read_raises_what_its_work_raised(url: str) -> None:
    database = Database(url)

    def work(connection: Connection) -> None:
        raise MessageNotFound(SECRET)

    with pytest.raises(MessageNotFound):
        await database.read(work)
    database.close()


# A commit whose answer is lost


class LostCommits:
    """Ends the connections of the next commits after the commit, before its answer arrives."""

    def __init__(self, database: Database) -> None:
        self.times = 0
        self._commit = database.engine.dialect.do_commit
        database.engine.dialect.do_commit = self._lose  # type: ignore[method-assign,assignment]

    def _lose(self, connection: Any) -> None:
        self._commit(connection)
        if self.times:
            self.times -= 1
            connection.driver_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")


async def test_a_lost_answer_is_distinguished_from_a_failure(postgres_url: str) -> None:
    database = Database(postgres_url)
    lost = LostCommits(database)
    lost.times = 1
    work = Failing(0, "")
    with pytest.raises(AnswerLost):
        await database.write(work)
    assert work.attempts == 1
    assert await users_of(database) == ["user 1"]
    lost.times = 1
    await database.write_repeatable(work)
    assert work.attempts == 3
    database.close()


async def test_a_session_that_is_ended_during_the_commit(
    copied_database: str, postgres: PostgresServer
) -> None:
    name = copied_database.rpartition("/")[2]
    postgres.execute(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
        name,
    )
    postgres.execute(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION late()",
        name,
    )
    database = Database(copied_database)
    work = Failing(0, "")
    with pytest.raises(AnswerLost):
        await database.write(work)
    assert work.attempts == 1
    assert await users_of(database) == []
    database.close()


async def test_a_batch_whose_answer_is_lost_is_stored_once(
    postgres_url: str, logs: list[Any]
) -> None:
    """It is not reported, not even to the sender of a message with a key."""
    store = SqlStore(postgres_url)
    async with store.open():
        lost = LostCommits(store.database)
        keyed, unkeyed = new("keyed"), new("unkeyed", keyed=False)
        await record(store, unkeyed)
        lost.times = 1
        assert await store.record(keyed) is None
        store.start_run(unkeyed.run_id)
        lost.times = 1
        await store.history(ALICE, new().thread_id, limit=1)
        end = end_of(keyed)
        lost.times = 1
        await store.end_run(end)
        expected = [
            of_user(unkeyed, RunStatus.RUNNING),
            of_user(keyed, RunStatus.COMPLETED),
            of_agent(end, keyed),
        ]
        assert await page_of(store) == (expected, False)
        lost.times = 1
        assert await store.create_user(ALICE) == User(ALICE)
        lost.times = 1
        assert await store.set_user_enabled(ALICE, enabled=False)
        lost.times = 1
        await store._upkeep.renew()
        lost.times = 1
        messages = [new(f"{number}") for number in range(10)]
        assert set(await concurrently(*((store, each) for each in messages))) == {"recorded"}
    assert len(contents(postgres_url)) == 13
    assert events(logs) == []


async def test_a_second_lost_answer_is_an_outage(postgres_url: str, logs: list[Any]) -> None:
    store = SqlStore(postgres_url)
    async with store.open():
        lost = LostCommits(store.database)
        lost.times = 3  # the message, the renewal of its second attempt and that once more
        assert await outcome(store, new("lost")) == "unavailable"
        await wait_until_ready(store)
        assert await outcome(store, new("next")) == "recorded"
    assert contents(postgres_url) == ["next"]
    assert events(logs) == ["store_unavailable", "store_available"]


async def test_a_second_message_of_a_key_whose_answer_was_lost_is_a_duplicate(
    postgres_url: str,
) -> None:
    store = SqlStore(postgres_url)
    async with store.open():
        lost = LostCommits(store.database)
        lost.times = 1
        first, second = new("first", key="k"), new("second", key="k")
        found = await concurrently((store, first), (store, second))
    (stored,) = contents(postgres_url)
    kept = first if stored == "first" else second  # either may come first
    assert sorted(found, key=str) == [duplicate_of(kept), "recorded"]


async def test_a_user_is_added_despite_a_lost_answer(postgres_url: str) -> None:
    store = SqlStore(postgres_url)
    lost = LostCommits(store.database)
    lost.times = 1
    assert await store.create_user(UserId("bob")) == User(UserId("bob"))
    store.database.close()


# Values that can never be stored

UNSTORABLE = "what no encoding has"
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'no' USING ERRCODE = '{sqlstate}'; END $$;
CREATE TRIGGER refuses BEFORE INSERT ON messages FOR EACH ROW
    WHEN (NEW.content = '{content}') EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize("sqlstate", ["22P05", "22021", "54000", "P0001"])
async def test_what_can_never_be_stored_is_refused_permanently(
    copied_database: str, postgres: PostgresServer, logs: list[Any], sqlstate: str
) -> None:
    refuse = REFUSE.format(sqlstate=sqlstate, content=UNSTORABLE)
    postgres.execute(refuse, copied_database.rpartition("/")[2])
    store = SqlStore(copied_database)
    async with store.open():
        bad, good = new(UNSTORABLE), new("good")
        found = await concurrently((store, bad), (store, good))
        assert found == ["never stored", "recorded"]
        assert await outcome(store, bad) == "never stored"
        await store.check()
        # If an agent's answer cannot be stored, the end of its run is stored without it.
        end = end_of(good, UNSTORABLE)
        await store.end_run(end)
        assert await page_of(store) == ([of_user(good, RunStatus.COMPLETED)], False)
        known = await store.find(good)
        assert known is not None
        assert known.completed == end.completed
    assert set(events(logs)) == {"write_refused"}


async def test_an_end_that_is_refused_without_its_text_too_delays_nothing(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    ends = Batch._end_earlier

    def fails(batch: Batch, connection: Connection, *values: Any) -> None:
        ends(batch, connection, *values)
        if values[1]:
            raise TypeError(SECRET)

    store = SqlStore(postgres_url)
    async with store.open():
        message, after = new(), new("after")
        await record(store, message)
        with monkeypatch.context() as broken:
            broken.setattr(Batch, "_end_earlier", fails)
            await store.end_run(end_of(message))
        assert await outcome(store, after) == "recorded"
    refused = [log for log in logs if log["event"] == "write_refused"]
    assert [log["write"] for log in refused] == ["EndRun", "EndRun"]
    assert all("TypeError at " in log["reason"] for log in refused)
    assert SECRET not in str(logs)


# Errors in a program


def failing_for(
    content: str, error: Exception, write: Callable[..., Any] = Batch.write
) -> Callable[..., Any]:
    """Return `Batch.write`, which raises an error if a batch has a message with this content."""

    def fails(batch: Batch, connection: Connection) -> Any:
        for entry in batch.entries:
            message = getattr(entry, "message", None)
            if message is not None and message.content == content:
                raise error
        return write(batch, connection)

    return fails


async def test_an_error_of_a_program_refuses_one_write(
    url: str, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    monkeypatch.setattr(Batch, "write", failing_for("bad", TypeError(SECRET)))
    store = SqlStore(url)
    async with store.open():
        bad, good = new("bad"), new("good")
        found = await concurrently((store, bad), (store, good))
        assert found == ["never stored", "recorded"]
        await store.check()
    assert events(logs) == ["write_refused"]
    assert SECRET not in str(logs)


async def test_a_lack_of_memory_is_an_outage_that_ends(
    url: str, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    store = SqlStore(url)
    unkeyed = new("unkeyed", keyed=False)
    async with store.open():
        with monkeypatch.context() as broken:
            broken.setattr(Batch, "write", failing_for("unkeyed", MemoryError()))
            await record(store, unkeyed)
            await wait_until(lambda: is_unavailable(store))
        await wait_until_ready(store)
        await wait_for_history(store, [of_user(unkeyed)])
    assert events(logs) == ["store_unavailable", "store_available"]


async def test_an_error_of_the_renewal_does_not_end_the_store(
    url: str, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    def fails(*_: object) -> int:
        raise TypeError(SECRET)

    store = SqlStore(url)
    async with store.open():
        with monkeypatch.context() as broken:
            broken.setattr("netra_trio.stores.sql.leases.Lease.renew", fails)
            with pytest.raises(StoreUnavailable, match="TypeError"):
                await store._upkeep.renew()
            assert not await store._upkeep._try(store._upkeep.renew, store._writes.mark_unavailable)
            assert await is_unavailable(store)
        await wait_until_ready(store)
        await record(store, new())
    assert set(events(logs)) == {"store_failed", "store_unavailable", "store_available"}
    (*_, failed) = [log for log in logs if log["event"] == "store_failed"]
    assert failed["fault"] == "TypeError"
    assert SECRET not in str(logs)


async def test_an_error_of_the_retention_makes_nothing_unavailable(
    url: str, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    def fails(connection: Connection, **_: object) -> None:
        raise TypeError(SECRET)

    monkeypatch.setattr(upkeep, "delete_old", fails)
    monkeypatch.setattr(upkeep, "RENEW_SECONDS", 0.05)
    store = SqlStore(url, retention_days=1)
    async with store.open():
        await wait_for_event(logs, "store_failed")
        await trio.sleep(0.2)  # some renewals, which do not repeat the deletion
        await record(store, new())
    assert events(logs) == ["store_failed"]


async def test_a_migration_that_fails_is_waited_for(
    database_url: str, postgres: PostgresServer, logs: list[Any]
) -> None:
    """The tables of another program are in the way."""
    name = database_url.rpartition("/")[2]
    postgres.execute("CREATE TABLE users (other text)", name)
    store = SqlStore(database_url)
    async with store.open():
        assert await is_unavailable(store)
        assert "DuplicateTable" in str(store._writes.unavailable_reason)
        postgres.execute("DROP TABLE users", name)
        await wait_until_ready(store)
    assert events(logs) == ["store_unavailable", "schema_changed", "store_available"]


# Settings that override defaults of the server and the client


async def test_the_isolation_is_set(copied_database: str, postgres: PostgresServer) -> None:
    name = copied_database.rpartition("/")[2]
    shown = text("SHOW transaction_isolation")

    def look(connection: Connection) -> object:
        return connection.scalar(shown)

    for level in ("serializable", "repeatable read"):
        postgres.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
        database = Database(copied_database)
        for use in (database.read, database.write, database.read, database.write):
            assert await use(look) == "read committed"
        assert await database.find("SHOW transaction_isolation", ()) == [("read committed",)]
        database.close()


@pytest.mark.parametrize("where", ["variable", "url", "options", "role"])
async def test_the_encoding_of_a_client_is_set(
    copied_database: str,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    url = copied_database
    if where == "variable":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    elif where == "url":
        url += "?client_encoding=latin1"
    elif where == "options":
        url += "?options=-c%20client_encoding%3Dlatin1"
    else:
        name = copied_database.rpartition("/")[2]
        postgres.execute(f"ALTER DATABASE {name} SET client_encoding = 'latin1'")
    store = SqlStore(url)
    message = new("aä€😀")
    async with store.open():
        await record(store, message)
        assert await page_of(store) == ([of_user(message)], False)
    monkeypatch.delenv("PGCLIENTENCODING", raising=False)
    assert contents(postgres.url(copied_database.rpartition("/")[2])) == ["aä€😀"]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP", "WIN1252"])
async def test_an_encoding_that_cannot_hold_every_text_is_rejected(
    postgres: PostgresServer, encoding: str
) -> None:
    url = database_in(postgres, encoding)
    store = SqlStore(url)
    with pytest.raises(DatabaseUnusable, match=f"has the encoding {encoding}, which cannot hold"):
        async with store.open():
            pass
    database = Database(url)
    with pytest.raises(StoreUnavailable, match=encoding):
        await database.read(lambda connection: connection.scalar(text("SELECT 1")))
    database.close()
    name = url.rpartition("/")[2]
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608

    async def are_over() -> bool:
        return postgres.execute(sessions) == [(0,)]

    await wait_until(are_over)
    postgres.drop_database(name)


def database_in(postgres: PostgresServer, encoding: str) -> str:
    """Create a database of an encoding; return its url."""
    name = f"in_{encoding.lower()}"
    postgres.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 "
        "LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER libc"
    )
    return postgres.url(name)
