"""
A program in a terminal of its own: keys in, screen out.

The screen understands what full-screen programs of today write, as far as tests look at it: where
the cursor goes, what is erased, which text is put where. Colours are left out.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

_TOKEN = re.compile(
    r"\x1b\[(?P<args>[0-9;:<=>?]*)[ -/]*(?P<end>[@-~])"  # a control sequence
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # a title or link
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # other strings
    r"|\x1b[ -/]*(?![\[\]PX^_])[0-~]"  # short escapes
    r"|(?P<char>[^\x1b])",
    re.DOTALL,
)
_MAX_PENDING = 4096  # an escape sequence that is longer is none
_ROWS, _COLUMNS = 50, 160
# Done by the program's own process, as what belongs to a new session may be done there only.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class Screen:
    """A grid of characters, and where the next one goes."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows, self._columns = rows, columns
        self._lines = [[" "] * columns for _ in range(rows)]
        self._row = self._column = 0
        self._pending = ""

    @property
    def text(self) -> str:
        """What can be read, line by line."""
        return "\n".join("".join(line).rstrip() for line in self._lines)

    def feed(self, data: str) -> None:
        """Take what the program has written, cut anywhere."""
        data = self._pending + data
        at = 0
        while at < len(data):
            token = _TOKEN.match(data, at)
            if token is None:  # an escape sequence whose end has not come
                break
            self._take(token)
            at = token.end()
        self._pending = data[at:] if len(data) - at < _MAX_PENDING else ""

    def _take(self, token: re.Match[str]) -> None:
        if token["char"] is not None:
            self._put(token["char"])
        elif token["end"] is not None and token["args"][:1] not in ("?", "<", "=", ">"):
            numbers = [int(part or 0) for part in re.split("[;:]", token["args"])]
            self._control(token["end"], numbers[0], numbers)

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._line_feed()
        elif char == "\b":
            self._column = max(0, self._column - 1)
        elif char >= " ":
            if self._column == self._columns:
                self._column = 0
                self._line_feed()
            self._lines[self._row][self._column] = char
            self._column += 1

    def _line_feed(self) -> None:
        if self._row + 1 < self._rows:
            self._row += 1
            return
        del self._lines[0]
        self._lines.append([" "] * self._columns)

    def _control(self, end: str, number: int, numbers: list[int]) -> None:
        count = max(1, number)
        if end in "ABCDEF":
            rows = {"A": -count, "B": count, "E": count, "F": -count}.get(end, 0)
            columns = {"C": count, "D": -count}.get(end, 0)
            self._move(self._row + rows, 0 if end in "EF" else self._column + columns)
        elif end in "Hf":
            self._move(count - 1, max(1, *numbers[1:2], 1) - 1)
        elif end == "G":
            self._move(self._row, count - 1)
        elif end == "d":
            self._move(count - 1, self._column)
        elif end == "K":
            self._erase_in_line(self._row, number)
        elif end == "J":
            self._erase_in_line(self._row, number)
            below, above = range(self._row + 1, self._rows), range(self._row)
            for row in (*(below if number != 1 else ()), *(above if number else ())):
                self._erase_in_line(row, 2)

    def _move(self, row: int, column: int) -> None:
        self._row = min(max(row, 0), self._rows - 1)
        self._column = min(max(column, 0), self._columns - 1)

    def _erase_in_line(self, row: int, mode: int) -> None:
        start = 0 if mode else self._column
        end = self._column + 1 if mode == 1 else self._columns
        for column in range(start, min(end, self._columns)):
            self._lines[row][column] = " "


class Terminal:
    """
    A program in a terminal; a context manager.

    Args:
        command: The program and its arguments.
        folder: Where it runs.
        env: All of its environment.
    """

    def __init__(self, command: Sequence[str], folder: Path, *, env: Mapping[str, str]) -> None:
        self._command, self._folder, self._env = command, folder, env
        self._screen = Screen(_ROWS, _COLUMNS)
        self._process: subprocess.Popen[bytes] | None = None
        self._keyboard = 0

    def __enter__(self) -> Self:
        self._keyboard, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *self._command],
            cwd=self._folder,
            env=self._env,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._keyboard)

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        """Wait until *text* is on the screen."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self._screen.text:
            is_open = self._read(deadline_s)
            assert is_open, f"no {text!r} on the screen:\n{self._screen.text}"

    def type(self, text: str) -> None:
        """Type a line and wait until it shows, then press Enter."""
        self.press(text)
        self.wait_for(text)
        self.press("\r")

    def press(self, keys: str) -> None:
        """Press keys, one after the other."""
        os.write(self._keyboard, keys.encode())

    def wait_end(self, timeout_s: float = 30) -> int:
        """Wait until the program has ended, return its exit code."""
        assert self._process is not None
        deadline_s = time.monotonic() + timeout_s
        while self._read(deadline_s):
            pass
        assert time.monotonic() < deadline_s, f"it goes on:\n{self._screen.text}"
        return self._process.wait(timeout_s)

    def _read(self, deadline_s: float) -> bool:
        """Read what there is; tell whether more may come before the deadline."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return False
        if not select.select([self._keyboard], [], [], min(left_s, 0.5))[0]:
            return True
        try:
            data = os.read(self._keyboard, 65536)
        except OSError:  # how Linux tells the end
            return False
        self._screen.feed(data.decode(errors="replace"))
        return bool(data)
