"""
The configuration file as it was, for a worker that starts later than the others.

As it was last served, where it is broken now; and as it was at the start, for what changes with a
restart of all only: a worker alone with another store or another port would be no part of them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, structs

from dragoman.config import Config, find_config, load_config
from dragoman.reload import keep_fixed
from dragoman.tables import ConfigError

_NAME: Final = "served.toml"
_FIRST: Final = "first.toml"


class LastGood(Struct, frozen=True, kw_only=True):
    """
    Copies of the file in a folder of the workers alone.

    Attributes:
        folder: Nobody else can read it: the file may hold keys.
        environ: What a start reads, too; so are *overrides*.
    """

    folder: Path
    environ: Mapping[str, str]
    overrides: Mapping[str, Any]

    def load(self, path: Path | None) -> tuple[Config, str]:
        """
        Return the configuration, and why it is the former one; empty: it is that of the file.

        What needs a restart is as it was at the start of all.

        Raises:
            ConfigError: The file cannot be used, and there is no copy of a former one.
        """
        config, problem = self._newest(path)
        first = self.folder / _FIRST
        if first.exists():
            config, _ = keep_fixed(config, self._load(first))
        return config, problem

    def served(self, first: Config) -> Config:
        """Return what is served now; *first*, of the start, if no copy says anything else."""
        try:
            return self._load(self.folder / _NAME)
        except ConfigError:
            return first

    def keep(self, config: Config) -> None:
        """Copy the file of *config*, which is served now; one that has changed since is left."""
        self._copy(config.source, _NAME)

    def keep_first(self, config: Config) -> None:
        """Copy the file of *config*, with which all workers are about to start."""
        self._copy(config.source, _FIRST)

    def _newest(self, path: Path | None) -> tuple[Config, str]:
        try:
            return self._load(path), ""
        except ConfigError as error:
            copy = self.folder / _NAME
            if not copy.exists():
                raise
            # With the file itself as its source: that is what is looked at for the next change.
            source = path or find_config(self.environ)
            return structs.replace(self._load(copy), source=source), str(error)

    def _copy(self, source: Path | None, name: str) -> None:
        """Copy *source*, if it is a configuration at this moment; without a file there is none."""
        draft = self.folder / f"{name}.{os.getpid()}"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(source.read_bytes() if source is not None else b"")
            self._load(draft)
            draft.replace(self.folder / name)
        except (OSError, ConfigError):
            draft.unlink(missing_ok=True)

    def _load(self, path: Path | None) -> Config:
        return load_config(path, environ=self.environ, overrides=self.overrides)
