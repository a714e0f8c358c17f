"""PostgreSQL behind a real PgBouncer, in each of its modes, and the options of URLs."""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest
import trio
from sqlalchemy import Connection, text
from stores.samples import ALICE, PATIENCE, again, end_of, new, page_of, record
from stores.sql_samples import wait_until_ready
from support.pgbouncer import PgBouncer, pgbouncer
from support.postgres import PostgresServer

from netra_trio.errors import DatabaseUnusable, StoreUnavailable
from netra_trio.protocol.messages import RunStatus
from netra_trio.stores.sql.database import CONNECTIONS, STATEMENT_SECONDS, Database
from netra_trio.stores.sql.store import SqlStore

ROUNDS = 12  # of one statement: psycopg prepares it the sixth time
SECRET = "hunter2"


def name_of(url: str) -> str:
    """Return the name of the database of a url."""
    return url.rpartition("/")[2]


def scalar(statement: str) -> Callable[[Connection], object]:
    """Return a unit of work that selects one value."""
    return lambda connection: connection.scalar(text(statement))


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Use a database."""
    database = Database(url)
    yield database
    database.close()


@asynccontextmanager
async def through(pooler: PgBouncer, name: str) -> AsyncIterator[Database]:
    """Use a database through a pooler."""
    with opened(pooler.url(name)) as database, trio.fail_after(PATIENCE):
        yield database


@pytest.fixture(params=["session", "transaction"])
def mode(request: pytest.FixtureRequest) -> str:
    """Return the mode of the pooler."""
    return str(request.param)


@pytest.fixture(params=["", "options"], ids=["refusing", "ignoring"])
def ignored(request: pytest.FixtureRequest) -> str:
    """Return the start-up parameters that the pooler ignores."""
    return str(request.param)


@pytest.fixture
def any_pooler(postgres: PostgresServer, mode: str, ignored: str) -> Iterator[PgBouncer]:
    """Run a pooler of either mode, which refuses or ignores start-up options."""
    with pgbouncer(postgres, mode, ignored=ignored) as running:
        yield running


# Conversations


async def test_a_store_works_from_its_first_start(any_pooler: PgBouncer, database_url: str) -> None:
    name = name_of(database_url)
    for start in range(2):  # the first start creates the schema
        store = SqlStore(any_pooler.url(name))
        async with store.open():
            await store.create_user(ALICE)
            for n in range(ROUNDS):
                message = new(f"{start} {n}")
                await record(store, message)
                store.start_run(message.run_id)
                await store.end_run(end_of(message, "an answer"))
                known = await store.find(again(message))
                assert known is not None
                assert known.status is RunStatus.COMPLETED
                await store.get_user(ALICE)
                await page_of(store)
            await store.check()


async def test_transactions_at_once_share_few_sessions(pooled_database: Database) -> None:
    """Statements that were prepared in one session would be missing in the next, or twice."""
    processes: set[object] = set()

    async def ask() -> None:
        for _ in range(ROUNDS):
            processes.add(await pooled_database.read(scalar("SELECT pg_backend_pid()")))
            await pooled_database.write(scalar("SELECT count(*) FROM users"))
            assert await pooled_database.find("SELECT %s::int", (1,)) == [(1,)]

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS):
                nursery.start_soon(ask)
    assert 0 < len(processes) <= 3


# Limits


async def test_each_transaction_has_the_limits(any_pooler: PgBouncer) -> None:
    async with through(any_pooler, "postgres") as database:
        for use in (database.read, database.write):
            assert await use(scalar("SHOW statement_timeout")) == "2s"
            assert await use(scalar("SHOW lock_timeout")) == "2s"
            assert await use(scalar("SHOW idle_in_transaction_session_timeout")) == "1min"
            assert await use(scalar("SHOW transaction_isolation")) == "read committed"
            assert await use(scalar("SHOW application_name")) == "netra_trio"
        assert await database.find("SHOW statement_timeout", ()) == [("2s",)]


async def test_no_limit_is_left_in_a_session_for_others(
    pooled_database: Database, pooler: PgBouncer
) -> None:
    await pooled_database.read(scalar("SELECT 1"))
    await pooled_database.write(scalar("SELECT 1"))
    with psycopg.connect(pooler.url(str(pooled_database.url.database))) as other:
        for _ in range(ROUNDS):
            assert other.execute("SHOW statement_timeout").fetchone() == ("0",)


SLOW = "SELECT pg_sleep(3600)"


@pytest.mark.parametrize(
    "ask",
    [
        lambda database: database.read(scalar(SLOW)),
        lambda database: database.find(SLOW, ()),
        lambda database: database.write(scalar(SLOW)),
    ],
    ids=["read", "find", "write"],
)
async def test_a_slow_statement_is_cancelled(
    pooled_database: Database, ask: Callable[[Database], Awaitable[object]]
) -> None:
    started = time.monotonic()
    with (
        trio.fail_after(PATIENCE),
        pytest.raises(StoreUnavailable, match=r"QueryCanceled.*statement timeout"),
    ):
        await ask(pooled_database)
    assert time.monotonic() - started > STATEMENT_SECONDS - 0.5
    assert await pooled_database.read(scalar("SELECT 1")) == 1


async def test_many_rows_at_once_have_the_limits(pooled_database: Database) -> None:
    def fill(connection: Connection) -> object:
        connection.exec_driver_sql("INSERT INTO users VALUES (%s, true, 0)", [("a",), ("b",)])
        return connection.scalar(text("SHOW statement_timeout"))

    assert await pooled_database.write(fill) == "2s"
    assert await pooled_database.read(scalar("SELECT count(*) FROM users")) == 2


async def test_a_direct_connection_needs_no_statement_for_its_limits(database_url: str) -> None:
    """The limits are start-up options, and statements are prepared."""
    with opened(database_url) as database:
        raw = await database.read(lambda connection: connection.connection.driver_connection)
        assert isinstance(raw, psycopg.Connection)
        assert raw.cursor_factory is psycopg.Cursor
        assert raw.prepare_threshold == 5
        assert await database.read(scalar("SHOW statement_timeout")) == "2s"


# Impossible configurations are reported in one line


async def test_a_pooler_without_transactions_is_rejected(postgres: PostgresServer) -> None:
    with pgbouncer(postgres, "statement") as running:
        async with through(running, "postgres") as database:
            for _ in range(2):
                with pytest.raises(DatabaseUnusable) as refused:
                    await database.write(scalar("SELECT 1"))
                assert str(refused.value) == (
                    "DATABASE_URL: the connection pooler allows no transactions; "
                    "set its pool_mode to transaction or session"
                )


async def test_options_that_the_pooler_refuses_are_named(
    pooler: PgBouncer, behind_pooler: psycopg.Connection[tuple[object, ...]]
) -> None:
    url = pooler.url(behind_pooler.info.dbname) + "?options=-c%20geqo%3Doff"
    with opened(url) as database, pytest.raises(DatabaseUnusable) as refused:
        await database.write(scalar("SELECT 1"))
    assert str(refused.value) == (
        "DATABASE_URL: the connection pooler refuses the option options; "
        "remove it, and use ALTER ROLE … SET"
    )


async def test_a_limit_that_the_url_sets_is_not_set_again(
    postgres: PostgresServer, database_url: str
) -> None:
    with pgbouncer(postgres, "session", ignored="options") as running:
        url = running.url(name_of(database_url)) + "?options=-c%20statement_timeout%3D7s"
        with opened(url) as database:
            assert await database.read(scalar("SHOW statement_timeout")) == "0"
            assert await database.read(scalar("SHOW lock_timeout")) == "2s"


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_full_pool_is_an_outage_that_ends(postgres: PostgresServer, mode: str) -> None:
    with pgbouncer(postgres, mode, pool_size=1, wait_seconds=1) as running:
        async with through(running, "postgres") as database, through(running, "postgres") as other:
            begun, ended = trio.Event(), trio.Event()

            def hold(connection: Connection) -> None:
                connection.execute(text("SELECT 1"))
                trio.from_thread.run_sync(begun.set)
                trio.from_thread.run(ended.wait)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(database.write, hold)
                await begun.wait()
                with pytest.raises(StoreUnavailable) as refused:
                    await other.read(scalar("SELECT 1"))
                ended.set()
            assert len(str(refused.value).splitlines()) == 1
            database.close()
            assert await other.read(scalar("SELECT 1")) == 1


async def test_a_store_recovers_when_the_sessions_of_the_pooler_end(
    pooled_database: Database, postgres: PostgresServer
) -> None:
    sessions = f"datname = '{pooled_database.url.database}' AND pid <> pg_backend_pid()"
    store = SqlStore(pooled_database)
    async with store.open():
        await store.create_user(ALICE)
        postgres.execute(
            f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE {sessions} "  # noqa: S608
            "AND application_name = 'netra_trio'"
        )
        with trio.fail_after(PATIENCE):
            await wait_until_ready(store)
            await record(store, message := new())
            await store.end_run(end_of(message, "an answer"))
            assert len((await page_of(store))[0]) == 2


async def test_a_pooler_without_its_database_is_an_outage(pooler: PgBouncer) -> None:
    with opened(pooler.url("nowhere")) as database, pytest.raises(StoreUnavailable) as refused:
        await database.write(scalar("SELECT 1"))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "prepare_threshold=0",
            "no option prepare_threshold; remove it: a connection pooler needs",
        ),
        ("pgbouncer=true", "no option pgbouncer; remove it: a connection pooler needs none"),
        ("statement_cache_size=0", "no option statement_cache_size; remove it: a connection poole"),
        ("sslmod=require", "no option sslmod; did you mean sslmode?"),
        ("SSLMODE=require", "no option SSLMODE; did you mean sslmode?"),
        ("autocommit=true", "no option autocommit; remove it"),
        ("plugin=x", "no option plugin; remove it"),
        (f"{SECRET}@host/db=1", "no such option; remove it"),
        ("sslmode=a&sslmode=b", "got option sslmode more than once; leave one"),
        ("sslmode=foo", 'invalid sslmode value: "foo"; correct it'),
        ("target_session_attrs=primry", 'invalid target_session_attrs value: "primry"; correct'),
        ("connect_timeout=soon", "invalid connect_timeout value: 'soon'; use a whole number"),
        ("keepalives_idle=1.5", "invalid keepalives_idle value: '1.5'; use a whole number"),
        ("port=abc", "Received non-integer port arguments"),
        ("host=a&host=b&port=1", "Can't mix 'multihost' formats together"),
        ("host=a,b&port=1,2,3", "number of hosts and ports don't match; correct it"),
        ("service=missing", 'definition of service "missing" not found; correct it'),
    ],
)
def test_an_option_that_libpq_rejects_is_reported_in_one_line(query: str, expected: str) -> None:
    with pytest.raises(DatabaseUnusable) as refused:
        Database(f"postgresql://user:{SECRET}@host/db?{query}")
    line = str(refused.value)
    assert line.startswith("DATABASE_URL: ")
    assert expected in line
    assert "\n" not in line
    assert SECRET not in line


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=require",
        "sslmode=verify-full&sslrootcert=system",
        "gssencmode=require",
        "target_session_attrs=read-write",
        "host=a&host=b",
        "host=a:1&host=b:2",
        "host=a,b&port=1,2",
        "hostaddr=192.0.2.1",
        "connect_timeout=9&keepalives_idle=1&tcp_user_timeout=0",
        "options=-c%20statement_timeout%3D7s",
    ],
)
def test_options_of_libpq_are_accepted(query: str) -> None:
    Database(f"postgresql://user:{SECRET}@host/db?{query}")


@pytest.mark.parametrize("url", ["sqlite://?mode=ro", "sqlite:///{}/x.db?timeout=abc"])
def test_urls_of_sqlite_have_no_options(tmp_path: Path, url: str) -> None:
    expected = re.escape("DATABASE_URL: the URL of an SQLite database has no options; remove the ")
    with pytest.raises(DatabaseUnusable, match=expected):
        Database(url.format(tmp_path))
