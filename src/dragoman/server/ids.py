"""Fresh ids, of the operating system's randomness."""

import base64
import os
from typing import Final

_DRAWN_BYTES: Final = 4096  # a system call for each id would cost more than the id


class _Randomness:
    """
    The operating system's randomness, drawn much at a time and given out once.

    Attributes:
        pieces: 24 hexadecimal digits each, for those who take them out.
    """

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0
        self.pieces: list[str] = []
        if hasattr(os, "register_at_fork"):  # Windows has no forks
            os.register_at_fork(after_in_child=self._forget)

    def take(self, n_bytes: int) -> bytes:
        at = self._at
        if at + n_bytes > len(self._bytes):
            self._bytes, at = os.urandom(_DRAWN_BYTES), 0
        self._at = at + n_bytes
        return self._bytes[at : self._at]

    def cut(self) -> None:
        """Make pieces, which must have run out."""
        digits = os.urandom(_DRAWN_BYTES).hex()
        self.pieces += [digits[at : at + 24] for at in range(0, len(digits) - 23, 24)]

    def _forget(self) -> None:
        """Leave what was drawn to the parent process: no id may be given out twice."""
        self._bytes = b""
        self.pieces.clear()


_randomness: Final = _Randomness()
_take: Final = _randomness.take
_pieces: Final = _randomness.pieces


def new_request_id() -> str:
    """Return an id for one request; every answer carries it."""
    if not _pieces:
        _randomness.cut()
    return "req_" + _pieces.pop()


def new_message_id() -> str:
    """Return an id for one reply."""
    if not _pieces:
        _randomness.cut()
    return "msg_" + _pieces.pop()


def new_trace_id() -> str:
    """Return an id for a trace: 32 hexadecimal digits, never all zero."""
    return _take(16).hex().replace("0" * 32, "1" * 32)


def new_span_id() -> str:
    """Return an id for a span: 16 hexadecimal digits, never all zero."""
    return _take(8).hex().replace("0" * 16, "1" * 16)


def new_nonce() -> str:
    """Return eleven characters of base64url, 64 bits of them random (see ``core.tool_ids``)."""
    return base64.urlsafe_b64encode(_take(8))[:11].decode("ascii")
