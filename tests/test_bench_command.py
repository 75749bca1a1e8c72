"""`dragoman bench`: what it counts, and what it says when an endpoint fails."""

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from dragoman.bench_command import LoadOptions, Tally, report_lines
from dragoman.exit_codes import FAILED, OK, USAGE
from support.command import TinyServer, run_command
from support.gateway import program_environment
from support.usage_load import wait_until

SSE = {"content-type": "text/event-stream"}
EVENTS = b'event: a\ndata: {"type":"message_start"}\n\nevent: b\ndata: {"type":"message_stop"}\n\n'


JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html"}
DENIED = b'{"type":"error","error":{"type":"authentication_error","message":"the key is wrong"}}'


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
        ((401, {}, DENIED), "5 x status 401: the key is wrong"),
        ((200, HTML, b"<html>welcome</html>"), "5 x no message, but text/html"),
        ((200, JSON, b'{"error":{"message":"bad"}}'), "5 x no message, but application/json: bad"),
        ((200, JSON, b'{"error":"bad"}'), "5 x no message, but application/json"),
        ((200, JSON, b'{"type":"message"}'), "5 x a whole reply, not a stream"),
        ((200, SSE, EVENTS[:-20]), "5 x a stream without the end of a message"),
        ((200, SSE, b"data: [DONE]\n\n"), "5 x a stream without the end of a message"),
        ((200, SSE, b"data: " + b"x" * (17 * 2**20)), "5 x The upstream sent an event over"),
        ((200, HTML, b"x" * (17 * 2**20)), "5 x The reply is larger than"),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else value,
)
def test_failures_are_told(
    tmp_path: Path, reply: tuple[int, dict[str, str], bytes], said: str
) -> None:
    with TinyServer({"/v1/messages": reply}) as server:
        code, out, _ = bench(tmp_path, f"{server.url}/v1")
    assert code == FAILED
    assert "0 of 5 requests answered" in out
    assert said in out


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [
        ((200, JSON, b'{"type":"message"}'), OK, "5 of 5 requests answered"),
        ((200, SSE, EVENTS), FAILED, "5 x a stream, not a whole reply"),
    ],
)
def test_whole_replies(
    tmp_path: Path, reply: tuple[int, dict[str, str], bytes], code: int, said: str
) -> None:
    with TinyServer({"/v1/messages": reply}) as server:
        done, out, _ = bench(tmp_path, server.url, "--whole")
    assert done == code
    assert said in out


def test_whoever_has_enough_is_shown_what_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dragoman", "bench", "--model", "m", "-n", "1000000"]
    environment = program_environment(tmp_path / "home")
    with (
        TinyServer({"/v1/messages": (200, SSE, EVENTS)}) as server,
        subprocess.Popen(
            [*command, server.url], env=environment, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        wait_until(lambda: len(server.requests) > 50)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode not in (OK, FAILED)
    assert re.search(r"[1-9]\d* of 1000000 requests answered", out)


def test_a_connection_that_cannot_be_made_is_told_with_its_reason(tmp_path: Path) -> None:
    with TinyServer({}) as server:
        code, out, _ = bench(tmp_path, server.url.replace("http:", "https:"))
    assert code == FAILED
    assert re.search("5 x The TLS handshake with the model's server failed: .", out)


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
