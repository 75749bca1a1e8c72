"""Whether a store has keys, seen without opening it: its libraries would hold up the start."""

import sqlite3
from contextlib import closing

from dragoman.store_urls import StoreUrl


def holds_keys(url: StoreUrl | None) -> bool | None:
    """Return whether there are any keys, revoked ones among them; None: that cannot be seen."""
    if url is None:
        return False
    if url.path is None:
        return None
    if not url.path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{url.path.absolute().as_uri()}?mode=ro", uri=True)) as found:
            return found.execute("SELECT 1 FROM api_keys LIMIT 1").fetchone() is not None
    except sqlite3.Error:  # locked, of another kind, or broken: whoever opens it will say so
        return None
