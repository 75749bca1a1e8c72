"""The meter: from requests to the store, whatever the store and the disk do meanwhile."""

import asyncio
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dragoman.core.errors import GatewayError
from dragoman.policy.access import Caller
from dragoman.policy.records import UsageRecord
from dragoman.server import meter as meter_module
from dragoman.server.meter import Meter
from dragoman.server.telemetry import EventLog, RequestRecord
from dragoman.server.usage_log import UsageLog
from dragoman.stores import usage_spool
from dragoman.stores.usage_lines import decode_lines
from dragoman.stores.usage_spool import UsageSpool
from support.app_case import run

ADA = Caller(key_id="apikey_1", key_name="ada")


class FakeStore:
    """Keeps records by id, in the order in which they came first; may be away."""

    def __init__(self) -> None:
        self.records: dict[str, UsageRecord] = {}
        self.batches: list[int] = []
        self.error: Exception | None = None
        self.hangs = False
        self.n_opened = 0

    async def open(self) -> Any:
        self.n_opened += 1
        return self

    async def add_usage(self, records: Sequence[UsageRecord]) -> None:
        await asyncio.sleep(3600 if self.hangs else 0)
        if self.error is not None:
            raise self.error
        self.batches.append(len(records))
        for record in records:
            self.records.setdefault(record.id, record)

    @property
    def ids(self) -> list[str]:
        return list(self.records)


class MeterCase:
    """A meter over a fake store; ``events`` is what the log has."""

    def __init__(
        self, root: Path, store: FakeStore | None = None, *, folder: str = "", **spool: int
    ) -> None:
        self.store = store or FakeStore()
        self.text = io.StringIO()
        self.spool = UsageSpool(root / folder / "spool", **({"max_bytes": 2**20} | spool))
        self.usage_log = UsageLog(EventLog("json", self.text))
        self.meter = Meter(self.spool, self.store.open, log=self.usage_log)

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.text.getvalue().splitlines()]
        return [{k: v for k, v in line.items() if k != "time"} for line in lines]

    def note(self, *numbers: int) -> None:
        for number in numbers:
            self.meter.note(a_request(number), time.monotonic())

    async def stored(self, n: int) -> None:
        await self.until(lambda: len(self.store.records) >= n)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_so():  # noqa: ASYNC110 - the meter tells nobody
                await asyncio.sleep(0.005)


def a_request(number: int) -> RequestRecord:
    return RequestRecord(f"req_{number}", "POST", "/v1/messages", caller=ADA)


