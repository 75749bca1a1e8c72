"""What must outlive the process, as an interface; ``stores`` implements it."""

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from dragoman.policy.access import AdminKey, KeyStatus, VirtualKey, Workspace
from dragoman.policy.records import (
    AuditEntry,
    Spent,
    SpentQuery,
    UsageQuery,
    UsageRecord,
    UsageRow,
)


class Page(Struct, frozen=True, kw_only=True):
    """Which part of a list, newest first: after or before the entry with an id."""

    after_id: str | None = None
    before_id: str | None = None
    limit: int = 20


class KeyFilter(Struct, frozen=True, kw_only=True):
    """Which keys; of an empty field it does not matter what it holds."""

    names: tuple[str, ...] = ()
    workspace_ids: tuple[str | None, ...] = ()  # None: the default workspace
    statuses: tuple[KeyStatus, ...] = ()  # at the time *now*
    now: dt.datetime = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


ALL_KEYS: Final = KeyFilter()


class KeyChanges(Struct, frozen=True, kw_only=True):
    """
    What has changed since a revision.

    Attributes:
        revision: The present one.
        keys: Every key that has changed, or whose workspace has; None: too many to say, or nobody
            knows, since the present revision is an earlier one.
        has_keys: Whether there are any, revoked ones among them.
    """

    revision: int
    keys: tuple[tuple[VirtualKey, Workspace | None], ...] | None
    has_keys: bool


class Store(Protocol):
    """
    Keys, workspaces, usage, audit. Every change of keys or workspaces comes with its audit entry,
    in one transaction.

    A ``change_`` method reads an entry, passes it to *change* and writes down what that returns,
    all in one transaction; what *change* raises leaves everything as it was.

    Every method raises ``StoreUnavailable`` where the database cannot be reached in time,
    ``UnknownId`` where what shall be changed does not exist, and ``InvalidRequest`` where a name
    is taken or a page begins nowhere.
    """

    async def key_changes(self, since: int) -> KeyChanges:
        """Return the keys that have changed after the revision *since*."""
        ...

    async def key_by_digest(self, digest: bytes) -> tuple[VirtualKey, Workspace | None] | None:
        """Return the key, revoked or not, and its workspace."""
        ...

    async def keys_behind(
        self, key_id: str, *, limit: int
    ) -> Sequence[tuple[VirtualKey, Workspace | None]]:
        """Return keys that are not revoked, in the order of their ids, those after *key_id*."""
        ...

    async def get_key(self, key_id: str) -> VirtualKey | None: ...
    async def list_keys(self, page: Page, which: KeyFilter = ALL_KEYS) -> list[VirtualKey]: ...
    async def add_key(self, key: VirtualKey, entry: AuditEntry) -> None: ...
    async def change_key(
        self,
        key_id: str,
        change: Callable[[VirtualKey], VirtualKey],
        *,
        entry: AuditEntry,
        successor: VirtualKey | None = None,
    ) -> VirtualKey:
        """Return the key as it is now; *successor* is a new one that is added with the change."""
        ...

    async def touch_keys(self, last_used: Mapping[str, dt.datetime]) -> None:
        """Write down when keys, admin keys too, were last used: no audit, no new revision."""
        ...

    async def get_workspace(self, workspace_id: str) -> Workspace | None: ...
    async def list_workspaces(
        self, page: Page, *, names: Sequence[str] = ()
    ) -> list[Workspace]: ...
    async def add_workspace(self, workspace: Workspace, entry: AuditEntry) -> None: ...
    async def change_workspace(
        self, workspace_id: str, change: Callable[[Workspace], Workspace], *, entry: AuditEntry
    ) -> Workspace:
        """Change a workspace; one that is archived has its keys revoked. Return it."""
        ...

    async def admin_key_by_digest(self, digest: bytes) -> AdminKey | None: ...
    async def get_admin_key(self, key_id: str) -> AdminKey | None: ...
    async def list_admin_keys(self, page: Page) -> list[AdminKey]: ...
    async def add_admin_key(self, key: AdminKey, entry: AuditEntry) -> None: ...
    async def change_admin_key(
        self, key_id: str, change: Callable[[AdminKey], AdminKey], *, entry: AuditEntry
    ) -> AdminKey: ...

    async def add_usage(self, records: Sequence[UsageRecord]) -> None:
        """Add records; those whose id is known already change nothing."""
        ...

    async def usage(self, query: UsageQuery) -> list[UsageRow]: ...
    async def spent(self, query: SpentQuery) -> dict[str, Spent]:
        """Return what each owner has used, by its id; those without records are left out."""
        ...

    async def keep_spent(self, before: dt.datetime) -> bool:
        """
        Add up what was used of budgets on one day that ended before a time, for ``spent``.

        Returns whether there was such a day. What is added to it later counts all the same. Safe
        with several replicas at once.
        """
        ...

    async def roll_up_usage(self, before: dt.datetime) -> int:
        """
        Add the records of the oldest day up that ended before a time, and remove them.

        Returns how many there were; 0: there is no such day. Safe with several replicas at once.
        """
        ...

    async def forget_usage(self, before: dt.datetime) -> int:
        """Remove the sums of days that ended before a time; return how many there were."""
        ...

    async def list_audit(self, page: Page) -> list[AuditEntry]: ...
    async def close(self) -> None: ...


# Opens the store where it is not open yet; raises StoreUnavailable where it cannot be opened.
GetStore = Callable[[], Awaitable[Store]]
