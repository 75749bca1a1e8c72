"""
Cut a reply body into SSE payloads. Source: WHATWG HTML, "Server-sent events".

LF and CRLF end a line; a lone CR, which the standard also allows, does not: no server sends it,
and JSON never holds one. A byte-order mark at the start is skipped. A line ``error: {...}``, which
old llama.cpp builds wrote in place of ``data:``, counts as data.
"""

from typing import Final

from msgspec import Struct

from dragoman.core.errors import UpstreamProtocolError

# As a number: for bytes in bytes, Python first fails to make a number of them, which costs more.
_CARRIAGE_RETURN: Final = ord("\r")
_LINE_FEED: Final = ord("\n")
# Made once: a slice that is written out is made anew each time.
_LAST: Final = slice(-1, None)
_LAST_TWO: Final = slice(-2, None)
_FIELD: Final = slice(6)
_BETWEEN: Final = slice(6, -2)


class SseParser(Struct, eq=False):  # made in C: each reply has one
    """
    Feed it slices of a body, get whole payloads.

    Attributes:
        is_idle: Nothing is held: the next byte begins an event.

    Args:
        max_event_bytes: Bound on one event and on one line.
    """

    max_event_bytes: int = 16 * 2**20
    is_idle: bool = True
    _is_begun: bool = False
    _held_bytes: int = 0  # in _parts and _data
    _parts: list[bytes] = []  # of a long line that came in many slices
    _data: list[bytes] = []  # data lines of the event being read

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take the next bytes of the body, return the payloads they complete.

        Args:
            data: Any slice of the body, cut at any byte; may be empty.

        Returns:
            Payloads in order, without their ``data:`` prefix; often empty.

        Raises:
            UpstreamProtocolError: An event is longer than *max_event_bytes*.
        """
        rest = b""
        if data[_LAST] == b"\n":
            lines = data
        elif end := data.rfind(b"\n") + 1:
            lines, rest = data[:end], data[end:]
        else:  # a line that goes on: collect without copying what is there
            self._hold(data)
            return []
        if not self.is_idle:
            if self._parts:
                lines = b"".join(self._parts) + lines
                self._parts.clear()
                self._held_bytes = sum(map(len, self._data))
            self.is_idle = not self._data
        # Whole events of one plain data line each, as nearly all reads hold.
        if self.is_idle and lines[_FIELD] == b"data: " and lines[_LAST_TWO] == b"\n\n":
            payloads = lines[_BETWEEN].split(b"\n\ndata: ")
            joined = b"".join(payloads)  # without the feeds that end events
            is_plain = _LINE_FEED not in joined and _CARRIAGE_RETURN not in joined
            if is_plain and len(lines) <= self.max_event_bytes:
                if not self._is_begun:
                    self._is_begun = True
                if rest:
                    self._hold(rest)
                return payloads
        return self._take_lines(lines, rest)

    def close(self) -> list[bytes]:
        """Return the payload of an event that the end of the body cut off after its last line."""
        payloads = self.feed(b"\n\n") if self._parts or self._data else []
        self._data.clear()
        return payloads

    def _take_lines(self, lines: bytes, rest: bytes) -> list[bytes]:
        """Take whole lines, of whatever kind, and the begun one behind them."""
        if not self._is_begun:
            self._is_begun = True
            lines = lines.removeprefix(b"\xef\xbb\xbf")
        payloads: list[bytes] = []
        for line in lines[:-1].split(b"\n"):
            self._take_line(line, payloads)
        self.is_idle = not self._data
        if rest:
            self._hold(rest)
        return payloads

    def _take_line(self, line: bytes, payloads: list[bytes]) -> None:
        if line.endswith(b"\r"):
            line = line[:-1]
        if line.startswith(b"data:"):
            line = line[6:] if line.startswith(b"data: ") else line[5:]
        elif not line:
            if self._data:
                payloads.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
                self._held_bytes = 0
            return
        elif line.startswith(b"error:"):
            line = b'{"error":%b}' % line[6:].strip()
        else:
            return
        self._held_bytes += len(line)
        self._check_size()
        self._data.append(line)

    def _hold(self, data: bytes) -> None:
        self.is_idle = False
        self._parts.append(data)
        self._held_bytes += len(data)
        self._check_size()

    def _check_size(self) -> None:
        if self._held_bytes > self.max_event_bytes:
            raise UpstreamProtocolError(
                f"The upstream sent an event over {self.max_event_bytes} bytes."
            )
