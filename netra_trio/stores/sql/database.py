"""A database: its connections, and the worker threads that use them.

    database = Database("sqlite:///netra.db")
    rows = await database.read(lambda connection: connection.execute(query).all())

A unit of work is a short function of a connection, run in a worker thread. There are as many
threads as connections: a call waits for a thread, which can be cancelled, and never inside a thread
for a connection, which cannot.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import trio
from sqlalchemy import URL, Connection, ExceptionContext, create_engine, event, make_url
from sqlalchemy.pool import QueuePool, StaticPool

from netra_trio.errors import DatabaseUnusable, NotStorable, StoreUnavailable
from netra_trio.stores.search import Matcher
from netra_trio.stores.sql.errors import (
    BELONGS_TO_DATABASE,
    NEEDS_NEW_CONNECTION,
    AnswerLost,
    Fault,
    fault_of,
    reason,
)
from netra_trio.stores.sql.schema import SEARCH, as_written

_T = TypeVar("_T")

CONNECTIONS = 8  # for reads: far more than two cores keep busy
WRITERS = 2  # besides, for writes: many reads must not delay them
STATEMENT_SECONDS = 2  # for one statement; a second less than `TimeoutStore` waits for an answer
CONNECT_SECONDS = 3  # for libpq, to reach a server
AGE_SECONDS = 300  # of a connection, so that a changed DNS name or address takes effect
RETRY_PAUSES = (0.01, 0.1)  # seconds before each further attempt after a rollback
RETRY_WITHIN = 1.0  # seconds from the first attempt; callers wait 2 to 3 s for an answer
SQLITE_OLDEST = (3, 35)  # the first with DROP COLUMN, which a downgrade of the schema needs

_ARGUMENTS: dict[str, Any] = {  # of libpq; the URL takes precedence
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "netra_trio",
    # A connection whose server vanished is closed within half a minute; until then, a thread waits.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_LIMITS = {
    "lock_timeout": f"{STATEMENT_SECONDS}s",
    "idle_in_transaction_session_timeout": "60s",
    # Reads are statements without a transaction, which have the session's level.
    "default_transaction_isolation": "read committed",
}

_IS_READ = "netra_read"  # an execution option of connections that only read


class Database:
    """A pool of connections, and as many worker threads.

    Args:
        url: `sqlite://`, `sqlite:///path` or `postgresql://…`.
        statement_seconds: After this time PostgreSQL cancels a statement, unless the URL sets
            another limit. SQLite has no such limit.

    Attributes:
        is_in_memory: Whether it is in this process's memory.

    Raises:
        DatabaseUnusable: If it can never work: the folder of an SQLite file is missing, or the URL
            has an unknown option.
    """

    def __init__(self, url: str, *, statement_seconds: int = STATEMENT_SECONDS) -> None:
        self.url = _normal(make_url(url))
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.is_in_memory = is_in_memory(url)
        file = database_file(url)
        if self.is_sqlite:
            _check_options(self.url)
        if file is not None:
            _check_file(file)
        self._limiter = trio.CapacityLimiter(1 if self.is_in_memory else CONNECTIONS)
        self._writers = self._limiter if self.is_in_memory else trio.CapacityLimiter(WRITERS)
        if self.is_sqlite:
            pool: dict[str, Any] = {"poolclass": StaticPool} if self.is_in_memory else _POOL
            self.engine = create_engine(
                self.url,
                connect_args={"timeout": STATEMENT_SECONDS, "check_same_thread": False},
                hide_parameters=True,  # no exception's text contains a user's text
                **pool,
            )
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            # Imported only when needed: a start with SQLite does not load psycopg.
            from netra_trio.stores.sql.postgresql import Connector  # noqa: PLC0415

            limits = {**_LIMITS, "statement_timeout": f"{statement_seconds}s"}
            connector = Connector(self.url, _arguments(self.url), limits)
            self.engine = create_engine(
                self.url,
                creator=connector.connect,
                hide_parameters=True,
                isolation_level="READ COMMITTED",
                pool_recycle=AGE_SECONDS,
                **_POOL,
            )
            # It runs before SQLAlchemy's own listener, whose queries fail with some encodings.
            event.listen(self.engine, "connect", _check_encoding, insert=True)
        event.listen(self.engine, "handle_error", _replace_connections)
        self._is_closed = False
        event.listen(self.engine, "checkin", self._discard)
        self._reading = self.engine.execution_options(
            **({_IS_READ: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"})
        )

    @property
    def name(self) -> str:
        """The URL without its options, which may contain a password, and without the password."""
        return self.url.set(query={}).render_as_string(hide_password=True)

    async def read(self, work: Callable[[Connection], _T]) -> _T:
        """Return the result of `work`, which is attempted again after some failures.

        It is attempted again if its connection has ended, with a new one, and if the failure was
        transient. Cancelling returns at once; the thread ends with the time limit of the statement.

        Raises:
            StoreUnavailable: If the database does not answer.
        """

        def unit() -> _T:
            with self._reading.connect() as connection:
                return work(connection)

        try:
            return await self._in_thread(unit, self._limiter)
        except DatabaseUnusable as error:
            raise StoreUnavailable(str(error)) from error
        except Exception as error:
            if fault_of(error) is Fault.OTHER:
                raise
            raise StoreUnavailable(reason(error)) from error

    async def find(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """Return the rows of a query in the driver's own SQL; otherwise as `read`."""
        return await self.read(partial(_find, sql=sql, values=values))

    async def write(self, work: Callable[[Connection], _T]) -> _T:
        """Run `work` in one transaction; return its result once the transaction is committed.

        It is attempted again, as a read is, if the failed transaction is certainly not committed.
        After another error or a cancellation, the transaction may be committed all the same.

        Raises:
            AnswerLost: If the connection ended during the commit; a `StoreUnavailable`.
            StoreUnavailable: If the database does not answer.
            DatabaseUnusable: If it can never work: the file is not a database, the encoding cannot
                hold every text.
            Exception: What `work` raised, if another attempt of the same work is useless: a
                constraint rejects it, a value cannot be stored. `fault_of` tells which.
        """

        def unit() -> _T:
            with self.engine.connect() as connection, connection.begin() as transaction:
                done = work(connection)
                try:
                    transaction.commit()
                except Exception as error:
                    if fault_of(error) is Fault.GONE:
                        raise AnswerLost(reason(error)) from error
                    raise
            return done

        return await self._in_thread(unit, self._writers)

    async def write_repeatable(self, work: Callable[[Connection], _T]) -> _T:
        """As `write`, for work that may be executed twice.

        It is executed again after a conflict, and if the connection ended during the commit.

        Raises:
            StoreUnavailable: If the database does not answer, or there was another conflict.
            DatabaseUnusable: If it can never work.
            NotStorable: If a constraint rejects the work, or a value cannot be stored.
        """
        try:
            try:
                return await self.write(work)
            except AnswerLost:
                return await self.write(work)
            except Exception as error:
                if fault_of(error) is not Fault.CONFLICT:
                    raise
            return await self.write(work)
        except Exception as error:
            fault = fault_of(error)
            if fault is Fault.NEVER:
                raise NotStorable(reason(error)) from error
            if fault is Fault.CONFLICT:
                raise StoreUnavailable(reason(error)) from error
            raise

    async def rehearse(self, work: Callable[[Connection], _T]) -> _T:
        """Run `work` in a transaction that is rolled back; otherwise as `write`."""

        def unit() -> _T:
            with self.engine.connect() as connection, connection.begin() as transaction:
                done = work(connection)
                transaction.rollback()
            return done

        return await self._in_thread(unit, self._writers)

    def close(self) -> None:
        """Close all idle connections, and every other one when it is returned to the pool."""
        self._is_closed = True
        pool = self.engine.pool
        self.engine.dispose()
        pool.dispose()  # connections that were returned in between

    def _discard(self, _: object, entry: Any) -> None:
        # The thread of a cancelled call may connect after `close`.
        if self._is_closed:
            entry.close()

    async def _in_thread(self, unit: Callable[[], _T], limiter: trio.CapacityLimiter) -> _T:
        self._is_closed = False
        attempts = partial(_attempt, unit)
        try:
            return await trio.to_thread.run_sync(attempts, abandon_on_cancel=True, limiter=limiter)
        except Exception as error:
            fault = fault_of(error)
            if fault is Fault.UNUSABLE:
                text = f"{self.url.database} is not an SQLite database"
                raise DatabaseUnusable(f"DATABASE_URL: {text}; use another file") from None
            if fault in BELONGS_TO_DATABASE:
                raise StoreUnavailable(reason(error)) from error
            raise


