"""A database of either kind: addresses, limits, and the errors that it reports."""

import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, MetaData, Table, event, exc, insert, select, text
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, OperationalError
from sqlalchemy.pool import QueuePool
from stores.samples import new, record
from support.postgres import PostgresServer

from netra_trio.errors import DatabaseUnusable, StoreUnavailable
from netra_trio.stores.sql.database import CONNECTIONS, STATEMENT_SECONDS, Database
from netra_trio.stores.sql.errors import reason
from netra_trio.stores.sql.schema import ExactText, users
from netra_trio.stores.sql.store import SqlStore

SECRET = "hunter2"
PATIENCE = 100  # seconds: a bound on what hangs


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Use a database."""
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """Return a database of either kind."""
    with opened(url) as found:
        yield found
        await wait_until_idle(found)


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator[Database]:
    """Return a database of PostgreSQL."""
    with opened(postgres_url) as found:
        yield found
        await wait_until_idle(found)


async def wait_until_idle(database: Database) -> None:
    """Wait for abandoned threads, which return their connections."""
    with trio.fail_after(PATIENCE):
        while database._limiter.borrowed_tokens:  # noqa: ASYNC110 - a thread has no event
            await trio.sleep(0.01)


def scalar(statement: str) -> Callable[[Connection], object]:
    """Return a unit of work that selects one value."""
    return lambda connection: connection.scalar(text(statement))


# Addresses


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
async def test_postgresql_urls_have_three_forms(postgres_url: str, scheme: str) -> None:
    with opened(postgres_url.replace("postgresql", scheme, 1)) as database:
        assert await database.read(scalar("SELECT 1")) == 1
        assert database.url.drivername == "postgresql+psycopg"
        assert not database.is_sqlite


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_a_database_in_memory_has_one_connection(url: str) -> None:
    with opened(url) as database:
        await database.write(lambda c: c.execute(text("CREATE TABLE t (n)")).close())
        async with trio.open_nursery() as nursery:
            for n in range(20):
                add = text(f"INSERT INTO t VALUES ({n})")  # noqa: S608 - a number
                nursery.start_soon(database.write, lambda c, add=add: c.execute(add).close())
        assert await database.read(scalar("SELECT count(*) FROM t")) == 20


def test_the_error_for_a_missing_folder_names_it(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "store.db"
    with pytest.raises(DatabaseUnusable) as refused:
        Database(f"sqlite:///{file}")
    assert str(refused.value) == (
        f"DATABASE_URL: {file} cannot be opened, because its folder does not exist; "
        f"create {file.parent}, or use another path"
    )


def test_the_error_for_a_file_that_cannot_be_created_names_it(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 300)
    with pytest.raises(DatabaseUnusable) as refused:
        Database(f"sqlite:///{file}")
    assert str(refused.value) == (
        f"DATABASE_URL: {file} cannot be written (File name too long); permit it, or use another "
        "path"
    )


def test_an_sqlite_that_is_too_old_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    with pytest.raises(DatabaseUnusable) as refused:
        Database(f"sqlite:///{tmp_path}/store.db")
    assert str(refused.value) == (
        "DATABASE_URL: SQLite 3.34.1 is too old, expected 3.35 or later; use postgresql://, or a "
        "newer Python"
    )
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 35, 0))
    Database(f"sqlite:///{tmp_path}/store.db")


async def test_the_files_of_sqlite_are_private(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/store.db")
    async with store.open():
        await record(store, new())
        private = "-rw-------"
        assert modes(tmp_path) == {
            "store.db": private,
            "store.db-shm": private,
            "store.db-wal": private,
        }
    assert modes(tmp_path) == {"store.db": private}


def modes(folder: Path) -> dict[str, str]:
    return {file.name: stat.filemode(file.stat().st_mode) for file in folder.iterdir()}


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@host/db",
        f"postgres://user:{SECRET}@host/db?sslmode=require",
        f"postgresql://user@host/db?password={SECRET}",
    ],
)
def test_the_name_contains_no_password(url: str) -> None:
    name = Database(url).name
    assert SECRET not in name
    assert "host/db" in name


# Limits


async def test_time_limits_are_set_on_every_connection(server: Database) -> None:
    for read in (server.read, server.write):
        assert await read(scalar("SHOW statement_timeout")) == "2s"
        assert await read(scalar("SHOW lock_timeout")) == "2s"
        assert await read(scalar("SHOW idle_in_transaction_session_timeout")) == "1min"
        assert await read(scalar("SHOW application_name")) == "netra_trio"


async def test_options_of_the_url_take_precedence(postgres_url: str) -> None:
    query = "?application_name=mine&connect_timeout=9&options=-c%20statement_timeout%3D7s"
    with opened(postgres_url + query) as database:
        assert await database.read(scalar("SHOW statement_timeout")) == "7s"
        assert await database.read(scalar("SHOW lock_timeout")) == "2s"
        assert await database.read(scalar("SHOW application_name")) == "mine"

        def parameters(connection: Connection) -> dict[str, str]:
            raw = connection.connection.driver_connection
            assert isinstance(raw, psycopg.Connection)
            return raw.info.get_parameters()

        given_ = await database.read(parameters)
        assert given_["connect_timeout"] == "9"
        assert given_["tcp_user_timeout"] == "20000"
        assert given_["keepalives_idle"] == "10"


@pytest.mark.parametrize("how", ["read", "write"])
async def test_a_slow_statement_is_cancelled(server: Database, how: str) -> None:
    use = server.read if how == "read" else server.write
    started = time.monotonic()
    with (
        trio.fail_after(PATIENCE),
        pytest.raises(StoreUnavailable, match=r"QueryCanceled.*statement timeout"),
    ):
        await use(scalar("SELECT pg_sleep(3600)"))
    assert time.monotonic() - started > STATEMENT_SECONDS - 0.5
    assert await use(scalar("SELECT 1")) == 1


async def test_pragmas_are_set_on_every_connection(sqlite_url: str) -> None:
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "cache_size")
    found: list[list[object]] = []
    gate = trio.Event()

    def look(connection: Connection) -> None:
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
        found.append(values)
        if len(found) == CONNECTIONS:
            trio.from_thread.run_sync(gate.set)
        trio.from_thread.run(gate.wait)  # all connections are in use at once

    with opened(sqlite_url) as database, trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS):
                nursery.start_soon(database.read, look)
    assert found == [["wal", 2, 1, STATEMENT_SECONDS * 1000, -1024]] * CONNECTIONS


async def test_there_are_at_most_as_many_threads_as_connections(database: Database) -> None:
    at_work = largest = 0
    counting = threading.Lock()
    all_at_once = threading.Barrier(CONNECTIONS, timeout=PATIENCE)

    def work(_: Connection) -> None:
        nonlocal at_work, largest
        with counting:
            at_work += 1
            largest = max(largest, at_work)
        all_at_once.wait()
        with counting:
            at_work -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(3 * CONNECTIONS):
            nursery.start_soon(database.read, work)
    assert largest == CONNECTIONS


async def test_a_connection_that_is_opened_after_the_closing_is_closed(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of a cancelled call may not have its connection yet."""
    connect, closed = server.engine.connect, threading.Event()

    def late(*arguments: object) -> Connection:
        assert closed.wait(PATIENCE)
        return connect(*arguments)

    monkeypatch.setattr(server.engine, "connect", late)
    with trio.move_on_after(0.1):
        await server.write(scalar("SELECT 1"))
    server.close()
    closed.set()
    with trio.fail_after(PATIENCE):
        while server._writers.borrowed_tokens:  # noqa: ASYNC110 - a thread has no event
            await trio.sleep(0.01)
    pool = server.engine.pool
    assert isinstance(pool, QueuePool)
    assert (pool.checkedin(), pool.checkedout()) == (1, 0)
    assert open_connections(server) == 0
    monkeypatch.undo()
    assert await server.read(scalar("SELECT 1")) == 1  # it can be used again


