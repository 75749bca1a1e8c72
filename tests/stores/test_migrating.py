"""An empty database, an old one, one of the future, and many who come at once."""

import asyncio
import datetime as dt
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec import Raw, structs
from sqlalchemy import column, delete, insert, select, text
from sqlalchemy import table as sql_table

import dragoman.stores
from dragoman.core.errors import StoreUnavailable
from dragoman.policy.access import AdminKey, VirtualKey, Workspace
from dragoman.policy.records import AuditEntry, Dimension, UsageFacts, UsageQuery, UsageRecord
from dragoman.settings import StoreConfig
from dragoman.store_urls import StoreUrl
from dragoman.stores import migrating, tables
from dragoman.stores.database import Database
from dragoman.stores.migrating import (
    StoreIsNewer,
    look_at_schema,
    run_migrations,
    upgrade_schema,
)
from dragoman.stores.rows import to_ms
from dragoman.stores.sql import SqlStore
from dragoman.stores.versions import VERSIONS
from support.stores import new_entry, new_key, usage_record, with_store

SOURCES = Path(dragoman.__file__).parents[1]


def on_database(url: StoreUrl, case: Any) -> Any:
    async def main() -> Any:
        database = Database(url, StoreConfig())
        try:
            async with asyncio.timeout(60):
                return await case(database)
        finally:
            await database.close()

    return asyncio.run(main())


def test_the_versions_are_those_of_the_files() -> None:
    config = Config()
    folder = Path(dragoman.stores.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    script = ScriptDirectory.from_config(config)
    found = [version.revision for version in script.walk_revisions()]
    assert tuple(reversed(found)) == VERSIONS


def test_migrations_lead_to_the_tables_of_the_program(url: StoreUrl) -> None:
    def differences(connection: Any) -> list[Any]:
        run_migrations(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, tables.metadata))

    async def case(database: Database) -> list[Any]:
        async with database.writing() as connection:
            return await connection.run_sync(differences)

    assert on_database(url, case) == []


def schema(connection: Any) -> list[Any]:
    """Everything that the database itself says of its tables, and the rows that come with them."""
    if connection.dialect.name == "sqlite":
        asked = "SELECT name, replace(replace(sql, char(10), ''), char(9), '') FROM sqlite_master"
        found = [connection.execute(text(asked))]
    else:
        columns = (
            "SELECT table_name, column_name, data_type, is_nullable, character_maximum_length "
            "FROM information_schema.columns WHERE table_schema = 'public'"
        )
        indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
        constraints = (
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace"
        )
        found = [connection.execute(text(asked)) for asked in (columns, indexes, constraints)]
    rows = [
        connection.execute(text("SELECT name, value FROM store_state")),
        connection.execute(text("SELECT version_num FROM alembic_version")),
    ]
    return sorted(str(tuple(row)).replace(" ", "") for each in (*found, *rows) for row in each)


def test_a_new_database_is_as_migrations_would_make_it(url: StoreUrl) -> None:
    async def case(database: Database) -> None:
        async with database.writing() as connection:
            await connection.run_sync(run_migrations)
            migrated = await connection.run_sync(schema)
            await connection.run_sync(tables.metadata.drop_all)
            await connection.execute(text("DROP TABLE alembic_version"))
        assert (await upgrade_schema(database)).state == "empty"
        async with database.reading() as connection:
            assert await connection.run_sync(schema) == migrated

    on_database(url, case)


