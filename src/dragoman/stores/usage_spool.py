"""
Usage records on disk until the store has taken them.

A process appends to segments in a folder of its own below the spool, and reads them back in order.
A segment that the store has taken is removed. The folders of processes that have ended are adopted:
their segments are read like our own.

Blocking, and for one thread at a time. What is appended survives the end of the process; only what
``sync_segments`` was called for survives a power cut as well.
"""

import os
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from msgspec import Struct

from dragoman.policy.records import UsageRecord
from dragoman.store_urls import StoreUrl
from dragoman.stores.folder_claims import FolderClaim, dead_claims
from dragoman.stores.usage_lines import Lines, decode_lines, encode_lines

_FOLDER: Final = "usage-spool"  # in the data folder
_SEGMENT_BYTES: Final = 2**20  # some 4,000 records: so many are in memory while it is read
_SUFFIX: Final = ".usage"
_ODD: Final = ".odd"


def spool_folder(data_dir: Path, url: StoreUrl) -> Path:
    """
    Return where records for one store wait.

    Gateways with other stores may use the same data folder: nobody brings another's records to his
    own database.
    """
    kind, _, where = str(url).partition(" ")
    if url.path is not None:
        where = str(url.path.resolve())
    return data_dir / _FOLDER / f"{kind}-{sha256(where.encode()).hexdigest()[:12]}"


class SpoolFull(OSError):
    """As much waits for the store as may."""


class Segment(Struct, frozen=True, kw_only=True):
    """A file that nobody writes to any more; *claim* holds its folder."""

    path: Path
    n_bytes: int
    claim: FolderClaim


class UsageSpool:
    """
    The spool of one process.

    Args:
        root: The folder of all processes' folders; made when something is appended.
        max_bytes: Of what waits here, adopted segments among it.
        segment_bytes: A segment that has become so large is followed by another.

    Attributes:
        waiting_bytes: Of all segments.
    """

    def __init__(self, root: Path, *, max_bytes: int, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._claim: FolderClaim | None = None
        self._live: _LiveSegment | None = None
        self._n_segments = 0
        self._sealed: deque[Segment] = deque()
        # What the last sealed segment holds: mostly it is read at once, and need not be decoded.
        self._last_sealed: tuple[Path, list[UsageRecord]] | None = None
        self.waiting_bytes = 0

    @property
    def has_full_segment(self) -> bool:
        """Whether one waits that nothing more is written to."""
        return bool(self._sealed)

    def adopt(self) -> int:
        """Take over what dead processes have left; return how many segments there were."""
        before = len(self._sealed)
        for claim in dead_claims(self._root):
            segments = _segments_of(claim)
            self._sealed += segments
            self.waiting_bytes += sum(segment.n_bytes for segment in segments)
            if not segments:
                claim.release()
        return len(self._sealed) - before

    def waiting_elsewhere(self) -> int:
        """Return how many bytes wait here for other stores; nobody may be left to bring them."""
        return waiting_bytes(self._root.parent) - waiting_bytes(self._root)

    def append(self, records: Sequence[UsageRecord]) -> Path:
        """
        Write records behind all others, return the file that they are in.

        Raises:
            SpoolFull: They do not fit.
            OSError: They cannot be written. In both cases none of them is there.
        """
        lines = encode_lines(records)
        if self.waiting_bytes + len(lines) > self._max_bytes:
            raise SpoolFull(f"{self.waiting_bytes} bytes wait for the store, and no more may")
        live = self._live or self._open_live()
        try:
            live.write(lines)
        except OSError:
            self._seal()
            raise
        live.records += records
        self.waiting_bytes += len(lines)
        if live.n_bytes >= self._segment_bytes:
            self._seal()
        return live.path

    def oldest(self) -> Segment | None:
        """Return the segment to read next; None: nothing waits."""
        if not self._sealed:
            self._seal()
        return self._sealed[0] if self._sealed else None

    def read(self, segment: Segment) -> Lines:
        """
        Return what a segment holds.

        Raises:
            OSError: It cannot be read.
        """
        if self._last_sealed is not None and self._last_sealed[0] == segment.path:
            return Lines(records=tuple(self._last_sealed[1]), is_cut=False, n_broken=0)
        return decode_lines(segment.path.read_bytes())

    def remove(self, segment: Segment) -> None:
        """
        Remove a segment that the store has taken.

        Raises:
            OSError: It stays, and will be read again by the next process.
        """
        try:
            segment.path.unlink(missing_ok=True)
        finally:
            self._forget(segment)

    def set_aside(self, segment: Segment) -> None:
        """
        Leave a segment to people, under another name: not all of it can be read.

        Raises:
            OSError: It keeps its name, and will be tried again by the next process.
        """
        try:
            segment.path.rename(segment.path.with_suffix(_ODD))
        finally:
            self._forget(segment)

    def close(self) -> None:
        """Stop writing, and leave what waits to the next process."""
        self._seal()
        claims = {id(segment.claim): segment.claim for segment in self._sealed}
        if self._claim is not None:
            claims[id(self._claim)] = self._claim
        for claim in claims.values():
            claim.release()
        self._sealed.clear()
        self._claim = self._last_sealed = None

    def _open_live(self) -> "_LiveSegment":
        if self._claim is None:
            self._claim = FolderClaim.make(self._root)
        self._n_segments += 1
        self._live = _LiveSegment(self._claim.path / f"{self._n_segments:08}{_SUFFIX}")
        return self._live

    def _seal(self) -> None:
        """End the segment that is written to."""
        live, self._live = self._live, None
        if live is None or self._claim is None:
            return
        live.close()
        if not live.n_bytes:  # a full disk takes a file, but nothing in it
            with suppress(OSError):
                live.path.unlink()
            return
        self._last_sealed = live.path, live.records
        self._sealed.append(Segment(path=live.path, n_bytes=live.n_bytes, claim=self._claim))

    def _forget(self, segment: Segment) -> None:
        self._sealed.remove(segment)
        if self._last_sealed is not None and self._last_sealed[0] == segment.path:
            self._last_sealed = None
        self.waiting_bytes -= segment.n_bytes
        claim = segment.claim
        if claim is not self._claim and all(other.claim is not claim for other in self._sealed):
            claim.release()


class _LiveSegment:
    """The file that is written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_bytes = 0
        self.records: list[UsageRecord] = []
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, flags, 0o600)

    def write(self, lines: bytes) -> None:
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:  # mostly a full disk; whoever tries again writes all of it
            os.ftruncate(self._descriptor, self.n_bytes)
            raise
        self.n_bytes += len(lines)

    def close(self) -> None:
        os.close(self._descriptor)


def sync_segments(paths: Iterable[Path]) -> None:
    """
    Bring segments onto the disk itself; from any thread, and it may take seconds.

    Raises:
        OSError: The disk refuses.
    """
    for path in paths:
        with suppress(FileNotFoundError):  # the store has taken it
            _sync(path, os.O_RDWR)
            if os.name == "posix":  # else the file may be there without its name
                _sync(path.parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def waiting_bytes(root: Path) -> int:
    """Return how much waits in the spools of all processes, without touching it."""
    return sum(_size_of(path) for path in root.rglob(f"*{_SUFFIX}"))


def _segments_of(claim: FolderClaim) -> list[Segment]:
    paths = sorted(claim.path.glob(f"*{_SUFFIX}"))
    return [Segment(path=path, n_bytes=_size_of(path), claim=claim) for path in paths]


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # taken by the store just now
        return 0
