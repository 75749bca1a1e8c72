"""Stores, and what is put into them."""

import asyncio
import datetime as dt
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

from msgspec import structs

from dragoman.policy.access import AdminKey, VirtualKey, Workspace
from dragoman.policy.records import (
    AuditEntry,
    UsageFacts,
    UsageRecord,
    decode_facts,
    encode_facts,
)
from dragoman.settings import StoreConfig
from dragoman.store_urls import StoreUrl
from dragoman.stores.sql import SqlStore, open_sql_store

T = TypeVar("T")
NOW = dt.datetime(2026, 11, 25, 12, 30, 15, 250_000, tzinfo=dt.UTC)
_numbers = itertools.count(1)


def minutes(count: float) -> dt.timedelta:
    return dt.timedelta(minutes=count)


def new_key(**fields: Any) -> VirtualKey:
    """Return a key that differs from all others."""
    number = next(_numbers)
    values = {
        "id": f"apikey_{number}",
        "name": f"key-{number}",
        "digest": number.to_bytes(32, "big"),
        "hint": "sk-dgm-abcd...wxyz",
        "created_at": NOW,
    }
    return VirtualKey(**{**values, **fields})


def new_admin_key(**fields: Any) -> AdminKey:
    """Return an admin key that differs from all others."""
    number = next(_numbers)
    values = {
        "id": f"adminkey_{number}",
        "name": f"admin-{number}",
        "digest": number.to_bytes(32, "big"),
        "hint": "sk-dgm-admin-ab...yz",
        "role": "read",
        "created_at": NOW,
    }
    return AdminKey(**{**values, **fields})


def new_workspace(**fields: Any) -> Workspace:
    """Return a workspace that differs from all others."""
    number = next(_numbers)
    values = {"id": f"wrkspc_{number}", "name": f"team-{number}", "created_at": NOW}
    return Workspace(**{**values, **fields})


def new_record(*, started_at: dt.datetime = NOW, **fields: Any) -> UsageRecord:
    """Return a record that differs from all others."""
    started_ms = round(started_at.timestamp() * 1000)
    return usage_record(id=f"req_{next(_numbers)}", started_ms=started_ms, **fields)


def usage_record(*, key_id: str = "apikey_1", **fields: Any) -> UsageRecord:
    """Return a record; what of *fields* it has in common with others goes there."""
    names = UsageFacts.__struct_fields__
    facts = UsageFacts(key_id, **{name: fields.pop(name) for name in names if name in fields})
    return UsageRecord(facts=encode_facts(facts), **fields)


def told_by(record: UsageRecord) -> SimpleNamespace:
    """Return all that a record says, with what it has in common with others."""
    own = structs.asdict(record)
    return SimpleNamespace(**structs.asdict(decode_facts(own.pop("facts"))), **own)


def new_entry(action: str = "key.create", **fields: Any) -> AuditEntry:
    """Return an entry that differs from all others; those made later sort behind it."""
    values = {"id": f"audit_{next(_numbers):06}", "at": NOW, "actor": "cli:ada", "subject": "x"}
    return AuditEntry(action=action, **{**values, **fields})


@asynccontextmanager
async def opened(url: StoreUrl, **settings: Any) -> AsyncIterator[SqlStore]:
    """Open a store and close it."""
    store = await open_sql_store(url, StoreConfig(**settings))
    try:
        yield store
    finally:
        await store.close()


def with_store(
    url: StoreUrl, case: Callable[[SqlStore], Coroutine[Any, Any, T]], **settings: Any
) -> T:
    """Run one case on a store."""

    async def main() -> T:
        async with asyncio.timeout(60), opened(url, **settings) as store:
            return await case(store)

    return asyncio.run(main())
