"""`dragoman keys`: options in, exit code out."""

import os
from enum import StrEnum
from typing import Annotated

import typer

from dragoman import keys_command
from dragoman.cli_options import (
    AfterOption,
    AmountOption,
    ConfigOption,
    ExpiresOption,
    JsonOption,
    KeyArgument,
    LimitOption,
    ModelsOption,
    NameArgument,
    NewNameOption,
    NoBudgetsOption,
    NoLimitsOption,
    OwnerOption,
    UsdOption,
    WarnOption,
    budgets_of,
    examples,
    new_group,
)
from dragoman.keys_command import KeyFlags
from dragoman.limit_settings import Limits
from dragoman.policy.store import Page
from dragoman.store_command import StoreOptions

keys = new_group("keys", "Make, show, change and revoke the keys of clients.")


class KeyStatusName(StrEnum):
    """What can become of a key."""

    active = "active"
    disabled = "disabled"
    expired = "expired"
    revoked = "revoked"


@keys.command(
    "create",
    epilog=examples(
        "dragoman keys create ci --expires 90d --model 'deepseek-*'",
        "dragoman keys create ada --owner ada@example.com --workspace research --usd-per-month 50",
    ),
)
def create_key(
    name: NameArgument,
    *,
    owner: OwnerOption = None,
    workspace: Annotated[
        str | None, typer.Option(help="Id or name; else the default workspace.")
    ] = None,
    expires: ExpiresOption = None,
    model: ModelsOption = None,
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
    """Make a key and show it, this once: the store keeps only a digest."""
    flags = KeyFlags(
        owner=owner,
        workspace=workspace,
        expires=expires,
        models=tuple(model or ()),
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
    return keys_command.create_key(
        name, flags, options=StoreOptions(config=config, is_json=json), environ=os.environ
    )


@keys.command("list", epilog=examples("dragoman keys list", "dragoman keys list --json"))
def list_keys(
    *,
    workspace: Annotated[
        str | None, typer.Option(help="Of this workspace: id, name, or default.")
    ] = None,
    status: Annotated[KeyStatusName | None, typer.Option(help="Only these.")] = None,
    limit: LimitOption = 100,
    after: AfterOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """List keys, newest first; the keys themselves are not known any more."""
    return keys_command.list_keys(
        workspace,
        status.value if status else None,
        page=Page(after_id=after, limit=limit),
        options=StoreOptions(config=config, is_json=json),
        environ=os.environ,
    )


@keys.command("show", epilog=examples("dragoman keys show ci"))
def show_key(key: KeyArgument, *, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Show everything that is known of a key."""
    return keys_command.show_key(
        key, options=StoreOptions(config=config, is_json=json), environ=os.environ
    )


@keys.command(
    "change",
    epilog=examples(
        "dragoman keys change ci --expires never",
        "dragoman keys change ci --no-limits --requests-per-minute 60",
    ),
)
def change_key(
    key: KeyArgument,
    *,
    name: NewNameOption = None,
    owner: OwnerOption = None,
    expires: ExpiresOption = None,
    model: ModelsOption = None,
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
    """Change what the flags name; --model replaces all patterns, '*' allows every model."""
    flags = KeyFlags(
        name=name,
        owner=owner,
        expires=expires,
        models=tuple(model or ()),
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
    return keys_command.change_key(
        key, flags, options=StoreOptions(config=config, is_json=json), environ=os.environ
    )


@keys.command(
    "rotate", epilog=examples("dragoman keys rotate ci", "dragoman keys rotate ci --overlap 24h")
)
def rotate_key(
    key: KeyArgument,
    *,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old key stays good: 7d, 24h, 30m, 0.")
    ] = "24h",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """Make a new key in the place of another one, and show it, this once."""
    return keys_command.rotate_key(
        key, overlap, options=StoreOptions(config=config, is_json=json), environ=os.environ
    )


@keys.command("revoke", epilog=examples("dragoman keys revoke ci"))
def revoke_key(key: KeyArgument, *, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Refuse a key for ever; every gateway knows within two seconds."""
    return _set_key(key, "revoke", StoreOptions(config=config, is_json=json))


@keys.command("disable", epilog=examples("dragoman keys disable ci"))
def disable_key(key: KeyArgument, *, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Refuse a key until it is enabled again."""
    return _set_key(key, "disable", StoreOptions(config=config, is_json=json))


@keys.command("enable", epilog=examples("dragoman keys enable ci"))
def enable_key(key: KeyArgument, *, json: JsonOption = False, config: ConfigOption = None) -> int:
    """Take a key again that was disabled."""
    return _set_key(key, "enable", StoreOptions(config=config, is_json=json))


def _set_key(key: str, action: str, options: StoreOptions) -> int:
    return keys_command.set_key(key, action, options=options, environ=os.environ)
