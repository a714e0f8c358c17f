"""Connections to PostgreSQL, directly or through a pooler such as PgBouncer.

    connector = Connector(url, {"connect_timeout": 3}, {"statement_timeout": "2s"})
    engine = create_engine(url, creator=connector.connect)

A direct connection gets its limits as start-up options, which costs no statement. A pooler refuses
or ignores these options, and may serve each transaction from another session of the server. So a
connection through a pooler sets its limits in each transaction, and prepares no statements.
A pooler is detected without a setting: it reports another process id to its clients than that of
the server's session.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any, Self, cast

import psycopg
from psycopg import pq
from psycopg.abc import Params
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from sqlalchemy import URL
from sqlalchemy.exc import ArgumentError

from netra_trio.errors import DatabaseUnusable

SIMILARITY = 0.75  # of an unknown option to the one that is suggested

_INTEGERS = (  # libpq reads them only when it connects
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
_NOWHERE = "/dev/null"  # a host that is not a folder, so libpq finds no socket in it
_NOT_FOUND = "connection to server on socket"  # libpq's error then begins with this

_SPACE = r"\ "  # within one of libpq's options

_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED; "
_REFUSED = re.compile(r"unsupported startup parameter|command-line options")
_NO_TRANSACTIONS = "statement pooling mode"


class Connector:
    """Opens connections to one database; may be used by several threads.

    Args:
        url: The database. Its options are libpq's, and take precedence over the other arguments.
        parameters: libpq's parameters for what the URL does not set.
        limits: Settings of the server for every transaction, such as `statement_timeout`.

    Raises:
        DatabaseUnusable: If an option of the URL is unknown, or its value impossible.
    """

    def __init__(self, url: URL, parameters: Mapping[str, Any], limits: Mapping[str, str]) -> None:
        _check_names(url)
        given = _parameters_of(url)
        self._options = str(given.pop("options", ""))
        # It overrides the URL and PGCLIENTENCODING, because texts have any Unicode characters.
        self._parameters = {**parameters, **given, "client_encoding": "utf8"}
        _check_values(self._parameters)
        self._limits = {name: value for name, value in limits.items() if name not in self._options}
        self._are_refused = False  # whether the limits were refused as start-up options

    def connect(self) -> "psycopg.Connection[TupleRow]":
        """Return a new connection, whose transactions have the limits.

        Raises:
            psycopg.Error: If the server cannot be reached, or refuses the connection.
            DatabaseUnusable: If a pooler is configured so that it can never work.
        """
        if not self._are_refused:
            limits = [
                f"-c {name}={value.replace(' ', _SPACE)}" for name, value in self._limits.items()
            ]
            try:
                # The options of the URL come last, and take precedence.
                return self._open(" ".join([*limits, self._options]))
            except psycopg.OperationalError as error:
                if not _REFUSED.search(str(error)):
                    raise
        try:
            connection = self._open(self._options)
        except psycopg.OperationalError as error:
            if self._options and _REFUSED.search(str(error)):
                raise DatabaseUnusable(
                    "DATABASE_URL: the connection pooler refuses the option options; "
                    "remove it, and use ALTER ROLE … SET"
                ) from None
            raise
        self._are_refused = True
        return connection

    def _open(self, options: str) -> "_Connection":
        given: dict[str, Any] = {"options": options} if options else {}
        connection = _Connection.connect(**self._parameters, **given, autocommit=True)
        try:
            if not _is_direct(connection):
                _limit_transactions(connection, self._limits)
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection


class _Connection(psycopg.Connection[TupleRow]):
    """A connection.

    Attributes:
        limits: The statements that set the limits in a transaction; used through a pooler only.
    """

    limits = b""


class _LimitedCursor(psycopg.Cursor[TupleRow]):
    """A cursor that sets the limits at the beginning of each transaction.

    Reads have a transaction too: a pooler may serve each statement outside of one from another
    session.
    """

    def execute(
        self,
        query: Any,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Execute a statement."""
        self._begin()
        return super().execute(query, params, prepare=prepare, binary=binary)

    def executemany(self, query: Any, params_seq: Any, *, returning: bool = False) -> None:
        """Execute a statement for each of some parameters."""
        self._begin()
        super().executemany(query, params_seq, returning=returning)

    def _begin(self) -> None:
        connection = self.connection
        if connection.info.transaction_status == pq.TransactionStatus.IDLE:
            # Otherwise psycopg begins the transaction.
            begin = _BEGIN if connection.autocommit else b""
            super().execute(begin + cast("_Connection", connection).limits)