def open_connections(database: Database) -> int:
    """Return the number of idle connections of the pool that are open."""
    entries = list(database.engine.pool._pool.queue)  # type: ignore[attr-defined]
    return sum(entry.dbapi_connection is not None for entry in entries)


# Errors


async def test_a_read_replaces_a_closed_connection(
    server: Database, postgres: PostgresServer
) -> None:
    own = await server.read(scalar("SELECT pg_backend_pid()"))
    postgres.execute(f"SELECT pg_terminate_backend({own}, 60000)")
    assert await server.read(scalar("SELECT pg_backend_pid()")) != own


async def test_a_query_without_sqlalchemy_returns_rows(database: Database) -> None:
    mark = "?" if database.is_sqlite else "%s"
    found = await database.find(f"SELECT {mark}, 2", ("one",))
    assert found == [("one", 2)]


async def test_a_query_without_sqlalchemy_reports_errors_as_others_do(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match="nowhere"):
        await database.find("SELECT 1 FROM nowhere", ())
    assert await database.find("SELECT 1", ()) == [(1,)]


async def test_a_query_without_sqlalchemy_replaces_a_closed_connection(
    server: Database, postgres: PostgresServer
) -> None:
    ((own,),) = await server.find("SELECT pg_backend_pid()", ())
    postgres.execute(f"SELECT pg_terminate_backend({own}, 60000)")
    ((now,),) = await server.find("SELECT pg_backend_pid()", ())
    assert now != own


