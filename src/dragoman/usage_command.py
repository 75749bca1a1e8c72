"""`dragoman usage`: what requests were and cost, added up out of the store."""

import csv
import datetime as dt
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

from msgspec import Struct, structs
from rich.console import Console

from dragoman.config import Config
from dragoman.exit_codes import OK, USAGE, CommandFailed
from dragoman.moments import parse_moment
from dragoman.policy.records import Dimension, UsageQuery, UsageRow, UsageSort
from dragoman.policy.registry import DEFAULT_WORKSPACE, is_default_workspace
from dragoman.policy.store import KeyFilter, Page, Store
from dragoman.store_command import explained, find_store, print_json
from dragoman.store_urls import StoreUrl
from dragoman.stores.opening import LazyStore
from dragoman.stores.usage_spool import spool_folder, waiting_bytes
from dragoman.terminal import print_line, print_table, printable

_DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)
_COUNTS: Final = (
    "requests",
    "errors",
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_micros",
    "unpriced",
)
_TITLES: Final = ("REQUESTS", "ERRORS", "INPUT", "CACHE READ", "OUTPUT", "COST")
_MAX_NAMED: Final = 1_000  # of keys and workspaces; more are shown by their ids


class UsageOptions(Struct, frozen=True, kw_only=True):
    """
    What the command line says.

    Attributes:
        by: Names of dimensions; several may stand in one, with commas.
        since: As people write times; so is *until*.
        keys: Ids or names; so are *workspaces*.
    """

    config: Path | None = None
    by: tuple[str, ...] = ("model",)
    since: str = "30d"
    until: str = "now"
    keys: tuple[str, ...] = ()
    workspaces: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    shown_as: Literal["table", "csv", "json"] = "table"
    sort: UsageSort = "group"
    limit: int = 1_000


class _Report(Struct, frozen=True, kw_only=True):
    query: UsageQuery
    rows: list[UsageRow]
    names: Mapping[str, str]  # of keys and workspaces, by their ids
    is_cut: bool = False


def print_usage(
    options: UsageOptions, *, environ: Mapping[str, str], now: dt.datetime | None = None
) -> int:
    """
    Print what was used, return the exit code.

    Raises:
        ConfigError: The configuration cannot be used.
        CommandFailed: The options are wrong, or the store cannot be read.
    """
    query = _query(options, now or dt.datetime.now(dt.UTC))
    config, url = find_store(options.config, environ=environ)
    report = explained(lambda: _read(config, url, options=options, query=query), url)
    _PRINTERS[options.shown_as](report)
    waiting = waiting_bytes(spool_folder(config.server.data_dir, url))
    _print_notes(report, options, waiting=waiting)
    if url.is_missing:
        print_line(_notes(), f"dragoman: there is no store yet: {url}")
    return OK


def _query(options: UsageOptions, now: dt.datetime) -> UsageQuery:
    """Return what the options ask for; keys and workspaces are not yet looked up."""
    since, until = _moment("--since", options.since, now), _moment("--until", options.until, now)
    if since >= until:
        raise _wrong(f"--since {since:%Y-%m-%d %H:%M} is not before --until {until:%Y-%m-%d %H:%M}")
    return UsageQuery(
        since=since,
        until=until,
        group_by=_dimensions(options.by),
        models=options.models,
        sort=options.sort,
        limit=options.limit + 1,
    )


def _moment(flag: str, text: str, now: dt.datetime) -> dt.datetime:
    try:
        return parse_moment(text, now)
    except ValueError as error:
        raise _wrong(f"{flag}: {error}") from None


def _dimensions(given: Sequence[str]) -> tuple[Dimension, ...]:
    words = [word.strip() for each in given for word in each.split(",")]
    found: dict[Dimension, None] = {}
    for word in words:
        named = next((each for each in _DIMENSIONS if each == word), None)
        if named is None:
            raise _wrong(f"--by: unknown {word!r}; use {', '.join(_DIMENSIONS)}")
        found[named] = None
    return tuple(found)


def _wrong(message: str) -> CommandFailed:
    return CommandFailed(message, code=USAGE)


# -- out of the store


async def _read(
    config: Config, url: StoreUrl, *, options: UsageOptions, query: UsageQuery
) -> _Report:
    lazy = LazyStore(url, config.store)
    if lazy.url.is_missing:
        return _Report(query=query, rows=[], names={})
    try:
        return await _ask(await lazy.get(), options, query)
    finally:
        await lazy.close()


async def _ask(store: Store, options: UsageOptions, query: UsageQuery) -> _Report:
    key_ids = [await _key_ids(store, text) for text in options.keys]
    workspace_ids = [await _workspace_id(store, text) for text in options.workspaces]
    query = structs.replace(
        query,
        key_ids=tuple(key_id for ids in key_ids for key_id in ids),
        workspace_ids=tuple(workspace_ids),
    )
    rows = await store.usage(query)
    return _Report(
        query=query,
        rows=rows[: options.limit],
        names=await _names(store, rows[: options.limit]),
        is_cut=len(rows) > options.limit,
    )


