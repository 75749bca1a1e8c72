"""`dragoman bench`: what it counts, and what it says when an endpoint fails."""

from collections import Counter
from pathlib import Path

import pytest

from dragoman.bench_command import LoadOptions, Tally, report_lines
from dragoman.exit_codes import FAILED, OK, USAGE
from support.command import TinyServer, run_command

SSE = {"content-type": "text/event-stream"}
EVENTS = b'event: a\ndata: {"type":"message_start"}\n\nevent: b\ndata: {"type":"message_stop"}\n\n'


def bench(folder: Path, url: str, *args: str) -> tuple[int, str, str]:
    done = run_command(folder, "bench", url, "--model", "m", "-n", "5", "-c", "2", *args)
    return done.returncode, done.stdout, done.stderr


def test_streams_are_counted(tmp_path: Path) -> None:
    with TinyServer({"/v1/messages": (200, SSE, EVENTS)}) as server:
        code, out, _ = bench(tmp_path, server.url, "--key", "a-secret-key")
        keys = {headers.get("x-api-key") for _, _, headers in server.requests}
    assert code == OK
    assert "5 of 5 requests answered" in out
    assert "10 events" in out
    assert "p50" in out
    assert (len(server.requests), keys) == (5, {"a-secret-key"})


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((500, {}, b"{}"), "5 x status 500"),
        ((200, SSE, b'event: error\ndata: {"type": "error"}\n\n'), "5 x an error event"),
    ],
)
def test_failures_are_told(
    tmp_path: Path, reply: tuple[int, dict[str, str], bytes], said: str
) -> None:
    with TinyServer({"/v1/messages": reply}) as server:
        code, out, _ = bench(tmp_path, f"{server.url}/v1")
    assert code == FAILED
    assert "0 of 5 requests answered" in out
    assert said in out


def test_an_address_that_is_none(tmp_path: Path) -> None:
    code, _, err = bench(tmp_path, "nowhere")
    assert code == USAGE
    assert err.startswith("dragoman: nowhere: ")


def test_percentiles_are_of_what_was_measured() -> None:
    options = LoadOptions(
        url="", model="m", key=None, requests=102, concurrency=4, max_tokens=1, is_stream=True
    )
    seconds = [number / 1000 for number in range(1, 101)]
    tally = Tally(first_s=seconds, total_s=seconds, n_events=50, failures=Counter(a=2))
    lines = report_lines(options, tally, 2.0)
    assert lines[0].endswith("4 at a time: 50.0 requests/s")
    assert lines[1] == "50 events: 25 events/s"
    assert lines[4].split() == ["first", "byte", "50.0", "90.0", "99.0", "100.0"]
    assert lines[-2:] == ["2 failed:", "  2 x a"]