# As gateways wrote them before 0003; they differ in what reports tell apart, and in details.
OLD_DAY = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
OLD_RECORD: dict[str, Any] = {
    **structs.asdict(UsageFacts(key_id="apikey_1", model="m", status=200)),
    **structs.asdict(UsageRecord("req_0", to_ms(OLD_DAY) or 0, Raw(b"[]"))),
}
OLD_CHANGES: list[dict[str, Any]] = [
    {},
    {"cost_micros": 5, "first_content_ms": 7, "duration_ms": 9},
    {"workspace_id": "wrkspc_1", "input_tokens": 10, "is_stream": True},
    {"workspace_id": ""},
    {"key_name": "ad\xe4", "adjustments": ("top_k dropped",), "repairs": {"type": 1}},
    {"session_id": "s", "model": "other", "output_tokens": 2**40, "reasoning_tokens": 3},
    {"started_ms": (to_ms(OLD_DAY) or 0) - 1, "status": 502, "error_type": "api_error"},
    {"started_ms": (to_ms(OLD_DAY) or 0) + 86_399_999, "attempts": 3, "stop_reason": "x"},
]
OLD_RECORDS = [
    OLD_RECORD | {"id": f"req_{number}"} | changes
    for number, changes in enumerate(OLD_CHANGES + OLD_CHANGES)
]
ALL_DIMENSIONS = UsageQuery(
    since=OLD_DAY - dt.timedelta(days=1),
    until=OLD_DAY + dt.timedelta(days=2),
    group_by=get_args(Dimension),
)


async def add_old_records(database: Database) -> None:
    columns = [c.name for c in tables.usage_facts.c if c.name not in ("id", "day")]
    columns += [c.name for c in tables.usage.c if c.name != "facts_id"]
    old = sql_table("usage_records", *(column(name) for name in columns))
    rows = []
    for record in OLD_RECORDS:
        parts = {
            name: json.dumps(record[name], separators=(",", ":"))
            for name in ("adjustments", "repairs")
        }
        rows.append({name: record.get(name) for name in columns} | parts)
        rows[-1]["started_at"] = record["started_ms"]
    async with database.writing() as connection:
        await connection.execute(insert(old), rows)


@pytest.mark.parametrize("version", ["0001", "0002"])
def test_an_old_database_keeps_what_it_holds(url: StoreUrl, version: str) -> None:
    key = new_key(owner="ada")
    records = [
        usage_record(**{name: value for name, value in record.items() if name != "facts"})
        for record in OLD_RECORDS
    ]

    async def age(database: Database) -> None:
        async with database.writing() as connection:
            await connection.run_sync(run_migrations, version)
        assert (await look_at_schema(database)).state == "behind"
        store = SqlStore(database, report_timeout_s=5)
        await store.add_key(key, new_entry())
        await add_old_records(database)
        assert (await upgrade_schema(database)).version == version
        assert await store.get_key(key.id) == key
        assert (await look_at_schema(database)).state == "current"
        found = await store.usage(ALL_DIMENSIONS)
        assert sum(row.requests for row in found) == len(OLD_RECORDS)
        rows = await rows_of_usage(database)
        await store.add_usage(records)  # of a spool that was not removed in time: nothing is new
        assert await rows_of_usage(database) == rows
        async with database.writing() as connection:
            for table in (tables.usage, tables.usage_facts):
                await connection.execute(delete(table))
        await store.add_usage(records)
        assert await rows_of_usage(database) == rows
        assert await store.usage(ALL_DIMENSIONS) == found

    on_database(url, age)
    assert with_store(url, lambda store: store.key_by_digest(key.digest)) == (key, None)


async def rows_of_usage(database: Database) -> list[list[Any]]:
    async with database.reading() as connection:
        return [
            sorted(map(tuple, await connection.execute(select(table))), key=str)
            for table in (tables.usage, tables.usage_facts)
        ]


@pytest.mark.parametrize(
    ("table", "type_", "more"),
    [
        (tables.keys, VirtualKey, {"revision"}),
        (tables.workspaces, Workspace, {"revision"}),
        (tables.admin_keys, AdminKey, set()),
        (tables.audit, AuditEntry, set()),
        (tables.usage_facts, UsageFacts, {"id", "day"}),
        (tables.usage, UsageRecord, set()),
    ],
)
def test_every_field_has_its_column(table: Any, type_: Any, more: set[str]) -> None:
    fields = {_column(field.name) for field in structs.fields(type_)}
    assert {column.name for column in table.c} == fields | more


def test_usage_is_written_in_the_order_of_its_columns() -> None:
    fields = [_column(field.name) for field in structs.fields(UsageRecord)]
    assert [column.name for column in tables.usage.c] == fields
    fields = ["id", "day", *(field.name for field in structs.fields(UsageFacts))]
    assert [column.name for column in tables.usage_facts.c] == fields


