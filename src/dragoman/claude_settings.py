"""
Claude Code's own settings files, as far as they would lead it past the gateway.

Their ``env`` tables stand above the environment of the process (seen by running Claude Code
2.1.330), and users of other gateways have a base URL there. The files stay as they are; what
conflicts is overridden for one run, by a file that is named with ``--settings``.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, field

from dragoman.exit_codes import USAGE, CommandFailed
from dragoman.launch import decisive_variables, removed_variables

_MAX_FILE_BYTES: Final = 2**20
_OPTION: Final = "--settings"


class _Settings(Struct, frozen=True):
    env: dict[str, object] = field(default_factory=dict)


_decode: Final = msgspec.json.Decoder(_Settings).decode


class Conflict(Struct, frozen=True):
    """What has to be overridden, and the first file that makes it necessary."""

    path: Path
    env: dict[str, str]


def find_conflict(
    variables: Mapping[str, str], *, environ: Mapping[str, str], folder: Path
) -> Conflict | None:
    """
    Return what settings files say that would lead elsewhere; None: nothing.

    Args:
        variables: What Claude Code is to have.
        environ: Says where the user's own settings are.
        folder: The project.
    """
    found: dict[str, str] = {}
    first: Path | None = None
    for path in _settings_files(environ, folder):
        env = _read_env(path)
        decisive = decisive_variables(variables, env)
        wanted = {name: decisive[name] for name in env if name in decisive}
        wanted |= dict.fromkeys(removed_variables(variables, env), "")
        overridden = {name: value for name, value in wanted.items() if env[name] != value}
        first = first or (path if overridden else None)
        found |= overridden
    return Conflict(first, found) if first is not None else None


@contextmanager
def overriding(conflict: Conflict | None, args: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """
    Give the arguments with which Claude Code leaves *conflict* aside, while the context lasts.

    Raises:
        CommandFailed: The user names settings himself, and there can be only one such file.
    """
    if conflict is None:
        yield tuple(args)
        return
    if any(arg == _OPTION or arg.startswith(f"{_OPTION}=") for arg in args):
        names = ", ".join(conflict.env)
        line = f"{conflict.path} sets {names}, which {_OPTION} of your own would have to override"
        raise CommandFailed(line, code=USAGE)
    # Not as an argument: those can be seen by other users of the machine.
    descriptor, name = tempfile.mkstemp(prefix="dragoman-", suffix=".json")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"env": conflict.env}, file)
        yield (_OPTION, name, *args)
    finally:
        Path(name).unlink(missing_ok=True)


def _settings_files(environ: Mapping[str, str], folder: Path) -> Iterable[Path]:
    own = environ.get("CLAUDE_CONFIG_DIR") or Path(environ.get("HOME") or Path.home()) / ".claude"
    project = folder / ".claude"
    return (
        Path(own) / "settings.json",
        project / "settings.json",
        project / "settings.local.json",
    )


def _read_env(path: Path) -> dict[str, str]:
    """Return the ``env`` table; a file that cannot be read is Claude Code's to complain about."""
    try:
        with path.open("rb") as file:
            env = _decode(file.read(_MAX_FILE_BYTES)).env
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return {name: value for name, value in env.items() if isinstance(value, str)}
