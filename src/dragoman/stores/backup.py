"""A copy of a SQLite database while others write to it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from dragoman.core.errors import InvalidRequest, StoreUnavailable

_PAGES: Final = 1000  # at a time; others may write in between


def copy_sqlite(source: Path, target: Path) -> int:
    """
    Copy *source* to a new file that only its owner may read; return its size in bytes.

    The copy is whole: what is committed while it is made is in it or not, but never in parts.

    Raises:
        InvalidRequest: *target* exists, or cannot be made; nothing was changed.
        StoreUnavailable: *source* cannot be read.
    """
    if not target.name:
        raise InvalidRequest("PATH", f"'{target}' is no file")
    draft = target.with_name(f"{target.name}.part")
    if target.exists():
        raise InvalidRequest("PATH", f"{target} exists already")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        reason = f"{draft} exists: another backup is being made, or broke off; remove it then"
        raise InvalidRequest("PATH", reason) from None
    except OSError as error:
        raise InvalidRequest("PATH", f"{target}: {error.strerror or error}") from None
    try:
        _copy(source, draft)
        _put_in_place(draft, target)
        return target.stat().st_size
    except sqlite3.Error as error:
        raise StoreUnavailable(str(error)) from None
    except OSError as error:
        raise InvalidRequest("PATH", f"{target}: {error.strerror or error}") from None
    finally:
        draft.unlink(missing_ok=True)


def _put_in_place(draft: Path, target: Path) -> None:
    try:
        os.link(draft, target)  # which fails, unlike a rename, if somebody was faster
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        draft.replace(target)


def _copy(source: Path, draft: Path) -> None:
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as one,
        closing(sqlite3.connect(draft)) as other,
    ):
        one.backup(other, pages=_PAGES)
        other.execute("PRAGMA journal_mode=DELETE")  # one file, complete by itself
