"""What keys and workspaces have used on a day, so that budgets need not look at its records."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table; gateways fill it by and by."""
    op.create_table(
        "usage_days",
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("workspace_id", sa.Text, nullable=True),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_micros", sa.BigInteger, nullable=False),
    )
    op.create_index("usage_days_by_day", "usage_days", ["day"])
    op.create_index("usage_days_by_key", "usage_days", ["key_id", "day"])
    op.create_index("usage_days_by_workspace", "usage_days", ["workspace_id", "day"])
