"""What the gateway's own admin API shows, and how its lists are cut into pages."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, TypeVar

from msgspec import Struct

from dragoman.core.errors import InvalidRequest, UnknownId
from dragoman.limit_settings import Budget, Limits
from dragoman.policy.access import AdminKey, KeyStatus, Role, VirtualKey, Workspace
from dragoman.policy.records import AuditEntry, UsageRow
from dragoman.policy.registry import By
from dragoman.policy.store import Page
from dragoman.server.admin.operations import Ask

_T = TypeVar("_T")


class ShownKey(Struct, frozen=True, kw_only=True):
    """A key as people may see it. *key* is the key itself, told once when it is made."""

    id: str
    name: str
    hint: str
    status: KeyStatus
    created_at: dt.datetime
    created_by: str
    owner: str
    workspace_id: str | None
    expires_at: dt.datetime | None
    last_used_at: dt.datetime | None
    replaced_by: str | None
    allowed_models: tuple[str, ...]
    limits: Limits
    budgets: tuple[Budget, ...]
    key: str | None = None


class ShownAdminKey(Struct, frozen=True, kw_only=True):
    """An admin key as people may see it. *key* is the key itself, told once when it is made."""

    id: str
    name: str
    hint: str
    role: Role
    status: KeyStatus
    created_at: dt.datetime
    created_by: str
    expires_at: dt.datetime | None
    last_used_at: dt.datetime | None
    key: str | None = None


class KeyList(Struct, frozen=True):
    """One page of keys."""

    data: list[ShownKey]
    has_more: bool
    first_id: str | None
    last_id: str | None


class AdminKeyList(Struct, frozen=True):
    """One page of admin keys."""

    data: list[ShownAdminKey]
    has_more: bool
    first_id: str | None
    last_id: str | None


class WorkspaceList(Struct, frozen=True):
    """One page of workspaces."""

    data: list[Workspace]
    has_more: bool
    first_id: str | None
    last_id: str | None


class AuditList(Struct, frozen=True):
    """One page of the audit, newest first."""

    data: list[AuditEntry]
    has_more: bool
    first_id: str | None
    last_id: str | None


class UsageSums(Struct, frozen=True, kw_only=True):
    """One page of sums of records, one row for each group that has any."""

    since: dt.datetime
    until: dt.datetime
    group_by: tuple[str, ...]
    data: list[UsageRow]
    has_more: bool
    next_page: str | None  # what the next one is asked for with, beside the same parameters


def by(ask: Ask) -> By:
    """Return who asks, and when."""
    return By(actor=ask.actor, now=ask.now)


def found(entry: _T | None, what: str, ask: Ask) -> _T:
    """
    Return the entry.

    Raises:
        UnknownId: There is none.
    """
    if entry is None:
        (named,) = ask.ids.values()
        raise UnknownId(f"there is no {what} {named[:60]!a}")
    return entry


def page_of(ask: Ask) -> Page:
    """
    Return the part of a list that is wanted, and one entry more, which tells whether there are.

    Raises:
        InvalidRequest: A parameter is wrong.
    """
    after, before = ask.one("after_id"), ask.one("before_id")
    if after and before:
        raise InvalidRequest("before_id", "excludes after_id")
    return Page(after_id=after or None, before_id=before or None, limit=ask.page_size() + 1)


def cut(entries: Sequence[_T], ask: Ask) -> tuple[list[_T], bool]:
    """Return what of a list that was read with ``page_of`` is shown, and whether there is more."""
    size = ask.page_size()
    if len(entries) <= size:
        return list(entries), False
    return list(entries[-size:] if ask.one("before_id") else entries[:size]), True


def ends(entries: Sequence[Any]) -> tuple[str | None, str | None]:
    """Return the ids of the first and the last entry."""
    return (entries[0].id, entries[-1].id) if entries else (None, None)


def show_key(key: VirtualKey, now: dt.datetime) -> ShownKey:
    """Return a key as people may see it."""
    fields = {name: getattr(key, name) for name in ShownKey.__struct_fields__ if hasattr(key, name)}
    return ShownKey(**{**fields, "status": key.status(now)})


def show_admin_key(key: AdminKey, now: dt.datetime) -> ShownAdminKey:
    """Return an admin key as people may see it."""
    names = ShownAdminKey.__struct_fields__
    fields = {name: getattr(key, name) for name in names if hasattr(key, name)}
    return ShownAdminKey(**{**fields, "status": key.status(now)})
