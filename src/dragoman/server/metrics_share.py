"""
The figures of several processes of one gateway, by files in a folder of their own.

Each process writes its own figures once a second; the one that a scrape comes to adds to its own
what the files of the others say. A process that takes the place of one that has ended goes on from
that one's file, so that no counter falls.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from dragoman.server.metric_names import FAMILIES, Sample
from dragoman.server.metrics import Metrics
from dragoman.server.metrics_page import continue_samples

_INTERVAL_S: Final = 1.0
_MAX_FILE_BYTES: Final = 64 * 2**20  # far over what bounded series can take
_SUFFIX: Final = ".metrics"
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[Sample]).decode


class MetricsShare:
    """
    One process among several.

    Args:
        folder: Of all of them, and of nobody else.
        number: Of this process; the one that replaces it has the same.
        metrics: Its own figures.
    """

    def __init__(self, folder: Path, number: int, *, metrics: Metrics) -> None:
        self._folder = folder
        self._path = folder / f"{number}{_SUFFIX}"
        self._metrics = metrics
        self._before = [s for s in _read(self._path) if FAMILIES[s.name].kind != "gauge"]
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._write()

    def own(self) -> list[Sample]:
        """Return the figures of this process and of those whose place it has taken."""
        return continue_samples(self._before, self._metrics.samples())

    def others(self) -> Iterator[list[Sample]]:
        """Yield the figures of the other processes, as they have last written them."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path != self._path:
                yield _read(path)

    def stop(self) -> None:
        """Write once more, and no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._save()

    def _write(self) -> None:
        self._save()
        self._timer = self._loop.call_later(_INTERVAL_S, self._write)

    def _save(self) -> None:
        """Replace the file by a whole one; a disk that is full must not end the process."""
        draft = self._path.with_suffix(".draft")
        try:
            draft.write_bytes(_encode(self.own()))
            os.replace(draft, self._path)  # noqa: PTH105 - as rename, but on Windows, too
        except OSError:
            draft.unlink(missing_ok=True)


def _read(path: Path) -> list[Sample]:
    """Return what a process has written; nothing if there is no file, or another version's."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            return []
        samples = _decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return []
    return [sample for sample in samples if _is_known(sample)]


def _is_known(sample: Sample) -> bool:
    """Tell whether another version of us, installed meanwhile, means the same by it."""
    family = FAMILIES.get(sample.name)
    if family is None or len(sample.labels) != len(family.labels):
        return False
    return len(sample.counts) == (len(family.buckets) + 1 if family.buckets else 0)
