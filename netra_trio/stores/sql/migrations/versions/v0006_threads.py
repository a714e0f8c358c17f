"""Adds the list of threads, the positions of answers, deleted keys, notifications and stops."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.rooms import thread_room
from netra_trio.stores.sql.schema import ExactText
from netra_trio.stores.threads import auto_title

revision = "0006"
down_revision = "0005"

CHUNK = 1000  # threads that are read at a time

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_UNFINISHED = "status IN ('queued', 'running')"
_BEGINNING = 1000  # characters of a message, from which its title is made

# The question of an old answer is unknown: the answer keeps its position by its own number. All
# existing messages count as read.
_PLACES = "UPDATE messages SET place = number"
_EMPTY = (
    "DELETE FROM threads WHERE NOT EXISTS (SELECT 1 FROM messages WHERE thread = threads.number)"
)
_MARKS = (
    "UPDATE threads SET updated_at = (SELECT max(created_at) FROM messages WHERE thread = "
    "threads.number), read_mark = (SELECT max(number) FROM messages WHERE thread = threads.number)"
)

_threads = sa.table(
    "threads",
    sa.column("number", _NUMBER),
    sa.column("user_id", ExactText),
    sa.column("thread_id", ExactText),
    sa.column("room", sa.Text),
    sa.column("title", ExactText),
)
_messages = sa.table(
    "messages",
    sa.column("number", _NUMBER),
    sa.column("thread", _NUMBER),
    sa.column("content", ExactText),
)
_first = (
    sa.select(sa.func.min(_messages.c.number))
    .where(_messages.c.thread == _threads.c.number)
    .correlate(_threads)
    .scalar_subquery()
)
_content = sa.type_coerce(sa.func.substr(_messages.c.content, 1, _BEGINNING), ExactText)
_NAMED = (
    sa.select(_threads.c.number, _threads.c.user_id, _threads.c.thread_id, _content.label("begin"))
    .join_from(_threads, _messages, _messages.c.number == _first)
    .order_by(_threads.c.number)
    .limit(CHUNK)
)
_NAME = (
    sa.update(_threads)
    .where(_threads.c.number == sa.bindparam("this"))
    .values(room=sa.bindparam("of"), title=sa.bindparam("words"))
)


def _columns() -> dict[str, tuple[sa.Column[Any], ...]]:
    """Return the new columns of each table."""
    return {
        "threads": (
            sa.Column("room", sa.Text),
            sa.Column("title", sa.Text, nullable=False, server_default=sa.text("''")),
            sa.Column("titled_by_user", sa.Boolean, nullable=False, server_default=sa.false()),
            sa.Column("updated_at", sa.Double, nullable=False, server_default="0"),
            sa.Column("read_mark", _NUMBER, nullable=False, server_default="0"),
        ),
        "messages": (
            sa.Column("place", _NUMBER, nullable=False, server_default="0"),
            sa.Column("steps", sa.LargeBinary),
            sa.Column("rating", sa.Text),
            sa.Column("comment", sa.Text),
            sa.Column("replaced_by", _NUMBER),
        ),
        "runs": (
            sa.Column("unattended", sa.Boolean, nullable=False, server_default=sa.false()),
            sa.Column("duration_ms", sa.Integer),
        ),
    }


def upgrade() -> None:
    """Add the columns, indexes and tables; set the title of each thread."""
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    for statement in (_PLACES, _EMPTY, _MARKS):
        op.execute(statement)
    _name_threads(op.get_bind())
    op.drop_index("messages_of_thread", "messages")
    op.create_index("messages_of_thread", "messages", ["thread", "place", "number"])
    op.create_index("threads_by_room", "threads", ["room"], unique=True)
    op.create_index("threads_by_update", "threads", ["user_id", "updated_at", "number"])
    op.create_index(
        "runs_of_user",
        "runs",
        ["user_id"],
        sqlite_where=sa.text(_UNFINISHED),
        postgresql_where=sa.text(_UNFINISHED),
    )
    _create_tables()


def _name_threads(connection: sa.Connection) -> None:
    """Set the room of each thread, and its title from its first message."""
    last = 0
    while rows := connection.execute(_NAMED.where(_threads.c.number > last)).all():
        last = rows[-1].number
        connection.execute(
            _NAME,
            [
                {
                    "this": row.number,
                    "of": thread_room(UserId(row.user_id), ThreadId(row.thread_id)),
                    "words": auto_title(row.begin),
                }
                for row in rows
            ],
        )


def _create_tables() -> None:
    op.create_table(
        "deleted_keys",
        sa.Column("correlation_id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("deleted_at", sa.Double, nullable=False),
    )
    op.create_index("deleted_keys_by_age", "deleted_keys", ["deleted_at"])
    op.create_table(
        "notifications",
        sa.Column("notification_id", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("thread_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text),
        sa.Column("question_id", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
    )
    op.create_index("notifications_due", "notifications", ["due_at"])
    op.create_table(
        "stops",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop the added columns and tables: replaced messages are listed again."""
    for table in ("stops", "notifications", "deleted_keys"):
        op.drop_table(table)
    op.drop_index("runs_of_user", "runs")
    op.drop_index("threads_by_update", "threads")
    op.drop_index("threads_by_room", "threads")
    op.drop_index("messages_of_thread", "messages")
    op.create_index("messages_of_thread", "messages", ["thread", "number"])
    for table, columns in _columns().items():
        for column in columns:
            op.drop_column(table, column.name)
