"""Classifies the exceptions of a unit of work, to decide whether it is attempted again.

>>> from sqlite3 import OperationalError
>>> fault_of(OperationalError("disk I/O error")).name
'UNAVAILABLE'

PostgreSQL names a failure by its SQLSTATE (PostgreSQL's manual, appendix A), SQLite by its extended
result code (https://sqlite.org/rescode.html). Texts of errors are not read: they depend on the
version and on the language of the server.
"""

import sqlite3
from collections.abc import Mapping
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from netra_trio.errors import NetraError, StoreUnavailable


class Fault(Enum):
    """A class of failures, by what the next attempt can do."""

    GONE = auto()
    """The connection has ended. Another one may work at once."""

    READ_ONLY = auto()
    """The server is read-only, as a standby is: no connection to it can write. Nothing was written.
    A new connection may reach the new primary."""

    TRANSIENT = auto()
    """The transaction was rolled back, and may succeed if it is repeated soon."""

    CONFLICT = auto()
    """Another transaction changed the same rows; read again, then retry."""

    NEVER = auto()
    """The database can never store one of the values."""

    UNUSABLE = auto()
    """The file is not an SQLite database."""

    UNAVAILABLE = auto()
    """The database or this machine cannot do the work now: an outage."""

    OTHER = auto()
    """Not a failure of the database: a program error, or an exception of this package."""


class AnswerLost(StoreUnavailable):
    """The connection ended during the commit: it is unknown whether the transaction is stored."""


class Overtaken(NetraError):
    """Another transaction has changed what this one had read: it is rolled back and repeated."""


NEEDS_NEW_CONNECTION = frozenset({Fault.GONE, Fault.READ_ONLY})
"""The faults that a new connection may cure."""

BELONGS_TO_DATABASE = frozenset(
    {Fault.GONE, Fault.READ_ONLY, Fault.TRANSIENT, Fault.UNUSABLE, Fault.UNAVAILABLE}
)
"""The faults that do not depend on what is written."""

_BY_SQLSTATE: Mapping[str, Fault] = {
    "0A000": Fault.GONE,  # a cached plan: the schema changed after the statement was prepared
    "22": Fault.NEVER,  # a value outside the column's type or the encoding
    "23": Fault.CONFLICT,
    "23502": Fault.NEVER,  # NOT NULL
    "23514": Fault.NEVER,  # CHECK
    "25006": Fault.READ_ONLY,
    "25P03": Fault.GONE,  # idle in a transaction for too long
    "25P04": Fault.GONE,  # a transaction for too long
    "40": Fault.TRANSIENT,  # serialization, deadlock, a conflict with recovery
    "40003": Fault.GONE,  # completion unknown
    "08": Fault.GONE,
    "44": Fault.NEVER,  # WITH CHECK OPTION
    "53": Fault.TRANSIENT,  # no memory, no room on the disk, no connection left
    "54": Fault.NEVER,  # larger than a row or an index can be
    "55P03": Fault.TRANSIENT,  # lock not available
    "57P01": Fault.GONE,  # the server shuts down, or an administrator ended the session
    "57P02": Fault.GONE,  # another session crashed
    "57P03": Fault.GONE,  # it starts, or recovers
    "57P04": Fault.GONE,  # the database was dropped
    "57P05": Fault.GONE,  # idle for too long
    "P0": Fault.NEVER,  # raised by a trigger
}
"""Keys: a whole SQLSTATE, or its class (the first two characters)."""

_BY_SQLITE_CODE: Mapping[int, Fault] = {
    sqlite3.SQLITE_BUSY: Fault.TRANSIENT,
    sqlite3.SQLITE_LOCKED: Fault.TRANSIENT,
    sqlite3.SQLITE_READONLY_DBMOVED: Fault.GONE,  # another file has the name
    sqlite3.SQLITE_TOOBIG: Fault.NEVER,
    sqlite3.SQLITE_CONSTRAINT: Fault.CONFLICT,
    sqlite3.SQLITE_CONSTRAINT_CHECK: Fault.NEVER,
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: Fault.NEVER,
    sqlite3.SQLITE_CONSTRAINT_TRIGGER: Fault.NEVER,
    sqlite3.SQLITE_MISMATCH: Fault.NEVER,
    sqlite3.SQLITE_NOTADB: Fault.UNUSABLE,
}
"""Keys: an extended result code, or a primary one (the lowest byte of an extended one)."""

