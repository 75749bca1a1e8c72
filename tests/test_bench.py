"""The bench's programs do what the figures rely on; nothing is timed here."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import pages, report, requests
from bench.measure import Row
from bench.processes import (
    CACHE,
    CannotMeasure,
    Program,
    build_programs,
    check_ports,
    held_streams,
    missing_programs,
    run_load,
    upstream_stats,
    wait_for,
)
from bench.scenarios import scenarios

ROOT = Path(__file__).parents[1]
needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("taskset") is None,
    reason="!!!! no C compiler: the bench's programs are not tested",
)


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture
def upstream() -> Iterator[int]:
    build_programs()
    port = free_ports(1)[0]
    program = Program([str(CACHE / "upstream"), str(port)], core=None)
    try:
        wait_for(port, program)
        yield port
    finally:
        program.stop()


def request_file(folder: Path, request: bytes) -> Path:
    path = folder / "request.http"
    path.write_bytes(request)
    return path


@needs_compiler
@pytest.mark.parametrize(
    ("request_", "events"),
    [
        (requests.small("whole", is_stream=True), 4),
        (requests.small("burst-256", is_stream=True), 256),
        (requests.with_tool("tools-7"), 7),
        (requests.with_thinking("think-9"), 9),
        (requests.large("whole", 300_000), 4),
    ],
)
def test_every_event_is_counted(
    upstream: int, request_: bytes, events: int, tmp_path: Path
) -> None:
    path = request_file(tmp_path, request_)
    before = upstream_stats(upstream)
    seen = run_load([upstream, path, 3, 12, events, 0], core=None)
    after = upstream_stats(upstream)
    assert (seen["requests"], seen["errors"], seen["first_error"]) == (12, 0, "")
    assert seen["events"] == 12 * events
    assert seen["connects"] == 3
    assert after["requests"] - before["requests"] == 12
    assert after["accepted"] - before["accepted"] == 4  # one is the second look at the counts


@needs_compiler
def test_a_wrong_reply_is_an_error(upstream: int, tmp_path: Path) -> None:
    path = request_file(tmp_path, requests.small("whole", is_stream=True))
    seen = run_load([upstream, path, 1, 2, 5, 0], core=None)
    assert seen["errors"] == 2
    assert "another number of events" in seen["first_error"]
    path = request_file(tmp_path, requests.small("no-such", is_stream=True))
    seen = run_load([upstream, path, 1, 2, 4, 0], core=None)
    assert seen["errors"] == 2
    assert "400" in seen["first_error"]


@needs_compiler
def test_paced_streams_take_their_time(upstream: int, tmp_path: Path) -> None:
    path = request_file(tmp_path, requests.small("paced-10-20", is_stream=True))
    seen = run_load([upstream, path, 4, 4, 10, 5000], core=None)
    assert (seen["errors"], seen["events"]) == (0, 40)
    assert seen["delay_us"]["n"] == 40
    assert seen["span_us"]["p50"] >= 180_000  # nine pauses


@needs_compiler
def test_silent_streams_are_held(upstream: int, tmp_path: Path) -> None:
    path = request_file(tmp_path, requests.small("silent", is_stream=True))
    with held_streams([upstream, path, 5, 5, 1, 0], core=None):
        assert upstream_stats(upstream)["open"] == 6
    assert upstream_stats(upstream)["open"] == 1


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CannotMeasure, match="is taken by another process"):
            check_ports([taken.getsockname()[1]])


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_programs()), reason=f"!!!! no bench: {missing_programs()}")
def test_one_figure_from_end_to_end() -> None:
    for port_base in range(20_000, 30_000, 10):
        with contextlib.suppress(CannotMeasure):
            check_ports(range(port_base, port_base + 5))
            break
    command = [sys.executable, "-m", "bench", "--quick", "--rounds", "1", "burst"]
    done = subprocess.run(
        [*command, "--port-base", str(port_base)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "burst of 256 events" in done.stdout
    assert "us/event" in done.stdout


def test_the_table_says_what_was_missed(tmp_path: Path) -> None:
    rows = [
        Row("a", "fast", "us", gateway=20, nginx=10, ratio=2.0, goal=2.5, limit=4.0),
        Row("b", "slow", "us", gateway=50, nginx=10, ratio=5.0, goal=2.5, limit=4.0),
        Row("c", "fair", "us", gateway=30, nginx=10, ratio=3.0, goal=2.5, limit=4.0),
    ]
    lines = report.table(rows, {"b": 6.0}).splitlines()
    assert [line.split()[-1] for line in (lines[1], lines[3])] == ["goal", "ok"]
    assert lines[2].split()[-2:] == ["MISSED", "6.00"]
    path = tmp_path / "latest.json"
    report.write(rows, when="now", rounds=1, path=path)
    assert [row["ratio"] for row in json.loads(path.read_text())["rows"]] == [2.0, 5.0, 3.0]


def test_scenarios_are_what_they_are_called() -> None:
    found = {each.name: each for each in scenarios(1.0)}
    assert 110_000 < len(found["agent"].request()) < 130_000
    assert 1_900_000 < len(found["large"].request()) < 2_100_000
    body = json.loads(found["agent"].request().partition(b"\r\n\r\n")[2])
    assert (len(body["tools"]), len(body["messages"])) == (20, 39)
    assert found["paced-500"].model == "paced-152-33"


def test_the_pages_show_the_last_figures() -> None:
    """``make bench ARGS=--write`` writes both; whoever edits one of them by hand is told."""
    latest = json.loads(report.LATEST.read_text(encoding="utf-8"))
    for name, text in pages.render_pages(latest).items():
        written = ROOT / "docs" / "explanation" / name
        assert written.read_text(encoding="utf-8") == text, name


def test_a_page_names_what_was_missed() -> None:
    latest = json.loads(report.LATEST.read_text(encoding="utf-8"))
    good, bad = (
        {"name": "small", "title": "t", "unit": "us", "note": "n", "nginx": 2.0, "gateway": g}
        | {"ratio": g / 2, "goal": 2.0, "limit": 3.0}
        for g in (4.0, 8.0)
    )
    rows = [row for row in latest["rows"] if row["name"] != "small"]
    for row, line in (
        (good, "| t | 4 us | 2 | 2.00 x | 2 | 3 | goal reached; n |"),
        (bad, "| t | 8 us | 2 | 4.00 x | 2 | 3 | **missed**; n |"),
    ):
        made = pages.render_pages({**latest, "rows": [*rows, row]})
        assert line in made["speed.md"].splitlines()
        assert "`c_request` | 4 us small" in made["scaling.md"] or row is bad
