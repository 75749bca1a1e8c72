"""The gateway's own admin API, ``/admin/v1``: keys, workspaces, admin keys, usage, audit."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta, Struct, structs

from dragoman.core.errors import InvalidRequest
from dragoman.policy.access import KeyStatus, Workspace
from dragoman.policy.records import Dimension, UsageQuery, UsageSort
from dragoman.policy.registry import (
    AdminKeyRequest,
    By,
    KeyChange,
    KeyRequest,
    Registry,
    WorkspaceChange,
    WorkspaceRequest,
    is_default_workspace,
)
from dragoman.policy.store import GetStore, KeyFilter, Store
from dragoman.server.admin.operations import PAGING, Ask, Operation, Parameter
from dragoman.server.admin.pages import usage_page
from dragoman.server.admin.shapes import (
    AdminKeyList,
    AuditList,
    KeyList,
    ShownAdminKey,
    ShownKey,
    UsageSums,
    WorkspaceList,
    by,
    cut,
    ends,
    found,
    page_of,
    show_admin_key,
    show_key,
)

_BASE: Final = "/admin/v1"
_STATUSES: Final = ("active", "disabled", "expired", "revoked")
_OF_STORE: Final = "apikey_"  # other ids are those of the configuration, of today's or earlier
_MAX_ROWS: Final = 10_000
_DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)
_SORTS: Final = get_args(UsageSort)


class Rotation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a key is rotated: for how long the old one is good beside the new one."""

    overlap_s: Annotated[int, Meta(ge=0, le=90 * 86_400)] = 86_400


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """A body that says nothing."""


