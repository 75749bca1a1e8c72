"""The API's own headers about limits. Every request within a limit gets a dozen of them."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from dragoman.core.errors import HeaderFields
from dragoman.policy.limits import WINDOW_S

WindowKind = Literal["requests", "input_tokens", "output_tokens"]
Places = Sequence[tuple[int, int]]  # of rules of one kind: place in a verdict, limit
_Field = tuple[bytes, bytes]


class LimitHeaders:
    """
    Tell of each kind of limit what its nearest rule has left, and what of all tokens is left.

    Most of it is the same for every request, or for all of a second, and made once.

    Args:
        windows: The rules of a minute, by kind; none: no headers.
    """

    def __init__(self, windows: Mapping[WindowKind, Places]) -> None:
        self._kinds = [_Kind(kind.replace("_", "-"), places) for kind, places in windows.items()]
        self._has_tokens = any(kind != "requests" for kind in windows)
        self._reset_at_s = -1
        self._resets: list[_Field] = []
        self._tokens_reset: _Field = (b"", b"")

    def fields(self, used: Sequence[int], at_s: float) -> HeaderFields:
        """
        Return the headers; ``reset`` is when all will be there again, if no other request comes.

        Args:
            used: Of each rule, of whatever kind.
            at_s: When that was, in seconds since 1970.
        """
        if not self._kinds:
            return ()
        reset_at_s = math.ceil(at_s) + WINDOW_S + 1
        if reset_at_s != self._reset_at_s:
            self._set_reset(reset_at_s)
        fields: list[_Field] = []
        tokens = tokens_left = 0
        for kind, reset in zip(self._kinds, self._resets, strict=True):
            limit, left, limit_field = kind.nearest(used)
            fields += (limit_field, (kind.left_name, b"%d" % left), reset)
            if kind.is_tokens:
                tokens += limit
                tokens_left += left
        if self._has_tokens:
            fields += (
                (b"anthropic-ratelimit-tokens-limit", b"%d" % tokens),
                (b"anthropic-ratelimit-tokens-remaining", b"%d" % tokens_left),
                self._tokens_reset,
            )
        return tuple(fields)

    def _set_reset(self, at_s: int) -> None:
        value = dt.datetime.fromtimestamp(at_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        self._reset_at_s = at_s
        self._resets = [(kind.reset_name, value) for kind in self._kinds]
        self._tokens_reset = (b"anthropic-ratelimit-tokens-reset", value)


class _Kind:
    """The names of one kind's headers, and its rules."""

    __slots__ = ("_first", "_others", "is_tokens", "left_name", "reset_name")

    def __init__(self, name: str, places: Places) -> None:
        prefix: Final = b"anthropic-ratelimit-%b-" % name.encode()
        self.is_tokens = name != "requests"
        self.left_name = prefix + b"remaining"
        self.reset_name = prefix + b"reset"
        ready = [(i, limit, (prefix + b"limit", b"%d" % limit)) for i, limit in places]
        self._first, *self._others = ready

    def nearest(self, used: Sequence[int]) -> tuple[int, int, _Field]:
        """Return limit and rest of the rule that is nearest to its limit, and the limit's field."""
        i, limit, field = self._first
        left = limit - used[i]
        for other, other_limit, other_field in self._others:
            other_left = other_limit - used[other]
            if (other_left, other_limit) < (left, limit):
                limit, left, field = other_limit, other_left, other_field
        return limit, max(left, 0), field
