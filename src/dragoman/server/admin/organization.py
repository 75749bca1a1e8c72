"""
What Anthropic's Admin API says of an organization, its keys, workspaces and limits, said of ours.

Source: Anthropic Admin API and the types of its SDK (``client.organization``), 2026-11. A gateway
is one organization; keys of no workspace belong to its default one. Keys are made with the
gateway's own API or command line: Anthropic's has no call for that.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from dragoman.core.errors import InvalidRequest, UnknownId
from dragoman.limit_settings import Limits
from dragoman.policy.access import KeyStatus, VirtualKey, Workspace
from dragoman.policy.registry import (
    DEFAULT_WORKSPACE_ID,
    KeyChange,
    Name,
    Registry,
    WorkspaceChange,
    WorkspaceRequest,
)
from dragoman.policy.store import GetStore, KeyFilter, Page
from dragoman.server.admin.operations import MAX_PAGE, PAGING, Ask, Operation, Parameter
from dragoman.server.admin.shapes import by, cut, found, page_of

_BASE: Final = "/v1/organizations"
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NO_COLOR: Final = "#6C5BB9"
TheirStatus = Literal["active", "archived", "expired", "inactive"]
_THEIR_STATUS: Final[Mapping[KeyStatus, TheirStatus]] = {
    "active": "active",
    "disabled": "inactive",
    "expired": "expired",
    "revoked": "archived",
}
_OUR_STATUS: Final = {theirs: ours for ours, theirs in _THEIR_STATUS.items()}
_LIMIT_TYPES: Final = (
    "requests_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
)
_ALL_MODELS: Final = "all"  # the group of limits that hold for every model together


class Organization(Struct, frozen=True, kw_only=True):
    """What the gateway is called outside."""

    id: str
    name: str
    type: Literal["organization"] = "organization"


class ModelLimits(Struct, frozen=True, kw_only=True):
    """A model and what may be asked of it in a minute, by everybody together."""

    alias: str
    display_name: str
    limits: Limits


class ApiKeyUpdate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Anthropic's API can change of a key."""

    name: Name | UnsetType | None = UNSET
    status: Literal["active", "archived", "inactive"] | UnsetType | None = UNSET


