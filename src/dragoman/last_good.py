"""The configuration file as it was last served, for a worker that must start while it is broken."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, structs

from dragoman.config import Config, find_config, load_config
from dragoman.tables import ConfigError

_NAME: Final = "served.toml"


class LastGood(Struct, frozen=True, kw_only=True):
    """
    A copy of the file in a folder of the workers alone.

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

        Raises:
            ConfigError: The file cannot be used, and there is no copy of a former one.
        """
        try:
            return self._load(path), ""
        except ConfigError as error:
            copy = self.folder / _NAME
            if not copy.exists():
                raise
            # With the file itself as its source: that is what is looked at for the next change.
            source = path or find_config(self.environ)
            return structs.replace(self._load(copy), source=source), str(error)

    def keep(self, config: Config) -> None:
        """Copy the file of *config*, which is served now; one that has changed since is left."""
        if config.source is None:
            return
        draft = self.folder / f"{_NAME}.{os.getpid()}"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(config.source.read_bytes())
            self._load(draft)
            draft.replace(self.folder / _NAME)
        except (OSError, ConfigError):
            draft.unlink(missing_ok=True)

    def _load(self, path: Path | None) -> Config:
        return load_config(path, environ=self.environ, overrides=self.overrides)
