"""
What usage records have in common becomes a row of its own, once for all of them.

The records that are there keep all that they say. They are read once and written once, in the order
in which they lie from then on.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from alembic import op
from msgspec import Raw

revision = "0003"
down_revision = "0002"

_DAY_MS: Final = 86_400_000
_TOGETHER: Final = 1000  # facts in one statement
_OLD: Final = "usage_records_old"
_NUMBERS: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_micros",
    "first_content_ms",
    "duration_ms",
)


def upgrade() -> None:
    """Make the table of facts, and the table of records anew."""
    connection = op.get_bind()
    is_postgres = connection.dialect.name == "postgresql"
    op.rename_table("usage_records", _OLD)
    if is_postgres:  # its name is wanted again
        op.execute(f"ALTER INDEX usage_records_pkey RENAME TO {_OLD}_pkey")
    facts = _make_facts()
    _make_records()
    old = sa.Table(_OLD, sa.MetaData(), *_facts_columns(), *_record_columns("id", "started_at"))
    _add_facts(connection, facts, old)
    if is_postgres:  # else it takes the table for an empty one
        op.execute("ANALYZE usage_facts")
    _add_records(connection)
    op.drop_table(_OLD)
    op.create_index("usage_facts_by_day", "usage_facts", ["day"])
    op.create_index("usage_facts_by_key", "usage_facts", ["key_id", "day"])
    op.create_index("usage_facts_by_workspace", "usage_facts", ["workspace_id", "day"])


def _make_facts() -> sa.Table:
    return op.create_table(
        "usage_facts",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        _number("day"),
        *_facts_columns(),
    )


def _make_records() -> None:
    op.create_table(
        "usage_records",
        *_record_columns("id", "started_at", "facts_id"),
        sa.PrimaryKeyConstraint("facts_id", "started_at", "id"),
        sqlite_with_rowid=False,
    )


def _facts_columns() -> list[sa.Column[Any]]:
    return [
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
        _number("attempts"),
        _text("stop_reason"),
        _number("status"),
        _text("error_type"),
        _text("adjustments"),
        _text("repairs"),
    ]


def _record_columns(*key: str) -> list[sa.Column[Any]]:
    optional = ("cost_micros", "first_content_ms")
    return [
        *(_text(name) if name == "id" else _number(name) for name in key),
        *(sa.Column(name, sa.BigInteger, nullable=name in optional) for name in _NUMBERS),
    ]


def _add_facts(connection: sa.Connection, facts: sa.Table, old: sa.Table) -> None:
    """Add the facts of one day after the other: never more of them are in memory."""
    told = [old.c[column.name] for column in _facts_columns()]
    next_ms = sa.select(sa.func.min(old.c.started_at))
    first_ms = connection.scalar(next_ms)
    while first_ms is not None:
        day = first_ms - first_ms % _DAY_MS
        is_of_day = old.c.started_at.between(day, day + _DAY_MS - 1)
        rows = connection.execute(sa.select(*told).where(is_of_day).distinct())
        for part in rows.partitions(_TOGETHER):
            connection.execute(sa.insert(facts), [_facts_row(facts, day, row) for row in part])
        first_ms = connection.scalar(next_ms.where(old.c.started_at >= day + _DAY_MS))


def _facts_row(facts: sa.Table, day: int, row: Sequence[Any]) -> dict[str, Any]:
    """Return a row of facts; its id is the one that a record still in a spool leads to."""
    *plain, adjustments, repairs = row
    parts = [Raw(text.encode()) for text in (adjustments, repairs)]
    encoded = msgspec.json.encode([*plain, *parts])
    digest = sha256(b"%d %b" % (day // _DAY_MS, encoded)).digest()
    values = (int.from_bytes(digest[:8], "big") >> 1, day, *row)
    return dict(zip(facts.c.keys(), values, strict=True))


def _add_records(connection: sa.Connection) -> None:
    """
    Add the records, each with the id of its facts.

    SQLite takes ``CROSS JOIN`` for an order: it looks for the facts of each record, in an index of
    all columns that it makes for the moment. Left to itself, it goes through all records for each.
    """
    same = [f"old.{c.name} = facts.{c.name}" for c in _facts_columns() if not c.nullable]
    statement = f"""
        INSERT INTO usage_records
        SELECT old.id, old.started_at, facts.id, {", ".join(_NUMBERS)}
        FROM {_OLD} AS old CROSS JOIN usage_facts AS facts
        WHERE old.started_at - old.started_at % {_DAY_MS} = facts.day AND {" AND ".join(same)}
        AND coalesce(old.workspace_id = facts.workspace_id,
                     old.workspace_id IS NULL AND facts.workspace_id IS NULL)
        ORDER BY facts.id, old.started_at, old.id
    """  # noqa: S608 - names of ours
    connection.execute(sa.text(statement))


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False)
