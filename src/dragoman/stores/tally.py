"""
What requests take of counters at hand while nothing is near its limit.

A ``Tally`` belongs to one owner: a key, a workspace, a model, an upstream. It knows what each of
his rules leaves, and a request changes those few numbers instead of a counter for each. They are
poured into the counters when a second is over, and before anybody else looks at one of these, so
that no decision and no number is another than without it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from dragoman.policy.allowances import Amounts
from dragoman.policy.limit_headers import LimitHeaders
from dragoman.policy.limits import OwnerForm
from dragoman.stores.counters import Held, Window, pour

_NO_LIMIT: Final = 2**60
_AMPLE: Final = 2**30 - 1  # of what nobody is told of: more in a second goes the usual way
_WINDOW_KINDS: Final = ("requests", "input_tokens", "output_tokens")


class Counters(Protocol):
    """What a tally asks of the limiter that it counts for."""

    def sweep_if_due(self, now_s: float) -> None:
        """Forget counters that nothing is left of; of tallies that nothing is open under, too."""

    def window(self, name: str, second: int) -> Window:
        """Return the counter of that name, a new one if there is none."""
        ...


class Limited:
    """A counter of what is held, what it may reach, and what of a budget nobody need be told of."""

    __slots__ = ("counter", "limit", "quiet")

    def __init__(self, counter: Held, limit: int, quiet: int = 0) -> None:
        self.counter = counter
        self.limit = limit
        self.quiet = quiet

    def room(self) -> int:
        """Return how much more of a budget can be used, and held, without a word."""
        used = self.counter.used
        return min(self.quiet - used, self.limit - used - self.counter.held) - 1


class LimitedWindow:
    """A counter of a minute, and what it may reach; without a name: there is no such limit."""

    __slots__ = ("limit", "name", "window")

    def __init__(self, name: str, window: Window, limit: int) -> None:
        self.name = name
        self.window = window
        self.limit = limit

    def room(self) -> int:
        """Return how much more can be used."""
        return self.limit - self.window.used if self.name else self.limit


class Tally:
    """
    What is taken under one owner's rules; implements ``Till``.

    Args:
        counters: Where his counters are.
        form: His rules, for a day.
        windows: His limits of a minute, by what they count.
        held: His other limits, and his budgets, in the same way.
    """

    __slots__ = (
        "_cost",
        "_cost_budgets",
        "_cost_used",
        "_counters",
        "_from_s",
        "_had",
        "_held",
        "_places",
        "_token_budgets",
        "_tokens",
        "_tokens_used",
        "_until_s",
        "_windows",
        "form",
        "fresh",
        "is_closed",
        "limits",
        "output",
        "requests",
    )

    def __init__(
        self,
        counters: Counters,
        form: OwnerForm,
        *,
        windows: Mapping[str, LimitedWindow],
        held: Mapping[str, Sequence[Limited]],
    ) -> None:
        self.form = form
        self.is_closed = False
        self._counters = counters
        # Where there is no rule one that is never reached, so that all take the same steps.
        self._windows = [
            windows.get(kind) or LimitedWindow("", Window(0), _NO_LIMIT) for kind in _WINDOW_KINDS
        ]
        self.limits = [each.limit for each in self._windows]
        (self._held,) = held.get("concurrent") or (Limited(Held(), _AMPLE),)
        self._token_budgets = held.get("tokens", ())
        self._cost_budgets = held.get("cost_micros", ())
        # What is left: changed by requests until it is poured.
        self.requests = self.fresh = self.output = self._places = self._tokens = self._cost = 0
        self._had = (0, 0, 0, 0, 0, 0)  # the same, before
        self._tokens_used = self._cost_used = 0  # and no longer held
        self._from_s = self._until_s = 0.0  # the second in which that holds
        for counter in self._all():
            counter.tally = self

    @property
    def n_open(self) -> int:
        """How many requests are at work."""
        return self._held.counter.held + self._had[3] - self._places

    def take(self, use: Amounts, now_s: float) -> bool:
        if now_s >= self._until_s and not self._begin(now_s):
            return False
        _, fresh, output, tokens, cost, _ = use
        self.requests = requests = self.requests - 1
        self.fresh = fresh = self.fresh - fresh
        self.output = output = self.output - output
        self._tokens = tokens = self._tokens - tokens
        self._cost = cost = self._cost - cost
        self._places = places = self._places - 1
        if min(requests, fresh, output, tokens, cost, places) < 0:
            self.put_back(use)
            return False
        return True

    def put_back(self, use: Amounts) -> None:
        """Undo what was taken just now: the request will not be served."""
        _, fresh, output, tokens, cost, _ = use
        self.requests += 1
        self.fresh += fresh
        self.output += output
        self._tokens += tokens
        self._cost += cost
        self._places += 1

    def settle(self, was: Amounts, actual: Amounts, at_s: float, now_s: float) -> None:
        if now_s >= self._until_s and not self._begin(now_s):
            self._settle_closed(was, actual, at_s, now_s)
            return
        _, fresh_was, output_was, tokens_was, cost_was, _ = was
        _, fresh, output, tokens, cost, _ = actual
        if at_s >= self._from_s:
            self.fresh += fresh_was - fresh
            self.output += output_was - output
        else:
            self._settle_late(was, actual, at_s, now_s)
        self._places += 1
        self._tokens += tokens_was - tokens
        self._tokens_used += tokens
        if cost or cost_was:  # of models without a price neither
            self._cost += cost_was - cost
            self._cost_used += cost

    def pour(self) -> None:
        """Let the counters count what they were not told of."""
        self._until_s = 0.0  # whoever looks may change them
        left = (
            self.requests,
            self.fresh,
            self.output,
            self._places,
            self._tokens,
            self._cost,
        )
        if left == self._had and not self._tokens_used and not self._cost_used:
            return
        *of_windows, n_held, tokens, cost = [
            before - after for before, after in zip(self._had, left, strict=True)
        ]
        self._had = left
        for limited, amount in zip(self._windows, of_windows, strict=True):
            limited.window.amount += amount
            limited.window.used += amount
        self._held.counter.held += n_held
        for budget in self._token_budgets:
            budget.counter.used += self._tokens_used
            budget.counter.held += tokens - self._tokens_used
        for budget in self._cost_budgets:
            budget.counter.used += self._cost_used
            budget.counter.held += cost - self._cost_used
        self._tokens_used = self._cost_used = 0

    def close(self) -> None:
        """Take nothing more; what is at work can still be settled."""
        self.pour()
        self.is_closed = True
        for counter in self._all():
            if counter.tally is self:
                counter.tally = None

    def _all(self) -> list[Window | Held]:
        held = [self._held, *self._token_budgets, *self._cost_budgets]
        return [*(each.window for each in self._windows), *(each.counter for each in held)]

    def _begin(self, now_s: float) -> bool:
        """Look at the counters for what is left in this second; False: it is closed."""
        self.pour()
        if not self.is_closed:
            self._counters.sweep_if_due(now_s)
        if not self.is_closed and now_s >= self.form.ends_s:
            self.close()
        if self.is_closed:
            return False
        second = int(now_s)
        for limited in self._windows:
            limited.window.roll(second)
        self.requests, self.fresh, self.output = [each.room() for each in self._windows]
        self._places = self._held.limit - self._held.counter.held
        self._tokens = min([_AMPLE, *(budget.room() for budget in self._token_budgets)])
        self._cost = min([_AMPLE, *(budget.room() for budget in self._cost_budgets)])
        self._had = (
            self.requests,
            self.fresh,
            self.output,
            self._places,
            self._tokens,
            self._cost,
        )
        # Windows are ahead where the clock was set back: that second is theirs, and not this one.
        self._from_s = float(max(each.window.second for each in self._windows))
        self._until_s = second + 1.0
        return True

    def _settle_late(self, was: Amounts, actual: Amounts, at_s: float, now_s: float) -> None:
        """Settle windows with what was taken in an earlier second."""
        made, second = int(at_s), int(now_s)
        *_, fresh, output = [
            each.window.settle(after - before, made=made, second=second)
            for each, before, after in zip(self._windows, was, actual, strict=False)
        ]
        # The windows know it already.
        self.fresh -= fresh
        self.output -= output
        had = self._had
        self._had = (had[0], had[1] - fresh, had[2] - output, *had[3:])

    def _settle_closed(self, was: Amounts, actual: Amounts, at_s: float, now_s: float) -> None:
        """Settle with the counters themselves, which others may have taken over."""
        made, second = int(at_s), int(now_s)
        for limited, before, after in zip(self._windows[1:], was[1:3], actual[1:3], strict=True):
            if limited.name and after != before:
                window = self._counters.window(limited.name, second)
                pour(window)
                window.settle(after - before, made=made, second=second)
        pour(self._held.counter)
        self._held.counter.held -= 1
        for budgets, n in ((self._token_budgets, 3), (self._cost_budgets, 4)):
            for budget in budgets:
                pour(budget.counter)
                budget.counter.held -= was[n]
                budget.counter.used += actual[n]


class Tallies:
    """
    Those of several owners whose rules hold together; implements ``Till``.

    Args:
        tallies: One of each owner.
        headers: Told which limits are nearest.
    """

    __slots__ = ("_headers", "_tallies", "fresh", "output", "requests")

    def __init__(self, tallies: Sequence[Tally], headers: LimitHeaders) -> None:
        self._tallies = tallies
        self._headers = headers
        self.requests = self.fresh = self.output = 0

    @property
    def is_closed(self) -> bool:
        """Whether one of them is."""
        return any(tally.is_closed for tally in self._tallies)

    def take(self, use: Amounts, now_s: float) -> bool:
        tallies = self._tallies
        for n, tally in enumerate(tallies):
            if not tally.take(use, now_s):
                for taken in tallies[:n]:
                    taken.put_back(use)
                return False
        self._find_nearest()
        return True

    def settle(self, was: Amounts, actual: Amounts, at_s: float, now_s: float) -> None:
        for tally in self._tallies:
            tally.settle(was, actual, at_s, now_s)

    def _find_nearest(self) -> None:
        """Note of each limit of a minute which tally leaves least; of equals the lowest limit."""
        first = self._tallies[0]
        requests, fresh, output = first.requests, first.fresh, first.output
        limits = first.limits[:]
        for tally in self._tallies[1:]:
            own = tally.limits
            if (n := tally.requests) < requests or (n == requests and own[0] < limits[0]):
                requests, limits[0] = n, own[0]
            if (n := tally.fresh) < fresh or (n == fresh and own[1] < limits[1]):
                fresh, limits[1] = n, own[1]
            if (n := tally.output) < output or (n == output and own[2] < limits[2]):
                output, limits[2] = n, own[2]
        self.requests, self.fresh, self.output = requests, fresh, output
        self._headers.show_limits(limits)
