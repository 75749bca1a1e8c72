"""What must outlive the process, as an interface; ``stores`` implements it."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from dragoman.policy.access import VirtualKey, Workspace
from dragoman.policy.records import AuditEntry, UsageQuery, UsageRecord, UsageRow


class Page(Struct, frozen=True, kw_only=True):
    """Which part of a list, newest first: after or before the entry with an id."""

    after_id: str | None = None
    before_id: str | None = None
    limit: int = 20


class Store(Protocol):
    """
    Keys, workspaces, usage, audit. Every change of keys or workspaces comes with its audit entry,
    in one transaction.

    Every method raises ``StoreUnavailable`` where the database cannot be reached in time.
    """

    async def revision(self) -> int:
        """Return a number that grows with every change of keys or workspaces."""
        ...

    async def key_by_digest(self, digest: bytes) -> tuple[VirtualKey, Workspace | None] | None:
        """Return the key, revoked or not, and its workspace."""
        ...

    async def get_key(self, key_id: str) -> VirtualKey | None: ...
    async def list_keys(
        self, page: Page, *, workspace_id: str | None = None, any_workspace: bool = True
    ) -> list[VirtualKey]: ...
    async def put_key(self, key: VirtualKey, entry: AuditEntry) -> None:
        """Add the key, or replace what is known of it."""
        ...

    async def touch_keys(self, last_used: Mapping[str, dt.datetime]) -> None:
        """Write down when keys were last used; no audit entry, no new revision."""
        ...

    async def get_workspace(self, workspace_id: str) -> Workspace | None: ...
    async def list_workspaces(self, page: Page) -> list[Workspace]: ...
    async def put_workspace(self, workspace: Workspace, entry: AuditEntry) -> None: ...

    async def add_usage(self, records: Sequence[UsageRecord]) -> None:
        """Add records; those whose id is known already change nothing."""
        ...

    async def usage(self, query: UsageQuery) -> list[UsageRow]: ...
    async def list_audit(self, page: Page) -> list[AuditEntry]: ...
    async def close(self) -> None: ...
