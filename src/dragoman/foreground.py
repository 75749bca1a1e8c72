"""Run a program in the foreground: it has the terminal and the signals, we wait for its end."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from dragoman.exit_codes import CANNOT_START, SIGNAL_BASE, CommandFailed
from dragoman.signals import on_signal

_TERMINAL: Final = Path("/dev/tty")
# A terminal sends these to every program in its foreground: the child has got them already.
_OF_THE_TERMINAL: Final = ("SIGINT", "SIGQUIT")
_FOR_THE_CHILD: Final = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


async def run_in_foreground(command: Sequence[str], *, env: Mapping[str, str]) -> int:
    """
    Run *command* on our own terminal; return its exit code, or 128 plus the signal's number.

    Raises:
        CommandFailed: It cannot be started.
    """
    handover = _Handover()
    try:
        child = await asyncio.create_subprocess_exec(*command, env=env)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CommandFailed(f"{command[0]}: {reason}", code=CANNOT_START) from None
    handover.give_to(child)
    code = await child.wait()
    return code if code >= 0 else SIGNAL_BASE - code


class _Handover:
    """Passes signals on to the child; those that come before it is there, too."""

    def __init__(self) -> None:
        self._child: asyncio.subprocess.Process | None = None
        self._early: list[signal.Signals] = []
        for name in (*_OF_THE_TERMINAL, *_FOR_THE_CHILD):
            if hasattr(signal, name):  # Windows has few of them
                number = signal.Signals[name]
                on_signal(number, partial(self._take, number))

    def give_to(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        for number in self._early:
            self._send(number)

    def _take(self, number: signal.Signals) -> None:
        if self._child is None:
            self._early.append(number)
        elif number.name not in _OF_THE_TERMINAL or not _is_in_foreground():
            self._send(number)

    def _send(self, number: signal.Signals) -> None:
        assert self._child is not None
        with suppress(ProcessLookupError):  # it has just ended
            self._child.send_signal(number)


def _is_in_foreground() -> bool:
    """Say whether a key of the terminal reaches us, and with us the child."""
    if not hasattr(os, "tcgetpgrp"):
        return True  # a console sends Ctrl-C to all of its programs
    try:
        terminal = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
