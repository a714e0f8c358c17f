"""Adds what several nodes need: the session of a run, changes of users, uncopied events."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_OF_SESSION = "session IS NOT NULL AND status IN ('queued', 'running')"


def upgrade() -> None:
    """Add the column, its index and the tables."""
    op.add_column("runs", sa.Column("session", sa.Text))
    op.create_index(
        "runs_of_session",
        "runs",
        ["session"],
        sqlite_where=sa.text(_OF_SESSION),
        postgresql_where=sa.text(_OF_SESSION),
    )
    op.create_table(
        "user_changes",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "uncopied",
        sa.Column("session", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("noted_at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables and the column; the runs stay otherwise unchanged."""
    op.drop_table("uncopied")
    op.drop_table("user_changes")
    op.drop_index("runs_of_session", "runs")
    op.drop_column("runs", "session")
