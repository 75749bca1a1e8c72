"""The programs of a run: made, started on their cores, watched, and ended."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).parents[1]
CACHE: Final = ROOT / ".cache" / "bench"
_SOURCES: Final = Path(__file__).parent / "programs"
_CERTIFICATE: Final = ROOT / "tests" / "support" / "localhost-test-certificate.pem"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_START_S: Final = 60.0
_STOP_S: Final = 20.0
_MAX_LOAD_S: Final = 600.0


class CannotMeasure(Exception):
    """What is missing, or in the way; shown as it is."""


def missing_programs() -> list[str]:
    """Return what this machine would have to have, in words."""
    if not sys.platform.startswith("linux"):
        return ["Linux: the programs use epoll, and figures come from /proc"]
    needed = {
        "cc": "a C compiler, cc (Debian: apt-get install gcc libc6-dev)",
        "taskset": "taskset (Debian: apt-get install util-linux)",
    }
    missing = [said for name, said in needed.items() if shutil.which(name) is None]
    return missing if find_nginx() else [*missing, "nginx (Debian: apt-get install nginx-light)"]


def find_nginx() -> str | None:
    """Return the path of nginx, which is often not on the user's own path."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def build_programs() -> None:
    """Compile what is newer than its result."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for source in sorted(_SOURCES.glob("*.c")):
        result = CACHE / source.stem
        if result.exists() and result.stat().st_mtime > source.stat().st_mtime:
            continue
        draft = result.with_name(f"{result.name}.{os.getpid()}")
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(draft), str(source)]
        subprocess.run(command, check=True)
        draft.replace(result)


def check_ports(ports: Sequence[int]) -> None:
    """
    Refuse ports that somebody else has: it would be measured in our place.

    Raises:
        CannotMeasure: One is taken.
    """
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                said = f"port {port} is taken by another process; end it, or give --port-base"
                raise CannotMeasure(said) from None


class Program:
    """A process and its children, on one core."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        core: int | None,
        environ: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        pinned = ["taskset", "-c", str(core), *command] if core is not None else list(command)
        self._log: IO[bytes] | None = log.open("ab") if log is not None else None
        self.process = subprocess.Popen(
            pinned,
            env=None if environ is None else dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=self._log or subprocess.DEVNULL,
            stderr=self._log or subprocess.DEVNULL,
            start_new_session=True,
        )

    def pids(self) -> list[int]:
        """Return the process and all that come from it."""
        found = [self.process.pid]
        for pid in found:  # grows while it is read
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found

    def cpu_s(self) -> float:
        """Return the seconds of processor time, user and system, of all of them."""
        return sum(self.cpu_by_pid().values())

    def cpu_by_pid(self) -> dict[int, float]:
        """Return the same for each process."""
        return {pid: _cpu_s(pid) for pid in self.pids()}

    def resident_bytes(self) -> int:
        """Return the memory that they hold, shared pages counted each time."""
        return sum(
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE for pid in self.pids()
        )

    def stop(self) -> None:
        """Ask it to end, and wait; idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._log is not None:
            self._log.close()


def _cpu_s(pid: int) -> float:
    """Read the scheduler's nanoseconds where there are any, else ticks of ten milliseconds."""
    task = Path(f"/proc/{pid}/task")
    try:
        nanoseconds = sum(int(f.read_text().split()[0]) for f in task.glob("*/schedstat"))
    except (OSError, ValueError):
        nanoseconds = 0
    if nanoseconds:
        return nanoseconds / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def wait_for(port: int, program: Program) -> None:
    """
    Wait until somebody listens.

    Raises:
        CannotMeasure: The program has ended, or takes too long.
    """
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if program.process.poll() is not None:
            raise CannotMeasure(f"{program.process.args!r} ended at once; see {CACHE}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise CannotMeasure(f"{program.process.args!r} does not listen on {port}")


def upstream_stats(port: int) -> dict[str, int]:
    """Return what the upstream has counted."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/stats")
        stats: dict[str, int] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return stats


def run_load(command: Sequence[object], *, core: int | None) -> dict[str, Any]:
    """Run the load client to its end, return what it saw."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    done = subprocess.run(
        [*pinned, str(CACHE / "load"), *map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_MAX_LOAD_S,
        check=False,
    )
    if done.returncode:
        raise CannotMeasure(f"the load client failed: {done.stderr.strip()}")
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@contextmanager
def held_streams(command: Sequence[object], *, core: int | None) -> Iterator[None]:
    """Keep streams open, each with its first event, for as long as the block takes."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    process = subprocess.Popen(
        [*pinned, str(CACHE / "load"), *map(str, command), "hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise CannotMeasure("the load client could not open all streams")
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(_STOP_S)
        process.stdout.close()


def nginx(name: str, *, folder: Path, port: int, upstream: int, core: int | None) -> Program:
    """Start nginx; the one named ``tls`` speaks it."""
    is_tls = name == "tls"
    certificate = f"ssl_certificate {_CERTIFICATE}; ssl_certificate_key {_CERTIFICATE};"
    values = {
        "folder": folder,
        "name": name,
        "port": port,
        "upstream": upstream,
        "ssl": "ssl" if is_tls else "",
        "certificate": certificate if is_tls else "",
    }
    text = (Path(__file__).parent / "nginx.conf").read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    path = folder / f"{name}.conf"
    path.write_text(text, encoding="utf-8")
    command = [find_nginx() or "nginx", "-p", str(folder), "-c", str(path)]
    return Program(command, core=core, log=folder / f"{name}.err")


def gateway(
    folder: Path, *, port: int, config: Path, core: int | None, args: Sequence[str] = ()
) -> Program:
    """Start the gateway as a user would, with nothing of our own environment."""
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT / "src"),
        "SSL_CERT_FILE": str(_CERTIFICATE),
    }
    command = [sys.executable, "-m", "dragoman", "serve", "--config", str(config)]
    command += ["--port", str(port), "--log-format", "json", *args]
    return Program(command, core=core, environ=environ, log=folder / "gateway.log")
