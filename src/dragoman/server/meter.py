"""
Usage records on their way from requests to the store; no request waits for it.

    note -> memory, for half a second -> spool on disk, for two seconds -> store

What is in the spool survives the end of the process. The store may be away for as long as the spool
has room; what does not fit any more is counted, and said in the log. While the disk cannot be
written to, records go from memory to the store, and only those survive that have arrived there.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct

from dragoman.core.errors import GatewayError
from dragoman.policy.records import UsageRecord
from dragoman.policy.store import GetStore
from dragoman.server.telemetry import RequestRecord
from dragoman.server.usage_log import UsageLog
from dragoman.server.usage_records import RecordMaker
from dragoman.stores.usage_spool import Segment, UsageSpool, sync_segments

_T = TypeVar("_T")

# A killed process loses what it has noted since the last write: with the write, under a second.
_WRITE_INTERVAL_S: Final = 0.5
_SHIP_INTERVAL_S: Final = 2.0  # a transaction costs as much as many records
_MAX_HELD: Final = 10_000  # records in memory while they cannot be written: about 10 MB
_BATCH: Final = 5_000  # records for one transaction of the store: mostly, all of a segment
_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 15.0
_ADOPT_INTERVAL_S: Final = 30.0  # another worker of this machine may have been killed
_MAX_REFUSALS: Final = 5
_MAX_LEFT: Final = 20  # segments: then it is not the records that are wrong, and all others wait
_FLUSH_S: Final = 3.0  # workers that stop have five seconds more than their streams


class MeterCounts(Struct, frozen=True, kw_only=True):
    """
    What metrics show.

    Attributes:
        noted: Requests that were to be written down.
        stored: Records that the store has taken, those of earlier processes among them.
        lost: Records that neither the disk nor the store took in time.
        broken: Lines of the spool that could not be read; their segment is kept.
        held: Records in memory.
        spool_bytes: What waits on disk.
        is_store_away: The store has not taken the last batch.
    """

    noted: int
    stored: int
    lost: int
    broken: int
    held: int
    spool_bytes: int
    is_store_away: bool


class Meter:
    """
    Writes down what requests were and cost.

    Args:
        spool: Used from one thread of our own.
        get_store: Called when there is something to store.
        log: Told when the store or the disk goes away and comes back, and of losses.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        spool: UsageSpool,
        get_store: GetStore,
        *,
        log: UsageLog,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._get_store = get_store
        self._log = log
        self._wall_clock = wall_clock
        self._make = RecordMaker().make
        self._clock_s = 0.0  # the time of day at which the monotonic clock shows 0
        self._ended: list[UsageRecord] = []  # not yet written
        self._stuck: list[UsageRecord] = []  # could not be written
        self._n_refusals = 0  # of the oldest segment, one after the other
        self._n_left = 0  # segments that were left to people
        self._n_held = 0  # taken from there: they are being written or stored, or are stuck
        self._n_noted = self._n_stored = self._n_lost = self._n_broken = 0
        self._noted = asyncio.Event()
        self._closing = asyncio.Event()
        self._wrote = asyncio.Event()
        self._due = asyncio.Event()  # more than one transaction takes, or it is in memory alone
        self._last_written = asyncio.Event()
        self._unsynced: set[Path] = set()
        self._syncing: asyncio.Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._tasks: tuple[asyncio.Task[None], asyncio.Task[None]] | None = None

    def start(self) -> None:
        """Begin; what earlier processes have left is stored first."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="usage")
        loop = asyncio.get_running_loop()
        self._tasks = (
            loop.create_task(self._write_all(), name="usage: write"),
            loop.create_task(self._ship_all(), name="usage: ship"),
        )

    def note(self, record: RequestRecord, now_s: float) -> None:
        """Write down a request that is over; *now_s* is monotonic, as its own times are."""
        ended = self._ended
        if not ended:
            self._clock_s = self._wall_clock() - now_s
            self._noted.set()
        if self._n_held + len(ended) < _MAX_HELD:
            ended.append(self._make(record, clock_s=self._clock_s, now_s=now_s))
        else:
            self._n_noted += 1
            self._lose(1)

    def counts(self) -> MeterCounts:
        """Return what metrics show."""
        return MeterCounts(
            noted=self._n_noted + len(self._ended),
            stored=self._n_stored,
            lost=self._n_lost,
            broken=self._n_broken,
            held=self._n_held + len(self._ended),
            spool_bytes=self._spool.waiting_bytes,
            is_store_away=self._log.is_store_away,
        )

    async def close(self) -> None:
        """Write what is held, give the store a moment to take it, leave the rest in the spool."""
        if self._tasks is None:
            return
        writer, shipper = self._tasks
        self._closing.set()
        self._noted.set()
        await _end(writer)
        self._last_written.set()
        self._wrote.set()
        self._due.set()
        await _end(shipper)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self._on_thread(self._spool.close)
                if self._syncing is not None:
                    await asyncio.wait([self._syncing])
                    self._end_sync()
        if self._thread is not None:
            self._thread.shutdown(wait=False)
        self._take_ended()
        self._lose(self._n_held)
        self._log.flush()
        self._stuck, self._n_held, self._tasks = [], 0, None

    def _lose(self, n: int) -> None:
        if n:
            self._n_lost += n
            self._log.lost(n)

    # -- memory to disk

    async def _write_all(self) -> None:
        """Write all that is noted within an interval at once."""
        while not self._closing.is_set():
            await self._noted.wait()
            await _wait(self._closing, _WRITE_INTERVAL_S)
            await self._write()
        await self._write()

    async def _write(self) -> None:
        """Write what is held; what cannot be written stays in memory and is tried again."""
        self._noted.clear()
        records = [*self._stuck, *self._take_ended()]
        self._stuck = []
        if not records:
            return
        try:
            path = await self._on_thread(self._spool.append, records)
        except OSError as error:
            # What is there has come back from the store meanwhile, and is older.
            self._stuck += records
            self._noted.set()
            self._log.disk(error)
        else:
            self._n_held -= len(records)
            self._log.disk(None)
            self._sync(path)
        if self._stuck or self._spool.has_full_segment:
            self._due.set()
        self._wrote.set()

    def _take_ended(self) -> list[UsageRecord]:
        """Return what was noted since the last time; it is counted now, not one by one."""
        ended, self._ended = self._ended, []
        self._n_noted += len(ended)
        self._n_held += len(ended)
        return ended

    def _sync(self, path: Path) -> None:
        """
        Bring what will stay onto the disk itself.

        In a thread of its own: writing goes on while the disk takes its time. What stays only for
        the moment until the store takes it is left to the system, for a sync costs more.
        """
        if not self._log.is_store_away:
            return
        self._unsynced.add(path)
        if self._syncing is not None and not self._syncing.done():
            return
        self._end_sync()
        paths, self._unsynced = self._unsynced, set()
        loop = asyncio.get_running_loop()
        self._syncing = loop.run_in_executor(None, sync_segments, paths)

    def _end_sync(self) -> None:
        """Take note of how the last one ended."""
        if self._syncing is not None and isinstance(error := self._syncing.exception(), OSError):
            self._log.disk(error)

    # -- disk to store

    async def _ship_all(self) -> None:
        """Bring segments to the store, the oldest first."""
        delay_s = 0.0
        await self._adopt()
        if elsewhere := await self._on_thread(self._spool.waiting_elsewhere):
            self._log.elsewhere(elsewhere)
        while True:
            self._wrote.clear()
            self._due.clear()
            is_last = self._last_written.is_set()
            try:
                has_shipped = await self._ship_next()
            except Exception as error:  # whatever the store fails with: it is tried again
                self._log.store(error, waiting_bytes=self._spool.waiting_bytes)
                if is_last:
                    return
                delay_s = min(max(2 * delay_s, _FIRST_DELAY_S), _MAX_DELAY_S)
                await _wait(self._last_written, delay_s)
                continue
            if has_shipped:
                delay_s = 0.0
                self._log.store(None, waiting_bytes=self._spool.waiting_bytes)
            elif is_last:
                return
            elif await _wait(self._wrote, _ADOPT_INTERVAL_S):
                await _wait(self._due, _SHIP_INTERVAL_S)
            else:
                await self._adopt()

    async def _adopt(self) -> None:
        try:
            if n_segments := await self._on_thread(self._spool.adopt):
                self._log.adopted(n_segments, waiting_bytes=self._spool.waiting_bytes)
        except OSError as error:
            self._log.disk(error)

    async def _ship_next(self) -> bool:
        """Bring the oldest records to the store; False: there are none."""
        segment = await self._on_thread(self._spool.oldest)
        if segment is not None:
            await self._ship(segment)
            return True
        records, self._stuck = self._stuck, []
        if not records:
            return False
        try:
            await self._store(records)
        except BaseException:
            self._stuck = [*records, *self._stuck]
            raise
        self._n_held -= len(records)
        return True

    async def _ship(self, segment: Segment) -> None:
        try:
            lines = await self._on_thread(self._spool.read, segment)
        except OSError as error:
            await self._leave(segment, error.strerror or str(error))
            return
        if n_refused := await self._store_or_tell(lines.records):
            await self._leave(segment, f"the store refuses {n_refused} of its records")
            return
        if lines.n_broken:
            self._n_broken += lines.n_broken
            await self._leave(segment, f"{lines.n_broken} lines cannot be read")
            return
        try:
            await self._on_thread(self._spool.remove, segment)
        except OSError as error:
            self._log.disk(error)

    async def _leave(self, segment: Segment, reason: str) -> None:
        """Leave a segment of which something is lost to people."""
        self._n_left += 1
        self._log.odd_segment(segment.path, reason)
        try:
            await self._on_thread(self._spool.set_aside, segment)
        except OSError as error:
            self._log.disk(error)

    async def _store_or_tell(self, records: Sequence[UsageRecord]) -> int:
        """
        Store a segment's records; return how many the store will not have, whatever happens.

        A record that breaks the store, and not because it is away, must not stop all others behind
        it. So a segment that is refused again and again is stored record by record.

        Raises:
            Exception: It may be taken later.
        """
        try:
            await self._store(records)
        except GatewayError:
            raise
        except Exception:
            self._n_refusals += 1
            if self._n_refusals < _MAX_REFUSALS or self._n_left >= _MAX_LEFT:
                raise
        else:
            self._n_refusals = 0
            return 0
        self._n_refusals = 0
        return sum([await self._is_refused(record) for record in records])

    async def _is_refused(self, record: UsageRecord) -> bool:
        try:
            await self._store([record])
        except GatewayError:
            raise
        except Exception:  # the log has it already
            return True
        return False

    async def _store(self, records: Sequence[UsageRecord]) -> None:
        """
        Hand records to the store.

        Raises:
            StoreUnavailable: It has not taken all of them; those that it has do no harm again.
        """
        store = await self._get_store()
        for start in range(0, len(records), _BATCH):
            await store.add_usage(records[start : start + _BATCH])
        self._n_stored += len(records)

    async def _on_thread(self, work: Callable[..., _T], *args: object) -> _T:
        """Return what *work*, which may wait for the disk, returns."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


async def _wait(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for *event*, tell whether it came in time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False


async def _end(task: asyncio.Task[None]) -> None:
    """Wait a moment for *task* to end by itself."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FLUSH_S):
            await task
