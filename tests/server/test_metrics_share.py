"""Figures of several processes: added up, and no counter falls when one is replaced."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import msgspec

from dragoman.server.metric_names import Sample
from dragoman.server.metrics import Metrics
from dragoman.server.metrics_page import merge_samples
from dragoman.server.metrics_share import MetricsShare
from dragoman.server.telemetry import RequestRecord


def n_requests(samples: Iterable[Sample]) -> float:
    return sum(s.value for s in samples if s.name == "dragoman_requests_total")


def gauge(samples: Iterable[Sample], name: str) -> float:
    return sum(s.value for s in samples if s.name == name)


def serve(metrics: Metrics, n: int) -> None:
    for _ in range(n):
        record = RequestRecord("r", "POST", "/v1/messages", alias="m", upstream="u", status=200)
        metrics.observe(record, 1.0)


def all_of(share: MetricsShare) -> list[Sample]:
    return merge_samples([share.own(), *share.others()])


def test_processes_are_added_up_and_replaced_without_a_step_back(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = Metrics(), Metrics()
        serve(first, 3)
        serve(second, 4)
        second.open_streams = 2
        one, other = (
            MetricsShare(tmp_path, number, metrics=metrics)
            for number, metrics in enumerate((first, second))
        )
        assert n_requests(all_of(one)) == n_requests(all_of(other)) == 7
        assert gauge(all_of(one), "dragoman_workers") == 2
        assert gauge(all_of(one), "dragoman_open_streams") == 2

        serve(second, 1)
        other.stop()  # it writes a last time
        third = Metrics()
        serve(third, 10)
        replacing = MetricsShare(tmp_path, 1, metrics=third)
        for share in (one, replacing):
            assert n_requests(all_of(share)) == 18
            assert gauge(all_of(share), "dragoman_open_streams") == 0
            assert gauge(all_of(share), "dragoman_workers") == 2
        replacing.stop()
        one.stop()

    asyncio.run(main())


def test_a_reload_that_all_processes_take_counts_once(tmp_path: Path) -> None:
    async def main() -> None:
        metrics = [Metrics() for _ in range(3)]
        shares = [MetricsShare(tmp_path, n, metrics=each) for n, each in enumerate(metrics[:2])]
        for each in metrics[:2]:
            each.count_reload("done", 1.0)
            each.count_reload("refused")
        shares[1].stop()
        shares[1] = MetricsShare(tmp_path, 1, metrics=metrics[2])  # one that takes its place
        for each in (metrics[0], metrics[2]):
            each.count_reload("done", 2.0)
        for share in shares:
            share.stop()
        counted = {s.labels: s.value for s in all_of(shares[0]) if "reloads" in s.name}
        assert counted == {("done",): 2, ("refused",): 1}

    asyncio.run(main())


def test_a_file_that_cannot_be_read_counts_for_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "1.metrics").write_bytes(b"\xc1 no msgpack")
        odd = [
            Sample("dragoman_unheard_of", (), 1),
            Sample("dragoman_open_streams", ("too", "many"), 1),
            Sample("dragoman_event_loop_lag_seconds", (), 1, [1, 2]),
        ]
        (tmp_path / "2.metrics").write_bytes(msgspec.msgpack.encode(odd))
        share = MetricsShare(tmp_path, 1, metrics=Metrics())
        assert list(share.others()) == [[]]
        assert n_requests(all_of(share)) == 0
        share.stop()

    asyncio.run(main())


def test_a_folder_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        share = MetricsShare(tmp_path / "gone", 0, metrics=Metrics())
        assert gauge(all_of(share), "dragoman_workers") == 1
        share.stop()

    asyncio.run(main())