async def _key_ids(store: Store, text: str) -> list[str]:
    """Return the ids of the keys with this id or name: names may have been used again."""
    if not text.startswith("apikey_") and (":" in text or text == "local"):
        return [text]  # of the configuration, or of a gateway without keys
    if await store.get_key(text) is not None:
        return [text]
    named = await store.list_keys(Page(limit=_MAX_NAMED), KeyFilter(names=(text,)))
    if not named:
        raise _wrong(f"--key: there is no API key {text!r}; see dragoman keys list")
    return [key.id for key in named]


async def _workspace_id(store: Store, text: str) -> str | None:
    if is_default_workspace(text):
        return None
    if (found := await store.get_workspace(text)) is not None:
        return found.id
    named = await store.list_workspaces(Page(limit=1), names=[text])
    if not named:
        hint = "see dragoman workspaces list"
        raise _wrong(f"--workspace: there is no workspace {text!r}; {hint}")
    return named[0].id


async def _names(store: Store, rows: Sequence[UsageRow]) -> dict[str, str]:
    """Return the names of the keys and workspaces in *rows*, by their ids."""
    names: dict[str, str] = {}
    keys = {row.group["key"] for row in rows if "key" in row.group}
    for key_id in sorted(keys)[:_MAX_NAMED]:
        if (key := await store.get_key(key_id)) is not None:
            names[key_id] = key.name
    workspaces = {row.group["workspace"] for row in rows if row.group.get("workspace")}
    for workspace_id in sorted(workspaces)[:_MAX_NAMED]:
        if (workspace := await store.get_workspace(workspace_id)) is not None:
            names[workspace_id] = workspace.name
    return names


# -- to people and programs


def _print_table(report: _Report) -> None:
    console, query = Console(highlight=False), report.query
    print_line(console, f"{query.since:%Y-%m-%d %H:%M} to {query.until:%Y-%m-%d %H:%M} UTC")
    if not report.rows:
        print_line(console, "no requests")
        return
    columns = (*(name.upper() for name in query.group_by), *_TITLES)
    rows = [(*_labels(report, row), *_figures(row)) for row in report.rows]
    if len(report.rows) > 1 and not report.is_cut:
        blank = [""] * max(0, len(query.group_by) - 1)
        rows.append(("all", *blank, *_figures(_sum(report.rows))))
    print_table(console, columns, rows, n_numbers=len(_TITLES))
    if n := sum(row.unpriced for row in report.rows):
        requests = "one request" if n == 1 else f"{n:,} requests"
        print_line(console, f"+: and what {requests} cost whose model has no price")


def _labels(report: _Report, row: UsageRow) -> list[str]:
    return [_label(name, row.group[name], report.names) for name in report.query.group_by]


def _label(name: Dimension, value: str, names: Mapping[str, str]) -> str:
    if value in names:
        return f"{names[value]} ({value})"
    return value or (DEFAULT_WORKSPACE if name == "workspace" else "-")


def _figures(row: UsageRow) -> tuple[str, ...]:
    more = "+" if row.unpriced else " "  # so that the digits are below each other
    return (
        f"{row.requests:,}",
        f"{row.errors:,}",
        f"{row.input_tokens + row.cache_creation_input_tokens:,}",
        f"{row.cache_read_input_tokens:,}",
        f"{row.output_tokens:,}",
        f"${row.cost_micros / 1e6:,.4f}{more}",
    )


def _sum(rows: Sequence[UsageRow]) -> UsageRow:
    counts = {name: sum(getattr(row, name) for row in rows) for name in _COUNTS}
    return UsageRow(group={}, **counts)


def _print_csv(report: _Report) -> None:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    by = report.query.group_by
    names = [f"{name}_name" for name in by if name in ("key", "workspace")]
    writer.writerow([*by, *names, *_COUNTS])
    for row in report.rows:
        named = [report.names.get(row.group[name.removesuffix("_name")], "") for name in names]
        groups = [_cell(value) for value in (*row.group.values(), *named)]
        writer.writerow([*groups, *(getattr(row, name) for name in _COUNTS)])
    Console(highlight=False, soft_wrap=True).out(lines.getvalue(), end="", highlight=False)


def _cell(value: str) -> str:
    """Return *value* as spreadsheets show it: what looks like a formula is run by some."""
    shown = printable(value)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def _print_json(report: _Report) -> None:
    print_json(
        {
            "since": report.query.since,
            "until": report.query.until,
            "rows": report.rows,
            "names": report.names,
            "is_complete": not report.is_cut,
        }
    )


_PRINTERS: Final = {"table": _print_table, "csv": _print_csv, "json": _print_json}


def _print_notes(report: _Report, options: UsageOptions, *, waiting: int) -> None:
    """Say on standard error what the figures leave out."""
    console = _notes()
    if report.is_cut:
        hint = "--limit and --sort" if options.sort == "group" else "--limit"
        print_line(console, f"dragoman: only the first {options.limit:,} rows; see {hint}")
    if waiting:
        line = f"dragoman: {waiting:,} bytes of records wait for the store and are not counted yet"
        print_line(console, line)


def _notes() -> Console:
    return Console(stderr=True, highlight=False)
