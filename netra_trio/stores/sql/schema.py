"""The tables of the database: users and their changes, threads, messages, runs, owners, and more.

The migrations create them; a test compares the result with these definitions.

    users     the users that may connect
    threads   the threads of each user
    messages  the messages of users and agents, numbered in the order in which they were recorded
    runs      one row for each user's message: its key, its run and how that ended
    owners    the leases of the processes that have runs at work
    questions the questions of runs, and how each was closed
    usage     what runs have used of models
    user_changes  the users that were enabled or disabled in the last hour
    deleted_keys  the keys of deleted threads, for a day
    notifications the notifications that wait to be sent
    files     the files of users, without their content
    message_files  which messages name them
    stops     the runs whose stop was requested in the last hour
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
    false,
    text,
)

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
"""The migrations in their order; the last one results in the tables below."""

NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys itself

SEARCH = "netra_contains"
"""The name of SQLite's function that searches a stored text for another one, in any case."""

# PostgreSQL's text cannot contain U+0000, and SQLite's own functions stop at it. It is escaped with
# U+001A, which is escaped itself: every text is read as it was written, and most stay readable.
_MARK, _ZERO = "\x1a", "\x00"


def as_written(stored: str) -> str:
    """Return a text of the database as it was written."""
    if _MARK not in stored:
        return stored
    return stored.replace(_MARK + "0", _ZERO).replace(_MARK + "1", _MARK)


def exact(text: str) -> str:
    """Return a text as it is stored in the database."""
    if _ZERO not in text and _MARK not in text:
        return str(text)  # not a subclass: the driver may not support it
    return text.replace(_MARK, _MARK + "1").replace(_ZERO, _MARK + "0")


