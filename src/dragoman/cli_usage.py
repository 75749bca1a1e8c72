"""`dragoman usage`: options in, exit code out."""

import os
from enum import StrEnum
from typing import Annotated

import typer

from dragoman.cli_options import ConfigOption, JsonOption, examples
from dragoman.exit_codes import USAGE, CommandFailed
from dragoman.usage_command import UsageOptions, print_usage

_HELP_BY = (
    "One row for each: key, workspace, model, upstream, served, session, client, day, hour or "
    "minute; several with commas."
)


class SortName(StrEnum):
    """What the rows of a report are sorted by."""

    GROUP = "group"
    COST = "cost"
    TOKENS = "tokens"
    REQUESTS = "requests"


def add_usage_command(app: typer.Typer) -> None:
    """Add it to the commands of *app*."""
    shown = examples(
        "dragoman usage",
        "dragoman usage --by key,model --since 2026-11-01 --until 2026-12-01",
        "dragoman usage --by session --since today --workspace research",
        "dragoman usage --by session --sort cost --limit 10",
        "dragoman usage --by day,key --csv > usage.csv",
    )
    app.command(epilog=shown)(usage)


def usage(
    *,
    by: Annotated[
        list[str] | None, typer.Option("--by", metavar="WHAT", help=f"{_HELP_BY} Default: model.")
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="2026-11-01, today, 7d, 24h; times are UTC.")
    ] = "30d",
    until: Annotated[
        str, typer.Option(metavar="WHEN", help="The first moment that no longer counts.")
    ] = "now",
    key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Of this one: its id, or its name.")
    ] = None,
    workspace: Annotated[
        list[str] | None,
        typer.Option(metavar="WORKSPACE", help="Of this one: its id, its name, or default."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="For this one, as clients named it.")
    ] = None,
    sort: Annotated[
        SortName,
        typer.Option(help="By what --by says, or those first that have the most of this."),
    ] = SortName.GROUP,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Rows at most.")] = 1_000,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> int:
    """Add up what requests were and cost, out of the store."""
    if csv and json:
        raise CommandFailed("--csv and --json exclude each other", code=USAGE)
    options = UsageOptions(
        config=config,
        by=tuple(by or ("model",)),
        since=since,
        until=until,
        keys=tuple(key or ()),
        workspaces=tuple(workspace or ()),
        models=tuple(model or ()),
        shown_as="csv" if csv else "json" if json else "table",
        sort=sort.value,
        limit=limit,
    )
    return print_usage(options, environ=os.environ)
