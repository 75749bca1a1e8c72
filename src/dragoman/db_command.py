"""`dragoman db`: the store's own state, its version, and a copy of it. `dragoman audit`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from dragoman.exit_codes import FAILED, OK, USAGE, CommandFailed
from dragoman.policy.records import AuditEntry
from dragoman.policy.store import Page
from dragoman.store_command import (
    NONE,
    Desk,
    StoreOptions,
    at_store,
    explained,
    find_store,
    print_fields,
    print_json,
    print_rows,
    read_page,
    shown_time,
    tell_of_more,
)
from dragoman.store_urls import PostgresAddress
from dragoman.stores.backup import copy_sqlite
from dragoman.stores.opening import look_at_store, upgrade_store
from dragoman.stores.versions import SchemaState
from dragoman.terminal import print_line

_COLUMNS: Final = ("TIME", "WHO", "ACTION", "SUBJECT", "DETAILS")
_MAX_DETAILS: Final = 200  # characters of a row
_MEANINGS: Final = {
    "empty": "has no tables yet; `dragoman db upgrade` or the next start makes them",
    "current": "is up to date",
    "behind": "is of an older version; `dragoman db upgrade` or the next start changes that",
    "newer": "is of a newer version than this program: install the newer Dragoman",
}


def show_status(options: StoreOptions, *, environ: Mapping[str, str]) -> int:
    """Print where the store is and of which version; the exit code is 0 if it can be used as is."""
    config, url = find_store(options.config, environ=environ)
    found: SchemaState = explained(lambda: look_at_store(url, config.store), url)
    fields = {"store": str(url), "version": found.version, "wanted": found.wanted}
    if options.is_json:
        print_json({**fields, "state": found.state})
    else:
        meaning = f"{found.state}: it {_MEANINGS[found.state]}"
        print_fields({**{name: value or NONE for name, value in fields.items()}, "state": meaning})
    return OK if found.state == "current" else FAILED


def upgrade(options: StoreOptions, *, environ: Mapping[str, str]) -> int:
    """Bring the tables up to date, say so, return the exit code."""
    config, url = find_store(options.config, environ=environ)
    before: SchemaState = explained(lambda: upgrade_store(url, config.store), url)
    if options.is_json:
        print_json({"store": str(url), "before": before.version, "version": before.wanted})
        return OK
    console = Console(highlight=False)
    if before.state == "current":
        print_line(console, f"{url} is up to date (version {before.wanted})")
    elif before.version is None:
        print_line(console, f"{url}: made, version {before.wanted}")
    else:
        print_line(console, f"{url}: version {before.version} -> {before.wanted}")
    return OK


def back_up(target: Path, options: StoreOptions, *, environ: Mapping[str, str]) -> int:
    """
    Copy the database to a new file while it is in use, return the exit code.

    Raises:
        CommandFailed: The file exists, there is no database, or it is PostgreSQL's business.
    """
    _, url = find_store(options.config, environ=environ)
    if url.address is not None:
        raise CommandFailed(
            f"PostgreSQL brings its own tool: {_dump_command(url.address, target)}", code=USAGE
        )
    assert url.path is not None
    if url.is_missing:
        raise CommandFailed(f"there is no database at {url.path} yet", code=USAGE)
    source = url.path

    async def copy() -> int:
        return copy_sqlite(source, target)

    n_bytes = explained(copy, url)
    print_line(Console(highlight=False), f"{target}: {n_bytes:,} bytes")
    return OK


def show_audit(*, page: Page, options: StoreOptions, environ: Mapping[str, str]) -> int:
    """Print what administrators have done, newest first, return the exit code."""

    async def case(desk: Desk) -> tuple[list[AuditEntry], bool]:
        return await read_page(desk.store.list_audit, page)

    entries, is_more = at_store(options, case, environ=environ)
    if options.is_json:
        print_json(entries)
    else:
        print_rows(_COLUMNS, [_row(entry) for entry in entries], nothing="nothing was ever done")
    tell_of_more(entries, is_more=is_more)
    return OK


def _row(entry: AuditEntry) -> tuple[str, ...]:
    is_new = entry.action.endswith(".create")  # what is empty was not given; else it is now
    given = [
        f"{name}={_shown(value)}"
        for name, value in entry.details.items()
        if not is_new or value not in ("", [], {})
    ]
    details = " ".join(given)[:_MAX_DETAILS] or NONE
    return (shown_time(entry.at), entry.actor, entry.action, entry.subject, details)


def _shown(value: object) -> str:
    """Return a value as people may have written it: words as they are, all else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _dump_command(at: PostgresAddress, target: Path) -> str:
    words = ["pg_dump", "--format=custom", f"--file={target}", f"--host={at.host}"]
    words += [f"--port={at.port}", *([f"--username={at.user}"] if at.user else []), at.database]
    return shlex.join(words)
