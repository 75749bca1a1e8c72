"""Whether the files are there that a start needs; none is made to find that out."""

import os
from collections.abc import Iterator
from pathlib import Path

from dragoman.config import Config
from dragoman.signing_file import has_signing_secret, signing_secret
from dragoman.store_urls import read_store_url
from dragoman.tables import ConfigError
from dragoman.tls_files import server_tls


def file_problems(config: Config) -> Iterator[str]:
    """Yield a line for each file or folder of *config* that a gateway could not use."""
    server = config.server
    try:
        server_tls(server)
        if has_signing_secret(server):
            signing_secret(server)
    except ConfigError as error:
        yield from error.problems
    store = read_store_url(config.store.url, server.data_dir)
    if store is not None or server.signing_secret is None:
        yield from _folder_problem(server.data_dir, "server.data_dir")
    if store is not None and store.path is not None and store.path.parent != server.data_dir:
        yield from _folder_problem(store.path.parent, "store.url")


def _folder_problem(folder: Path, setting: str) -> Iterator[str]:
    """Yield why no file could be made in *folder*, which a start makes where it is missing."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        yield f"{setting}: {folder}: {there} is a file; name a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"{setting}: {folder}: this user may not write to {there}"
