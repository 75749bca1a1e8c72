"""Several processes at one port: connections are spread, ends are made good, nothing is left."""

import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dragoman.exit_codes import CANNOT_START
from dragoman.workers import reserve_port
from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.command import run_command
from support.gateway import GatewayProcess, lab_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="!!!! SO_REUSEPORT deals on Linux")
_PATIENCE_S = 60
HELLO = {
    "model": "lab-model",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "Hello"}],
}


def children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            found += [int(each) for each in path.read_text().split()]
    return found


def two_workers(
    folder: Path, upstream: ChatUpstream, *, env: dict[str, str] | None = None
) -> GatewayProcess:
    config = lab_config(upstream.url, "lab-model")
    args = ("--workers", "2", "--log-format", "json")
    return GatewayProcess(folder, config=config, args=args, env=env)


def wait_until(is_true: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not is_true():
        assert time.monotonic() < until
        time.sleep(0.02)


def connections_of(pid: int) -> int:
    """Open sockets beside those that every worker has."""
    links = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            links.append(each.readlink())
    return sum(str(link).startswith("socket:") for link in links)


def test_connections_are_spread_and_workers_replaced(tmp_path: Path) -> None:
    with (
        ChatUpstream() as upstream,
        two_workers(tmp_path, upstream) as gateway,
    ):
        port = gateway.port
        pids = children(gateway.pid)
        assert len(pids) == 2
        before = {pid: connections_of(pid) for pid in pids}
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
        # A few less: what a worker had open before may have ended.
        wait_until(lambda: sum(connections_of(p) - before[p] for p in pids) >= 390)
        shares = [(connections_of(pid) - before[pid]) / 400 for pid in pids]
        for each in held:
            each.close()
        assert min(shares) >= 0.35, shares  # 0.5 is meant; six deviations are 0.15
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: len(children(gateway.pid)) == 2 and pids[0] not in children(gateway.pid))
        wait_until(lambda: '"state":"started"' in gateway.log())
        for _ in range(8):
            assert gateway.request("GET", "/v1/models").status == 200
        pids = children(gateway.pid)
    assert '"event":"workers","n":2' in gateway.log()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_workers_end_with_who_looks_after_them(tmp_path: Path) -> None:
    with ChatUpstream() as upstream:
        gateway = two_workers(tmp_path, upstream)
        gateway.__enter__()
        pids = children(gateway.pid)
        os.kill(gateway.pid, signal.SIGKILL)
        assert gateway.wait() == -signal.SIGKILL
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_second_signal_cuts_what_workers_have_under_way(tmp_path: Path) -> None:
    with ChatUpstream(say("one two", silent_after=2)) as upstream:
        gateway = two_workers(tmp_path, upstream)
        with gateway:
            pids = children(gateway.pid)
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=_PATIENCE_S)
            body = json.dumps({**HELLO, "stream": True})
            connection.request("POST", "/v1/messages", body, {"content-type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200
            os.kill(gateway.pid, signal.SIGTERM)
            wait_until(lambda: gateway.log().count('"event":"stopping"') == 2)
            assert any(Path(f"/proc/{pid}").exists() for pid in pids)  # one still has a stream
            started_s = time.monotonic()
            os.kill(gateway.pid, signal.SIGINT)
            assert gateway.wait() == 0
            assert time.monotonic() - started_s < 15  # the grace is 30 s
            connection.close()
        assert upstream.requests[0].wait_gone(_PATIENCE_S)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_worker_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "signing-secret").write_text("short")
    with ChatUpstream() as upstream:
        config = tmp_path / "dragoman.toml"
        config.write_text(lab_config(upstream.url, "lab-model"))
        env = {"DRAGOMAN_SERVER_DATA_DIR": str(data)}
        done = run_command(
            tmp_path, "serve", "--workers", "2", "--port", "0", "--config", str(config), env=env
        )
    assert done.returncode == CANNOT_START
    assert done.stderr == (
        f"dragoman: server.data_dir: {data}/signing-secret: holds less than 32 bytes: remove it, "
        "and a new one is made; or set server.signing_secret\n"
    )
    assert done.stdout == ""


def test_a_worker_that_cannot_start_again_is_tried_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    secret = data / "signing-secret"
    env = {"DRAGOMAN_SERVER_DATA_DIR": str(data)}
    with (
        ChatUpstream() as upstream,
        two_workers(tmp_path, upstream, env=env) as gateway,
    ):
        good = secret.read_bytes()
        secret.write_bytes(b"short")
        os.kill(children(gateway.pid)[0], signal.SIGKILL)
        wait_until(lambda: '"state":"failed"' in gateway.log())
        assert "holds less than 32 bytes" in gateway.log()
        assert "Traceback" not in gateway.log()
        assert gateway.request("GET", "/v1/models").status == 200  # the other one
        secret.write_bytes(good)
        wait_until(lambda: '"state":"started"' in gateway.log())
        assert len(children(gateway.pid)) == 2


def test_a_port_with_a_listener_is_not_shared() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            reserve_port("127.0.0.1", other.getsockname()[1])


def test_a_taken_port_ends_the_command(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_command(tmp_path, "serve", "--demo", "--workers", "2", "--port", str(port))
    assert done.returncode == CANNOT_START
    assert done.stderr == (
        f"dragoman: cannot listen on 127.0.0.1:{port}: something listens there already; "
        "choose another with --port\n"
    )


@pytest.mark.parametrize("table", ["metrics", "admin"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_two_gateways_never_share_a_port_beside_the_main_one(
    tmp_path: Path, table: str, workers: str
) -> None:
    with socket.socket() as other:  # as workers of another gateway listen
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        (tmp_path / "dragoman.toml").write_text(f"[{table}]\nport = {port}\n")
        done = run_command(tmp_path, "serve", "--demo", "--workers", workers, "--port", "0")
    assert done.returncode == CANNOT_START
    assert done.stderr == (
        f"dragoman: cannot listen on 127.0.0.1:{port}: something listens there already; "
        f"choose another with {table}.port\n"
    )


def test_one_worker_shows_the_figures_of_all(tmp_path: Path) -> None:
    n = 12
    with (
        ChatUpstream(say("Hello", times=-1)) as upstream,
        two_workers(tmp_path, upstream) as gateway,
    ):
        for _ in range(n):  # each on a connection of its own
            assert gateway.request("POST", "/v1/messages", HELLO).status == 200
        pages: list[str] = []

        def all_are_counted() -> bool:
            pages.append(gateway.request("GET", "/metrics").body.decode())
            found = re.search(r'\ndragoman_requests_total\{.*"messages".*\} (\S+)\n', pages[-1])
            return found is not None and float(found[1]) == n

        # Whichever of them answers.
        wait_until(lambda: all(all_are_counted() for _ in range(6)))
        assert "\ndragoman_workers 2.0\n" in pages[-1]