def _attempt(unit: Callable[[], _T]) -> _T:
    """Run a unit of work until it succeeds or another attempt is useless."""
    began = time.monotonic()
    pauses = iter(RETRY_PAUSES)
    may_reconnect = True
    while True:
        try:
            return unit()
        except Exception as error:
            fault = fault_of(error)
            if fault in NEEDS_NEW_CONNECTION and may_reconnect:
                may_reconnect = False
                continue
            pause = next(pauses, None)
            if (
                fault is not Fault.TRANSIENT
                or pause is None
                or time.monotonic() - began > RETRY_WITHIN
            ):
                raise
        time.sleep(pause)


def _find(connection: Connection, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    """Query without SQLAlchemy, and again with it after an error, which it classifies."""
    try:
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())
    except connection.dialect.loaded_dbapi.Error:
        with suppress(connection.dialect.loaded_dbapi.Error):
            connection.connection.rollback()  # through a pooler, it is in a transaction
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
    """Return the connection parameters of PostgreSQL, unless the URL sets them."""
    if _has_several_hosts(url):
        return {**_ARGUMENTS, "target_session_attrs": "read-write"}  # the primary at present
    return _ARGUMENTS


def _check_options(url: URL) -> None:
    if url.query:
        text = "the URL of an SQLite database has no options"
        raise DatabaseUnusable(f"DATABASE_URL: {text}; remove the question mark and what follows")


def _has_several_hosts(url: URL) -> bool:
    hosts = url.query.get("host") or url.host or ""
    return not isinstance(hosts, str) or "," in hosts


def _check_encoding(connection: Any, _: object) -> None:
    """Reject a database that cannot hold every text, when a connection to it is made."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.close()
        raise DatabaseUnusable(
            f"DATABASE_URL: the database has the encoding {encoding}, which cannot hold every "
            "text; use one that was made with: createdb --encoding=UTF8 --template=template0"
        )


def _replace_connections(context: ExceptionContext) -> None:
    """Replace all connections of the pool after a failure that a new connection may cure.

    SQLAlchemy does so only if the driver finds the connection closed. A standby keeps it open.
    """
    if fault_of(context.original_exception) in NEEDS_NEW_CONNECTION:
        context.is_disconnect = True


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
        # KiB, for each connection. 8 MiB doubled the memory of the process and was not faster:
        # the operating system caches the file for all connections.
        "cache_size=-1024",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    connection.create_function(SEARCH, 2, _contains, deterministic=True)


def _contains(stored: str, query: str) -> bool:
    return _matcher(query).matches(as_written(stored))


_matcher = lru_cache(maxsize=16)(Matcher)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads before it writes cannot wait for another writer: it would fail.
    is_read = connection.get_execution_options().get(_IS_READ)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")
