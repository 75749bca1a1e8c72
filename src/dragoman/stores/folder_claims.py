"""
Folders that belong to one living process each.

A claim is a lock on a file in the folder. The system gives it up when the process ends, however it
ends, so that another one can see that nobody works there any more and take what was left.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

_LOCK: Final = "lock"
_TRIES: Final = 5

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FolderClaim:
    """
    A folder that this process holds.

    Args:
        path: The folder.
        descriptor: Of its locked file.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def make(cls, root: Path) -> Self:
        """
        Make a new folder below *root* and hold it.

        Raises:
            OSError: It cannot be made.
        """
        _make_private(root)
        for _ in range(_TRIES):
            path = root / f"{os.getpid()}-{secrets.token_hex(6)}"
            path.mkdir(mode=0o700)
            # Who looks for folders of dead processes may be faster, and remove it.
            if (claim := cls.take(path)) is not None:
                return claim
        raise OSError(f"{root}: files there cannot be locked")

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Hold the folder *path*; None: a living process does, or it is gone."""
        lock = path / _LOCK
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return None
        try:
            _lock(descriptor)
            # Its last owner may have removed the file between our two steps.
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return cls(path, descriptor)
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)
        return None

    def release(self) -> None:
        """Give the folder up; it is removed if nothing is left in it."""
        is_empty = self._is_empty()
        is_removed = is_empty and _remove(self.path / _LOCK)
        os.close(self._descriptor)
        if is_empty:
            # Windows does so only now. Elsewhere a file there is already another one's.
            if not is_removed:
                _remove(self.path / _LOCK)
            try:
                self.path.rmdir()
            except OSError:  # somebody has put something there
                return

    def _is_empty(self) -> bool:
        try:
            return all(path.name == _LOCK for path in self.path.iterdir())
        except OSError:  # the folder was removed by hand
            return True


def _make_private(folder: Path) -> None:
    """Make *folder* and those above it that are missing, for this user alone."""
    if not folder.exists():  # else its rights are its owner's choice
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def dead_claims(root: Path) -> Iterator[FolderClaim]:
    """Hold every folder below *root* whose process has ended, the oldest first."""
    try:
        found = [(path.stat().st_mtime_ns, path) for path in root.iterdir() if path.is_dir()]
    except OSError:  # there is no root, or one of the folders has just gone
        return
    for _, path in sorted(found):
        if (claim := FolderClaim.take(path)) is not None:
            yield claim


def _remove(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # Windows, while it is open
        return False
    return True