def _is_direct(connection: _Connection) -> bool:
    """Return whether the server itself answers, in one round trip."""
    ((process,),) = connection.execute("SELECT pg_backend_pid()").fetchall()
    return bool(process == connection.info.backend_pid)


def _limit_transactions(connection: _Connection, limits: Mapping[str, str]) -> None:
    """Set the limits in each transaction from now on.

    Raises:
        DatabaseUnusable: If the pooler allows no transactions.
    """
    statements = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in limits.items())
    connection.limits = statements.encode()
    connection.prepare_threshold = None
    connection.cursor_factory = _LimitedCursor
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error as error:
        if _NO_TRANSACTIONS not in str(error):
            raise
        raise DatabaseUnusable(
            "DATABASE_URL: the connection pooler allows no transactions; "
            "set its pool_mode to transaction or session"
        ) from None


def _check_names(url: URL) -> None:
    """Check that all options of a URL are options of libpq, each given once.

    Raises:
        DatabaseUnusable: If one is not.
    """
    known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    for name, value in url.query.items():
        # Part of a password that is not percent-encoded may be parsed as a name: do not show it.
        shown = f"option {name}" if re.fullmatch("[A-Za-z_]{1,40}", name) else "such option"
        if name not in known:
            close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=SIMILARITY)
            hint = f"did you mean {close[0]}?" if close else "remove it"
            if re.search("prepare|bouncer|statement", name):
                hint = "remove it: a connection pooler needs none"
            raise DatabaseUnusable(f"DATABASE_URL: PostgreSQL's URLs have no {shown}; {hint}")
        if not isinstance(value, str) and name not in {"host", "port"}:
            raise DatabaseUnusable(f"DATABASE_URL: got {shown} more than once; leave one")


def _parameters_of(url: URL) -> dict[str, Any]:
    """Return libpq's parameters of a URL.

    Raises:
        DatabaseUnusable: If its hosts and ports do not fit.
    """
    try:
        _, parameters = url.get_dialect()().create_connect_args(url)
    except (ArgumentError, ValueError) as error:
        raise DatabaseUnusable(f"DATABASE_URL: {_line(str(error))}; correct it") from None
    return dict(parameters)


def _check_values(parameters: Mapping[str, Any]) -> None:
    """Check the values of parameters, without connecting.

    Raises:
        DatabaseUnusable: If libpq rejects one.
    """
    for name in _INTEGERS:
        value = str(parameters.get(name, 0))
        if not re.fullmatch(r"\s*[+-]?\d{1,9}\s*", value):
            raise DatabaseUnusable(
                f"DATABASE_URL: invalid {name} value: {value[:40]!a}; use a whole number"
            )
    hosts = str(parameters.get("host", "")).count(",") + 1
    local = {**parameters, "host": ",".join([_NOWHERE] * hosts), "hostaddr": None}
    if local.get("gssencmode") == "require":  # valid, but it fails without a server
        del local["gssencmode"]
    try:
        attempt = pq.PGconn.connect_start(make_conninfo(**local).encode())
    except psycopg.Error as error:
        text = str(error)
    else:
        text = attempt.get_error_message()
        attempt.finish()
        if text.startswith(_NOT_FOUND):
            return
    raise DatabaseUnusable(f"DATABASE_URL: {_line(text)}; correct it")


def _line(text: str) -> str:
    return text.strip().partition("\n")[0]