class _Unkept(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of a workspace that mean nothing here; whoever sends one is told so."""

    data_residency: Any = None
    display_color: Any = None
    external_key_id: Any = None
    tags: Any = None
    user_profile_id: Any = None


class TheirWorkspaceRequest(_Unkept, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new workspace."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]


class TheirWorkspaceUpdate(_Unkept, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of a workspace."""

    name: Name | UnsetType = UNSET


class OrganizationApi:
    """
    What is served below ``/v1/organizations``, but for the reports.

    Args:
        registry: Changes keys and workspaces.
        get_store: Opens the store, for what is only read.
        organization: Ourselves.
        models: Returns the models that are served, with their limits.
        workspace_limits: Returns what holds for each workspace that says nothing else.
    """

    def __init__(
        self,
        registry: Registry,
        get_store: GetStore,
        *,
        organization: Organization,
        models: Callable[[], Sequence[ModelLimits]],
        workspace_limits: Callable[[], Limits],
    ) -> None:
        self._registry = registry
        self._get_store = get_store
        self._organization = organization
        self._models = models
        self._workspace_limits = workspace_limits

    def operations(self) -> list[Operation]:
        """Return all of them."""
        return [*self._of_keys(), *self._of_workspaces(), *self._of_limits()]

    def _of_keys(self) -> list[Operation]:
        one = f"{_BASE}/api_keys/{{api_key_id}}"
        return [
            Operation(
                method="GET",
                path=f"{_BASE}/me",
                role="read",
                about="Which organization the admin key belongs to.",
                run=self.me,
                result=Organization,
            ),
            Operation(
                method="GET",
                path=f"{_BASE}/api_keys",
                role="read",
                about="List client keys, in Anthropic's form.",
                run=self.list_keys,
                parameters=(
                    *PAGING,
                    Parameter("status", f"One of {', '.join(_OUR_STATUS)}."),
                    Parameter("workspace_id", "Only its keys."),
                    Parameter("created_by_user_id", "Only keys that this one made."),
                ),
            ),
            Operation(
                method="GET",
                path=one,
                role="read",
                about="Show a client key, in Anthropic's form.",
                run=self.get_key,
            ),
            Operation(
                method="POST",
                path=one,
                role="write",
                about="Rename, disable, enable or archive a client key.",
                run=self.update_key,
                body=ApiKeyUpdate,
            ),
        ]

    def _of_workspaces(self) -> list[Operation]:
        one = f"{_BASE}/workspaces/{{workspace_id}}"
        return [
            Operation(
                method="GET",
                path=f"{_BASE}/workspaces",
                role="read",
                about="List workspaces, in Anthropic's form.",
                run=self.list_workspaces,
                parameters=(
                    *PAGING,
                    Parameter("include_archived", "true: archived ones, too."),
                    Parameter("include_default", "true: the default one, too, as the last."),
                    Parameter("ids", "Only these.", is_list=True),
                ),
            ),
            Operation(
                method="POST",
                path=f"{_BASE}/workspaces",
                role="write",
                about="Create a workspace.",
                run=self.create_workspace,
                body=TheirWorkspaceRequest,
            ),
            Operation(
                method="GET",
                path=one,
                role="read",
                about="Show a workspace, in Anthropic's form.",
                run=self.get_workspace,
            ),
            Operation(
                method="POST",
                path=one,
                role="write",
                about="Rename a workspace.",
                run=self.update_workspace,
                body=TheirWorkspaceUpdate,
            ),
            Operation(
                method="POST",
                path=f"{one}/archive",
                role="write",
                about="Archive a workspace and, with it, all its keys.",
                run=self.archive_workspace,
            ),
        ]

    def _of_limits(self) -> list[Operation]:
        filters = (
            Parameter("group_type", "model_group is all there is."),
            Parameter("limit", "Entries at most."),
        )
        return [
            Operation(
                method="GET",
                path=f"{_BASE}/rate_limits",
                role="read",
                about="What each model gives in a minute, to everybody together.",
                run=self.list_limits,
                parameters=(*filters, Parameter("model", "Only the entry of this model.")),
            ),
            Operation(
                method="GET",
                path=f"{_BASE}/workspaces/{{workspace_id}}/rate_limits",
                role="read",
                about="What a workspace may ask for in a minute.",
                run=self.list_workspace_limits,
                parameters=(*filters, Parameter("include_inherited", "true: those, too.")),
            ),
        ]

    # -- keys

    async def me(self, _: Ask) -> Organization:
        """Return ourselves."""
        return self._organization

    async def list_keys(self, ask: Ask) -> dict[str, Any]:
        """Return a page of keys."""
        if ask.one("created_by_user_id"):
            return _list([], has_more=False)  # no key is made by a user of Anthropic's
        statuses: tuple[KeyStatus, ...] = ()
        if ask.one("status"):
            statuses = (_OUR_STATUS[_their_status(ask)],)
        workspaces: tuple[str | None, ...] = ()
        if named := ask.one("workspace_id"):
            workspaces = (None if named == DEFAULT_WORKSPACE_ID else named,)
        which = KeyFilter(workspace_ids=workspaces, statuses=statuses, now=ask.now)
        store = await self._get_store()
        keys, has_more = cut(await store.list_keys(page_of(ask), which), ask)
        return _list([_show_key(key, ask.now) for key in keys], has_more=has_more)

    async def get_key(self, ask: Ask) -> dict[str, Any]:
        """Return a key."""
        store = await self._get_store()
        key = found(await store.get_key(ask.ids["api_key_id"]), "key", ask)
        return _show_key(key, ask.now)

    async def update_key(self, ask: Ask) -> dict[str, Any]:
        """Return the key as it is after the change."""
        change, key_id = ask.decode(ApiKeyUpdate), ask.ids["api_key_id"]
        if isinstance(change.name, str):
            await self._registry.change_key(key_id, KeyChange(name=change.name), by(ask))
        actions = {
            "active": self._registry.enable_key,
            "inactive": self._registry.disable_key,
            "archived": self._registry.revoke_key,
        }
        if isinstance(change.status, str):
            await actions[change.status](key_id, by(ask))
        return await self.get_key(ask)

    # -- workspaces

    async def list_workspaces(self, ask: Ask) -> dict[str, Any]:
        """Return a page of workspaces."""
        read = await self._read_workspaces(ask)
        shown, has_more = cut(read, ask)
        entries = [_show_workspace(each) for each in shown]
        if _is_true(ask, "include_default") and not has_more:
            entries.append(_show_workspace(_default_workspace()))
        return _list(entries, has_more=has_more)

    async def _read_workspaces(self, ask: Ask) -> list[Workspace]:
        """Return those of the page, and one more if there is one."""
        store, page = await self._get_store(), page_of(ask)
        ids, archived_too = ask.query.get("ids"), _is_true(ask, "include_archived")
        kept: list[Workspace] = []
        cursor = Page(after_id=page.after_id, before_id=page.before_id, limit=MAX_PAGE)
        while len(kept) < page.limit and (read := await store.list_workspaces(cursor)):
            fitting = [
                each
                for each in read
                if (archived_too or each.archived_at is None) and (not ids or each.id in ids)
            ]
            kept = [*fitting, *kept] if page.before_id else [*kept, *fitting]
            if page.before_id:
                cursor = Page(before_id=read[0].id, limit=MAX_PAGE)
            else:
                cursor = Page(after_id=read[-1].id, limit=MAX_PAGE)
        return kept[-page.limit :] if page.before_id else kept[: page.limit]

    async def create_workspace(self, ask: Ask) -> dict[str, Any]:
        """Return a new workspace."""
        asked = ask.decode(TheirWorkspaceRequest)
        _refuse_unkept(asked)
        request = WorkspaceRequest(name=asked.name)
        return _show_workspace(await self._registry.create_workspace(request, by(ask)))

    async def get_workspace(self, ask: Ask) -> dict[str, Any]:
        """Return a workspace."""
        return _show_workspace(await self._workspace(ask))

    async def update_workspace(self, ask: Ask) -> dict[str, Any]:
        """Return a workspace as it is after the change."""
        asked = ask.decode(TheirWorkspaceUpdate)
        _refuse_unkept(asked)
        change = WorkspaceChange(name=asked.name)
        workspace_id = ask.ids["workspace_id"]
        return _show_workspace(await self._registry.change_workspace(workspace_id, change, by(ask)))

    async def archive_workspace(self, ask: Ask) -> dict[str, Any]:
        """Return the archived workspace."""
        workspace_id = ask.ids["workspace_id"]
        return _show_workspace(await self._registry.archive_workspace(workspace_id, by(ask)))

    async def _workspace(self, ask: Ask) -> Workspace:
        workspace_id = ask.ids["workspace_id"]
        if workspace_id == DEFAULT_WORKSPACE_ID:
            return _default_workspace()
        store = await self._get_store()
        return found(await store.get_workspace(workspace_id), "workspace", ask)

    # -- limits

    async def list_limits(self, ask: Ask) -> dict[str, Any]:
        """Return the limits of all models."""
        entries = [
            {
                "id": f"rl_{model.alias}",
                "type": "rate_limit",
                "group": _group(model.alias, model.display_name),
                "limits": _values(model.limits),
                "models": [model.alias],
            }
            for model in self._models()
        ]
        if named := ask.one("model"):
            entries = [entry for entry in entries if named in entry["models"]]
            if not entries:
                raise UnknownId(f"there is no model {named[:60]!a}")
        return _limits_page(entries, ask)

    async def list_workspace_limits(self, ask: Ask) -> dict[str, Any]:
        """Return what one workspace may do with all models together."""
        workspace = await self._workspace(ask)
        # Keys without a workspace have no limits together: nothing is counted for the default one.
        is_counted = workspace.id != DEFAULT_WORKSPACE_ID
        all_limits = self._workspace_limits() if is_counted else Limits()
        inherited = all_limits if _is_true(ask, "include_inherited") else Limits()
        values = []
        for name in _LIMIT_TYPES:
            own, general = getattr(workspace.limits, name), getattr(all_limits, name)
            value = own if own is not None else getattr(inherited, name)
            if value is not None:
                source = "workspace" if own is not None else "organization"
                row = {"type": name, "value": value, "org_limit": general}
                values.append({**row, "source": {"type": source}})
        entry = {
            "type": "workspace_rate_limit",
            "rate_limit_id": f"rl_{_ALL_MODELS}",
            "workspace_id": workspace.id,
            "group": _group(_ALL_MODELS, "All models"),
            "limits": values,
            "models": [model.alias for model in self._models()],
        }
        return _limits_page([entry] if values else [], ask)


def _list(entries: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    first, last = (entries[0]["id"], entries[-1]["id"]) if entries else (None, None)
    return {"data": entries, "has_more": has_more, "first_id": first, "last_id": last}


def _limits_page(entries: list[dict[str, Any]], ask: Ask) -> dict[str, Any]:
    if ask.one("group_type", "model_group") != "model_group":
        entries = []
    size = ask.number("limit", default=MAX_PAGE, most=MAX_PAGE)
    return {"data": entries[:size], "has_more": False, "next_page": None}


def _show_key(key: VirtualKey, now: dt.datetime) -> dict[str, Any]:
    workspace_id = key.workspace_id or DEFAULT_WORKSPACE_ID
    maker = key.created_by.partition(" ")[0]  # behind an admin key's id stands its name
    return {
        "id": key.id,
        "type": "api_key",
        "name": key.name,
        "partial_key_hint": key.hint,
        "status": _THEIR_STATUS[key.status(now)],
        "created_at": key.created_at,
        "created_by": {"id": maker, "type": "user"} if maker else None,
        "expires_at": key.expires_at,
        "principal": None,
        "scope": {"type": "workspace", "workspace_id": workspace_id},
        "workspace_id": key.workspace_id,  # in older versions of the API: null for the default one
    }


def _show_workspace(workspace: Workspace) -> dict[str, Any]:
    return {
        "id": workspace.id,
        "type": "workspace",
        "name": workspace.name,
        "created_at": workspace.created_at,
        "archived_at": workspace.archived_at,
        "display_color": _NO_COLOR,
        "compartment_id": workspace.id,
        "data_residency": {
            "workspace_geo": "us",
            "allowed_inference_geos": "unrestricted",
            "default_inference_geo": "global",
        },
        "external_key_id": None,
        "tags": {},
        "user_profile_id": None,
    }


def _default_workspace() -> Workspace:
    return Workspace(id=DEFAULT_WORKSPACE_ID, name="Default", created_at=_EPOCH)


def _group(name: str, display_name: str) -> dict[str, Any]:
    return {"type": "model_group", "id": f"rlg_{name}", "display_name": display_name}


def _values(limits: Limits) -> list[dict[str, Any]]:
    rows = ((name, getattr(limits, name)) for name in _LIMIT_TYPES)
    return [{"type": name, "value": value} for name, value in rows if value is not None]


def _their_status(ask: Ask) -> TheirStatus:
    value = ask.choice("status", tuple(_OUR_STATUS), "")
    return next(each for each in _OUR_STATUS if each == value)


def _is_true(ask: Ask, name: str) -> bool:
    return ask.choice(name, ("true", "false"), "false") == "true"


def _refuse_unkept(asked: _Unkept) -> None:
    for name in _Unkept.__struct_fields__:
        if getattr(asked, name) is not None:
            raise InvalidRequest(name, "is not kept by this gateway; leave it out")
