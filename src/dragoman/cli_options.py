"""Options that several commands have, and what is made of them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from dragoman.exit_codes import USAGE, CommandFailed
from dragoman.limit_settings import BudgetConfig

_MAX_AMOUNT: Final = 2**53
_MAX_USD: Final = 1e9


def _between(least: float, most: float) -> Callable[[float | None], float | None]:
    """Return a check that typer does not print beside the flag, for which there is no room."""

    def check(value: float | None) -> float | None:
        if value is not None and not least <= value <= most:
            raise typer.BadParameter(f"{value:g} is not from {least:g} to {most:.0f}")
        return value

    return check


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration file. Default: ./dragoman.toml, then the user's configuration folder.",
    ),
]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its id, or its name.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")]
WorkspaceArgument = Annotated[str, typer.Argument(metavar="WORKSPACE", help="Its id, or its name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LimitOption = Annotated[int, typer.Option(min=1, max=1000, help="Of the list, newest first.")]
AfterOption = Annotated[
    str | None, typer.Option("--after", metavar="ID", help="Go on after this one of the list.")
]
NewNameOption = Annotated[str | None, typer.Option("--name", help="Call it so.")]
OwnerOption = Annotated[str | None, typer.Option(help="Whom it belongs to.")]
ExpiresOption = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="2026-12-31, 90d, 12h, or never; times are UTC."),
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", metavar="PATTERN", help="Allowed models; may be repeated."),
]
HostsOption = Annotated[
    list[str] | None,
    typer.Option("--fetch-host", metavar="PATTERN", help="Hosts that URLs may name; repeatable."),
]
AmountOption = Annotated[int | None, typer.Option(metavar="N", callback=_between(0, _MAX_AMOUNT))]
UsdOption = Annotated[float | None, typer.Option(metavar="USD", callback=_between(0, _MAX_USD))]
WarnOption = Annotated[
    int | None,
    typer.Option(
        metavar="PCT",
        callback=_between(1, 100),
        help="Of a budget; then clients are warned. Default: 80.",
    ),
]
NoLimitsOption = Annotated[bool, typer.Option("--no-limits", help="First drop all limits.")]
NoBudgetsOption = Annotated[bool, typer.Option("--no-budgets", help="First drop all budgets.")]


def listed(title: str, lines: Iterable[str]) -> str:
    """Return what the help shows as a title and one line below the other."""
    shown = (line.replace("*", r"\*") for line in lines)  # two of them would be emphasis
    return f"{title}:\n\n" + "  \n".join(shown)


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return listed("Examples", lines) + "\n\nExit codes: see `dragoman --help`."


def new_group(name: str, text: str) -> typer.Typer:
    """Return a command that has commands; by itself it shows its help, as `dragoman` does."""
    group = typer.Typer(
        name=name,
        help=text,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())
            raise typer.Exit(USAGE)

    group.callback(invoke_without_command=True, help=text)(show_help)
    return group


def budgets_of(
    day: tuple[float | None, int | None],
    month: tuple[float | None, int | None],
    *,
    warn_at_pct: int | None,
) -> tuple[BudgetConfig, ...]:
    """
    Return a budget for each period of which dollars or tokens are given.

    Raises:
        CommandFailed: There is none that could warn at *warn_at_pct*.
    """
    periods: tuple[Literal["day", "month"], ...] = ("day", "month")
    found = []
    for period, (cost_usd, tokens) in zip(periods, (day, month), strict=True):
        if cost_usd is not None or tokens is not None:
            found.append(
                BudgetConfig(
                    period=period, cost_usd=cost_usd, tokens=tokens, warn_at_pct=warn_at_pct or 80
                )
            )
    if warn_at_pct is not None and not found:
        line = f"--warn-at {warn_at_pct}: of which budget? give it, too, as --usd-per-month 200"
        raise CommandFailed(line, code=USAGE)
    return tuple(found)
