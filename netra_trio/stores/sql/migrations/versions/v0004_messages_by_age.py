"""Adds an index, so that old messages are found without reading all others."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the index."""
    op.create_index("messages_by_age", "messages", ["created_at"])


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("messages_by_age", "messages")
