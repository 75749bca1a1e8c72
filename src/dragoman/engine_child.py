"""
The engine's process: llama.cpp's server from ``xllamacpp``, and nothing of the gateway.

It is told what to serve by one line of JSON on standard input and answers with one line of JSON on
standard output. It lives as long as standard input stays open: the end of the gateway, however
sudden, is the end of it.
"""

import ctypes
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xllamacpp

_LOG_GRACE_S = 0.5  # the engine's own complaint is written by a thread that an exit would cut off
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def main() -> int:
    """Serve until standard input ends; return only when that is not possible."""
    _die_with_parent(int(sys.argv[1]))
    settings = json.loads(sys.stdin.buffer.readline())
    try:
        server = _serve(settings)
    except Exception as error:  # told to the gateway, which tells the user
        time.sleep(_LOG_GRACE_S)
        _say({"error": f"{type(error).__name__}: {error}"})
        return 1
    _say({"address": server.listening_address})
    _wait_for_end_of_input()
    # Not through the destructor: it waits for streams, which the gateway has let finish already.
    os._exit(0)


def _die_with_parent(parent_pid: int) -> None:
    """Ask Linux to kill us with the gateway, also while a long load keeps our threads waiting."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before we asked
        os._exit(1)


def _wait_for_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass


def _serve(settings: dict[str, Any]) -> "xllamacpp.Server":
    import xllamacpp  # noqa: PLC0415 - 100 MB, and optional: the one place that loads it

    params = xllamacpp.CommonParams()
    for path, value in settings.items():
        target = params
        *parents, name = path.split(".")
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, set(value) if name == "model_alias" else value)
    return xllamacpp.Server(params)


def _say(message: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
