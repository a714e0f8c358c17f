"""Adds leases, so that the runs of a process that is gone can be ended."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_UNFINISHED = "status IN ('queued', 'running')"


def upgrade() -> None:
    """Add the table; an unfinished run has no owner then, and is ended by the next server."""
    op.create_table(
        "owners",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
    )
    op.add_column("runs", sa.Column("owner", sa.Text))
    op.create_index(
        "runs_unfinished",
        "runs",
        ["owner"],
        sqlite_where=sa.text(_UNFINISHED),
        postgresql_where=sa.text(_UNFINISHED),
    )


def downgrade() -> None:
    """Drop the table; the runs stay unchanged."""
    op.drop_index("runs_unfinished", "runs")
    op.drop_column("runs", "owner")
    op.drop_table("owners")
