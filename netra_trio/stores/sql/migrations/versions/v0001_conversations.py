"""Creates users, threads, messages and runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "threads",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("thread_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("user_id", "thread_id", name="threads_of_user"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "messages",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column(
            "thread", _NUMBER, sa.ForeignKey("threads.number", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("truncated", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("message_id", name="messages_by_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("messages_of_thread", "messages", ["thread", "number"])
    op.create_table(
        "runs",
        sa.Column(
            "message",
            _NUMBER,
            sa.ForeignKey("messages.number", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("keyed", sa.Boolean, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("agent_name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("completed", sa.LargeBinary),
        sa.UniqueConstraint("run_id", name="runs_by_id"),
    )
    op.create_index(
        "runs_by_key",
        "runs",
        ["user_id", "correlation_id"],
        unique=True,
        sqlite_where=sa.text("keyed"),
        postgresql_where=sa.text("keyed"),
    )


def downgrade() -> None:
    """Drop the tables with their rows."""
    for table in ("runs", "messages", "threads", "users"):
        op.drop_table(table)