def _column(field: str) -> str:
    """Return where a field stands; only of two is the name another."""
    return {"started_ms": "started_at", "facts": "facts_id"}.get(field, field)


def test_an_empty_database_becomes_current(url: StoreUrl) -> None:
    async def case(database: Database) -> None:
        before = await look_at_schema(database)
        assert (before.state, before.version) == ("empty", None)
        assert (await upgrade_schema(database)).state == "empty"
        assert (await upgrade_schema(database)).state == "current"
        assert (await look_at_schema(database)).version == VERSIONS[-1]

    on_database(url, case)


def test_who_comes_at_the_same_time_waits(url: StoreUrl) -> None:
    async def one() -> str:
        database = Database(url, StoreConfig(timeout_s=60))
        try:
            return (await upgrade_schema(database)).state
        finally:
            await database.close()

    async def main() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(6)))

    assert sorted(asyncio.run(main())) == [*["current"] * 5, "empty"]


def test_processes_that_start_at_the_same_time(url: StoreUrl) -> None:
    code = (
        "import asyncio, os, pathlib\n"
        "from dragoman.settings import Secret, StoreConfig\n"
        "from dragoman.store_urls import read_store_url\n"
        "from dragoman.stores.sql import open_sql_store\n"
        "async def main():\n"
        "    url = read_store_url(Secret(os.environ['URL']), pathlib.Path('.'))\n"
        "    store = await open_sql_store(url, StoreConfig())\n"
        "    print((await store.key_changes(0)).revision)\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    env = {**os.environ, "PYTHONPATH": str(SOURCES), "URL": text_of(url)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [process.communicate(timeout=120)[0] for process in running] == [b"0\n"] * 4
    assert [process.returncode for process in running] == [0] * 4


def text_of(url: StoreUrl) -> str:
    if url.address is None:
        return f"sqlite:///{url.path}"
    at = url.address
    return f"postgresql://{at.user}:{at.password}@{at.host}:{at.port}/{at.database}"


def test_a_database_of_a_newer_version_is_left_alone(url: StoreUrl) -> None:
    with_store(url, lambda store: store.key_changes(0))

    async def age(database: Database) -> None:
        async with database.writing() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(StoreIsNewer) as raised:
            await upgrade_schema(database)
        detail = raised.value.log_detail
        assert "version 9999" in detail
        assert f"none after {VERSIONS[-1]}: install the newer Dragoman" in detail
        assert "9999" not in raised.value.message  # which clients see
        assert (await look_at_schema(database)).state == "newer"

    on_database(url, age)


@pytest.mark.parametrize("version", [None, VERSIONS[0]])
def test_a_failed_upgrade_changes_nothing(
    url: StoreUrl, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    def broken(real: Any) -> Any:
        def run(*args: Any) -> None:
            real(*args)
            raise RuntimeError("the machine has stopped")

        return run

    async def case(database: Database) -> None:
        if version is not None:
            async with database.writing() as connection:
                await connection.run_sync(run_migrations, version)
        with monkeypatch.context() as patch:
            patch.setattr(migrating, "_make_tables", broken(migrating._make_tables))
            patch.setattr(migrating, "run_migrations", broken(run_migrations))
            with pytest.raises(RuntimeError):
                await upgrade_schema(database)
        assert (await look_at_schema(database)).version == version
        assert (await upgrade_schema(database)).version == version
        assert (await look_at_schema(database)).state == "current"

    on_database(url, case)


def test_tables_of_somebody_else_are_not_touched(url: StoreUrl) -> None:
    async def case(database: Database) -> None:
        async with database.writing() as connection:
            await connection.execute(text("CREATE TABLE api_keys (theirs INTEGER)"))
        with pytest.raises(StoreUnavailable) as raised:
            await upgrade_schema(database)
        assert "api_keys" in raised.value.log_detail
        async with database.reading() as connection:
            assert list(await connection.execute(text("SELECT theirs FROM api_keys"))) == []

    on_database(url, case)


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    url = StoreUrl(path=tmp_path / "new" / "store.db")
    with_store(url, lambda store: store.key_changes(0))
    assert url.path is not None
    assert stat.S_IMODE(url.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(url.path.parent.stat().st_mode) == 0o700
