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
_TOKENS_LIMIT: Final = b"anthropic-ratelimit-tokens-limit"
_TOKENS_LEFT: Final = b"anthropic-ratelimit-tokens-remaining"
_TOKENS_RESET: Final = b"anthropic-ratelimit-tokens-reset"


class LimitHeaders:
    """
    Tell of each kind of limit what its nearest rule has left, and what of all tokens is left.

    Most of it is the same for every request, or for all of a second, and made once.

    Args:
        windows: The rules of a minute, by kind; none: no headers.
    """

    def __init__(self, windows: Mapping[WindowKind, Places]) -> None:
        self._kinds = [_Kind(kind.replace("_", "-"), places) for kind, places in windows.items()]
        # Mostly there is one rule of each kind, so that its limit stays: the place of what is left
        # of it among the fields, of the rule among all, the limit, the field's name.
        self._lone = [
            (3 * n + 1, places[0][0], places[0][1], kind.left_name)
            for n, (kind, places) in enumerate(zip(self._kinds, windows.values(), strict=True))
            if len(places) == 1
        ]
        self._are_lone = len(self._lone) == len(self._kinds)
        self._n_requests = int("requests" in windows)
        self._has_tokens = len(windows) > self._n_requests
        self._n_rules = 1 + max((i for of in windows.values() for i, _ in of), default=0)
        self._from_s = self._until_s = 0.0
        self._fields: list[_Field] = []  # all of them, as they were a moment ago

    def fields(self, used: Sequence[int], at_s: float) -> HeaderFields:
        """
        Return the headers; ``reset`` is when all will be there again, if no other request comes.

        Args:
            used: Of each rule, of whatever kind.
            at_s: When that was, in seconds since 1970.
        """
        if not self._kinds:
            return ()
        if not self._from_s < at_s <= self._until_s:
            self._set_reset(math.ceil(at_s))
        fields = self._fields
        if not self._are_lone:
            self._set_all(used)
            return tuple(fields)
        tokens_left = 0
        for at, place, limit, name in self._lone:
            left = limit - used[place]
            left = max(left, 0)
            fields[at] = name, b"%d" % left
            if at > 1 or not self._n_requests:
                tokens_left += left
        if self._has_tokens:
            fields[-2] = _TOKENS_LEFT, b"%d" % tokens_left
        return tuple(fields)

    def _set_all(self, used: Sequence[int]) -> None:
        tokens = tokens_left = 0
        for n, kind in enumerate(self._kinds):
            limit, left, limit_field = kind.nearest(used)
            self._fields[3 * n : 3 * n + 2] = limit_field, (kind.left_name, b"%d" % left)
            if kind.is_tokens:
                tokens += limit
                tokens_left += left
        if self._has_tokens:
            self._fields[-3:-1] = _tokens_fields(tokens, tokens_left)

    def _set_reset(self, second: int) -> None:
        reset_s = second + WINDOW_S + 1
        value = dt.datetime.fromtimestamp(reset_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        self._from_s, self._until_s = second - 1.0, float(second)
        names = [kind.reset_name for kind in self._kinds]
        if self._has_tokens:
            names.append(_TOKENS_RESET)
        empty = b"", b""
        self._fields = [field for name in names for field in (empty, empty, (name, value))]
        self._set_all([0] * self._n_rules)


def _tokens_fields(limit: int, left: int) -> tuple[_Field, _Field]:
    return (_TOKENS_LIMIT, b"%d" % limit), (_TOKENS_LEFT, b"%d" % left)


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
