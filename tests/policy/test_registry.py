"""What administrators do with keys and workspaces, on a real store."""

import datetime as dt
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec import structs

from dragoman.core.errors import InvalidRequest, UnknownId
from dragoman.limit_settings import Budget, BudgetConfig, Limits
from dragoman.policy.key_texts import digest_of, is_admin_key, is_client_key
from dragoman.policy.registry import (
    MAX_OVERLAP,
    AdminKeyRequest,
    By,
    KeyChange,
    KeyRequest,
    Registry,
    WorkspaceChange,
    WorkspaceRequest,
)
from dragoman.policy.store import Page
from dragoman.settings import Secret
from dragoman.store_urls import read_store_url
from dragoman.stores.sql import SqlStore
from support.stores import NOW, minutes, with_store

T = TypeVar("T")
BY = By(actor="cli:ada", now=NOW)
LATER = By(actor="cli:bob", now=NOW + minutes(1))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Run a case with a registry and its store."""
    url = read_store_url(Secret(f"sqlite:///{tmp_path / 'store.db'}"), tmp_path)
    assert url is not None

    def with_registry(case: Callable[[Registry, SqlStore], Coroutine[Any, Any, T]]) -> T:
        async def main(store: SqlStore) -> T:
            async def get() -> SqlStore:
                return store

            return await case(Registry(get, aliases=lambda: ["deepseek-v3.2", "GLM-4.7"]), store)

        return with_store(url, main)

    return with_registry


async def written(store: SqlStore) -> list[tuple[str, str, str]]:
    entries = await store.list_audit(Page(limit=100))
    return [(entry.actor, entry.action, entry.subject) for entry in reversed(entries)]


def test_a_new_key_is_told_once_and_kept_as_a_digest(run) -> None:
    asked = KeyRequest(
        name="ci",
        owner="ada@example.com",
        expires_at=NOW + minutes(60),
        allowed_models=("deepseek-*", "glm-4.7"),
        limits=Limits(requests_per_minute=60),
        budgets=(BudgetConfig(period="day", cost_usd=1.5),),
    )

    async def case(registry: Registry, store: SqlStore) -> None:
        key, text = await registry.create_key(asked, BY)
        assert is_client_key(text.encode())
        found = await store.key_by_digest(digest_of(text.encode()))
        assert found == (key, None)
        assert key.budgets == (Budget(period="day", cost_micros=1_500_000),)
        assert (key.name, key.owner, key.created_by) == ("ci", "ada@example.com", "cli:ada")
        entries = await store.list_audit(Page())
        assert (entries[0].action, entries[0].subject) == ("key.create", key.id)
        assert text not in str(entries)
        assert key.hint in f"{text[:11]}...{text[-4:]}"

    run(case)


WRONG_KEYS = {
    "a pattern that fits nothing": ({"allowed_models": ("kimi-*",)}, "allowed_models.0"),
    "the past": ({"expires_at": NOW}, "expires_at"),
    "no offset": ({"expires_at": dt.datetime(2030, 1, 1)}, "expires_at"),  # noqa: DTZ001
    "an unknown workspace": ({"workspace_id": "wrkspc_no"}, "workspace_id"),
    "an empty budget": ({"budgets": (BudgetConfig(period="day"),)}, "budgets.0"),
    "a name with a line in it": ({"name": "a\nb"}, "name"),
    "a name with spaces around it": ({"name": " a"}, "name"),
}


@pytest.mark.parametrize(("fields", "path"), WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_what_is_wrong_changes_nothing(run, fields: dict[str, Any], path: str) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        with pytest.raises(InvalidRequest) as raised:
            await registry.create_key(KeyRequest(**{"name": "ci", **fields}), BY)
        assert raised.value.path == path
        assert await store.list_keys(Page()) == []
        assert await written(store) == []

    run(case)


def test_a_change_touches_what_was_given_alone(run) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        key, _ = await registry.create_key(KeyRequest(name="ci", owner="ada"), BY)
        change = KeyChange(name="build", limits=Limits(concurrent=3))
        changed = await registry.change_key(key.id, change, LATER)
        assert (changed.name, changed.owner, changed.limits) == (
            "build",
            "ada",
            Limits(concurrent=3),
        )
        entry = (await store.list_audit(Page()))[0]
        assert (entry.actor, entry.details) == (
            "cli:bob",
            {"name": "build", "limits": {"concurrent": 3}},
        )
        for wrong in (
            KeyChange(allowed_models=("nothing",)),
            KeyChange(expires_at=NOW),
            KeyChange(budgets=(BudgetConfig(period="day"),)),
            KeyChange(name="a\tb"),
        ):
            with pytest.raises(InvalidRequest):
                await registry.change_key(key.id, wrong, LATER)
        assert await store.get_key(key.id) == changed

    run(case)


def test_disabled_is_for_a_while_and_revoked_for_ever(run) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        key, _ = await registry.create_key(KeyRequest(name="ci"), BY)
        assert (await registry.disable_key(key.id, BY)).status(NOW) == "disabled"
        assert (await registry.enable_key(key.id, BY)).status(NOW) == "active"
        revoked = await registry.revoke_key(key.id, BY)
        assert (await registry.revoke_key(key.id, LATER)).revoked_at == revoked.revoked_at
        for action in (registry.enable_key, registry.disable_key):
            with pytest.raises(InvalidRequest, match="for ever"):
                await action(key.id, LATER)
        with pytest.raises(InvalidRequest, match="for ever"):
            await registry.change_key(key.id, KeyChange(name="x"), LATER)
        actions = [action for _, action, _ in await written(store)]
        assert sorted(actions) == sorted(
            ["key.create", "key.disable", "key.enable", "key.revoke", "key.revoke"]
        )

    run(case)


def test_a_rotated_key_and_its_successor_overlap(run) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        asked = KeyRequest(name="ci", limits=Limits(concurrent=1))
        old, old_text = await registry.create_key(asked, BY)
        new, text = await registry.rotate_key(old.id, minutes(5), LATER)
        assert text != old_text
        assert (new.name, new.limits, new.expires_at) == ("ci", Limits(concurrent=1), None)
        kept = await store.get_key(old.id)
        assert kept is not None
        assert (kept.replaced_by, kept.expires_at) == (new.id, NOW + minutes(6))
        assert kept.status(NOW + minutes(5)) == "active"
        assert kept.status(NOW + minutes(6)) == "expired"
        with pytest.raises(InvalidRequest, match="rotated already"):
            await registry.rotate_key(old.id, minutes(5), LATER)
        assert len(await store.list_keys(Page())) == 2

    run(case)


def test_rotating_does_not_prolong_a_key(run) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        asked = KeyRequest(name="ci", expires_at=NOW + minutes(2))
        old, _ = await registry.create_key(asked, BY)
        new, _ = await registry.rotate_key(old.id, minutes(5), BY)
        kept = await store.get_key(old.id)
        assert kept is not None
        assert kept.expires_at == new.expires_at == NOW + minutes(2)

    run(case)


@pytest.mark.parametrize("overlap", [-minutes(1), MAX_OVERLAP + minutes(1)])
def test_an_overlap_has_bounds(run, overlap: dt.timedelta) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        key, _ = await registry.create_key(KeyRequest(name="ci"), BY)
        with pytest.raises(InvalidRequest, match="overlap"):
            await registry.rotate_key(key.id, overlap, BY)
        assert await store.list_keys(Page()) == [key]

    run(case)


def test_a_key_that_is_not_good_is_not_rotated(run) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        key, _ = await registry.create_key(KeyRequest(name="ci"), BY)
        await registry.revoke_key(key.id, BY)
        with pytest.raises(InvalidRequest, match="is revoked"):
            await registry.rotate_key(key.id, minutes(1), BY)
        assert len(await store.list_keys(Page())) == 1

    run(case)


def test_unknown_ids(run) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        for asking in (
            registry.change_key("apikey_no", KeyChange(name="x"), BY),
            registry.revoke_key("apikey_no", BY),
            registry.rotate_key("apikey_no", minutes(1), BY),
            registry.change_workspace("wrkspc_no", WorkspaceChange(name="x"), BY),
            registry.archive_workspace("wrkspc_no", BY),
            registry.revoke_admin_key("adminkey_no", BY),
        ):
            with pytest.raises(UnknownId):
                await asking
        assert await written(store) == []

    run(case)


def test_workspaces(run) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        team = await registry.create_workspace(WorkspaceRequest(name="team"), BY)
        key, _ = await registry.create_key(KeyRequest(name="ci", workspace_id=team.id), BY)
        change = WorkspaceChange(allowed_models=("glm-*",), fetch_hosts=("*.example.com",))
        changed = await registry.change_workspace(team.id, change, BY)
        assert (changed.name, changed.allowed_models) == ("team", ("glm-*",))
        with pytest.raises(InvalidRequest, match="fits no model"):
            await registry.change_workspace(team.id, WorkspaceChange(allowed_models=("no",)), BY)
        archived = await registry.archive_workspace(team.id, BY)
        assert archived.archived_at == NOW
        revoked = structs.replace(key, revoked_at=NOW)
        assert await store.key_by_digest(key.digest) == (revoked, archived)
        with pytest.raises(InvalidRequest, match="archived"):
            await registry.change_workspace(team.id, WorkspaceChange(name="x"), BY)
        with pytest.raises(InvalidRequest, match="archived"):
            await registry.create_key(KeyRequest(name="b", workspace_id=team.id), BY)

    run(case)


@pytest.mark.parametrize(
    "pattern",
    [
        "https://example.com",
        "example.com/files",
        "example.com:8443",
        "[::1]",
        "two words",
        "bücher.de",
    ],
)
def test_hosts_that_no_url_can_have(run, pattern: str) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        good = ("*.example.com", "files-?.example.com", "192.0.2.7", "2001:db8::*")
        team = await registry.create_workspace(WorkspaceRequest(name="team", fetch_hosts=good), BY)
        hosts = (*good, pattern)
        with pytest.raises(InvalidRequest, match=r"^fetch_hosts\.4: .* fits no host"):
            await registry.create_workspace(WorkspaceRequest(name="b", fetch_hosts=hosts), BY)
        with pytest.raises(InvalidRequest, match="fits no host"):
            await registry.change_workspace(team.id, WorkspaceChange(fetch_hosts=hosts), BY)
        assert await store.get_workspace(team.id) == team
        assert len(await written(store)) == 1

    run(case)


def test_admin_keys(run) -> None:
    async def case(registry: Registry, store: SqlStore) -> None:
        key, text = await registry.create_admin_key(AdminKeyRequest(name="ops", role="write"), BY)
        assert is_admin_key(text.encode())
        assert not is_client_key(text.encode())
        assert await store.admin_key_by_digest(digest_of(text.encode())) == key
        revoked = await registry.revoke_admin_key(key.id, LATER)
        assert revoked.status(NOW + minutes(2)) == "revoked"
        assert [action for _, action, _ in await written(store)] == [
            "admin_key.create",
            "admin_key.revoke",
        ]

    run(case)
