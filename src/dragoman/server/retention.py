"""Records of requests become sums of days, for budgets and when their time has come."""

import asyncio
import datetime as dt
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from dragoman.core.errors import StoreUnavailable
from dragoman.policy.store import GetStore, Store
from dragoman.server.telemetry import EventLog
from dragoman.settings import UsageConfig

_INTERVAL_S: Final = 3600.0
_FIRST_S: Final = 600.0  # a start has other things to do, and may be one of many
_MAX_DAYS: Final = 400  # in one go
_MAX_KEPT: Final = 32  # as many as a budget is about: none again and again while records come late
# Until then most of what waits in spools has come, and a gateway whose clock is wrong is done.
_OVER: Final = dt.timedelta(hours=12)


class Retention:
    """
    Looks once an hour for days that are over, and for those whose records are old enough.

    Args:
        settings: How old.
        get_store: Called when it looks.
        is_empty: Whether there is surely nothing to look at.
        log: Told of what was done.
        utc_now: The time of day.
    """

    def __init__(
        self,
        settings: UsageConfig,
        get_store: GetStore,
        *,
        is_empty: Callable[[], bool],
        log: EventLog,
        utc_now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._settings = settings
        self._get_store = get_store
        self._is_empty = is_empty
        self._log = log
        self._utc_now = utc_now
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="usage: retention")

    async def close(self) -> None:
        """End; a day that is being added up stays as it was."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def apply(self) -> None:
        """
        Add up and remove what is old enough; add up what budgets will ask for.

        Raises:
            StoreUnavailable: The store is away, or another replica does the same just now.
        """
        if self._is_empty():
            return
        store = await self._get_store()
        await self._roll_up(store)
        if days := self._settings.keep_sums_days:
            n_sums = await store.forget_usage(self._utc_now() - dt.timedelta(days=days))
            if n_sums:
                self._log.event("usage_forgotten", sums=n_sums)
        await self._keep_spent(store)  # last: whatever is wrong with it, only budgets take longer

    async def _keep_spent(self, store: Store) -> None:
        before, n_days = self._utc_now() - _OVER, 0
        while n_days < _MAX_KEPT and await store.keep_spent(before):
            n_days += 1

    async def _roll_up(self, store: Store) -> None:
        days = self._settings.keep_records_days
        if not days:
            return
        before, n_records, n_days = self._utc_now() - dt.timedelta(days=days), 0, 0
        while n_days < _MAX_DAYS and (n := await store.roll_up_usage(before)):
            n_records, n_days = n_records + n, n_days + 1
        if n_days:
            self._log.event("usage_rolled_up", records=n_records, days=n_days)

    async def _run(self) -> None:
        wait_s = _FIRST_S
        while True:
            # Spread, so that replicas which were started together do not all come at once.
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - hides nothing
            wait_s = _INTERVAL_S
            try:
                await self.apply()
            except StoreUnavailable:  # there is time
                continue
            except Exception as error:
                self._log.crash(error)
