"""`dragoman admin-keys`: who may use the admin API."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from msgspec import structs
from rich.console import Console

from dragoman.exit_codes import OK
from dragoman.policy.access import AdminKey, Role
from dragoman.policy.registry import AdminKeyRequest
from dragoman.policy.store import Page
from dragoman.store_command import (
    SHOWN_ONCE,
    Desk,
    StoreOptions,
    at_store,
    checked,
    parse_expiry,
    print_json,
    print_rows,
    read_page,
    shown_time,
    tell_of_more,
    the_one,
    whole_page,
)
from dragoman.terminal import print_line

_COLUMNS: Final = ("NAME", "STATUS", "ROLE", "KEY", "EXPIRES", "LAST USED", "ID")
_ID: Final = "adminkey_"


def create_admin_key(
    name: str,
    role: Role,
    *,
    expires: str | None,
    options: StoreOptions,
    environ: Mapping[str, str],
) -> int:
    """Make an admin key, print it, return the exit code."""

    async def case(desk: Desk) -> tuple[AdminKey, str]:
        expires_at = parse_expiry(expires or "never", desk.by.now)
        asked = checked(AdminKeyRequest(name=name, role=role, expires_at=expires_at))
        return await (await desk.registry()).create_admin_key(asked, desk.by)

    key, text = at_store(options, case, environ=environ)
    if options.is_json:
        print_json({**_fields(key), "key": text})
        return OK
    console = Console(highlight=False)
    print_line(console, f"{key.name} ({key.id}), role {key.role}. {SHOWN_ONCE}")
    print_line(console, text)
    return OK


def list_admin_keys(*, page: Page, options: StoreOptions, environ: Mapping[str, str]) -> int:
    """Print admin keys, newest first, return the exit code."""

    async def case(desk: Desk) -> tuple[list[AdminKey], bool]:
        return await read_page(desk.store.list_admin_keys, page)

    keys, is_more = at_store(options, case, environ=environ)
    if options.is_json:
        print_json([_fields(key) for key in keys])
    else:
        rows = [_row(key) for key in keys]
        print_rows(_COLUMNS, rows, nothing="no admin key, and so no admin API")
    tell_of_more(keys, is_more=is_more)
    return OK


def revoke_admin_key(which: str, *, options: StoreOptions, environ: Mapping[str, str]) -> int:
    """Revoke an admin key by its id or its name, print it, return the exit code."""

    async def case(desk: Desk) -> AdminKey:
        key = await _find_admin_key(desk, which)
        return await (await desk.registry()).revoke_admin_key(key.id, desk.by)

    key = at_store(options, case, environ=environ)
    if options.is_json:
        print_json(_fields(key))
    else:
        print_rows(_COLUMNS, [_row(key)], nothing="")
    return OK


async def _find_admin_key(desk: Desk, which: str) -> AdminKey:
    if which.startswith(_ID) and (key := await desk.store.get_admin_key(which)) is not None:
        return key
    listed = await desk.store.list_admin_keys(whole_page())
    found = [key for key in listed if key.name == which]
    good = [key for key in found if key.status(desk.by.now) != "revoked"]
    return the_one((good, found), which, kinds="admin keys", command="admin-keys")


def _fields(key: AdminKey) -> dict[str, Any]:
    fields = structs.asdict(key)
    for name in ("digest", "revoked_at"):
        del fields[name]
    return {**fields, "status": key.status(dt.datetime.now(dt.UTC))}


def _row(key: AdminKey) -> tuple[str, ...]:
    return (
        key.name,
        key.status(dt.datetime.now(dt.UTC)),
        key.role,
        key.hint,
        shown_time(key.expires_at, without="never"),
        shown_time(key.last_used_at, without="never"),
        key.id,
    )
