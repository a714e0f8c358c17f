"""Databases that have the schema: created once, then emptied or copied for each test."""

import functools
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from stores.implementations import SHARED_STORES, STORES, Factory, Nodes, other_node
from stores.samples import ALICE, BOB, PATIENCE, change
from structlog.testing import capture_logs
from support.pgbouncer import PgBouncer, pgbouncer
from support.postgres import PostgresServer

from netra_trio.stores.base import Store
from netra_trio.stores.sql import write_behind
from netra_trio.stores.sql.database import Database
from netra_trio.stores.sql.migrate import migrate
from netra_trio.stores.sql.schema import metadata

TEMPLATE = "migrated"
OTHERS = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
EMPTY = f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY"


def bring_up(url: str) -> None:
    """Bring the schema up to date, without an event loop."""
    change(url, migrate)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an SQLite file with the schema, to be copied."""
    file = tmp_path_factory.mktemp("migrated") / "store.db"
    bring_up(f"sqlite:///{file}")
    return file


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """Return the url of an empty SQLite file that has the schema."""
    return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'store.db')}"


@pytest.fixture(scope="session")
def migrated_database(postgres: PostgresServer) -> str:
    """Return the name of a database with the schema, to be copied; no test connects to it."""
    bring_up(postgres.create_database(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
def shared(
    postgres: PostgresServer, migrated_database: str
) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Hold a connection to the database that the tests use one after the other."""
    url = postgres.create_database(template=migrated_database)
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def postgres_url(postgres: PostgresServer, shared: psycopg.Connection[tuple[Any, ...]]) -> str:
    """Return the url of an empty database that has the schema."""
    while True:
        shared.execute(OTHERS)  # connections that an earlier test left
        with suppress(psycopg.errors.DeadlockDetected):  # of a thread that has connected again
            shared.execute(EMPTY)
            break
    return postgres.url(shared.info.dbname)


@pytest.fixture
def copied_database(postgres: PostgresServer, migrated_database: str) -> Iterator[str]:
    """Return the url of a database that has the schema, for tests that change more than rows."""
    url = postgres.create_database(template=migrated_database)
    yield url
    postgres.drop_database(url.rpartition("/")[2])


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Return the url of an empty database that has the schema, of either kind."""
    name = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    found: str = request.getfixturevalue(name)
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def own_url(request: pytest.FixtureRequest) -> str:
    """Return the url of such a database for tests that change more than rows."""
    name = {"sqlite": "sqlite_url", "postgresql": "copied_database"}[request.param]
    found: str = request.getfixturevalue(name)
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the url of a database without tables, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fresh.db"
    found: str = request.getfixturevalue("database_url")
    return found


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """Return the list to which log lines are added."""
    with capture_logs() as captured:
        yield captured


# Tests share the engines, so that SQL is compiled once and not for each test.


@pytest.fixture(scope="session")
def engines() -> Callable[[str], Database]:
    """Return a function that returns the database of a url, the same one each time."""
    return functools.cache(Database)


@pytest.fixture
def sqlite_database(
    engines: Callable[[str], Database],
    migrated_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Database:
    """Return an empty SQLite file that has the schema."""
    file = tmp_path_factory.getbasetemp() / "shared.db"
    for beside in ("-wal", "-shm"):
        file.with_name(file.name + beside).unlink(missing_ok=True)
    shutil.copy(migrated_file, file)
    return unused(engines(f"sqlite:///{file}"))


@pytest.fixture
def memory_database(engines: Callable[[str], Database], migrated_file: Path) -> Database:
    """Return an empty SQLite database in memory that has the schema."""
    database = unused(engines("sqlite://"))
    source = sqlite3.connect(migrated_file)
    with database.engine.connect() as connection:
        target = connection.connection.driver_connection
        assert isinstance(target, sqlite3.Connection)
        source.backup(target)
    source.close()
    return database


@pytest.fixture
def postgres_database(engines: Callable[[str], Database], postgres_url: str) -> Database:
    """Return an empty database of a real server that has the schema."""
    return unused(engines(postgres_url))


@pytest.fixture(scope="session")
def pooler(postgres: PostgresServer) -> Iterator[PgBouncer]:
    """Run a PgBouncer in transaction mode, with fewer connections than a store has."""
    with pgbouncer(postgres, "transaction", pool_size=3) as running:
        yield running


@pytest.fixture(scope="session")
def behind_pooler(
    postgres: PostgresServer, migrated_database: str
) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Hold a direct connection to the database that tests use through the pooler."""
    url = postgres.create_database(template=migrated_database)
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def pooled_database(
    engines: Callable[[str], Database],
    pooler: PgBouncer,
    behind_pooler: psycopg.Connection[tuple[Any, ...]],
) -> Database:
    """Return an empty database of a real server behind a pooler."""
    database = unused(engines(pooler.url(behind_pooler.info.dbname)))
    behind_pooler.execute(EMPTY)
    return database


def unused(database: Database) -> Database:
    """Return the database without connections and threads that an earlier test left."""
    database.close()
    limiter = database._limiter
    database._limiter = trio.CapacityLimiter(limiter.total_tokens)
    if database._writers is limiter:  # one connection for all, which two threads cannot share
        database._writers = database._limiter
    return database


@pytest.fixture(params=STORES, ids=lambda factory: factory.__name__)
async def store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """Open a store with the users Alice and Bob, and nothing else."""
    monkeypatch.setattr(write_behind, "SLOW_SECONDS", PATIENCE)  # a busy machine is no outage
    factory: Factory = request.param
    empty = factory(request)
    async with empty.open():
        await empty.create_user(ALICE)
        await empty.create_user(BOB)
        yield empty


@pytest.fixture(params=SHARED_STORES, ids=lambda factory: factory.__name__)
async def nodes(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Nodes]:
    """Open the stores of two nodes on the same data, with the users Alice and Bob."""
    monkeypatch.setattr(write_behind, "SLOW_SECONDS", PATIENCE)  # a busy machine is no outage
    factory: Factory = request.param
    one = factory(request)
    other = other_node(one)
    async with one.open(), other.open():
        await one.create_user(ALICE)
        await one.create_user(BOB)
        yield one, other
