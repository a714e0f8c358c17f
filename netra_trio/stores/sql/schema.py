"""The tables of the database: users, threads, messages, runs, owners.

The migrations bring a database here; a test compares what they make with what is written here.

    users     who may come in
    threads   one row for each thread of a user
    messages  what users and agents said, numbered in the order in which it was recorded
    runs      one row for each user's message: its key, its run and how that ended
    owners    the processes that may have runs at work, with their leases
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

REVISIONS = ("0001", "0002")
"""The migrations in their order; the last one makes what is written here."""

NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts only INTEGER keys itself

# PostgreSQL's text cannot hold U+0000, and SQLite's own functions end at it. It is written as two
# characters, and so is the mark that says so: a text comes back as it was, and stays readable.
_MARK, _ZERO = "\x1a", "\x00"


def exact(text: str) -> str:
    """Return a text as the database holds it."""
    if _ZERO not in text and _MARK not in text:
        return str(text)  # no subclass: a driver may not know it
    return text.replace(_MARK, _MARK + "1").replace(_ZERO, _MARK + "0")


class ExactText(TypeDecorator[str]):
    """A text that comes back as it was, with every character that Unicode has."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002
        """Return what the database holds."""
        return None if value is None else exact(value)

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002
        """Return what was written."""
        if value is None or _MARK not in value:
            return value
        return value.replace(_MARK + "0", _ZERO).replace(_MARK + "1", _MARK)


metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("user_id", ExactText, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
)

threads = Table(
    "threads",
    metadata,
    Column("number", NUMBER, primary_key=True),
    # No foreign key: an anonymous user has threads and no row.
    Column("user_id", ExactText, nullable=False),
    Column("thread_id", ExactText, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("user_id", "thread_id", name="threads_of_user"),
    sqlite_autoincrement=True,  # a number that was somebody's is never another's
)

messages = Table(
    "messages",
    metadata,
    Column("number", NUMBER, primary_key=True),
    Column("thread", NUMBER, ForeignKey("threads.number", ondelete="CASCADE"), nullable=False),
    Column("message_id", ExactText, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", ExactText, nullable=False),
    Column("bytes", Integer, nullable=False),  # of the content, to measure a page by
    Column("truncated", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("message_id", name="messages_by_id"),
    Index("messages_of_thread", "thread", "number"),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    Column(
        "message",
        NUMBER,
        ForeignKey("messages.number", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("run_id", ExactText, nullable=False),
    Column("user_id", ExactText, nullable=False),
    Column("correlation_id", ExactText, nullable=False),
    Column("keyed", Boolean, nullable=False),  # whether the correlation id came from the client
    Column("fingerprint", LargeBinary, nullable=False),
    Column("agent_name", ExactText, nullable=False),
    Column("status", Text, nullable=False),
    Column("completed", LargeBinary),  # the payload of its agent_completed, as it was sent
    Column("owner", Text),  # the process that has it at work; NULL once it has told its end
    UniqueConstraint("run_id", name="runs_by_id"),
    Index(
        "runs_by_key",
        "user_id",
        "correlation_id",
        unique=True,
        sqlite_where=text("keyed"),
        postgresql_where=text("keyed"),
    ),
    Index(
        "runs_unfinished",
        "owner",
        sqlite_where=text("status IN ('queued', 'running')"),
        postgresql_where=text("status IN ('queued', 'running')"),
    ),
)

owners = Table(
    "owners",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("machine", Text, nullable=False),  # where its process number means something
    Column("process", Text, nullable=False),  # its number and when it began
    Column("lease_until", Double, nullable=False),  # Unix seconds on the database's clock
)