def ids(*numbers: int) -> list[str]:
    return [f"req_{number}" for number in numbers]


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(meter_module, "_WRITE_INTERVAL_S", 0.01)
    monkeypatch.setattr(meter_module, "_SHIP_INTERVAL_S", 0.01)
    monkeypatch.setattr(meter_module, "_FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(meter_module, "_MAX_DELAY_S", 0.02)
    monkeypatch.setattr(meter_module, "_ADOPT_INTERVAL_S", 0.05)


def test_requests_reach_the_store_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        case = MeterCase(tmp_path)
        case.meter.start()
        for number in range(50):
            case.note(number)
            await asyncio.sleep(0.001)
        await case.stored(50)
        assert case.store.ids == ids(*range(50))
        assert len(case.store.batches) < 50
        await case.until(lambda: case.meter.counts().spool_bytes == 0)
        counts = case.meter.counts()
        assert (counts.noted, counts.stored, counts.lost, counts.held) == (50, 50, 0, 0)
        await case.meter.close()
        assert case.events == []

    run(main())
    assert list((tmp_path / "spool").iterdir()) == []


def test_without_a_request_nothing_is_opened(tmp_path: Path) -> None:
    async def main() -> None:
        case = MeterCase(tmp_path)
        case.meter.start()
        await asyncio.sleep(0.1)
        await case.meter.close()
        assert case.store.n_opened == 0

    run(main())
    assert list(tmp_path.iterdir()) == []


def test_a_close_writes_what_was_just_noted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(meter_module, "_WRITE_INTERVAL_S", 60.0)

    async def main() -> None:
        case = MeterCase(tmp_path)
        case.meter.start()
        await asyncio.sleep(0)
        case.note(1, 2)
        await case.meter.close()
        assert case.store.ids == ids(1, 2)
        await case.meter.close()  # may come twice

    run(main())


def test_big_segments_come_in_batches(tmp_path: Path) -> None:
    async def main() -> None:
        case = MeterCase(tmp_path)
        case.note(*range(9100))
        case.meter.start()
        await case.stored(9100)
        assert case.store.batches == [5000, 4100]
        await case.meter.close()

    run(main())


def test_a_store_that_is_away_misses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        case = MeterCase(tmp_path)
        case.store.error = GatewayError("no", log_detail="connection refused")
        case.meter.start()
        for number in range(30):
            case.note(number)
            await asyncio.sleep(0.002)
        await case.until(lambda: case.meter.counts().is_store_away)
        assert case.meter.counts().spool_bytes > 0
        case.store.error = None
        await case.stored(30)
        await case.until(lambda: not case.meter.counts().is_store_away)
        assert case.store.ids == ids(*range(30))
        await case.meter.close()
        away, back = case.events
        assert (away["event"], away["state"]) == ("usage_store", "away")
        assert away["detail"] == "connection refused"
        assert (back["state"], back["waiting_bytes"]) == ("back", 0) or back["waiting_bytes"] > 0

    run(main())


def test_a_bug_of_the_store_is_logged_once_and_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        case = MeterCase(tmp_path)
        case.store.error = ValueError("about 'content'")
        case.meter.start()
        case.note(1)
        await case.until(lambda: case.store.n_opened > 3)
        case.store.error = None
        await case.stored(1)
        await case.meter.close()
        assert [event["event"] for event in case.events] == ["usage_store", "crash", "usage_store"]
        assert "content" not in case.text.getvalue()

    run(main())


@pytest.mark.parametrize("how", ["away", "hanging"])
def test_what_a_close_cannot_store_is_stored_by_the_next_process(
    tmp_path: Path, monkeypatch, how: str
) -> None:
    monkeypatch.setattr(meter_module, "_FLUSH_S", 0.2)

    async def main() -> None:
        first = MeterCase(tmp_path)
        first.store.error = GatewayError("away") if how == "away" else None
        first.store.hangs = how == "hanging"
        first.meter.start()
        first.note(1)
        await asyncio.sleep(0.05)
        first.note(2, 3)
        await first.meter.close()
        assert first.store.ids == []
        second = MeterCase(tmp_path)
        second.meter.start()
        second.note(4)
        await second.stored(4)
        await second.meter.close()
        assert second.store.ids == ids(1, 2, 3, 4)
        assert second.events[0]["event"] == "usage_adopted"
        assert list((tmp_path / "spool").iterdir()) == []

    run(main())


def test_a_store_that_took_half_is_told_again(tmp_path: Path) -> None:
    class Forgetful(FakeStore):
        async def add_usage(self, records: Sequence[UsageRecord]) -> None:
            await super().add_usage(records)
            if len(self.batches) == 2:
                raise GatewayError("the connection broke after the commit")

    async def main() -> None:
        case = MeterCase(tmp_path, Forgetful())
        case.note(*range(1200))
        case.meter.start()
        await case.stored(1200)
        await case.until(lambda: case.meter.counts().spool_bytes == 0)
        assert case.store.ids == ids(*range(1200))
        assert case.meter.counts().stored == 1200
        await case.meter.close()

    run(main())


def test_without_a_disk_records_go_from_memory_to_the_store(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")

    async def main() -> None:
        case = MeterCase(tmp_path)
        case.meter.start()
        case.note(1, 2)
        await case.stored(2)
        (tmp_path / "spool").unlink()
        case.note(3)
        await case.stored(3)
        await case.until(lambda: case.meter.counts().held == 0)
        await case.meter.close()
        assert case.meter.counts().lost == 0
        states = [event["state"] for event in case.events if event["event"] == "usage_spool"]
        assert states[0] == "failing"
        assert case.events[0]["detail"] == "Not a directory"

    run(main())


def test_without_disk_and_store_a_bounded_number_is_held(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(meter_module, "_MAX_HELD", 10)
    (tmp_path / "spool").write_text("")

    async def main() -> None:
        case = MeterCase(tmp_path)
        case.store.error = GatewayError("away")
        case.meter.start()
        for number in range(25):
            case.note(number)
            await asyncio.sleep(0.003)
        await case.until(lambda: case.meter.counts().held == 10)
        assert case.meter.counts().lost == 15
        case.store.error = None
        await case.stored(10)
        await case.meter.close()
        assert case.store.ids == ids(*range(10))
        lost = [event["records"] for event in case.events if event["event"] == "usage_lost"]
        assert sum(lost) == 15

    run(main())


def test_a_disk_that_is_full_for_store_and_spool_is_told_of_once(
    tmp_path: Path, monkeypatch
) -> None:
    def no_space(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        case = MeterCase(tmp_path)
        monkeypatch.setattr(usage_spool.os, "write", no_space)
        case.store.error = GatewayError("database or disk is full")
        case.meter.start()
        case.note(1)
        await case.until(lambda: case.meter.counts().is_store_away)
        for number in range(2, 12):
            case.note(number)
            await asyncio.sleep(0.02)  # some turns of both, however slow the machine
        told = [(event["event"], event["state"]) for event in case.events]
        assert sorted(told) == [("usage_spool", "failing"), ("usage_store", "away")]
        monkeypatch.setattr(usage_spool.os, "write", write)
        case.store.error = None
        await case.stored(11)
        await case.meter.close()

    write = os.write
    run(main())


def test_what_disk_and_store_give_back_at_the_same_time_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        case, disk = MeterCase(tmp_path), threading.Event()
        asked, answer = asyncio.Event(), asyncio.Event()
        append, add_usage = case.spool.append, case.store.add_usage
        disk.set()

        def full(_records: Sequence[UsageRecord]) -> Path:
            assert disk.wait(20)
            raise OSError(28, "No space left on device")

        async def away(_records: Sequence[UsageRecord]) -> None:
            asked.set()
            await answer.wait()
            raise GatewayError("away")

        case.spool.append, case.store.add_usage = full, away  # type: ignore[method-assign]
        case.meter.start()
        case.note(1)
        await asked.wait()  # the first waits at the store
        disk.clear()
        case.note(2)
        await case.until(lambda: case.meter._n_held == 2)  # and the second at the disk
        answer.set()
        await case.until(lambda: case.meter.counts().is_store_away)
        disk.set()
        case.spool.append, case.store.add_usage = append, add_usage  # type: ignore[method-assign]
        await case.stored(2)
        await case.meter.close()
        assert case.store.ids == ids(1, 2)
        assert case.meter.counts().lost == 0

    run(main())


def test_a_full_spool_loses_the_newest_and_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(meter_module, "_MAX_HELD", 5)

    async def main() -> None:
        case = MeterCase(tmp_path, max_bytes=3_000)
        case.store.error = GatewayError("away")
        case.meter.start()
        for number in range(60):
            case.note(number)
            await asyncio.sleep(0.012)
        counts = case.meter.counts()
        assert counts.lost > 0
        assert counts.held == 5
        assert counts.spool_bytes <= 3_000
        case.store.error = None
        await case.until(lambda: case.meter.counts().held == 0)
        await case.until(lambda: case.meter.counts().spool_bytes == 0)
        assert len(case.store.records) + counts.lost == 60
        n_kept = len(case.store.records)
        assert case.store.ids == ids(*range(n_kept))
        await case.meter.close()
        assert {"usage_spool", "usage_lost", "usage_store"} <= {e["event"] for e in case.events}

    run(main())


def test_what_neither_takes_before_the_end_is_counted_as_lost(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")

    async def main() -> None:
        case = MeterCase(tmp_path)
        case.store.error = GatewayError("away")
        case.meter.start()
        case.note(1, 2)
        await case.meter.close()
        assert case.meter.counts().lost == 2
        assert case.events[-1] == {"event": "usage_lost", "records": 2}

    run(main())


def test_the_folder_of_a_dead_worker_is_found_while_we_run(tmp_path: Path) -> None:
    async def main() -> None:
        case = MeterCase(tmp_path)
        case.meter.start()
        await asyncio.sleep(0.02)
        other = MeterCase(tmp_path)
        other.store.error = GatewayError("away")
        other.meter.start()
        other.note(1)
        await other.until(lambda: other.meter.counts().spool_bytes > 0)
        await other.meter.close()  # as if it had been killed
        await case.stored(1)
        await case.meter.close()
        assert case.store.ids == ids(1)

    run(main())


def test_a_segment_that_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    async def leave_three() -> None:
        first = MeterCase(tmp_path, segment_bytes=1)
        first.store.error = GatewayError("away")
        first.meter.start()
        for number in range(3):
            first.note(number)
            await asyncio.sleep(0.05)
        await first.meter.close()

    async def take_them() -> None:
        case = MeterCase(tmp_path)
        case.meter.start()
        await case.stored(3)
        await case.meter.close()
        assert case.store.ids == ids(0, 1, 2)
        assert case.meter.counts().broken == 1
        (odd,) = [event for event in case.events if event["event"] == "usage_odd"]
        assert odd["detail"] == "1 lines cannot be read"

    run(leave_three())
    second = sorted(tmp_path.glob("spool/*/*.usage"))[1]
    second.write_bytes(b"00000000 {}\n" + second.read_bytes())
    run(take_them())
    assert [path.suffix for path in tmp_path.glob("spool/*/0*")] == [".odd"]


def test_writing_goes_on_while_the_disk_takes_its_time(tmp_path: Path, monkeypatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    synced: list[int] = []

    def sync(paths: Iterable[Path]) -> None:
        started.set()
        assert go_on.wait(20)
        synced.append(len(list(paths)))

    monkeypatch.setattr(meter_module, "sync_segments", sync)

    async def main() -> None:
        case = MeterCase(tmp_path)
        case.store.error = GatewayError("away")
        case.meter.start()
        case.note(1)
        await case.until(lambda: case.meter.counts().is_store_away)
        case.note(2)
        await case.until(started.is_set)
        waiting = case.meter.counts().spool_bytes
        case.note(3)
        await case.until(lambda: case.meter.counts().spool_bytes > waiting)
        go_on.set()
        await case.until(lambda: len(synced) == 1)
        case.note(4)
        await case.until(lambda: len(synced) == 2)
        await case.meter.close()

    run(main())


def test_a_disk_that_cannot_sync_is_told_of(tmp_path: Path, monkeypatch) -> None:
    def sync(_: Iterable[Path]) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(meter_module, "sync_segments", sync)

    async def main() -> None:
        case = MeterCase(tmp_path)
        case.store.error = GatewayError("away")
        case.meter.start()
        case.note(1)
        await case.until(lambda: case.meter.counts().is_store_away)
        case.note(2)
        await case.until(lambda: case.meter.counts().held == 0)
        await case.meter.close()
        (event,) = [event for event in case.events if event["event"] == "usage_spool"]
        assert event == {"event": "usage_spool", "state": "failing", "detail": "Input/output error"}

    run(main())


class Picky(FakeStore):
    """Breaks at some records, and does not say at which."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self._refused = set(refused)

    async def add_usage(self, records: Sequence[UsageRecord]) -> None:
        if self._refused.intersection(record.id for record in records):
            raise ValueError("the library does not like one of them")
        await super().add_usage(records)


def test_a_record_that_breaks_the_store_stops_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        case = MeterCase(tmp_path, Picky("req_3"))
        case.note(*range(6))
        case.meter.start()
        await case.stored(5)
        case.note(6)
        await case.stored(6)
        await case.meter.close()
        assert case.store.ids == ids(0, 1, 2, 4, 5, 6)
        (odd,) = [event for event in case.events if event["event"] == "usage_odd"]
        assert odd["detail"] == "the store refuses 1 of its records"

    run(main())
    (odd_path,) = tmp_path.glob("spool/*/*.odd")
    assert [record.id for record in decode_lines(odd_path.read_bytes()).records] == ids(*range(6))


def test_a_store_that_refuses_everything_is_not_given_everything(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(meter_module, "_MAX_LEFT", 2)

    async def main() -> None:
        store = Picky(*ids(*range(100)))
        case = MeterCase(tmp_path, store, segment_bytes=1)
        case.meter.start()
        for number in range(5):
            case.note(number)
            await case.until(lambda: case.meter.counts().held == 0)
        odd = "usage_odd"
        await case.until(lambda: sum(event["event"] == odd for event in case.events) == 2)
        await asyncio.sleep(0.2)
        assert sum(event["event"] == odd for event in case.events) == 2
        store._refused = set()
        await case.stored(3)
        await case.meter.close()
        assert case.store.ids == ids(2, 3, 4)

    run(main())


def test_records_for_another_store_are_only_told_of(tmp_path: Path) -> None:
    async def main() -> None:
        first = MeterCase(tmp_path, folder="one")
        first.store.error = GatewayError("away")
        first.meter.start()
        first.note(1)
        await first.meter.close()
        second = MeterCase(tmp_path)
        other = UsageSpool(tmp_path / "one" / "another", max_bytes=2**20)
        meter = Meter(other, second.store.open, log=second.usage_log)
        meter.start()
        meter.note(a_request(2), time.monotonic())
        await second.stored(1)
        await meter.close()
        assert second.store.ids == ids(2)
        assert [event["event"] for event in second.events] == ["usage_elsewhere"]

    run(main())
