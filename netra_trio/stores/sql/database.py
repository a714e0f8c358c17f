"""A database: its connections, and the worker threads that use them.

    database = Database("sqlite:///netra.db")
    rows = await database.read(lambda connection: connection.execute(query).all())

A unit of work is a short function of a connection, run in a worker thread. There are as many
threads as connections: a call waits for a thread, which can be cancelled, and never inside a thread
for a connection, which cannot.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio
from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from netra_trio.errors import DatabaseUnusable, StoreUnavailable

_T = TypeVar("_T")

CONNECTIONS = 8  # for reads: far more than two cores keep busy
WRITERS = 2  # besides, for writes: many reads must not delay them
STATEMENT_SECONDS = 2  # for one statement; a second less than `TimeoutStore` waits for an answer
CONNECT_SECONDS = 3  # for libpq, to reach a server
SQLITE_OLDEST = (3, 35)  # the first with DROP COLUMN, which a downgrade of the schema needs

# A connection whose server vanished is closed within half a minute: until then it holds a thread.
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_LIMITS = (
    f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={STATEMENT_SECONDS}s "
    "-c idle_in_transaction_session_timeout=60s"
)

_NOT_A_DATABASE = "file is not a database"  # SQLite's message for SQLITE_NOTADB

_IS_READ = "netra_read"  # an execution option of connections that only read


class Database:
    """A pool of connections, and as many worker threads.

    Args:
        url: `sqlite://`, `sqlite:///path` or `postgresql://…`.

    Raises:
        DatabaseUnusable: If it can never work: the folder of an SQLite file is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = _normal(make_url(url))
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        in_memory = is_in_memory(url)
        file = database_file(url)
        if file is not None:
            _check_file(file)
        self._limiter = trio.CapacityLimiter(1 if in_memory else CONNECTIONS)
        self._writers = self._limiter if in_memory else trio.CapacityLimiter(WRITERS)
        if self.is_sqlite:
            pool: dict[str, Any] = {"poolclass": StaticPool} if in_memory else _POOL
            self.engine = create_engine(
                self.url,
                connect_args={"timeout": STATEMENT_SECONDS, "check_same_thread": False},
                hide_parameters=True,  # no exception's text contains a user's text
                **pool,
            )
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = create_engine(
                self.url, connect_args=_arguments(self.url), hide_parameters=True, **_POOL
            )
        self._reading = self.engine.execution_options(
            **({_IS_READ: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"})
        )

    @property
    def name(self) -> str:
        """The URL without its options, which may contain a password, and without the password."""
        return self.url.set(query={}).render_as_string(hide_password=True)

    async def read(self, work: Callable[[Connection], _T]) -> _T:
        """Return the result of `work`; if its connection is closed, try once with a new one.

        Cancelling returns at once; the thread ends with the time limit of the statement.

        Raises:
            StoreUnavailable: If the database does not answer.
        """

        def unit() -> _T:
            with self._reading.connect() as connection:
                return work(connection)

        def twice() -> _T:
            try:
                return unit()
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return unit()

        try:
            return await self._in_thread(twice, self._limiter)
        except (IntegrityError, DataError) as error:
            raise StoreUnavailable(reason(error)) from error
        except DatabaseUnusable as error:
            raise StoreUnavailable(str(error)) from error

    async def find(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the driver's own SQL; otherwise as `read`."""
        return await self.read(partial(_find, sql=sql, values=values))

    async def write(self, work: Callable[[Connection], _T]) -> _T:
        """Run `work` in one transaction; return its result once the transaction is committed.

        After an error or a cancellation, the transaction may be committed all the same.

        Raises:
            StoreUnavailable: If the database does not answer.
            DatabaseUnusable: If the file is not a database.
            IntegrityError: If a constraint rejects it.
            DataError: If a value is out of range for its column.
        """

        def unit() -> _T:
            with self.engine.begin() as connection:
                return work(connection)

        return await self._in_thread(unit, self._writers)

    def close(self) -> None:
        """Close all idle connections, and every other one when it is returned to the pool."""
        pool = self.engine.pool
        self.engine.dispose()
        event.listen(pool, "checkin", lambda _, entry: entry.close())
        pool.dispose()  # connections that were returned in between

    async def _in_thread(self, unit: Callable[[], _T], limiter: trio.CapacityLimiter) -> _T:
        try:
            return await trio.to_thread.run_sync(unit, abandon_on_cancel=True, limiter=limiter)
        except (IntegrityError, DataError):
            raise
        except SQLAlchemyError as error:
            if self.is_sqlite and _NOT_A_DATABASE in reason(error):
                text = f"{self.url.database} is not an SQLite database"
                raise DatabaseUnusable(f"DATABASE_URL: {text}; use another file") from None
            raise StoreUnavailable(reason(error)) from error


def _find(connection: Connection, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """Query without SQLAlchemy, and again with it after an error, which it classifies."""
    try:
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())
    except connection.dialect.loaded_dbapi.Error:
        return [tuple(row) for row in connection.exec_driver_sql(sql, values)]


def is_in_memory(url: str) -> bool:
    """Whether the database is in this process's memory."""
    return make_url(url).get_backend_name() == "sqlite" and database_file(url) is None


def database_file(url: str) -> Path | None:
    """Return the path of an SQLite database; None for any other, and for one in memory."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
        return None
    return Path(str(parsed.database))


def reason(error: Exception) -> str:
    """Return in one line why the database failed, without any value that it was given."""
    if not isinstance(error, SQLAlchemyError):
        return type(error).__name__
    own = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    first = str(own).strip().partition("\n")[0]
    return f"{type(own).__name__}: {first}"[:300]


_POOL: dict[str, Any] = {
    "poolclass": QueuePool,
    "pool_size": CONNECTIONS + WRITERS,
    "max_overflow": 0,
    "pool_timeout": CONNECT_SECONDS,
    "pool_use_lifo": True,
}


def _normal(url: URL) -> URL:
    """Return the URL with the driver's name."""
    return url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg")


def _arguments(url: URL) -> dict[str, Any]:
    """Return the connection parameters of PostgreSQL that the URL does not set."""
    own = {"connect_timeout": CONNECT_SECONDS, "application_name": "netra_trio", **_KEEPALIVE}
    kept = {name: value for name, value in own.items() if name not in url.query}
    # The options of the URL come last, and take precedence.
    kept["options"] = f"{_LIMITS} {url.query.get('options', '')}".strip()
    return kept


def _check_file(file: Path) -> None:
    if sqlite3.sqlite_version_info < SQLITE_OLDEST:
        oldest = ".".join(map(str, SQLITE_OLDEST))
        text = f"SQLite {sqlite3.sqlite_version} is too old, expected {oldest} or later"
        raise DatabaseUnusable(f"DATABASE_URL: {text}; use postgresql://, or a newer Python")
    if not file.parent.is_dir():
        text = f"{file} cannot be opened, because its folder does not exist"
        raise DatabaseUnusable(f"DATABASE_URL: {text}; create {file.parent}, or use another path")
    # Conversations are private. SQLite gives the files that it adds the mode of the database.
    try:
        file.touch(mode=0o600)
    except OSError as error:
        text = f"{file} cannot be written ({error.strerror}); permit it, or use another path"
        raise DatabaseUnusable(f"DATABASE_URL: {text}") from error
    if file.is_dir():
        raise DatabaseUnusable(f"DATABASE_URL: {file} is a folder; use a file in it")


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins transactions, not the driver
    for pragma in (
        "journal_mode=WAL",  # readers do not wait for the writer
        "synchronous=FULL",  # a committed transaction survives a loss of power
        "foreign_keys=ON",
        "temp_store=MEMORY",  # else each batch creates a file for its statement journal
        "cache_size=-8192",  # KiB, four times the default
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads before it writes cannot wait for another writer: it would fail.
    is_read = connection.get_execution_options().get(_IS_READ)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")
