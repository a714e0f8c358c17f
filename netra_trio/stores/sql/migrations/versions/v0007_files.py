"""Adds the files of users, and which messages name them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_UNNAMED = "state <> 'named'"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "files",
        sa.Column("file_id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_index("files_of_user", "files", ["user_id", "state", "bytes"])
    op.create_index(
        "files_by_age",
        "files",
        ["created_at"],
        sqlite_where=sa.text(_UNNAMED),
        postgresql_where=sa.text(_UNNAMED),
    )
    op.create_table(
        "message_files",
        sa.Column(
            "message",
            _NUMBER,
            sa.ForeignKey("messages.number", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("file_id", sa.Text, sa.ForeignKey("files.file_id"), nullable=False),
    )
    op.create_index("messages_of_file", "message_files", ["file_id"])


def downgrade() -> None:
    """Drop the tables: the content of the files stays in their storage."""
    op.drop_table("message_files")
    op.drop_table("files")