class OwnApi:
    """
    What is served below ``/admin/v1``.

    Args:
        registry: Changes keys and workspaces.
        get_store: Opens the store, for what is only read.
    """

    def __init__(self, registry: Registry, get_store: GetStore) -> None:
        self._registry = registry
        self._get_store = get_store

    def operations(self) -> list[Operation]:
        """Return all of them."""
        return [*self._of_keys(), *self._of_workspaces(), *self._of_admin_keys(), *self._reports()]

    def _of_keys(self) -> list[Operation]:
        registry = self._registry
        one = f"{_BASE}/keys/{{key_id}}"
        return [
            Operation(
                method="GET",
                path=f"{_BASE}/keys",
                role="read",
                about="List client keys, newest first.",
                run=self.list_keys,
                result=KeyList,
                parameters=(
                    *PAGING,
                    Parameter("workspace_id", 'Only its keys; "default": those of none.'),
                    Parameter("status", f"One of {', '.join(_STATUSES)}.", is_list=True),
                    Parameter("name", "Only keys of this name."),
                ),
            ),
            Operation(
                method="POST",
                path=f"{_BASE}/keys",
                role="write",
                about="Create a client key; the answer alone tells it.",
                run=self.create_key,
                body=KeyRequest,
                result=ShownKey,
            ),
            Operation(
                method="GET",
                path=one,
                role="read",
                about="Show a client key.",
                run=self.get_key,
                result=ShownKey,
            ),
            Operation(
                method="POST",
                path=one,
                role="write",
                about="Change a client key; what is not given stays.",
                run=self.change_key,
                body=KeyChange,
                result=ShownKey,
            ),
            Operation(
                method="POST",
                path=f"{one}/rotate",
                role="write",
                about="Make a new key in the place of this one, which is good for a while longer.",
                run=self.rotate_key,
                body=Rotation,
                result=ShownKey,
            ),
            *(
                Operation(
                    method="POST",
                    path=f"{one}/{word}",
                    role="write",
                    about=about,
                    run=self._plain(action),
                    body=Nothing,
                    result=ShownKey,
                )
                for word, action, about in (
                    ("revoke", registry.revoke_key, "Refuse a client key for ever."),
                    ("disable", registry.disable_key, "Refuse a client key for a while."),
                    ("enable", registry.enable_key, "Take a disabled client key again."),
                )
            ),
        ]

    def _of_workspaces(self) -> list[Operation]:
        one = f"{_BASE}/workspaces/{{workspace_id}}"
        return [
            Operation(
                method="GET",
                path=f"{_BASE}/workspaces",
                role="read",
                about="List workspaces, newest first.",
                run=self.list_workspaces,
                result=WorkspaceList,
                parameters=PAGING,
            ),
            Operation(
                method="POST",
                path=f"{_BASE}/workspaces",
                role="write",
                about="Create a workspace.",
                run=self.create_workspace,
                body=WorkspaceRequest,
                result=Workspace,
            ),
            Operation(
                method="GET",
                path=one,
                role="read",
                about="Show a workspace.",
                run=self.get_workspace,
                result=Workspace,
            ),
            Operation(
                method="POST",
                path=one,
                role="write",
                about="Change a workspace; what is not given stays.",
                run=self.change_workspace,
                body=WorkspaceChange,
                result=Workspace,
            ),
            Operation(
                method="POST",
                path=f"{one}/archive",
                role="write",
                about="Revoke all keys of a workspace, and take no new ones.",
                run=self.archive_workspace,
                body=Nothing,
                result=Workspace,
            ),
        ]

    def _of_admin_keys(self) -> list[Operation]:
        return [
            Operation(
                method="GET",
                path=f"{_BASE}/admin-keys",
                role="read",
                about="List admin keys, newest first.",
                run=self.list_admin_keys,
                result=AdminKeyList,
                parameters=PAGING,
            ),
            Operation(
                method="POST",
                path=f"{_BASE}/admin-keys",
                role="write",
                about="Create an admin key; the answer alone tells it.",
                run=self.create_admin_key,
                body=AdminKeyRequest,
                result=ShownAdminKey,
            ),
            Operation(
                method="POST",
                path=f"{_BASE}/admin-keys/{{key_id}}/revoke",
                role="write",
                about="Refuse an admin key for ever.",
                run=self.revoke_admin_key,
                body=Nothing,
                result=ShownAdminKey,
            ),
        ]

    def _reports(self) -> list[Operation]:
        return [
            Operation(
                method="GET",
                path=f"{_BASE}/usage",
                role="read",
                about="Add usage up.",
                run=self.usage,
                result=UsageSums,
                parameters=(
                    Parameter("since", "The first moment; if not given, a day before until."),
                    Parameter("until", "The moment after the last one; now, if not given."),
                    Parameter(
                        "group_by", f"Some of {', '.join(_DIMENSIONS)}, in order.", is_list=True
                    ),
                    Parameter("key_id", "Only these.", is_list=True),
                    Parameter("workspace_id", 'Only these; "default": none.', is_list=True),
                    Parameter("model", "Only these.", is_list=True),
                    Parameter(
                        "sort", "group, or those first with the most cost, tokens or requests."
                    ),
                    Parameter("limit", f"Rows of a page, up to {_MAX_ROWS}."),
                    Parameter("page", "next_page of the page before; its time is meant."),
                ),
            ),
            Operation(
                method="GET",
                path=f"{_BASE}/audit",
                role="read",
                about="List what administrators did, newest first.",
                run=self.list_audit,
                result=AuditList,
                parameters=PAGING,
            ),
        ]

    # -- keys

    async def list_keys(self, ask: Ask) -> KeyList:
        """Return a page of keys."""
        which = KeyFilter(
            names=tuple(ask.query.get("name", ())),
            workspace_ids=_workspaces(ask),
            statuses=msgspec.convert(_among(ask, "status", _STATUSES), tuple[KeyStatus, ...]),
            now=ask.now,
        )
        store = await self._get_store()
        await _check_ids(store, workspace_ids=which.workspace_ids)
        shown, has_more = cut(await store.list_keys(page_of(ask), which), ask)
        return KeyList([show_key(key, ask.now) for key in shown], has_more, *ends(shown))

    async def create_key(self, ask: Ask) -> ShownKey:
        """Return a new key with its text."""
        key, text = await self._registry.create_key(ask.decode(KeyRequest), by(ask))
        return structs.replace(show_key(key, ask.now), key=text)

    async def get_key(self, ask: Ask) -> ShownKey:
        """Return a key."""
        store = await self._get_store()
        return show_key(found(await store.get_key(ask.ids["key_id"]), "key", ask), ask.now)

    async def change_key(self, ask: Ask) -> ShownKey:
        """Return a key as it is after the change."""
        change = ask.decode(KeyChange)
        key = await self._registry.change_key(ask.ids["key_id"], change, by(ask))
        return show_key(key, ask.now)

    async def rotate_key(self, ask: Ask) -> ShownKey:
        """Return the new key with its text."""
        overlap = dt.timedelta(seconds=ask.decode(Rotation).overlap_s)
        key, text = await self._registry.rotate_key(ask.ids["key_id"], overlap, by(ask))
        return structs.replace(show_key(key, ask.now), key=text)

    def _plain(self, action: Callable[[str, By], Any]) -> Callable[[Ask], Any]:
        async def run(ask: Ask) -> ShownKey:
            ask.decode(Nothing)
            return show_key(await action(ask.ids["key_id"], by(ask)), ask.now)

        return run

    # -- workspaces

    async def list_workspaces(self, ask: Ask) -> WorkspaceList:
        """Return a page of workspaces."""
        store = await self._get_store()
        shown, has_more = cut(await store.list_workspaces(page_of(ask)), ask)
        return WorkspaceList(shown, has_more, *ends(shown))

    async def create_workspace(self, ask: Ask) -> Workspace:
        """Return a new workspace."""
        return await self._registry.create_workspace(ask.decode(WorkspaceRequest), by(ask))

    async def get_workspace(self, ask: Ask) -> Workspace:
        """Return a workspace."""
        store = await self._get_store()
        return found(await store.get_workspace(ask.ids["workspace_id"]), "workspace", ask)

    async def change_workspace(self, ask: Ask) -> Workspace:
        """Return a workspace as it is after the change."""
        change = ask.decode(WorkspaceChange)
        return await self._registry.change_workspace(ask.ids["workspace_id"], change, by(ask))

    async def archive_workspace(self, ask: Ask) -> Workspace:
        """Return the archived workspace."""
        ask.decode(Nothing)
        return await self._registry.archive_workspace(ask.ids["workspace_id"], by(ask))

    # -- admin keys

    async def list_admin_keys(self, ask: Ask) -> AdminKeyList:
        """Return a page of admin keys."""
        store = await self._get_store()
        shown, has_more = cut(await store.list_admin_keys(page_of(ask)), ask)
        return AdminKeyList([show_admin_key(key, ask.now) for key in shown], has_more, *ends(shown))

    async def create_admin_key(self, ask: Ask) -> ShownAdminKey:
        """Return a new admin key with its text."""
        key, text = await self._registry.create_admin_key(ask.decode(AdminKeyRequest), by(ask))
        return structs.replace(show_admin_key(key, ask.now), key=text)

    async def revoke_admin_key(self, ask: Ask) -> ShownAdminKey:
        """Return the revoked admin key."""
        ask.decode(Nothing)
        key = await self._registry.revoke_admin_key(ask.ids["key_id"], by(ask))
        return show_admin_key(key, ask.now)

    # -- what is only read

    async def usage(self, ask: Ask) -> UsageSums:
        """Return sums of records."""
        page = usage_page(ask)
        named = msgspec.convert(_among(ask, "group_by", _DIMENSIONS), tuple[Dimension, ...])
        size = ask.number("limit", default=_MAX_ROWS, most=_MAX_ROWS)
        query = UsageQuery(
            since=page.since,
            until=page.until,
            group_by=named,
            key_ids=tuple(ask.query.get("key_id", ())),
            workspace_ids=_workspaces(ask),
            models=tuple(ask.query.get("model", ())),
            sort=msgspec.convert(ask.choice("sort", _SORTS, "group"), UsageSort),
            limit=size + 1,
            offset=page.offset,
        )
        store = await self._get_store()
        await _check_ids(store, key_ids=query.key_ids, workspace_ids=query.workspace_ids)
        rows = await store.usage(query)
        has_more = len(rows) > size
        following = structs.replace(page, offset=page.offset + size)
        return UsageSums(
            since=page.since,
            until=page.until,
            group_by=named,
            data=rows[:size],
            has_more=has_more,
            next_page=following.token() if has_more else None,
        )

    async def list_audit(self, ask: Ask) -> AuditList:
        """Return a page of the audit."""
        store = await self._get_store()
        shown, has_more = cut(await store.list_audit(page_of(ask)), ask)
        return AuditList(shown, has_more, *ends(shown))


async def _check_ids(
    store: Store, *, key_ids: Sequence[str] = (), workspace_ids: Sequence[str | None] = ()
) -> None:
    """
    Refuse ids that the store would know if there were such a key or workspace.

    Raises:
        InvalidRequest: It does not.
    """
    for key_id in key_ids:
        if key_id.startswith(_OF_STORE) and await store.get_key(key_id) is None:
            raise InvalidRequest("key_id", f"there is no key {key_id[:60]!a}")
    for each in workspace_ids:
        if each is not None and await store.get_workspace(each) is None:
            raise InvalidRequest("workspace_id", f"there is no workspace {each[:60]!a}")


def _workspaces(ask: Ask) -> tuple[str | None, ...]:
    named = ask.query.get("workspace_id", ())
    return tuple(None if is_default_workspace(each) else each for each in named)


def _among(ask: Ask, name: str, known: Sequence[str]) -> tuple[str, ...]:
    given = tuple(dict.fromkeys(ask.query.get(name, ())))
    for each in given:
        if each not in known:
            raise InvalidRequest(name, f"must be one of {', '.join(known)}")
    return given
