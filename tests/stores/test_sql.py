"""The store's contract, on both databases."""

import asyncio
import datetime as dt
from typing import Any

import pytest
from msgspec import structs

from dragoman.core.errors import InvalidRequest, UnknownId
from dragoman.policy.access import Budget, Limits, VirtualKey, Workspace
from dragoman.policy.store import KeyFilter, Page
from dragoman.store_urls import StoreUrl
from dragoman.stores.sql import SqlStore
from support.stores import (
    NOW,
    minutes,
    new_admin_key,
    new_entry,
    new_key,
    new_workspace,
    with_store,
)

FULL_TEAM = new_workspace(
    name="team ✓ '\"",
    archived_at=NOW + minutes(5),
    allowed_models=("deepseek-*", "glm-4.7"),
    limits=Limits(requests_per_minute=0, concurrent=2**53),
    budgets=(Budget(period="day", tokens=10), Budget(period="month", cost_micros=1, warn_at_pct=5)),
    fetch_hosts=("*.example.com",),
)
FULL_KEY = new_key(
    created_by="cli:ada",
    owner="ada@example.com",
    expires_at=NOW + minutes(1),
    disabled_at=NOW,
    revoked_at=NOW,
    replaced_by="apikey_2",
    last_used_at=NOW - minutes(1),
    allowed_models=("*",),
    limits=Limits(input_tokens_per_minute=5),
    budgets=(Budget(period="month", cost_micros=2**53),),
)


def renamed(name: str) -> Any:
    return lambda entry: structs.replace(entry, name=name)


def archive(team: Workspace) -> Workspace:
    return structs.replace(team, archived_at=NOW)


def refuse(entry: object) -> Any:
    raise InvalidRequest("name", "no")


