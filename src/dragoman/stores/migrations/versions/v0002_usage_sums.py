"""Usage of past days, added up."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table of sums."""
    op.create_table(
        "usage_sums",
        _number("day"),
        _text("key_id"),
        sa.Column("workspace_id", sa.Text, nullable=True),
        _text("model"),
        _text("upstream"),
        _text("upstream_model"),
        _text("client"),
        _number("requests"),
        _number("errors"),
        _number("unpriced"),
        _number("input_tokens"),
        _number("cache_read_input_tokens"),
        _number("cache_creation_input_tokens"),
        _number("output_tokens"),
        _number("reasoning_tokens"),
        _number("cost_micros"),
    )
    op.create_index("usage_sums_by_day", "usage_sums", ["day"])


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False)