async def test_a_write_replaces_a_closed_connection(
    server: Database, postgres: PostgresServer
) -> None:
    own = await server.write(scalar("SELECT pg_backend_pid()"))
    postgres.execute(f"SELECT pg_terminate_backend({own}, 60000)")
    assert await server.write(scalar("SELECT pg_backend_pid()")) != own


async def test_an_error_of_the_statement_is_not_retried(database: Database) -> None:
    tries = 0

    def work(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        connection.execute(text("SELECT nonsense FROM nowhere"))

    with pytest.raises(StoreUnavailable, match="nowhere"):
        await database.read(work)
    assert tries == 1


async def test_a_cancelled_read_returns_at_once(server: Database) -> None:
    begun, over = trio.Event(), threading.Event()

    def work(connection: Connection) -> None:
        connection.scalar(text("SELECT 1"))
        token.run_sync_soon(begun.set)
        over.wait(PATIENCE)

    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.read, work)
            await begun.wait()
            scope.cancel()
    assert scope.cancelled_caught
    assert not over.is_set()  # the thread is still at work
    over.set()
    assert await server.read(scalar("SELECT 1")) == 1


async def test_a_write_that_fails_changes_nothing(database: Database) -> None:
    row = {"user_id": "a", "enabled": True, "created_at": 1.0}

    def work(connection: Connection) -> None:
        connection.execute(insert(users), row)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        await database.write(work)
    assert await database.read(scalar("SELECT count(*) FROM users")) == 0
    await database.write(lambda c: c.execute(insert(users), row).close())
    with pytest.raises(IntegrityError):
        await database.write(lambda c: c.execute(insert(users), row).close())
    assert await database.read(scalar("SELECT count(*) FROM users")) == 1


async def test_a_reason_contains_no_value(database: Database) -> None:
    row = {"user_id": SECRET, "enabled": True, "created_at": 1.0}
    faults: list[str] = []
    for rows in ([row, row], [{**row, "enabled": None}]):

        def work(connection: Connection, rows: list[dict[str, object]] = rows) -> None:
            connection.execute(insert(users), rows)

        with pytest.raises(IntegrityError) as refused:
            await database.write(work)
        faults.append(reason(refused.value))
    assert not any(SECRET in fault or "\n" in fault for fault in faults)
    assert ("UNIQUE" in faults[0]) or ("unique" in faults[0])


async def test_a_value_out_of_range_is_a_data_error(server: Database) -> None:
    with pytest.raises(DataError) as refused:
        await server.write(scalar("SELECT 10000000000::integer"))
    assert reason(refused.value) == "NumericValueOutOfRange: integer out of range"


