"""What the log says of usage on its way to the store: changes once, losses again and again."""

import time
from pathlib import Path
from typing import Final

from dragoman.core.errors import GatewayError
from dragoman.server.telemetry import EventLog

_AGAIN_S: Final = 10.0


class UsageLog:
    """
    Tells people what they should know, and no more.

    Args:
        log: Written to.

    Attributes:
        is_store_away: It has not taken what it was given last.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._is_disk_away = False
        self._n_lost = 0
        self._lost_said_s = float("-inf")
        self.is_store_away = False

    def store(self, error: Exception | None, *, waiting_bytes: int) -> None:
        """Take note of whether the store has taken a batch."""
        if error is None:
            if self.is_store_away:
                self._log.event("usage_store", state="back", waiting_bytes=waiting_bytes)
            self.is_store_away = False
            return
        if not self.is_store_away:
            self._log.event(
                "usage_store", state="away", detail=_detail(error), waiting_bytes=waiting_bytes
            )
            if not isinstance(error, GatewayError):
                self._log.crash(error)
        self.is_store_away = True

    def disk(self, error: OSError | None) -> None:
        """Take note of whether the spool could be written to."""
        if error is None:
            if self._is_disk_away:
                self._log.event("usage_spool", state="well")
            self._is_disk_away = False
            return
        if not self._is_disk_away:
            self._log.event("usage_spool", state="failing", detail=_detail(error))
        self._is_disk_away = True

    def lost(self, n: int) -> None:
        """Take note of records that nobody took; the log has their number every ten seconds."""
        self._n_lost += n
        now_s = time.monotonic()
        if now_s - self._lost_said_s >= _AGAIN_S:
            self._lost_said_s = now_s
            self.flush()

    def flush(self) -> None:
        """Say what losses have not been said yet."""
        if self._n_lost:
            self._log.event("usage_lost", records=self._n_lost)
            self._n_lost = 0

    def adopted(self, n_segments: int, *, waiting_bytes: int) -> None:
        """Say that processes that have ended left something."""
        self._log.event("usage_adopted", segments=n_segments, waiting_bytes=waiting_bytes)

    def elsewhere(self, waiting_bytes: int) -> None:
        """Say that records wait for a store that is not ours; maybe nobody will bring them."""
        self._log.event("usage_elsewhere", waiting_bytes=waiting_bytes)

    def odd_segment(self, path: Path, reason: str) -> None:
        """Say that a segment is left to people."""
        self._log.event("usage_odd", path=str(path), detail=reason)


def _detail(error: Exception) -> str:
    if isinstance(error, GatewayError):
        return error.log_detail or error.message
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return type(error).__name__  # what a library says may quote what it was given
