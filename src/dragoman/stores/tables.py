"""
The tables of the store. How they came about is in ``migrations``; a test compares both.

Times are milliseconds since 1970 in UTC, money is millionths of a US dollar. What has parts of its
own (patterns, limits, budgets) is JSON: nothing ever searches in it.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

metadata: Final = MetaData()
DAY_MS: Final = 86_400_000


def _text(name: str, *, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, nullable=False, primary_key=primary_key)


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _time(name: str) -> Column[int | None]:
    return Column(name, BigInteger, nullable=True)


# One row each: ``revision`` grows with every change of keys and workspaces.
state: Final = Table("store_state", metadata, _text("name", primary_key=True), _number("value"))

workspaces: Final = Table(
    "workspaces",
    metadata,
    _text("id", primary_key=True),
    _text("name"),
    _number("created_at"),
    _time("archived_at"),
    _text("allowed_models"),
    _text("limits"),
    _text("budgets"),
    _text("fetch_hosts"),
    _number("revision"),
    Index("workspaces_by_age", "created_at", "id"),
    Index("workspaces_by_revision", "revision"),
)
# Of the archived ones any number may have a name.
Index(
    "workspaces_by_name",
    workspaces.c.name,
    unique=True,
    sqlite_where=text("archived_at IS NULL"),
    postgresql_where=text("archived_at IS NULL"),
)

keys: Final = Table(
    "api_keys",
    metadata,
    _text("id", primary_key=True),
    _text("name"),
    Column("digest", LargeBinary, nullable=False, unique=True),
    _text("hint"),
    _number("created_at"),
    _text("created_by"),
    _text("owner"),
    Column("workspace_id", Text, ForeignKey("workspaces.id"), nullable=True),
    _time("expires_at"),
    _time("disabled_at"),
    _time("revoked_at"),
    Column("replaced_by", Text, nullable=True),
    _time("last_used_at"),
    _text("allowed_models"),
    _text("limits"),
    _text("budgets"),
    _number("revision"),
    Index("api_keys_by_age", "created_at", "id"),
    Index("api_keys_by_name", "name"),
    Index("api_keys_by_revision", "revision"),
    Index("api_keys_by_workspace", "workspace_id"),
)

admin_keys: Final = Table(
    "admin_keys",
    metadata,
    _text("id", primary_key=True),
    _text("name"),
    Column("digest", LargeBinary, nullable=False, unique=True),
    _text("hint"),
    _text("role"),
    _number("created_at"),
    _text("created_by"),
    _time("expires_at"),
    _time("revoked_at"),
    _time("last_used_at"),
    Index("admin_keys_by_age", "created_at", "id"),
)

audit: Final = Table(
    "audit_log",
    metadata,
    _text("id", primary_key=True),
    _number("at"),
    _text("actor"),
    _text("action"),
    _text("subject"),
    _text("details"),
    Index("audit_log_by_age", "at", "id"),
)

# What many records of one day have in common, each combination once. Its id is made of what it
# says (``usage_insert``), so that all gateways give it the same one.
usage_facts: Final = Table(
    "usage_facts",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    _number("day"),  # its first millisecond
    _text("key_id"),
    _text("key_name"),
    Column("workspace_id", Text, nullable=True),
    _text("session_id"),
    _text("agent_id"),
    _text("client"),
    _text("client_version"),
    _text("model"),
    _text("upstream"),
    _text("upstream_model"),
    Column("is_stream", Boolean, nullable=False),
    _number("attempts"),
    _text("stop_reason"),
    _number("status"),
    _text("error_type"),
    _text("adjustments"),
    _text("repairs"),
    Index("usage_facts_by_day", "day"),
    Index("usage_facts_by_key", "key_id", "day"),
    Index("usage_facts_by_workspace", "workspace_id", "day"),
)

# One row for each request. Whatever is asked of them is asked by their facts first, and those of
# the same facts lie beside each other: so they need no index beside the table itself.
usage: Final = Table(
    "usage_records",
    metadata,
    _text("id"),
    _number("started_at"),
    _number("facts_id"),
    _number("input_tokens"),
    _number("cache_read_input_tokens"),
    _number("cache_creation_input_tokens"),
    _number("output_tokens"),
    _number("reasoning_tokens"),
    Column("cost_micros", BigInteger, nullable=True),
    Column("first_content_ms", BigInteger, nullable=True),
    _number("duration_ms"),
    PrimaryKeyConstraint("facts_id", "started_at", "id"),
    sqlite_with_rowid=False,
)

# Records of past days, added up. What arrives late makes rows of its own: nothing is unique.
usage_sums: Final = Table(
    "usage_sums",
    metadata,
    _number("day"),  # its first millisecond
    _text("key_id"),
    Column("workspace_id", Text, nullable=True),
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
    Index("usage_sums_by_day", "day"),
)

# What was used on a day that is over, of records and sums together: all of a day, or nothing. It
# can be made again at any time, and is taken away when a record comes late.
usage_days: Final = Table(
    "usage_days",
    metadata,
    _number("day"),  # its first millisecond
    _text("key_id"),
    Column("workspace_id", Text, nullable=True),
    _number("tokens"),
    _number("cost_micros"),
    Index("usage_days_by_day", "day"),
    Index("usage_days_by_key", "key_id", "day"),
    Index("usage_days_by_workspace", "workspace_id", "day"),
)


def all_tokens(counts: Table) -> ColumnElement[int]:
    """Return the tokens of a record, or of a sum of them: those of prompt and reply."""
    return (
        counts.c.input_tokens
        + counts.c.cache_read_input_tokens
        + counts.c.cache_creation_input_tokens
        + counts.c.output_tokens
    )