async def test_the_error_for_an_unreachable_server_contains_no_password() -> None:
    with opened(f"postgresql://user:{SECRET}@127.0.0.1:1/db") as database:
        with pytest.raises(StoreUnavailable, match="refused") as unavailable:
            await database.read(scalar("SELECT 1"))
        with pytest.raises(StoreUnavailable):
            await database.write(scalar("SELECT 1"))
    assert SECRET not in str(unavailable.value)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            OperationalError("INSERT :v", {"v": SECRET}, sqlite3.OperationalError("locked\nmore")),
            "OperationalError: locked",
        ),
        (OperationalError("x", {"v": SECRET}, ValueError("")), "ValueError: "),
        (exc.TimeoutError("no connection"), "TimeoutError: no connection"),
        (ArgumentError("x" * 1000), ("ArgumentError: " + "x" * 1000)[:300]),
    ],
)
def test_a_reason_is_one_short_line(fault: OperationalError, expected: str) -> None:
    assert reason(fault) == expected


async def test_waiting_for_a_connection_can_be_cancelled(
    server: Database,
) -> None:
    over = threading.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(server.read, lambda _: over.wait(PATIENCE))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.1) as scope:
            await server.read(scalar("SELECT 1"))
        assert scope.cancelled_caught
        over.set()


async def test_a_connection_returned_after_close_is_closed(own_url: str) -> None:
    database = Database(own_url)
    closed: list[object] = []
    event.listen(database.engine, "close", lambda connection, _: closed.append(connection))
    begun, gate = trio.Event(), trio.Event()

    def work(connection: Connection) -> None:
        trio.from_thread.run_sync(begun.set)
        trio.from_thread.run(gate.wait)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.read, work)
        await begun.wait()
        database.close()
        assert closed == []
        gate.set()
    assert len(closed) == 1
    # It can still be used.
    assert await database.read(scalar("SELECT 1")) == 1
    assert len(closed) == 1
    database.close()
    assert len(closed) == 2


def test_a_write_transaction_waits_for_another_one(sqlite_url: str) -> None:
    """It takes the lock when it begins: after a read it could not wait for it."""

    def work(_: int) -> None:
        with opened(sqlite_url) as database, database.engine.begin() as connection:
            count = connection.scalar(text("SELECT count(*) FROM users"))
            row = {"user_id": f"{count}", "enabled": True, "created_at": 1.0}
            connection.execute(insert(users), row)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    with opened(sqlite_url) as database, database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM users")) == 8


# Texts

exact = Table("exact", MetaData(), Column("said", ExactText))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\x1a01"))


@pytest.fixture(params=["sqlite", "postgresql"])
def written(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """Return a connection to a table of texts."""
    url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with opened(url) as database, database.engine.connect() as connection:
        exact.create(connection)
        yield connection
        connection.rollback()


@given(st.lists(TEXTS, min_size=1, max_size=5))
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # rolled back for each
        HealthCheck.too_slow,
    ],
)
def test_any_text_is_read_as_it_was_written(written: Connection, texts: list[str]) -> None:
    with written.begin_nested() as step:
        written.execute(insert(exact), [{"said": each} for each in texts])
        assert sorted(written.scalars(select(exact.c.said))) == sorted(texts)
        for each in texts:
            found = written.scalars(select(exact.c.said).where(exact.c.said == each)).all()
            assert set(found) == {each}
        step.rollback()


def test_null_is_read_as_none(written: Connection) -> None:
    written.execute(insert(exact), [{"said": None}])
    assert written.scalars(select(exact.c.said)).all() == [None]


@given(TEXTS)
def test_two_texts_are_never_stored_as_the_same(said: str) -> None:
    kind = ExactText()
    kept = kind.process_bind_param(said, None)
    assert kept is not None
    assert "\x00" not in kept
    assert kind.process_result_value(kept, None) == said


async def test_a_file_that_is_not_a_database_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("This is no database, however long one looks at it.\n" * 100)
    with pytest.raises(DatabaseUnusable, match="is not an SQLite database"):
        await Database(f"sqlite:///{file}").write(
            lambda connection: connection.scalar(text("SELECT 1"))
        )


def test_a_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="is a folder"):
        Database(f"sqlite:///{tmp_path}")