_BY_CLASS: Mapping[str, Fault] = {
    "DataError": Fault.NEVER,  # psycopg's own check: a NUL character
    "IntegrityError": Fault.CONFLICT,
    "ProgrammingError": Fault.OTHER,  # raised by the driver before it sends anything
}
"""For a driver's error without a code, by its class; both drivers use the names of PEP 249."""

_ADVICE: Mapping[str | int, str] = {
    "25006": (
        "the server only reads, as a standby does; name the primary, or all servers, in "
        "DATABASE_URL: postgresql:///netra?host=a:5432&host=b:5432"
    ),
    "3F000": "the role has no schema; create the one that its search_path names",
    "42501": (
        "let the owner of the schema run: GRANT USAGE, CREATE ON SCHEMA public TO the role of "
        "DATABASE_URL; and if the tables exist already, make that role their owner"
    ),
    "42P07": "the tables of another program have these names; use another database",
    "53100": "make room on the disk of the database",
    sqlite3.SQLITE_CANTOPEN: "make the file and its folder writable for this user",
    sqlite3.SQLITE_FULL: "make room on the disk of the database",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable for this user",
}
"""Advice for the operator, by SQLSTATE or primary SQLite code."""


def fault_of(error: BaseException) -> Fault:
    """Return the class of a failure.

    Args:
        error: What a unit of work raised: an exception of SQLAlchemy, of a driver, or any other.
    """
    cause = _cause(error)
    found = _of_this_process(cause) or _by_code(cause)
    if found is not None:
        return found
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Fault.GONE
    if not isinstance(error, DBAPIError) and not _is_of_driver(cause):
        return Fault.OTHER
    names = [] if _has_code(cause) else [*type(error).__mro__, *type(cause).__mro__]
    found_names = (kind.__name__ for kind in names if kind.__name__ in _BY_CLASS)
    return next((_BY_CLASS[name] for name in found_names), Fault.UNAVAILABLE)


def reason(error: BaseException) -> str:
    """Return one line about the failure, without the values of the statement."""
    if not isinstance(error, SQLAlchemyError):
        return str(error) if isinstance(error, NetraError) else type(error).__name__
    own = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    first = str(own).strip().partition("\n")[0]
    return f"{type(own).__name__}: {first}"[:300]


def advice(error: BaseException | None) -> str | None:
    """Return advice for the operator about a failure; None if there is none."""
    if error is None:
        return None
    cause = _cause(error)
    return _ADVICE.get(_sqlstate(cause) or "") or _ADVICE.get((_sqlite_code(cause) or 0) & 0xFF)


def is_answer(error: BaseException | None) -> bool:
    """Whether a failure is an error that a server of PostgreSQL has sent."""
    return error is not None and _sqlstate(_cause(error)) is not None


def _cause(error: BaseException) -> BaseException:
    """Return the exception that SQLAlchemy wrapped, or the exception itself."""
    if isinstance(error, StatementError) and error.orig is not None:
        return error.orig
    return error


def _sqlstate(cause: BaseException) -> str | None:
    found: str | None = getattr(cause, "sqlstate", None)
    return found


def _sqlite_code(cause: BaseException) -> int | None:
    found: int | None = getattr(cause, "sqlite_errorcode", None)
    return found


def _has_code(cause: BaseException) -> bool:
    return _sqlstate(cause) is not None or _sqlite_code(cause) is not None


def _by_code(cause: BaseException) -> Fault | None:
    sqlstate, number = _sqlstate(cause), _sqlite_code(cause)
    if sqlstate is not None:
        return _BY_SQLSTATE.get(sqlstate) or _BY_SQLSTATE.get(sqlstate[:2])
    if number is not None:
        return _BY_SQLITE_CODE.get(number) or _BY_SQLITE_CODE.get(number & 0xFF)
    return None


def _is_of_driver(cause: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] in _DRIVERS for kind in type(cause).__mro__)


def _of_this_process(cause: BaseException) -> Fault | None:
    """Return the class of a failure in this process, which no database reported."""
    if isinstance(cause, Overtaken):
        return Fault.CONFLICT
    if isinstance(cause, UnicodeEncodeError | OverflowError):  # a driver cannot convert a value
        return Fault.NEVER
    if isinstance(cause, MemoryError | OSError | NoConnectionFree):
        return Fault.UNAVAILABLE
    is_out_of_threads = isinstance(cause, RuntimeError) and cause.args == (_NO_THREAD,)
    return Fault.UNAVAILABLE if is_out_of_threads else None


_NO_THREAD = "can't start new thread"  # Python's text; the exception has no class of its own
_DRIVERS = frozenset({"psycopg", "sqlite3"})
