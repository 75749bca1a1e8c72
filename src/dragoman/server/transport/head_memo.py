"""
Heads that came before, so that the same one is not read again.

A client sends the same head with every request, but for the digits of its Content-Length. What
has been read strictly once, byte for byte, need not be read again: nothing is accepted here that
the reader of heads has not accepted.
"""

from typing import Final

from dragoman.server.transport.http_head import RequestHead

_END: Final = b"\r\n\r\n"
# As clients write it; what is written in another way is read each time.
_LENGTHS: Final = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")
_N_LENGTH: Final = len(_LENGTHS[0])
_MAX_DIGITS: Final = 15
_MAX_HEAD_BYTES: Final = 4 * 2**10  # Claude Code's have 1 KiB
_MAX_HEADS: Final = 256
# Client keys stand in heads. After this long all are forgotten, and those in use read again.
_MAX_AGE_S: Final = 60.0


class KnownHead:
    """
    A head of which all but the length of the body is known.

    Args:
        begin: Its bytes up to the first digit of the length.
        rest: Those behind the last digit, to the end of the head.
        fields: What was read of it; only ``content_length`` is another request's.
    """

    __slots__ = ("_begin", "_n_begin", "_n_digits", "_n_rest", "_rest", "fields")

    def __init__(self, begin: bytes, rest: bytes, fields: RequestHead) -> None:
        self._begin, self._rest, self.fields = begin, rest, fields
        self._n_begin, self._n_rest = len(begin), len(rest)
        self._n_digits = 1  # of the length that came last

    def split(self, data: bytes) -> tuple[int, bytes] | None:
        """Return the length of the body and what follows the head, if *data* begins with it."""
        start = self._n_begin
        stop = start + self._n_digits
        end = stop + self._n_rest
        # Slices are compared faster than ``startswith`` and ``find`` have read their arguments.
        if data[stop:end] != self._rest:
            stop = data.find(b"\r", start, start + _MAX_DIGITS + 1)
            end = stop + self._n_rest
            if stop < 0 or data[stop:end] != self._rest:
                return None
        digits = data[start:stop]
        # The head that was read had its one length at this place, and so has this one.
        if not digits.isdigit() or data[:start] != self._begin:
            return None
        self._n_digits = stop - start
        return int(digits), data[end:]


class HeadMemo:
    """
    Bounded by count, size and age.

    Args:
        max_header_bytes: Of a head.
    """

    def __init__(self, max_header_bytes: int) -> None:
        self._max_header_bytes = max_header_bytes
        # So that no head that is recognised is over the limit: it may have more digits.
        self._max_bytes = min(max_header_bytes - _MAX_DIGITS, _MAX_HEAD_BYTES)
        self._heads: dict[tuple[bytes, bytes], KnownHead] = {}
        self._since_s = 0.0

    def read(self, data: bytes) -> KnownHead | None:
        """
        Return the head that *data* begins with.

        None: it has not come whole, or is of a form that is not kept; nothing has been read.

        Raises:
            GatewayError: As the reader of heads does.
        """
        end = data.find(_END) + len(_END)
        start = max(data.find(name, 0, end) for name in _LENGTHS) + _N_LENGTH
        stop = data.find(b"\r", start, start + _MAX_DIGITS + 1)
        if start < _N_LENGTH or end > self._max_bytes or not data[start:stop].isdigit():
            return None
        key = data[:start], data[stop:end]
        known = self._heads.get(key)
        if known is None:
            known = KnownHead(*key, _read(data[:end], self._max_header_bytes))
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[key] = known
        return known

    def forget_old(self, now_s: float) -> bool:
        """Forget all heads once that may be due; tell whether it was."""
        if now_s - self._since_s < _MAX_AGE_S:
            return False
        self._since_s = now_s
        self._heads.clear()
        return True


def _read(data: bytes, max_bytes: int) -> RequestHead:
    head = RequestHead(max_bytes)
    head.feed(data)
    head.finish()
    return head
