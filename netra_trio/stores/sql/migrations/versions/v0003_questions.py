"""Adds the questions of runs, and what runs have used of models."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "questions",
        sa.Column("question_id", sa.Text, primary_key=True),
        sa.Column(
            "run_id", sa.Text, sa.ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("schema", sa.LargeBinary),
        sa.Column("tool_name", sa.Text),
        sa.Column("arguments", sa.LargeBinary),
        sa.Column("digest", sa.LargeBinary),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("answered_by", sa.Text),
    )
    op.create_index("questions_of_run", "questions", ["run_id", "created_at"])
    op.create_table(
        "usage",
        sa.Column("usage_id", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("agent_name", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("usage_of_day", "usage", ["day", "user_id", "agent_name"])


def downgrade() -> None:
    """Drop the tables with their rows."""
    for table in ("usage", "questions"):
        op.drop_table(table)
