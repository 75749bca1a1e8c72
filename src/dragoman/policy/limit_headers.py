"""The API's own headers about limits. Every request within a limit gets a dozen of them."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Final, Literal, Protocol

from msgspec import Struct

from dragoman.core.errors import HeaderFields
from dragoman.policy.limits import WINDOW_S

WindowKind = Literal["requests", "input_tokens", "output_tokens"]
Places = Sequence[tuple[int, int]]  # of rules of one kind: place in a verdict, limit
_KINDS: Final[tuple[WindowKind, ...]] = ("requests", "input_tokens", "output_tokens")
_LINES: Final = (
    b"anthropic-ratelimit-%b-limit: %d\r\n"
    b"anthropic-ratelimit-%b-remaining: %%d\r\n"
    b"anthropic-ratelimit-%b-reset: %b\r\n"
)


class Rest(Protocol):
    """What limits of a minute leave; anything, of a kind that has none."""

    @property
    def requests(self) -> int:
        """Requests."""
        ...

    @property
    def fresh(self) -> int:
        """Tokens of prompts that no cache gives."""
        ...

    @property
    def output(self) -> int:
        """Tokens of replies."""
        ...


class _Rest(Struct, frozen=True, gc=False):
    requests: int
    fresh: int
    output: int


class LimitHeaders:
    """
    Tell of each kind of limit what its nearest rule has left, and what of all tokens is left.

    Most of it is the same for every request, or for all of a second, and made once. As lines
    rather than fields: to join and check a dozen of those takes 20,000 instructions.

    Args:
        windows: The rules of a minute, by kind; none: no headers.
    """

    def __init__(self, windows: Mapping[WindowKind, Places]) -> None:
        self._places = [windows.get(kind, ()) for kind in _KINDS]
        self._is_there = [kind in windows for kind in _KINDS]
        self._are_all_there = all(self._is_there)
        self._n_requests = int("requests" in windows)
        self._has_tokens = len(windows) > self._n_requests
        self._limits = [places[0][1] if places else 0 for places in self._places]
        self._from_s = self._until_s = 0.0
        self._lines = b""  # of all of that second, without what is left

    def lines(self, used: Sequence[int], at_s: float) -> bytes:
        """
        Return the headers as whole lines.

        Args:
            used: Of each rule, of whatever kind.
            at_s: When that was, in seconds since 1970.
        """
        nearest = [_nearest(places, used) for places in self._places]
        self.show_limits([limit for limit, _ in nearest])
        requests, fresh, output = [left for _, left in nearest]
        return self.lines_of_rest(_Rest(requests, fresh, output), at_s)

    def show_limits(self, limits: Sequence[int]) -> None:
        """Show these from now on, one of each kind: where there are several, the nearest."""
        if limits != self._limits:
            self._limits, self._until_s = [*limits], 0.0

    def lines_of_rest(self, rest: Rest, at_s: float) -> bytes:
        """
        Return the headers by what the limits that are shown leave.

        ``reset`` is when all will be there again, if no other request comes.
        """
        if not self._from_s < at_s <= self._until_s:
            self._set_reset(math.ceil(at_s))
        fresh, output = rest.fresh, rest.output
        if self._are_all_there:
            return self._lines % (rest.requests, fresh, output, fresh + output)
        left = [*compress((rest.requests, fresh, output), self._is_there)]
        if self._has_tokens:
            left.append(sum(left[self._n_requests :]))
        return self._lines % tuple(left)

    def fields(self, used: Sequence[int], at_s: float) -> HeaderFields:
        """Return the same as ``lines`` does as fields, for an error."""
        parts = [line.partition(b": ") for line in self.lines(used, at_s).splitlines()]
        return tuple([(name, value) for name, _, value in parts])

    def _set_reset(self, second: int) -> None:
        reset_s = second + WINDOW_S + 1
        reset = dt.datetime.fromtimestamp(reset_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        names = [kind.replace("_", "-").encode() for kind in _KINDS]
        limits = [*compress(zip(names, self._limits, strict=True), self._is_there)]
        if self._has_tokens:
            limits.append((b"tokens", sum(limit for _, limit in limits[self._n_requests :])))
        self._lines = b"".join([_LINES % (name, n, name, name, reset) for name, n in limits])
        self._from_s, self._until_s = second - 1.0, float(second)


def _nearest(places: Places, used: Sequence[int]) -> tuple[int, int]:
    """Return limit and rest of the rule that is nearest to its limit; nothing where is none."""
    left, limit = min([(limit - used[i], limit) for i, limit in places], default=(0, 0))
    return limit, max(0, left)
