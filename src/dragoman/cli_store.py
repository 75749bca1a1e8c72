"""Commands about workspaces, admin keys and the store itself: options in, exit code out."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dragoman import admin_keys_command, db_command, workspaces_command
from dragoman.cli_options import (
    AfterOption,
    AmountOption,
    ConfigOption,
    ExpiresOption,
    HostsOption,
    JsonOption,
    KeyArgument,
    LimitOption,
    ModelsOption,
    NameArgument,
    NewNameOption,
    NoBudgetsOption,
    NoLimitsOption,
    UsdOption,
    WarnOption,
    WorkspaceArgument,
    budgets_of,
    examples,
    new_group,
)
from dragoman.limit_settings import Limits
from dragoman.policy.store import Page
from dragoman.store_command import StoreOptions
from dragoman.workspaces_command import WorkspaceFlags

workspaces = new_group("workspaces", "Keys that belong together, and what holds for all of them.")
admin_keys = new_group("admin-keys", "Keys for the admin API; without one it is off.")
db = new_group("db", "The store of keys and usage: its version, and a copy of it.")


class RoleName(StrEnum):
    """What an admin key may do."""

    read = "read"
    write = "write"


def add_store_commands(app: typer.Typer) -> None:
    """Add everything that is here to the commands of *app*."""
    for group in (workspaces, admin_keys, db):
        app.add_typer(group)
    app.command(epilog=examples("dragoman audit", "dragoman audit --limit 20 --json"))(audit)


# -- workspaces


@workspaces.command(
    "create", epilog=examples("dragoman workspaces create research --usd-per-month 500")
)
def create_workspace(
    name: NameArgument,
    *,
    model: ModelsOption = None,
    fetch_host: HostsOption = None,
    requests_per_minute: AmountOption = None,
    input_tokens_per_minute: AmountOption = None,
    output_tokens_per_minute: AmountOption = None,
    concurrent: AmountOption = None,
    usd_per_day: UsdOption = None,
    usd_per_month: UsdOption = None,
    tokens_per_day: AmountOption = None,
    tokens_per_month: AmountOption = None,
    warn_at: WarnOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """Make a workspace; its limits and budgets hold for all its keys together."""
    flags = WorkspaceFlags(
        models=tuple(model or ()),
        fetch_hosts=tuple(fetch_host or ()),
        limits=Limits(
            requests_per_minute=requests_per_minute,
            input_tokens_per_minute=input_tokens_per_minute,
            output_tokens_per_minute=output_tokens_per_minute,
            concurrent=concurrent,
        ),
        budgets=budgets_of(
            (usd_per_day, tokens_per_day), (usd_per_month, tokens_per_month), warn_at_pct=warn_at
        ),
    )
    return workspaces_command.create_workspace(
        name, flags, options=StoreOptions(config=config, is_json=json), environ=os.environ
    )


@workspaces.command("list", epilog=examples("dragoman workspaces list"))
def list_workspaces(
    *,
    limit: LimitOption = 100,
    after: AfterOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """List workspaces, newest first."""
    return workspaces_command.list_workspaces(
        page=Page(after_id=after, limit=limit),
        options=StoreOptions(config=config, is_json=json),
        environ=os.environ,
    )


@workspaces.command("show", epilog=examples("dragoman workspaces show research"))
def show_workspace(
    workspace: WorkspaceArgument, *, json: JsonOption = False, config: ConfigOption = None
) -> int:
    """Show everything that is known of a workspace."""
    return workspaces_command.show_workspace(
        workspace, options=StoreOptions(config=config, is_json=json), environ=os.environ
    )


@workspaces.command(
    "change",
    epilog=examples(
        "dragoman workspaces change research --model 'glm-*' --model 'kimi-*'",
        "dragoman workspaces change research --no-budgets",
    ),
)
def change_workspace(
    workspace: WorkspaceArgument,
    *,
    name: NewNameOption = None,
    model: ModelsOption = None,
    fetch_host: HostsOption = None,
    requests_per_minute: AmountOption = None,
    input_tokens_per_minute: AmountOption = None,
    output_tokens_per_minute: AmountOption = None,
    concurrent: AmountOption = None,
    no_limits: NoLimitsOption = False,
    usd_per_day: UsdOption = None,
    usd_per_month: UsdOption = None,
    tokens_per_day: AmountOption = None,
    tokens_per_month: AmountOption = None,
    warn_at: WarnOption = None,
    no_budgets: NoBudgetsOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """Change what the flags name; --model and --fetch-host replace all that was there."""
    flags = WorkspaceFlags(
        name=name,
        models=tuple(model or ()),
        fetch_hosts=tuple(fetch_host or ()),
        limits=Limits(
            requests_per_minute=requests_per_minute,
            input_tokens_per_minute=input_tokens_per_minute,
            output_tokens_per_minute=output_tokens_per_minute,
            concurrent=concurrent,
        ),
        budgets=budgets_of(
            (usd_per_day, tokens_per_day), (usd_per_month, tokens_per_month), warn_at_pct=warn_at
        ),
        has_no_limits=no_limits,
        has_no_budgets=no_budgets,
    )
    return workspaces_command.change_workspace(
        workspace, flags, options=StoreOptions(config=config, is_json=json), environ=os.environ
    )


@workspaces.command("archive", epilog=examples("dragoman workspaces archive research"))
def archive_workspace(
    workspace: WorkspaceArgument, *, json: JsonOption = False, config: ConfigOption = None
) -> int:
    """Revoke all keys of a workspace; it takes no new ones."""
    return workspaces_command.archive_workspace(
        workspace, options=StoreOptions(config=config, is_json=json), environ=os.environ
    )


# -- admin keys


@admin_keys.command(
    "create",
    epilog=examples(
        "dragoman admin-keys create terraform --role write",
        "dragoman admin-keys create dashboard --role read --expires 365d",
    ),
)
def create_admin_key(
    name: NameArgument,
    *,
    role: Annotated[RoleName, typer.Option(help="read sees everything, write changes it, too.")],
    expires: ExpiresOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """Make a key for the admin API and show it, this once."""
    return admin_keys_command.create_admin_key(
        name,
        role.value,
        expires=expires,
        options=StoreOptions(config=config, is_json=json),
        environ=os.environ,
    )


@admin_keys.command("list", epilog=examples("dragoman admin-keys list"))
def list_admin_keys(
    *,
    limit: LimitOption = 100,
    after: AfterOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """List admin keys, newest first."""
    return admin_keys_command.list_admin_keys(
        page=Page(after_id=after, limit=limit),
        options=StoreOptions(config=config, is_json=json),
        environ=os.environ,
    )


@admin_keys.command("revoke", epilog=examples("dragoman admin-keys revoke terraform"))
def revoke_admin_key(
    key: KeyArgument, *, json: JsonOption = False, config: ConfigOption = None
) -> int:
    """Refuse an admin key for ever."""
    return admin_keys_command.revoke_admin_key(
        key, options=StoreOptions(config=config, is_json=json), environ=os.environ
    )


# -- the store itself


@db.command("status", epilog=examples("dragoman db status"))
def db_status(*, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Say where the store is and of which version; nothing is changed or made."""
    return db_command.show_status(StoreOptions(config=config, is_json=json), environ=os.environ)


@db.command("upgrade", epilog=examples("dragoman db upgrade"))
def db_upgrade(*, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Bring the tables up to date, as every start does."""
    return db_command.upgrade(StoreOptions(config=config, is_json=json), environ=os.environ)


@db.command("backup", epilog=examples("dragoman db backup /backups/dragoman-2026-11-25.db"))
def db_backup(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A new file.")],
    *,
    config: ConfigOption = None,
) -> int:
    """Copy a SQLite store while it is in use; for PostgreSQL, say which command does."""
    return db_command.back_up(path, StoreOptions(config=config), environ=os.environ)


def audit(
    *,
    limit: LimitOption = 100,
    after: AfterOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """List what was done to keys and workspaces, newest first, and by whom."""
    return db_command.show_audit(
        page=Page(after_id=after, limit=limit),
        options=StoreOptions(config=config, is_json=json),
        environ=os.environ,
    )
