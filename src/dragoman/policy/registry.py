"""
What administrators do with keys and workspaces, whichever way they come: rules, and audit entries.

Nothing is written unless everything is right: what a rule refuses leaves the store as it was.
"""

import datetime as dt
import re
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from dragoman.core.errors import InvalidRequest, UnknownId
from dragoman.limit_settings import Budget, BudgetConfig, Limits, budget_problems
from dragoman.policy.access import AdminKey, Role, VirtualKey, Workspace
from dragoman.policy.key_texts import digest_of, hint_of, new_admin_key, new_client_key, new_id
from dragoman.policy.records import AuditEntry
from dragoman.policy.store import GetStore

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Owner = Annotated[str, Meta(max_length=200)]
Pattern = Annotated[str, Meta(min_length=1, max_length=200)]
Patterns = Annotated[tuple[Pattern, ...], Meta(max_length=100)]
Budgets = Annotated[tuple[BudgetConfig, ...], Meta(max_length=10)]
DEFAULT_WORKSPACE: Final = "default"  # of keys that have none
DEFAULT_WORKSPACE_ID: Final = "wrkspc_default"  # the same in Anthropic's form; not in the store
END_YEAR: Final = 9000  # whatever is added to a time before it, a calendar can still name
# Names or IPv6 addresses, or patterns of them. With scheme, port or path one would fit no host.
_HOST_PATTERN: Final = re.compile(
    r"[A-Za-z0-9_.*?-]+|[0-9A-Fa-f:.*?]*:[0-9A-Fa-f.*?]*:[0-9A-Fa-f:.*?]*"
)
MAX_OVERLAP: Final = dt.timedelta(days=90)  # of an old key and the one that replaces it


class KeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a new key shall be; *budgets* in dollars."""

    name: Name
    owner: Owner = ""
    workspace_id: str | None = None
    expires_at: dt.datetime | None = None
    allowed_models: Patterns = ()
    limits: Limits = Limits()
    budgets: Budgets = ()


class KeyChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall be different of a key; what is not given stays."""

    name: Name | UnsetType = UNSET
    owner: Owner | UnsetType = UNSET
    expires_at: dt.datetime | UnsetType | None = UNSET
    allowed_models: Patterns | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    budgets: Budgets | UnsetType = UNSET


class WorkspaceRequest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a new workspace shall be; *budgets* in dollars."""

    name: Name
    allowed_models: Patterns = ()
    limits: Limits = Limits()
    budgets: Budgets = ()
    fetch_hosts: Patterns = ()


class WorkspaceChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall be different of a workspace; what is not given stays."""

    name: Name | UnsetType = UNSET
    allowed_models: Patterns | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    budgets: Budgets | UnsetType = UNSET
    fetch_hosts: Patterns | UnsetType = UNSET