def test_what_is_added_comes_back_as_it_was(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        team = FULL_TEAM
        key = structs.replace(FULL_KEY, workspace_id=team.id)
        admin = new_admin_key(role="write", expires_at=NOW, revoked_at=NOW, last_used_at=NOW)
        await store.add_workspace(team, new_entry())
        await store.add_key(key, new_entry())
        await store.add_admin_key(admin, new_entry())
        assert await store.get_workspace(team.id) == team
        assert await store.get_key(key.id) == key
        assert await store.key_by_digest(key.digest) == (key, team)
        assert await store.get_admin_key(admin.id) == admin
        assert await store.admin_key_by_digest(admin.digest) == admin
        assert await store.list_admin_keys(Page()) == [admin]

    with_store(url, case)


def test_a_store_that_was_closed_holds_what_it_held(url: StoreUrl) -> None:
    key = new_key()
    with_store(url, lambda store: store.add_key(key, new_entry()))
    assert with_store(url, lambda store: store.key_by_digest(key.digest)) == (key, None)


def test_what_is_not_there(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        assert await store.get_key("apikey_0") is None
        assert await store.key_by_digest(b"") is None
        assert await store.get_workspace("wrkspc_0") is None
        assert await store.get_admin_key("adminkey_0") is None
        assert await store.admin_key_by_digest(b"") is None
        for change in (store.change_key, store.change_workspace, store.change_admin_key):
            with pytest.raises(UnknownId, match="id_0"):
                await change("id_0", lambda entry: entry, entry=new_entry())
        with pytest.raises(UnknownId, match="no workspace 'wrkspc_0'"):
            await store.add_key(new_key(workspace_id="wrkspc_0"), new_entry())
        assert await store.list_keys(Page()) == await store.list_audit(Page()) == []
        assert (await store.key_changes(-1)).revision == 0  # nothing was written down

    with_store(url, case)


def test_a_change_comes_with_its_entry_or_not_at_all(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        key, team, admin = new_key(), new_workspace(), new_admin_key()
        await store.add_key(key, new_entry())
        await store.add_workspace(team, new_entry())
        await store.add_admin_key(admin, new_entry())
        before = await store.list_audit(Page())
        calls: list[Any] = [(store.change_key, key), (store.change_workspace, team)]
        calls.append((store.change_admin_key, admin))
        for change, entry in calls:
            with pytest.raises(InvalidRequest):
                await change(entry.id, refuse, entry=new_entry())
        assert await store.list_audit(Page()) == before
        for change, entry in calls:
            changed = await change(entry.id, renamed("new"), entry=new_entry("changed"))
            assert changed == structs.replace(entry, name="new")
        assert [e.action for e in (await store.list_audit(Page()))[:3]] == ["changed"] * 3
        found = (await store.get_key(key.id), await store.get_workspace(team.id))
        assert [entry.name for entry in found if entry] == ["new", "new"]

    with_store(url, case)


def test_an_entry_keeps_its_details(url: StoreUrl) -> None:
    entry = new_entry(details={"limits": {"concurrent": 1}, "name": "é", "none": None})

    async def case(store: SqlStore) -> None:
        await store.add_key(new_key(), entry)
        assert await store.list_audit(Page()) == [entry]

    with_store(url, case)


def test_changes_at_once_lose_nothing(url: StoreUrl) -> None:
    key = new_key(owner="0")

    def counted(found: VirtualKey) -> VirtualKey:
        return structs.replace(found, owner=str(int(found.owner) + 1))

    async def case(store: SqlStore) -> None:
        await store.add_key(key, new_entry())
        changes = (store.change_key(key.id, counted, entry=new_entry()) for _ in range(20))
        await asyncio.gather(*changes)
        changed = await store.get_key(key.id)
        assert changed is not None
        assert changed.owner == "20"
        assert (await store.key_changes(0)).revision == 21

    with_store(url, case)


def test_a_successor_comes_with_the_change(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        old, new = new_key(), new_key()
        await store.add_key(old, new_entry())
        await store.change_key(old.id, renamed("old"), entry=new_entry(), successor=new)
        assert await store.get_key(new.id) == new
        third = new_key(digest=new.digest)  # which cannot be added
        with pytest.raises(UnknownId):
            await store.change_key(new.id, renamed("x"), entry=new_entry(), successor=third)
        assert await store.get_key(new.id) == new

    with_store(url, case)


def test_one_name_for_one_workspace_in_use(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        first, other = new_workspace(name="a"), new_workspace(name="b")
        await store.add_workspace(first, new_entry())
        await store.add_workspace(other, new_entry())
        with pytest.raises(InvalidRequest, match="name: there is a workspace 'a' already"):
            await store.add_workspace(new_workspace(name="a"), new_entry())
        with pytest.raises(InvalidRequest, match="name: there is a workspace 'a' already"):
            await store.change_workspace(other.id, renamed("a"), entry=new_entry())
        await store.change_workspace(first.id, archive, entry=new_entry())
        again = new_workspace(name="a", created_at=NOW + minutes(1))
        await store.add_workspace(again, new_entry())
        named = await store.list_workspaces(Page(), names=["a"])
        assert [team.id for team in named] == [again.id, first.id]

    with_store(url, case)


def test_an_archived_workspace_takes_its_keys_with_it(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        team, other = new_workspace(), new_workspace()
        for each in (team, other):
            await store.add_workspace(each, new_entry())
        inside = new_key(workspace_id=team.id)
        gone = new_key(workspace_id=team.id, revoked_at=NOW - minutes(5))
        outside = (new_key(workspace_id=other.id), new_key())
        for key in (inside, gone, *outside):
            await store.add_key(key, new_entry())
        before = (await store.key_changes(0)).revision
        archived = await store.change_workspace(team.id, archive, entry=new_entry())
        revoked = structs.replace(inside, revoked_at=NOW)
        changes = await store.key_changes(before)
        assert changes.keys is not None
        by_id = sorted(changes.keys, key=lambda pair: pair[0].id)
        assert by_id == sorted([(revoked, archived), (gone, archived)], key=lambda p: p[0].id)
        assert [await store.get_key(key.id) for key in outside] == list(outside)

    with_store(url, case)


def test_last_use_only_ever_grows(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        key, other, admin = new_key(), new_key(), new_admin_key()
        await store.add_key(key, new_entry())
        await store.add_key(other, new_entry())
        await store.add_admin_key(admin, new_entry())
        before = await store.key_changes(0)
        await store.touch_keys({key.id: NOW, admin.id: NOW, "apikey_0": NOW})
        await store.touch_keys({key.id: NOW - minutes(1)})
        await store.touch_keys({})
        used = await store.get_key(key.id), await store.get_key(other.id)
        assert [found and found.last_used_at for found in used] == [NOW, None]
        found = await store.get_admin_key(admin.id)
        assert found is not None
        assert found.last_used_at == NOW
        assert (await store.key_changes(0)).revision == before.revision
        # Who changes a key has read it before; what was noted since then stays.
        await store.change_key(key.id, stale(key), entry=new_entry())
        changed = await store.get_key(key.id)
        assert changed is not None
        assert changed.last_used_at == NOW

    def stale(key: VirtualKey) -> Any:
        return lambda _: key

    with_store(url, case)


# -- what has changed


def test_changes_since_a_revision(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        first = await store.key_changes(0)
        assert (first.revision, first.keys, first.has_keys) == (0, (), False)
        team = new_workspace()
        await store.add_workspace(team, new_entry())
        inside, outside = new_key(workspace_id=team.id), new_key()
        await store.add_key(inside, new_entry())
        await store.add_key(outside, new_entry())
        second = await store.key_changes(first.revision)
        assert second.keys is not None
        assert set(pairs(second.keys)) == {(inside.id, team.id), (outside.id, None)}
        assert second.has_keys
        assert (await store.key_changes(second.revision)).keys == ()
        await store.change_workspace(team.id, renamed("new"), entry=new_entry())
        third = await store.key_changes(second.revision)
        assert third.keys == ((inside, structs.replace(team, name="new")),)
        assert third.revision == second.revision + 1

    def pairs(found: tuple[tuple[VirtualKey, Workspace | None], ...]) -> list[Any]:
        return [(key.id, team.id if team else None) for key, team in found]

    with_store(url, case)


def test_too_many_changes_are_not_told_one_by_one(
    url: StoreUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.stores.sql._MAX_CHANGES", 3)

    async def case(store: SqlStore) -> None:
        for _ in range(3):
            await store.add_key(new_key(), new_entry())
        found = await store.key_changes(0)
        assert found.keys is not None
        assert len(found.keys) == 3
        await store.add_key(new_key(), new_entry())
        found = await store.key_changes(0)
        assert (found.keys, found.revision, found.has_keys) == (None, 4, True)

    with_store(url, case)


def test_keys_can_be_read_one_after_the_other(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        team = new_workspace()
        await store.add_workspace(team, new_entry())
        made = [new_key(id=f"apikey_{n}", workspace_id=team.id) for n in "04213"]
        for key in made:
            await store.add_key(key, new_entry())
        await store.change_key("apikey_2", revoke, entry=new_entry())
        first = await store.keys_behind("", limit=3)
        assert [key.id for key, _ in first] == ["apikey_0", "apikey_1", "apikey_3"]
        assert [workspace for _, workspace in first] == [team] * 3
        last = await store.keys_behind("apikey_3", limit=3)
        assert [key for key, _ in last] == [key for key in made if key.id == "apikey_4"]
        assert await store.keys_behind("apikey_4", limit=3) == []

    def revoke(key: VirtualKey) -> VirtualKey:
        return structs.replace(key, revoked_at=NOW)

    with_store(url, case)


def test_a_database_that_was_set_back(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        await store.add_key(new_key(), new_entry())
        found = await store.key_changes(7)
        assert (found.revision, found.keys, found.has_keys) == (1, None, True)

    with_store(url, case)


# -- lists


def test_pages_are_newest_first(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        made = [new_key(created_at=NOW + minutes(n // 2)) for n in range(6)]  # two of each age
        for key in made:
            await store.add_key(key, new_entry())
        everything = sorted(made, key=lambda key: (key.created_at, key.id), reverse=True)
        ids = [key.id for key in everything]

        async def page(**fields: Any) -> list[str]:
            return [key.id for key in await store.list_keys(Page(**fields))]

        assert await page() == ids
        assert await page(limit=2) == ids[:2]
        assert await page(limit=2, after_id=ids[1]) == ids[2:4]
        assert await page(limit=2, before_id=ids[4]) == ids[2:4]
        assert await page(after_id=ids[1], before_id=ids[4]) == ids[2:4]
        assert await page(after_id=ids[-1]) == await page(before_id=ids[0]) == []
        for name in ("after_id", "before_id"):
            with pytest.raises(InvalidRequest, match=f"{name}: is not the id of an entry"):
                await page(**{name: "apikey_0"})

    with_store(url, case)


def test_pages_of_workspaces_and_entries(url: StoreUrl) -> None:
    async def case(store: SqlStore) -> None:
        teams = [new_workspace(created_at=NOW + minutes(n)) for n in range(3)]
        entries = [new_entry(at=NOW + minutes(n)) for n in range(3)]
        for team, entry in zip(teams, entries, strict=True):
            await store.add_workspace(team, entry)
        assert await store.list_workspaces(Page(limit=2)) == [teams[2], teams[1]]
        assert await store.list_workspaces(Page(after_id=teams[1].id)) == [teams[0]]
        assert await store.list_audit(Page(before_id=entries[0].id)) == [entries[2], entries[1]]

    with_store(url, case)


@pytest.mark.parametrize(
    ("which", "names"),
    [
        (KeyFilter(names=("a", "b")), "ab"),
        (KeyFilter(workspace_ids=("wrkspc_a",)), "a"),
        (KeyFilter(workspace_ids=(None,)), "bcde"),
        (KeyFilter(workspace_ids=(None, "wrkspc_a")), "abcde"),
        (KeyFilter(statuses=("active",), now=NOW), "ab"),
        (KeyFilter(statuses=("active",), now=NOW - minutes(1)), "abc"),
        (KeyFilter(statuses=("expired",), now=NOW), "c"),
        (KeyFilter(statuses=("disabled",), now=NOW), "d"),
        (KeyFilter(statuses=("revoked", "expired"), now=NOW), "ce"),
        (KeyFilter(names=("a", "e"), statuses=("revoked",), now=NOW), "e"),
        (KeyFilter(names=("%",)), ""),
    ],
)
def test_filters_of_keys(url: StoreUrl, which: KeyFilter, names: str) -> None:
    keys = [
        new_key(name="a", workspace_id="wrkspc_a"),
        new_key(name="b", expires_at=NOW + minutes(1)),
        new_key(name="c", expires_at=NOW),
        new_key(name="d", disabled_at=NOW, expires_at=NOW),
        new_key(name="e", revoked_at=NOW, disabled_at=NOW),
    ]

    async def case(store: SqlStore) -> None:
        await store.add_workspace(new_workspace(id="wrkspc_a"), new_entry())
        for key in keys:
            await store.add_key(key, new_entry())
        found = await store.list_keys(Page(), which)
        assert "".join(sorted(key.name for key in found)) == names
        if which.statuses:
            meant = [key.name for key in keys if key.status(which.now) in which.statuses]
            assert set(names) <= set(meant)

    with_store(url, case)


def test_times_are_kept_to_the_millisecond(url: StoreUrl) -> None:
    at = dt.datetime(2026, 1, 1, 1, 2, 3, 456_789, tzinfo=dt.timezone(dt.timedelta(hours=8)))
    key = new_key(created_at=at)

    async def case(store: SqlStore) -> None:
        await store.add_key(key, new_entry())
        found = await store.get_key(key.id)
        assert found is not None
        assert found.created_at == at.replace(microsecond=456_000)
        assert found.created_at.tzinfo is dt.UTC

    with_store(url, case)
