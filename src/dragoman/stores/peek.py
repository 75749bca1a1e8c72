"""What can be seen of a SQLite store without opening it: its libraries would hold up the start."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from dragoman.store_urls import StoreUrl
from dragoman.stores.versions import VERSIONS


def holds_keys(url: StoreUrl | None) -> bool | None:
    """Return whether there are any keys, revoked ones among them; None: that cannot be seen."""
    if url is None:
        return False
    if url.path is None:
        return None
    if url.is_missing:
        return False
    rows = _rows_of(url.path, "SELECT 1 FROM api_keys LIMIT 1")
    return None if rows is None else bool(rows)


def newer_version(url: StoreUrl) -> str | None:
    """Return the version of a database that this program is too old for; None: it is none."""
    if url.path is None or url.is_missing:
        return None
    rows = _rows_of(url.path, "SELECT version_num FROM alembic_version")
    version = rows[0][0] if rows else None
    return None if version in (None, *VERSIONS) else str(version)


def _rows_of(path: Path, asked: str) -> list[tuple[Any, ...]] | None:
    """Return what is there; None: that cannot be seen, and whoever opens it will say why."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as found:
            return found.execute(asked).fetchall()
    except sqlite3.Error:
        return None
