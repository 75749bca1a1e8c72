"""`dragoman models`: what a gateway with this configuration offers, and what is known of it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from dragoman.banner import nothing_to_serve
from dragoman.config import Config, load_config
from dragoman.exit_codes import OK, USAGE, CommandFailed
from dragoman.local import find_local_engines, with_found_engines
from dragoman.policy.routes import Route, Routes
from dragoman.terminal import print_table

_COLUMNS = ("MODEL", "UPSTREAM", "CONTEXT", "MAX OUTPUT", "THINKING", "IMAGES", "ROLES")
_NONE = "-"


def print_models(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> int:
    """
    Print the table, return the exit code.

    Raises:
        ConfigError: The configuration cannot be used.
        CommandFailed: There are no models.
    """
    config = load_config(path, environ=environ, overrides=overrides)
    config = with_found_engines(config, asyncio.run(find_local_engines(config)))
    if not config.models:
        raise CommandFailed(nothing_to_serve(config), code=USAGE)
    print_table(Console(highlight=False), _COLUMNS, model_rows(config))
    return OK


def model_rows(config: Config) -> list[tuple[str, ...]]:
    """Return a row for each model, in the order in which clients get them."""
    routes = Routes(config)
    return [_row(routes.resolve(alias), routes.roles) for alias in routes.aliases]


def _row(route: Route, roles: Mapping[str, str]) -> tuple[str, ...]:
    profile = route.profile
    played = [role for role, alias in roles.items() if alias == route.alias]
    return (
        route.alias,
        ", ".join(route.upstreams),
        _number(profile.context_window),
        _number(profile.max_output_tokens),
        profile.thinking,
        "yes" if profile.sees_images else "no",
        ", ".join(sorted(played)) or _NONE,
    )


def _number(value: int | None) -> str:
    return f"{value:,}" if value else _NONE
