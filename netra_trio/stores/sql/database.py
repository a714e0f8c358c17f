"""A database: its connections, and the worker threads in which they are used.

    database = Database("sqlite:///netra.db")
    rows = await database.read(lambda connection: connection.execute(query).all())

A unit of work is a plain function of a connection. It is short: it takes a connection, does one
thing, and gives the connection back. There are as many threads as connections, so that nobody
waits inside a thread for a connection, where no cancellation reaches.
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

CONNECTIONS = 8  # for questions: far more than two cores keep busy
WRITERS = 2  # for what is written, besides: a crowd of questions must not hold that up
STATEMENT_SECONDS = 2  # for one statement; a second less than the hub waits for an answer
CONNECT_SECONDS = 3  # to reach a server, from libpq's point of view
SQLITE_OLDEST = (3, 35)  # the first that tells what it inserted (RETURNING)

# A server that vanished without a word is given up within half a minute: it would hold a thread.
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

_NO_DATABASE = "file is not a database"  # SQLite's own words for SQLITE_NOTADB

_IS_READ = "netra_read"  # marks a connection whose transaction only reads


class Database:
    """A pool of connections and as many threads to use them in.

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
                hide_parameters=True,  # what users say is in no exception's text
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
        """What it is and where, without a password, which may stand in its options as well."""
        return self.url.set(query={}).render_as_string(hide_password=True)

    async def read(self, work: Callable[[Connection], _T]) -> _T:
        """Return what `work` finds; a connection that turns out to be dead is replaced once.

        Cancelling leaves the thread to itself: it ends by the statement's time limit.

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
        """Return the rows of one question in the driver's own SQL; otherwise as `read`."""
        return await self.read(partial(_find, sql=sql, values=values))

    async def write(self, work: Callable[[Connection], _T]) -> _T:
        """Do `work` in one transaction and return what it returns, once that is committed.

        After an error, or when it was cancelled, it may be committed all the same.

        Raises:
            StoreUnavailable: If the database does not answer.
            DatabaseUnusable: If the file is no database.
            IntegrityError: If a constraint is against it.
            DataError: If a value is.
        """

        def unit() -> _T:
            with self.engine.begin() as connection:
                return work(connection)

        return await self._in_thread(unit, self._writers)

    def close(self) -> None:
        """Close what nobody uses; the other connections are closed when they are given back."""
        pool = self.engine.pool
        self.engine.dispose()
        event.listen(pool, "checkin", lambda _, entry: entry.close())
        pool.dispose()  # of those that were given back in between

    async def _in_thread(self, unit: Callable[[], _T], limiter: trio.CapacityLimiter) -> _T:
        try:
            return await trio.to_thread.run_sync(unit, abandon_on_cancel=True, limiter=limiter)
        except (IntegrityError, DataError):
            raise
        except SQLAlchemyError as error:
            if self.is_sqlite and _NO_DATABASE in reason(error):
                text = (
                    f"{self.url.database} is a file of something else, expected an SQLite database"
                )
                raise DatabaseUnusable(f"DATABASE_URL: {text}; name another file") from None
            raise StoreUnavailable(reason(error)) from error


def _find(connection: Connection, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """Ask past SQLAlchemy, and once more through it where that fails: it knows each fault."""
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
    """Return where an SQLite database is; None for any other, and for one in memory."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
        return None
    return Path(str(parsed.database))


def reason(error: Exception) -> str:
    """Return in a line why the database did not do it; never a value that it was given."""
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
    """Return the URL with the driver that is used."""
    return url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg")


def _arguments(url: URL) -> dict[str, Any]:
    """Return what a connection to PostgreSQL is made with, unless the URL says otherwise."""
    own = {"connect_timeout": CONNECT_SECONDS, "application_name": "netra_trio", **_KEEPALIVE}
    kept = {name: value for name, value in own.items() if name not in url.query}
    # The URL's come last and win.
    kept["options"] = f"{_LIMITS} {url.query.get('options', '')}".strip()
    return kept


def _check_file(file: Path) -> None:
    if sqlite3.sqlite_version_info < SQLITE_OLDEST:
        oldest = ".".join(map(str, SQLITE_OLDEST))
        text = f"SQLite {sqlite3.sqlite_version} is too old, expected {oldest} or later"
        raise DatabaseUnusable(f"DATABASE_URL: {text}; use postgresql://, or a newer Python")
    if not file.parent.is_dir():
        text = f"{file} cannot be opened, expected a file in a folder that exists"
        raise DatabaseUnusable(f"DATABASE_URL: {text}; make {file.parent}, or name another place")
    # Conversations are nobody else's: the file, and what SQLite puts beside it, have its mode.
    try:
        file.touch(mode=0o600)
    except OSError as error:
        text = f"{file} cannot be written ({error.strerror}); permit it, or name another place"
        raise DatabaseUnusable(f"DATABASE_URL: {text}") from error
    if file.is_dir():
        raise DatabaseUnusable(f"DATABASE_URL: {file} is a folder, expected a file; name one in it")


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin below, where their kind is known
    for pragma in (
        "journal_mode=WAL",  # readers do not wait for the writer
        "synchronous=FULL",  # what is committed outlasts a loss of power
        "foreign_keys=ON",
        "temp_store=MEMORY",  # what a statement would undo is not worth a file for each batch
        "cache_size=-8192",  # KiB, four times the default: an index grows everywhere at once
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes then cannot wait for another writer: it fails.
    is_read = connection.get_execution_options().get(_IS_READ)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")