class ExactText(TypeDecorator[str]):
    """A text of any Unicode characters, read exactly as it was written."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002
        """Return the text as it is stored."""
        return None if value is None else exact(value)

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002
        """Return the text as it was written."""
        return None if value is None else as_written(value)


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
    # No foreign key: an anonymous user has threads, but no row in `users`.
    Column("user_id", ExactText, nullable=False),
    Column("thread_id", ExactText, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("room", Text),  # the name of its room
    Column("title", ExactText, nullable=False, server_default=text("''")),
    Column("titled_by_user", Boolean, nullable=False, server_default=false()),
    Column("updated_at", Double, nullable=False, server_default="0"),
    Column(
        "read_mark", NUMBER, nullable=False, server_default="0"
    ),  # a value of `place`: messages up to it are read
    UniqueConstraint("user_id", "thread_id", name="threads_of_user"),
    Index("threads_by_room", "room", unique=True),
    Index("threads_by_update", "user_id", "updated_at", "number"),
    sqlite_autoincrement=True,  # the number of a deleted thread is never used again
)

messages = Table(
    "messages",
    metadata,
    Column("number", NUMBER, primary_key=True),
    Column("thread", NUMBER, ForeignKey("threads.number", ondelete="CASCADE"), nullable=False),
    Column("message_id", ExactText, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", ExactText, nullable=False),
    Column("bytes", Integer, nullable=False),  # of content and steps, for the size of a page
    Column("truncated", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    # The number of the question that an answer belongs to; its own for any other message.
    Column("place", NUMBER, nullable=False, server_default="0"),
    Column("steps", LargeBinary),  # of an answer, as JSON
    Column("rating", Text),  # of an answer, with the next
    Column("comment", ExactText),
    # The number of the message that has replaced this question, and with it all its answers.
    Column("replaced_by", NUMBER),
    UniqueConstraint("message_id", name="messages_by_id"),
    Index("messages_of_thread", "thread", "place", "number"),
    Index("messages_by_age", "created_at"),  # numbers are no order of time: clocks jump
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
    Column("owner", Text),  # the lease of its node; NULL once the run has ended
    Column("session", Text),  # if another node may take that session over
    Column("unattended", Boolean, nullable=False, server_default=false()),
    Column("duration_ms", Integer),  # of a run that has ended
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
    Index(
        "runs_of_user",
        "user_id",
        sqlite_where=text("status IN ('queued', 'running')"),
        postgresql_where=text("status IN ('queued', 'running')"),
    ),
    Index(
        "runs_of_session",
        "session",
        sqlite_where=text("session IS NOT NULL AND status IN ('queued', 'running')"),
        postgresql_where=text("session IS NOT NULL AND status IN ('queued', 'running')"),
    ),
)

owners = Table(
    "owners",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("machine", Text, nullable=False),  # the namespace of its process id
    Column("process", Text, nullable=False),  # its process id and start time
    Column("lease_until", Double, nullable=False),  # Unix seconds on the database's clock
)

user_changes = Table(
    "user_changes",
    metadata,
    Column("number", NUMBER, primary_key=True),
    Column("user_id", ExactText, nullable=False),
    Column("changed_at", Double, nullable=False),  # Unix seconds on the database's clock
    sqlite_autoincrement=True,  # the number of a deleted row is never reused
)

deleted_keys = Table(
    "deleted_keys",
    metadata,
    # In this order: a batch searches its correlation ids, and mostly finds none.
    Column("correlation_id", ExactText, primary_key=True),
    Column("user_id", ExactText, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("deleted_at", Double, nullable=False),  # Unix seconds on the database's clock
    Index("deleted_keys_by_age", "deleted_at"),
)

notifications = Table(
    "notifications",
    metadata,
    Column("notification_id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("user_id", ExactText, nullable=False),
    Column("thread_id", ExactText, nullable=False),
    Column("run_id", ExactText, nullable=False),
    Column("status", Text),
    Column("question_id", ExactText),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Double, nullable=False),  # Unix seconds on the database's clock
    Column("due_at", Double, nullable=False),  # likewise; postponed while a node sends it
    Index("notifications_due", "due_at"),
)

stops = Table(
    "stops",
    metadata,
    Column("number", NUMBER, primary_key=True),
    Column("run_id", ExactText, nullable=False),
    Column("changed_at", Double, nullable=False),  # Unix seconds on the database's clock
    sqlite_autoincrement=True,  # the number of a deleted row is never reused
)

uncopied = Table(
    "uncopied",
    metadata,
    Column("session", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),  # of its first event that was sent uncopied
    Column("noted_at", Double, nullable=False),  # Unix seconds on the database's clock
)

questions = Table(
    "questions",
    metadata,
    Column("question_id", ExactText, primary_key=True),
    Column("run_id", ExactText, ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False),
    Column("user_id", ExactText, nullable=False),  # the user who may answer
    Column("kind", Text, nullable=False),
    Column("prompt", ExactText, nullable=False),
    Column("schema", LargeBinary),  # JSON, as the next two
    Column("tool_name", ExactText),
    Column("arguments", LargeBinary),
    Column("digest", LargeBinary),  # of the tool and its arguments
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("outcome", Text),  # NULL while it is open; after a crash, the status of its run counts
    Column("answer", LargeBinary),  # JSON
    Column("answered_by", ExactText),
    Index("questions_of_run", "run_id", "created_at"),
)

files = Table(
    "files",
    metadata,
    Column("file_id", ExactText, primary_key=True),
    # No foreign key: an anonymous user has files, but no row in `users`.
    Column("user_id", ExactText, nullable=False),
    Column("name", ExactText, nullable=False),
    Column("media_type", ExactText, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("state", Text, nullable=False),  # reserved, unnamed, named or deleted: files.py
    Index("files_of_user", "user_id", "state", "bytes"),
    Index(
        "files_by_age",
        "created_at",
        sqlite_where=text("state <> 'named'"),
        postgresql_where=text("state <> 'named'"),
    ),
)

message_files = Table(
    "message_files",
    metadata,
    Column(
        "message",
        NUMBER,
        ForeignKey("messages.number", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("file_id", ExactText, ForeignKey("files.file_id"), nullable=False),
    Index("messages_of_file", "file_id"),
)

usage = Table(
    "usage",
    metadata,
    Column("usage_id", ExactText, primary_key=True),
    Column("run_id", ExactText, nullable=False),  # no foreign key: usage outlives its message
    Column("user_id", ExactText, nullable=False),
    Column("agent_name", ExactText, nullable=False),
    Column("model", ExactText, nullable=False),
    Column("day", Text, nullable=False),  # 2026-11-30, in UTC
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost", Double),
    Column("created_at", Double, nullable=False),
    Index("usage_of_day", "day", "user_id", "agent_name"),
)
