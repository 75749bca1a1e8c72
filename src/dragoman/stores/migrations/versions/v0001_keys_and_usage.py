"""Keys, workspaces, admin keys, the audit log, and a record of every request."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "store_state",
        sa.Column("name", sa.Text, primary_key=True),
        _number("value"),
    )
    op.execute("INSERT INTO store_state (name, value) VALUES ('revision', 0)")
    _make_workspaces()
    _make_keys()
    _make_admin_keys()
    _make_audit()
    _make_usage()


def _make_workspaces() -> None:
    op.create_table(
        "workspaces",
        sa.Column("id", sa.Text, primary_key=True),
        _text("name"),
        _number("created_at"),
        _optional("archived_at"),
        _text("allowed_models"),
        _text("limits"),
        _text("budgets"),
        _text("fetch_hosts"),
        _number("revision"),
    )
    op.create_index("workspaces_by_age", "workspaces", ["created_at", "id"])
    op.create_index("workspaces_by_revision", "workspaces", ["revision"])
    in_use = sa.text("archived_at IS NULL")
    op.create_index(
        "workspaces_by_name",
        "workspaces",
        ["name"],
        unique=True,
        sqlite_where=in_use,
        postgresql_where=in_use,
    )


def _make_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, primary_key=True),
        _text("name"),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        _text("hint"),
        _number("created_at"),
        _text("created_by"),
        _text("owner"),
        sa.Column("workspace_id", sa.Text, sa.ForeignKey("workspaces.id"), nullable=True),
        _optional("expires_at"),
        _optional("disabled_at"),
        _optional("revoked_at"),
        sa.Column("replaced_by", sa.Text, nullable=True),
        _optional("last_used_at"),
        _text("allowed_models"),
        _text("limits"),
        _text("budgets"),
        _number("revision"),
    )
    op.create_index("api_keys_by_age", "api_keys", ["created_at", "id"])
    op.create_index("api_keys_by_name", "api_keys", ["name"])
    op.create_index("api_keys_by_revision", "api_keys", ["revision"])
    op.create_index("api_keys_by_workspace", "api_keys", ["workspace_id"])


def _make_admin_keys() -> None:
    op.create_table(
        "admin_keys",
        sa.Column("id", sa.Text, primary_key=True),
        _text("name"),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        _text("hint"),
        _text("role"),
        _number("created_at"),
        _text("created_by"),
        _optional("expires_at"),
        _optional("revoked_at"),
        _optional("last_used_at"),
    )
    op.create_index("admin_keys_by_age", "admin_keys", ["created_at", "id"])


def _make_audit() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Text, primary_key=True),
        _number("at"),
        _text("actor"),
        _text("action"),
        _text("subject"),
        _text("details"),
    )
    op.create_index("audit_log_by_age", "audit_log", ["at", "id"])


def _make_usage() -> None:
    op.create_table(
        "usage_records",
        sa.Column("id", sa.Text, primary_key=True),
        _number("started_at"),
        _text("key_id"),
        _text("key_name"),
        sa.Column("workspace_id", sa.Text, nullable=True),
        _text("session_id"),
        _text("agent_id"),
        _text("client"),
        _text("client_version"),
        _text("model"),
        _text("upstream"),
        _text("upstream_model"),
        sa.Column("is_stream", sa.Boolean, nullable=False),
        _number("input_tokens"),
        _number("cache_read_input_tokens"),
        _number("cache_creation_input_tokens"),
        _number("output_tokens"),
        _number("reasoning_tokens"),
        _optional("cost_micros"),
        _optional("first_content_ms"),
        _number("duration_ms"),
        _number("attempts"),
        _text("stop_reason"),
        _number("status"),
        _text("error_type"),
        _text("adjustments"),
        _text("repairs"),
    )
    op.create_index("usage_records_by_time", "usage_records", ["started_at"])
    op.create_index("usage_records_by_key", "usage_records", ["key_id", "started_at"])
    op.create_index("usage_records_by_workspace", "usage_records", ["workspace_id", "started_at"])


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _optional(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=True)
