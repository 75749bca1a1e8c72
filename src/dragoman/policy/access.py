"""Who may ask for what: workspaces, virtual keys, and the caller that a request belongs to."""

import datetime as dt
from fnmatch import fnmatchcase
from typing import Final, Literal

from msgspec import Struct

from dragoman.core.errors import PermissionDenied
from dragoman.limit_settings import Budget, Limits

__all__ = [
    "NOBODY",
    "AdminKey",
    "Budget",
    "Caller",
    "KeyStatus",
    "Limits",
    "Role",
    "VirtualKey",
    "Workspace",
]

Role = Literal["read", "write"]
KeyStatus = Literal["active", "disabled", "expired", "revoked"]


class Workspace(Struct, frozen=True, kw_only=True):
    """Keys that belong together. A key without one belongs to the default workspace, id None."""

    id: str  # wrkspc_...
    name: str
    created_at: dt.datetime
    archived_at: dt.datetime | None = None
    allowed_models: tuple[str, ...] = ()  # patterns; none: all models
    limits: Limits = Limits()
    budgets: tuple[Budget, ...] = ()
    fetch_hosts: tuple[str, ...] = ()  # patterns of hosts that URLs may name; none: all public ones


class VirtualKey(Struct, frozen=True, kw_only=True):
    """
    A key that the gateway has issued. The key itself is nowhere; its digest is.

    Attributes:
        digest: SHA-256 of the key; keys have so much entropy that no slow hash is needed.
        hint: The key as people may see it: its beginning and its last four characters.
        expires_at: From then on it is refused.
        disabled_at: Since then it is refused; None: it is not disabled.
        revoked_at: Since then it is refused for ever.
        replaced_by: The key that it was rotated to; until *expires_at* both are good.
    """

    id: str  # apikey_...
    name: str
    digest: bytes
    hint: str
    created_at: dt.datetime
    created_by: str = ""
    owner: str = ""
    workspace_id: str | None = None
    expires_at: dt.datetime | None = None
    disabled_at: dt.datetime | None = None
    revoked_at: dt.datetime | None = None
    replaced_by: str | None = None
    last_used_at: dt.datetime | None = None
    allowed_models: tuple[str, ...] = ()  # patterns; none: all models of its workspace
    limits: Limits = Limits()
    budgets: tuple[Budget, ...] = ()

    def status(self, now: dt.datetime) -> KeyStatus:
        """Return whether it is good at the time *now*, or why not."""
        return "disabled" if self.disabled_at and not self.revoked_at else _status(self, now)


class AdminKey(Struct, frozen=True, kw_only=True):
    """A key for the admin API, never for models. What is kept of it is as for *VirtualKey*."""

    id: str  # adminkey_...
    name: str
    digest: bytes
    hint: str
    role: Role
    created_at: dt.datetime
    created_by: str = ""
    expires_at: dt.datetime | None = None
    revoked_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = None

    def status(self, now: dt.datetime) -> KeyStatus:
        """Return whether it is good at the time *now*, or why not."""
        return _status(self, now)


class Caller(Struct, frozen=True, kw_only=True):
    """
    Whom a request belongs to: what its key and the key's workspace say.

    Attributes:
        key_id: ``apikey_...``; ``config:NAME`` for a key of the configuration; ``local`` without.
        key_name: What people call it; the log shows it.
        workspace: None: the default one.
        key: What the store knows of it; None: it is not in the store.
    """

    key_id: str
    key_name: str
    workspace: Workspace | None = None
    key: VirtualKey | None = None

    @property
    def workspace_id(self) -> str | None:
        """The workspace's id; None: the default one."""
        return self.workspace.id if self.workspace else None

    @property
    def owner(self) -> str:
        """Who shares what is kept between requests: a workspace, or a key that has none."""
        return self.workspace.id if self.workspace else self.key_id

    def may_use(self, alias: str) -> bool:
        """Return whether the caller may use the model."""
        return all(
            holder is None or _matches(alias, holder.allowed_models)
            for holder in (self.workspace, self.key)
        )

    def check_model(self, alias: str) -> None:
        """
        Do nothing if the caller may use the model.

        Raises:
            PermissionDenied: The key or its workspace does not allow it.
        """
        for whose, holder in (("workspace", self.workspace), ("API key", self.key)):
            if holder is not None and not _matches(alias, holder.allowed_models):
                raise PermissionDenied(
                    f"model: this {whose} may not use {alias}; it may use "
                    f"{', '.join(holder.allowed_models)}"
                )


NOBODY: Final = Caller(key_id="", key_name="")  # until it is known who calls


def _status(key: VirtualKey | AdminKey, now: dt.datetime) -> KeyStatus:
    if key.revoked_at:
        return "revoked"
    return "expired" if key.expires_at and key.expires_at <= now else "active"


def _matches(alias: str, patterns: tuple[str, ...]) -> bool:
    folded = alias.casefold()
    return not patterns or any(fnmatchcase(folded, pattern.casefold()) for pattern in patterns)