class AdminKeyRequest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a new admin key shall be."""

    name: Name
    role: Role
    expires_at: dt.datetime | None = None


class By(Struct, frozen=True, kw_only=True):
    """Who does something, and when."""

    actor: str
    now: dt.datetime


class Registry:
    """
    Keys and workspaces, and every change of them.

    Args:
        get_store: Opens the store.
        aliases: The models that are served, for patterns; none: patterns are not looked at.
    """

    def __init__(self, get_store: GetStore, *, aliases: Callable[[], Collection[str]]) -> None:
        self._get_store = get_store
        self._aliases = aliases

    # -- keys

    async def create_key(self, asked: KeyRequest, by: By) -> tuple[VirtualKey, str]:
        """
        Return a new key, and its text, which is told this once.

        Raises:
            InvalidRequest: A field is wrong; nothing was made.
            UnknownId: There is no such workspace.
        """
        if is_default_workspace(asked.workspace_id):
            asked = structs.replace(asked, workspace_id=None)
        _check_name(asked.name)
        _check_owner(asked.owner)
        self._check_patterns(asked.allowed_models)
        _check_expiry(asked.expires_at, by.now)
        await self._check_workspace(asked.workspace_id)
        key, text = _new_key(asked, by)
        entry = _entry(by, "key.create", key.id, details=_given(asked))
        await (await self._get_store()).add_key(key, entry)
        return key, text

    async def change_key(self, key_id: str, asked: KeyChange, by: By) -> VirtualKey:
        """
        Return the key as it is now.

        Raises:
            InvalidRequest: A field is wrong, or the key is revoked; nothing was changed.
            UnknownId: There is no such key.
        """
        given = _given(asked)
        if isinstance(asked.name, str):
            _check_name(asked.name)
        if isinstance(asked.owner, str):
            _check_owner(asked.owner)
        if isinstance(asked.expires_at, dt.datetime):
            _check_expiry(asked.expires_at, by.now)
        if isinstance(asked.allowed_models, tuple):
            self._check_patterns(asked.allowed_models)
        fields = _as_kept(asked)
        return await self._change_key(
            key_id,
            lambda key: structs.replace(_living(key), **fields),
            _entry(by, "key.change", key_id, details=given),
        )

    async def revoke_key(self, key_id: str, by: By) -> VirtualKey:
        """
        Refuse a key from now on, for ever; one that is revoked stays as it was.

        Raises:
            UnknownId: There is no such key.
        """
        return await self._change_key(
            key_id,
            lambda key: structs.replace(key, revoked_at=key.revoked_at or by.now),
            _entry(by, "key.revoke", key_id),
        )

    async def disable_key(self, key_id: str, by: By) -> VirtualKey:
        """
        Refuse a key until it is enabled again.

        Raises:
            InvalidRequest: It is revoked.
            UnknownId: There is no such key.
        """
        return await self._change_key(
            key_id,
            lambda key: structs.replace(_living(key), disabled_at=key.disabled_at or by.now),
            _entry(by, "key.disable", key_id),
        )

    async def enable_key(self, key_id: str, by: By) -> VirtualKey:
        """
        Take a key again that was disabled.

        Raises:
            InvalidRequest: It is revoked.
            UnknownId: There is no such key.
        """
        return await self._change_key(
            key_id,
            lambda key: structs.replace(_living(key), disabled_at=None),
            _entry(by, "key.enable", key_id),
        )

    async def rotate_key(
        self, key_id: str, overlap: dt.timedelta, by: By
    ) -> tuple[VirtualKey, str]:
        """
        Return a new key in the place of an old one, which is good for *overlap* longer.

        Raises:
            InvalidRequest: The overlap is too long, or the old key is not good any more.
            UnknownId: There is no such key.
        """
        if not dt.timedelta() <= overlap <= MAX_OVERLAP:
            raise InvalidRequest("overlap", f"must be from 0 to {MAX_OVERLAP.days} days")
        store = await self._get_store()
        old = await store.get_key(key_id)
        if old is None:
            raise _no_key(key_id)
        text = new_client_key()
        new = structs.replace(
            old,
            id=new_id("apikey"),
            digest=digest_of(text.encode()),
            hint=hint_of(text),
            created_at=by.now,
            created_by=by.actor,
            last_used_at=None,
            replaced_by=None,
        )

        def replaced(key: VirtualKey) -> VirtualKey:
            if key.replaced_by is not None:
                raise InvalidRequest("key", f"was rotated already, to {key.replaced_by}")
            if (status := key.status(by.now)) != "active":
                raise InvalidRequest("key", f"is {status}; only a key that is good can be rotated")
            ends = by.now + overlap
            ends = min(ends, key.expires_at) if key.expires_at else ends
            return structs.replace(key, expires_at=ends, replaced_by=new.id)

        details = {"replaced_by": new.id, "overlap_s": int(overlap.total_seconds())}
        entry = _entry(by, "key.rotate", key_id, details=details)
        await store.change_key(key_id, replaced, entry=entry, successor=new)
        return new, text

    async def _change_key(
        self, key_id: str, change: Callable[[VirtualKey], VirtualKey], entry: AuditEntry
    ) -> VirtualKey:
        return await (await self._get_store()).change_key(key_id, change, entry=entry)

    # -- workspaces

    async def create_workspace(self, asked: WorkspaceRequest, by: By) -> Workspace:
        """
        Return a new workspace.

        Raises:
            InvalidRequest: A field is wrong, or the name is taken; nothing was made.
        """
        _check_workspace_name(asked.name)
        self._check_patterns(asked.allowed_models)
        _check_hosts(asked.fetch_hosts)
        workspace = Workspace(
            id=new_id("wrkspc"),
            name=asked.name,
            created_at=by.now,
            allowed_models=asked.allowed_models,
            limits=asked.limits,
            budgets=_kept_budgets(asked.budgets),
            fetch_hosts=asked.fetch_hosts,
        )
        entry = _entry(by, "workspace.create", workspace.id, details=_given(asked))
        await (await self._get_store()).add_workspace(workspace, entry)
        return workspace

    async def change_workspace(
        self, workspace_id: str, asked: WorkspaceChange, by: By
    ) -> Workspace:
        """
        Return the workspace as it is now.

        Raises:
            InvalidRequest: A field is wrong, or it is archived; nothing was changed.
            UnknownId: There is no such workspace.
        """
        _check_is_kept(workspace_id)
        if isinstance(asked.name, str):
            _check_workspace_name(asked.name)
        if isinstance(asked.allowed_models, tuple):
            self._check_patterns(asked.allowed_models)
        if isinstance(asked.fetch_hosts, tuple):
            _check_hosts(asked.fetch_hosts)
        fields = _as_kept(asked)

        def changed(workspace: Workspace) -> Workspace:
            if workspace.archived_at is not None:
                raise InvalidRequest("workspace", "is archived, and cannot be changed any more")
            return structs.replace(workspace, **fields)

        entry = _entry(by, "workspace.change", workspace_id, details=_given(asked))
        return await (await self._get_store()).change_workspace(workspace_id, changed, entry=entry)

    async def archive_workspace(self, workspace_id: str, by: By) -> Workspace:
        """
        Revoke all keys of a workspace, and let it have no new ones.

        Raises:
            InvalidRequest: It is the default one.
            UnknownId: There is no such workspace.
        """
        _check_is_kept(workspace_id)
        entry = _entry(by, "workspace.archive", workspace_id)
        return await (await self._get_store()).change_workspace(
            workspace_id,
            lambda each: structs.replace(each, archived_at=each.archived_at or by.now),
            entry=entry,
        )

    # -- admin keys

    async def create_admin_key(self, asked: AdminKeyRequest, by: By) -> tuple[AdminKey, str]:
        """
        Return a new admin key, and its text, which is told this once.

        Raises:
            InvalidRequest: A field is wrong; nothing was made.
        """
        _check_name(asked.name)
        _check_expiry(asked.expires_at, by.now)
        text = new_admin_key()
        key = AdminKey(
            id=new_id("adminkey"),
            name=asked.name,
            digest=digest_of(text.encode()),
            hint=hint_of(text),
            role=asked.role,
            created_at=by.now,
            created_by=by.actor,
            expires_at=asked.expires_at,
        )
        entry = _entry(by, "admin_key.create", key.id, details=_given(asked))
        await (await self._get_store()).add_admin_key(key, entry)
        return key, text

    async def revoke_admin_key(self, key_id: str, by: By) -> AdminKey:
        """
        Refuse an admin key from now on, for ever.

        Raises:
            UnknownId: There is no such key.
        """
        entry = _entry(by, "admin_key.revoke", key_id)
        return await (await self._get_store()).change_admin_key(
            key_id,
            lambda key: structs.replace(key, revoked_at=key.revoked_at or by.now),
            entry=entry,
        )

    # -- rules

    def _check_patterns(self, patterns: Collection[str]) -> None:
        aliases = [alias.casefold() for alias in self._aliases()]
        for number, pattern in enumerate(patterns):
            if aliases and not any(fnmatchcase(each, pattern.casefold()) for each in aliases):
                reason = f"{pattern!r} fits no model that is served; GET /v1/models lists them"
                raise InvalidRequest(f"allowed_models.{number}", reason)

    async def _check_workspace(self, workspace_id: str | None) -> None:
        if workspace_id is None:
            return
        store, workspace = await self._get_store(), None
        if workspace_id.isprintable():  # what is not, a database may not even be asked for
            workspace = await store.get_workspace(workspace_id)
        if workspace is None:
            raise InvalidRequest("workspace_id", f"there is no workspace {workspace_id[:60]!a}")
        if workspace.archived_at is not None:
            raise InvalidRequest("workspace_id", "the workspace is archived")


def _new_key(asked: KeyRequest, by: By) -> tuple[VirtualKey, str]:
    text = new_client_key()
    key = VirtualKey(
        id=new_id("apikey"),
        name=asked.name,
        digest=digest_of(text.encode()),
        hint=hint_of(text),
        created_at=by.now,
        created_by=by.actor,
        owner=asked.owner,
        workspace_id=asked.workspace_id,
        expires_at=asked.expires_at,
        allowed_models=asked.allowed_models,
        limits=asked.limits,
        budgets=_kept_budgets(asked.budgets),
    )
    return key, text


def _living(key: VirtualKey) -> VirtualKey:
    if key.revoked_at is not None:
        raise InvalidRequest("key", "is revoked, which is for ever; create another one")
    return key


def _no_key(key_id: str) -> UnknownId:
    return UnknownId(f"there is no key {key_id[:60]!a}")


def _check_name(name: str) -> None:
    if not name.isprintable() or name != name.strip():
        raise InvalidRequest("name", "must be printable characters without spaces at its ends")


def _check_owner(owner: str) -> None:
    if not owner.isprintable():
        raise InvalidRequest("owner", "must be printable characters")


def _check_workspace_name(name: str) -> None:
    _check_name(name)
    if name.casefold() == DEFAULT_WORKSPACE:
        raise InvalidRequest("name", f"{DEFAULT_WORKSPACE!r} is where keys without a workspace are")


def is_default_workspace(named: str | None) -> bool:
    """Tell whether a workspace that somebody names is the one of keys that have none."""
    return named in (DEFAULT_WORKSPACE, DEFAULT_WORKSPACE_ID)


def _check_is_kept(workspace_id: str) -> None:
    if is_default_workspace(workspace_id):
        reason = "the default one has no settings; it is where keys without a workspace are"
        raise InvalidRequest("workspace", reason)


def _check_hosts(patterns: Collection[str]) -> None:
    for number, pattern in enumerate(patterns):
        if not _HOST_PATTERN.fullmatch(pattern):
            reason = f"{pattern!a} fits no host; give names alone, as example.com or *.example.com"
            raise InvalidRequest(f"fetch_hosts.{number}", reason)


def _check_expiry(at: dt.datetime | None, now: dt.datetime) -> None:
    if at is None:
        return
    if at.tzinfo is None:
        raise InvalidRequest("expires_at", "must name its offset, as 2026-12-31T00:00:00Z does")
    if at <= now:
        raise InvalidRequest("expires_at", "must be in the future")
    if at.year >= END_YEAR:  # before any offset, so that it is a time in UTC, too
        raise InvalidRequest("expires_at", f"must be before the year {END_YEAR}; or leave it out")


def _kept_budgets(budgets: Collection[BudgetConfig]) -> tuple[Budget, ...]:
    for number, field, problem in budget_problems(budgets):
        raise InvalidRequest(".".join(filter(None, ("budgets", str(number), field))), problem)
    return tuple(budget.budget() for budget in budgets)


def _as_kept(asked: KeyChange | WorkspaceChange) -> dict[str, Any]:
    """Return the fields that were given, as the store has them."""
    fields = {name: value for name, value in structs.asdict(asked).items() if value is not UNSET}
    if "budgets" in fields:
        fields["budgets"] = _kept_budgets(fields["budgets"])
    return fields


def _given(asked: Struct) -> dict[str, Any]:
    """Return what was given, for the audit."""
    given: dict[str, Any] = msgspec.to_builtins(asked)
    return given


def _entry(
    by: By, action: str, subject: str, *, details: dict[str, Any] | None = None
) -> AuditEntry:
    return AuditEntry(
        id=new_id("audit"),
        at=by.now,
        actor=by.actor,
        action=action,
        subject=subject,
        details=details or {},
    )
