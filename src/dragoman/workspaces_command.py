"""`dragoman workspaces`: keys that belong together, and what holds for all of them."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET, Struct, structs

from dragoman.exit_codes import OK, USAGE, CommandFailed
from dragoman.limit_settings import BudgetConfig, Limits
from dragoman.limit_texts import merged_budgets, merged_limits, shown_budgets, shown_limits
from dragoman.policy.access import Workspace
from dragoman.policy.registry import WorkspaceChange, WorkspaceRequest, is_default_workspace
from dragoman.policy.store import KeyFilter, Page, Store
from dragoman.store_command import (
    NONE,
    Desk,
    StoreOptions,
    at_store,
    checked,
    print_fields,
    print_json,
    print_rows,
    read_page,
    shown_time,
    tell_of_more,
    the_one,
    whole_page,
)

_COLUMNS: Final = ("NAME", "STATUS", "CREATED", "MODELS", "LIMITS", "BUDGETS", "ID")
_ID: Final = "wrkspc_"


class WorkspaceFlags(Struct, frozen=True, kw_only=True):
    """What the flags say of a workspace; None: nothing. See ``keys_command.KeyFlags``."""

    name: str | None = None
    models: tuple[str, ...] = ()
    limits: Limits = Limits()
    budgets: tuple[BudgetConfig, ...] = ()
    fetch_hosts: tuple[str, ...] = ()
    has_no_limits: bool = False
    has_no_budgets: bool = False


def create_workspace(
    name: str, flags: WorkspaceFlags, *, options: StoreOptions, environ: Mapping[str, str]
) -> int:
    """
    Make a workspace, print it, return the exit code.

    Raises:
        CommandFailed: Something is wrong; nothing was made.
    """

    async def case(desk: Desk) -> Workspace:
        asked = WorkspaceRequest(
            name=name,
            allowed_models=flags.models,
            limits=flags.limits,
            budgets=flags.budgets,
            fetch_hosts=flags.fetch_hosts,
        )
        registry = await desk.registry(flags.models)
        return await registry.create_workspace(checked(asked), desk.by)

    _tell(at_store(options, case, environ=environ), None, options=options)
    return OK


def list_workspaces(*, page: Page, options: StoreOptions, environ: Mapping[str, str]) -> int:
    """Print workspaces, newest first, return the exit code."""

    async def case(desk: Desk) -> tuple[list[Workspace], bool]:
        return await read_page(desk.store.list_workspaces, page)

    found, is_more = at_store(options, case, environ=environ)
    if options.is_json:
        print_json([workspace_fields(each) for each in found])
    else:
        nothing = "no workspace; make one: dragoman workspaces create NAME"
        print_rows(_COLUMNS, [_row(each) for each in found], nothing=nothing)
    tell_of_more(found, is_more=is_more)
    return OK


def show_workspace(which: str, *, options: StoreOptions, environ: Mapping[str, str]) -> int:
    """Print everything that is known of a workspace, return the exit code."""

    async def case(desk: Desk) -> tuple[Workspace, int]:
        workspace = await find_workspace(desk.store, which)
        return workspace, await _count_keys(desk, workspace)

    workspace, n_keys = at_store(options, case, environ=environ)
    _tell(workspace, n_keys, options=options)
    return OK


def change_workspace(
    which: str, flags: WorkspaceFlags, *, options: StoreOptions, environ: Mapping[str, str]
) -> int:
    """
    Change what the flags name, print the workspace, return the exit code.

    Raises:
        CommandFailed: Something is wrong; nothing was changed.
    """

    async def case(desk: Desk) -> Workspace:
        workspace = await find_workspace(desk.store, which)
        asked = checked(_change(workspace, flags))
        registry = await desk.registry(flags.models)
        return await registry.change_workspace(workspace.id, asked, desk.by)

    _tell(at_store(options, case, environ=environ), None, options=options)
    return OK


def archive_workspace(which: str, *, options: StoreOptions, environ: Mapping[str, str]) -> int:
    """Archive a workspace and with it its keys, print it, return the exit code."""

    async def case(desk: Desk) -> Workspace:
        workspace = await find_workspace(desk.store, which)
        return await (await desk.registry()).archive_workspace(workspace.id, desk.by)

    _tell(at_store(options, case, environ=environ), None, options=options)
    return OK


async def _count_keys(desk: Desk, workspace: Workspace) -> int:
    """Return how many keys of the workspace are good."""
    inside = KeyFilter(workspace_ids=(workspace.id,), statuses=("active",), now=desk.by.now)
    page, n_keys = whole_page(), 0
    while found := await desk.store.list_keys(page, inside):
        n_keys += len(found)
        page = structs.replace(page, after_id=found[-1].id)
    return n_keys


async def find_workspace(store: Store, which: str) -> Workspace:
    """
    Return the workspace with an id, or the one with a name; one in use stands above archived ones.

    Raises:
        CommandFailed: There is none, or several archived ones have the name, or it is the default.
    """
    if is_default_workspace(which):
        line = "the default workspace has no settings; it is where keys without a workspace are"
        raise CommandFailed(line, code=USAGE)
    if which.startswith(_ID) and (found := await store.get_workspace(which)) is not None:
        return found
    named = await store.list_workspaces(whole_page(), names=[which])
    in_use = [each for each in named if each.archived_at is None]
    return the_one((in_use, named), which, kinds="workspaces", command="workspaces")


async def workspace_names(store: Store) -> dict[str | None, str]:
    """Return id -> name of the newest thousand."""
    return {each.id: each.name for each in await store.list_workspaces(whole_page())}


def _change(workspace: Workspace, flags: WorkspaceFlags) -> WorkspaceChange:
    asked = WorkspaceChange(
        name=UNSET if flags.name is None else flags.name,
        allowed_models=flags.models or UNSET,
        limits=merged_limits(workspace.limits, flags.limits, starts_anew=flags.has_no_limits),
        budgets=merged_budgets(workspace.budgets, flags.budgets, starts_anew=flags.has_no_budgets),
        fetch_hosts=flags.fetch_hosts or UNSET,
    )
    if all(value is UNSET for value in structs.astuple(asked)):
        raise CommandFailed("nothing to change: give a flag, see --help", code=USAGE)
    return asked


def workspace_fields(workspace: Workspace) -> dict[str, Any]:
    """Return a workspace for JSON."""
    return structs.asdict(workspace)


def _tell(workspace: Workspace, n_keys: int | None, *, options: StoreOptions) -> None:
    if options.is_json:
        print_json(workspace_fields(workspace))
        return
    fields = {
        "name": workspace.name,
        "id": workspace.id,
        "status": _status(workspace.archived_at),
        "created": shown_time(workspace.created_at),
        "models": ", ".join(workspace.allowed_models) or "all",
        "limits": shown_limits(workspace.limits),
        "budgets": shown_budgets(workspace.budgets),
        "fetch hosts": ", ".join(workspace.fetch_hosts) or "all public ones",
    }
    if n_keys is not None:
        fields["good keys"] = str(n_keys)
    print_fields(fields)


def _status(archived_at: dt.datetime | None) -> str:
    return "in use" if archived_at is None else f"archived {shown_time(archived_at)}"


def _row(workspace: Workspace) -> tuple[str, ...]:
    return (
        workspace.name,
        _status(workspace.archived_at),
        shown_time(workspace.created_at),
        ", ".join(workspace.allowed_models) or NONE,
        shown_limits(workspace.limits),
        shown_budgets(workspace.budgets),
        workspace.id,
    )
