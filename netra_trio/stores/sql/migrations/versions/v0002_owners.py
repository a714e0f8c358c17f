"""Which process has a run at work, so that the runs of one that is gone can be ended."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_UNFINISHED = "status IN ('queued', 'running')"


def upgrade() -> None:
    """Add the owners; a run that had no end before this has none of them, and is ended at once."""
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
    """Forget the owners; the runs stay as they are."""
    op.drop_index("runs_unfinished", "runs")
    op.drop_column("runs", "owner")
    op.drop_table("owners")
