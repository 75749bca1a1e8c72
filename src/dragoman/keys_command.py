"""`dragoman keys`: who may call."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType, structs
from rich.console import Console

from dragoman.exit_codes import OK, USAGE, CommandFailed
from dragoman.limit_settings import BudgetConfig, Limits
from dragoman.limit_texts import merged_budgets, merged_limits, shown_budgets, shown_limits
from dragoman.policy.access import KeyStatus, VirtualKey
from dragoman.policy.registry import (
    DEFAULT_WORKSPACE,
    KeyChange,
    KeyRequest,
    is_default_workspace,
)
from dragoman.policy.store import KeyFilter, Page
from dragoman.store_command import (
    NONE,
    SHOWN_ONCE,
    Desk,
    StoreOptions,
    at_store,
    checked,
    parse_expiry,
    parse_span,
    print_fields,
    print_json,
    print_rows,
    read_page,
    shown_time,
    tell_of_more,
    the_one,
    whole_page,
)
from dragoman.terminal import print_line
from dragoman.workspaces_command import find_workspace, workspace_names

_COLUMNS: Final = ("NAME", "STATUS", "KEY", "OWNER", "WORKSPACE", "EXPIRES", "LAST USED", "ID")
_ID: Final = "apikey_"


class KeyFlags(Struct, frozen=True, kw_only=True):
    """
    What the flags say of a key; None: nothing.

    Attributes:
        expires: As people write it.
        limits: Those that were given.
        budgets: Those that were given.
        has_no_limits: Limits that were there go first.
        has_no_budgets: Budgets that were there go first.
    """

    name: str | None = None
    owner: str | None = None
    workspace: str | None = None
    expires: str | None = None
    models: tuple[str, ...] = ()
    limits: Limits = Limits()
    budgets: tuple[BudgetConfig, ...] = ()
    has_no_limits: bool = False
    has_no_budgets: bool = False


def create_key(
    name: str, flags: KeyFlags, *, options: StoreOptions, environ: Mapping[str, str]
) -> int:
    """
    Make a key, print it, return the exit code.

    Raises:
        CommandFailed: Something is wrong; nothing was made.
    """

    async def case(desk: Desk) -> tuple[VirtualKey, str]:
        workspace = None
        if flags.workspace is not None and not is_default_workspace(flags.workspace):
            workspace = await find_workspace(desk.store, flags.workspace)
        asked = KeyRequest(
            name=name,
            owner=flags.owner or "",
            workspace_id=workspace.id if workspace else None,
            expires_at=parse_expiry(flags.expires or "never", desk.by.now),
            allowed_models=flags.models,
            limits=flags.limits,
            budgets=flags.budgets,
        )
        registry = await desk.registry(flags.models)
        return await registry.create_key(checked(asked), desk.by)

    _tell_key(*at_store(options, case, environ=environ), options=options)
    return OK


def list_keys(
    workspace: str | None,
    status: KeyStatus | None,
    *,
    page: Page,
    options: StoreOptions,
    environ: Mapping[str, str],
) -> int:
    """Print keys, newest first, return the exit code."""

    async def case(desk: Desk) -> tuple[list[VirtualKey], bool, Mapping[str | None, str]]:
        ids: tuple[str | None, ...] = ()
        if workspace is not None:
            is_default = is_default_workspace(workspace)
            ids = (None,) if is_default else ((await find_workspace(desk.store, workspace)).id,)
        statuses = () if status is None else (status,)
        which = KeyFilter(workspace_ids=ids, statuses=statuses, now=desk.by.now)
        found = await read_page(lambda each: desk.store.list_keys(each, which), page)
        return *found, await workspace_names(desk.store)

    keys, is_more, names = at_store(options, case, environ=environ)
    now = dt.datetime.now(dt.UTC)
    if options.is_json:
        print_json([key_fields(key, now) for key in keys])
    else:
        rows = [_row(key, names, now) for key in keys]
        print_rows(_COLUMNS, rows, nothing="no key; make one: dragoman keys create NAME")
    tell_of_more(keys, is_more=is_more)
    return OK


def show_key(which: str, *, options: StoreOptions, environ: Mapping[str, str]) -> int:
    """Print everything that is known of a key, return the exit code."""

    async def case(desk: Desk) -> tuple[VirtualKey, Mapping[str | None, str]]:
        return await find_key(desk, which), await workspace_names(desk.store)

    key, names = at_store(options, case, environ=environ)
    _tell_state(key, names, options=options)
    return OK


def change_key(
    which: str, flags: KeyFlags, *, options: StoreOptions, environ: Mapping[str, str]
) -> int:
    """
    Change what the flags name, print the key, return the exit code.

    Raises:
        CommandFailed: Something is wrong; nothing was changed.
    """

    async def case(desk: Desk) -> tuple[VirtualKey, Mapping[str | None, str]]:
        key = await find_key(desk, which)
        asked = checked(_change(key, flags, desk.by.now))
        registry = await desk.registry(flags.models)
        return await registry.change_key(key.id, asked, desk.by), await workspace_names(desk.store)

    key, names = at_store(options, case, environ=environ)
    _tell_state(key, names, options=options)
    return OK


def set_key(which: str, action: str, *, options: StoreOptions, environ: Mapping[str, str]) -> int:
    """Do one *action*, ``revoke``, ``disable`` or ``enable``; print the key, return the code."""

    async def case(
        desk: Desk,
    ) -> tuple[VirtualKey, Mapping[str | None, str], list[VirtualKey]]:
        key = await find_key(desk, which)
        registry = await desk.registry()
        actions = {
            "revoke": registry.revoke_key,
            "disable": registry.disable_key,
            "enable": registry.enable_key,
        }
        done = await actions[action](key.id, desk.by)
        return done, await workspace_names(desk.store), await _good_predecessors(desk, key)

    key, names, older = at_store(options, case, environ=environ)
    _tell_state(key, names, options=options)
    if action != "enable":
        _tell_of_predecessors(older)
    return OK


def rotate_key(
    which: str, overlap: str, *, options: StoreOptions, environ: Mapping[str, str]
) -> int:
    """Put a new key in the place of another one, print it, return the exit code."""
    span = parse_span(overlap)

    async def case(desk: Desk) -> tuple[VirtualKey, str]:
        key = await find_key(desk, which)
        return await (await desk.registry()).rotate_key(key.id, span, desk.by)

    _tell_key(*at_store(options, case, environ=environ), options=options)
    return OK


async def find_key(desk: Desk, which: str) -> VirtualKey:
    """
    Return the key with an id, or the only good one with a name.

    Raises:
        CommandFailed: There is none, or several have the name.
    """
    if which.startswith(_ID) and (key := await desk.store.get_key(which)) is not None:
        return key
    found = await desk.store.list_keys(whole_page(), KeyFilter(names=(which,)))
    good = [key for key in found if key.status(desk.by.now) != "revoked"]
    # After a rotation both have the name; the one in use from then on is meant.
    current = [key for key in good if key.replaced_by is None]
    active = [key for key in good if key.status(desk.by.now) == "active"]
    return the_one((current, active, good, found), which, kinds="keys", command="keys")


async def _good_predecessors(desk: Desk, key: VirtualKey) -> list[VirtualKey]:
    """Return the keys that *key* has replaced and that are still good: a rotation overlaps."""
    found = await desk.store.list_keys(whole_page(), KeyFilter(names=(key.name,)))
    now = desk.by.now
    return [each for each in found if each.replaced_by == key.id and each.status(now) == "active"]


def _tell_of_predecessors(keys: Sequence[VirtualKey]) -> None:
    """Warn on standard error: whoever takes a key back may not think of the one before it."""
    for key in keys:
        until = shown_time(key.expires_at, without="for ever")
        line = (
            f"dragoman: {key.id}, which it was rotated from, is good until {until}; see keys list"
        )
        print_line(Console(stderr=True, highlight=False), line)


def _change(key: VirtualKey, flags: KeyFlags, now: dt.datetime) -> KeyChange:
    limits = merged_limits(key.limits, flags.limits, starts_anew=flags.has_no_limits)
    budgets = merged_budgets(key.budgets, flags.budgets, starts_anew=flags.has_no_budgets)
    expires: dt.datetime | UnsetType | None = UNSET
    if flags.expires is not None:
        expires = parse_expiry(flags.expires, now)
    asked = KeyChange(
        name=UNSET if flags.name is None else flags.name,
        owner=UNSET if flags.owner is None else flags.owner,
        expires_at=expires,
        allowed_models=flags.models or UNSET,
        limits=limits,
        budgets=budgets,
    )
    if all(value is UNSET for value in structs.astuple(asked)):
        raise CommandFailed("nothing to change: give a flag, see --help", code=USAGE)
    return asked


def key_fields(key: VirtualKey, now: dt.datetime) -> dict[str, Any]:
    """Return a key for JSON: everything but its digest."""
    fields = structs.asdict(key)
    for name in ("digest", "disabled_at", "revoked_at"):
        del fields[name]
    return {**fields, "status": key.status(now)}


def _tell_key(key: VirtualKey, text: str, *, options: StoreOptions) -> None:
    if options.is_json:
        print_json({**key_fields(key, dt.datetime.now(dt.UTC)), "key": text})
        return
    console = Console(highlight=False)
    print_line(console, f"{key.name} ({key.id}). {SHOWN_ONCE}")
    print_line(console, text)


def _tell_state(key: VirtualKey, names: Mapping[str | None, str], *, options: StoreOptions) -> None:
    now = dt.datetime.now(dt.UTC)
    if options.is_json:
        print_json(key_fields(key, now))
        return
    print_fields(
        {
            "name": key.name,
            "id": key.id,
            "key": key.hint,
            "status": key.status(now),
            "owner": key.owner or NONE,
            "workspace": names.get(key.workspace_id, key.workspace_id or DEFAULT_WORKSPACE),
            "created": f"{shown_time(key.created_at)} by {key.created_by or NONE}",
            "expires": shown_time(key.expires_at, without="never"),
            "last used": shown_time(key.last_used_at, without="never"),
            "replaced by": key.replaced_by or NONE,
            "models": ", ".join(key.allowed_models) or "all",
            "limits": shown_limits(key.limits),
            "budgets": shown_budgets(key.budgets),
        }
    )


def _row(key: VirtualKey, names: Mapping[str | None, str], now: dt.datetime) -> tuple[str, ...]:
    return (
        key.name,
        key.status(now),
        key.hint,
        key.owner or NONE,
        names.get(key.workspace_id, key.workspace_id or DEFAULT_WORKSPACE),
        shown_time(key.expires_at, without="never"),
        shown_time(key.last_used_at, without="never"),
        key.id,
    )
