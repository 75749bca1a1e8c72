"""Counters in the memory of one process; implements ``Limiter``."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from dragoman.policy.limits import (
    LEASE_S,
    NO_SEEDS,
    WINDOW_S,
    Claim,
    ClaimForm,
    Reservation,
    Taken,
    Verdict,
)

_SWEEP_S: Final = 60.0
_FORGET_S: Final = 3_600.0  # after the end of a budget's period: late replies still belong to it


class _Window:
    """How much in the last 60 seconds, by second."""

    __slots__ = ("_older", "amount", "second", "used")

    def __init__(self, second: int) -> None:
        self.second = second  # the last one, and what fell into it
        self.amount = 0
        self._older: deque[list[int]] = deque()  # [second, amount] before it, oldest first
        self.used = 0

    def roll(self, second: int) -> None:
        """Forget what is older than the window: a second counts until all of it is."""
        if second <= self.second:  # or the clock was set back, and then its last second goes on
            return
        older = self._older
        if self.amount:
            older.append([self.second, self.amount])
        self.second, self.amount = second, 0
        while older and older[0][0] < second - WINDOW_S:
            self.used -= older.popleft()[1]

    def wait_s(self, claim: Claim, now_s: float, second: int) -> float:
        """Return in how many seconds the claim will fit; below 0: it fits."""
        if second > self.second:
            self.roll(second)
        limit, amount = claim.limit, claim.amount
        if self.used + amount <= limit and limit:  # nearly always
            return -1.0
        excess = self.used + min(amount, limit) - limit
        if excess <= 0 and limit:
            return -1.0
        for passed, freed in (*self._older, (self.second, self.amount)):
            excess -= freed
            if excess <= 0:
                return passed + WINDOW_S + 1 - now_s
        return float(WINDOW_S)

    def take(self, claim: Claim, _request_id: str, _ends_s: float) -> int:
        """Count what is claimed, after a ``wait_s``; return what is in use."""
        amount = claim.amount
        self.amount += amount
        self.used += amount
        return self.used

    def settle(self, difference: int, *, made: int, second: int) -> None:
        """
        Count now what was more than reserved, as nobody knew of it before; give back the rest.

        Args:
            difference: Of what was used to what was reserved.
            made: The second in which it was reserved.
            second: This one.
        """
        if second > self.second:
            self.roll(second)
        if difference > 0:
            self.amount += difference
            self.used += difference
        elif made == self.second:
            given = min(-difference, self.amount)
            self.amount -= given
            self.used -= given
        else:
            self._give_back(-difference, made)

    def _give_back(self, amount: int, made: int) -> None:
        for slot in reversed(self._older):
            if slot[0] <= made:
                given = min(amount, slot[1]) if slot[0] == made else 0
                slot[1] -= given
                self.used -= given
                return


class _Lease(Struct):
    amount: int
    ends_s: float


class _Held:
    """How much right now, by whom. Of a budget also how much was used."""

    __slots__ = ("ends_s", "held", "leases", "used")

    def __init__(self, *, ends_s: float = 0.0, used: int = 0) -> None:
        self.leases: dict[str, _Lease] = {}
        self.held = 0
        self.used = used
        self.ends_s = ends_s

    def wait_s(self, claim: Claim, now_s: float, _second: int) -> float:
        """Return 0 if the claim does not fit, for nobody knows when it will; below 0: it fits."""
        if self._has_room(claim):
            return -1.0
        self.expire(now_s)
        return -1.0 if self._has_room(claim) else 0.0

    def take(self, claim: Claim, request_id: str, ends_s: float) -> int:
        """Hold what is claimed until *ends_s*; return what is held, of a budget what was used."""
        if request_id in self.leases:
            self.release(request_id)
        self.leases[request_id] = _Lease(claim.amount, ends_s)
        self.held += claim.amount
        return self.used if claim.mode == "budget" else self.held

    def release(self, request_id: str) -> None:
        """Give back what a request holds, if it does."""
        if (lease := self.leases.pop(request_id, None)) is not None:
            self.held -= lease.amount

    def expire(self, now_s: float) -> None:
        """Give back what the dead hold."""
        for request_id in [id_ for id_, lease in self.leases.items() if lease.ends_s <= now_s]:
            self.release(request_id)

    def _has_room(self, claim: Claim) -> bool:
        if claim.mode == "budget":  # whoever finds something left may use it up
            return self.used + self.held < claim.limit
        return self.held + claim.amount <= claim.limit


class _Bound:
    """Where the counters of a form are, in its order: windows, what is held, budgets."""

    __slots__ = ("budgets", "era", "held", "windows")

    def __init__(
        self, era: object, form: ClaimForm, windows: list[_Window], others: list[_Held]
    ) -> None:
        self.era = era
        self.windows = windows
        pairs = list(zip(others, form.limits[len(windows) :], strict=True))
        n_held = len(others) - len(form.quiet)
        self.held = pairs[:n_held]
        self.budgets = [(*pair, n) for pair, n in zip(pairs[n_held:], form.quiet, strict=True)]


class MemoryLimiter:
    """Counters of one process; they are gone with it. Belongs to one event loop."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._held: dict[str, _Held] = {}
        self._swept_s = 0.0
        self._era = object()  # another one when counters may have been forgotten

    @property
    def n_counters(self) -> int:
        """How many counters are in use."""
        return len(self._windows) + len(self._held)

    async def reserve(
        self,
        request_id: str,
        claims: Sequence[Claim],
        *,
        now_s: float,
        seeds: Mapping[str, int] = NO_SEEDS,
    ) -> Verdict:
        return self.reserve_now(request_id, claims, now_s=now_s, seeds=seeds)

    def reserve_now(
        self,
        request_id: str,
        claims: Sequence[Claim],
        *,
        now_s: float,
        seeds: Mapping[str, int] = NO_SEEDS,
    ) -> Verdict:
        """Do what ``reserve`` does, which here waits for nothing."""
        if now_s - self._swept_s > _SWEEP_S:
            self._sweep(now_s)
        second, windows, held_now = int(now_s), self._windows, self._held
        counters: list[_Window | _Held] = []
        waits, unknown = [], []
        for i, claim in enumerate(claims):  # one pass where all is well: this is every request
            counter = windows.get(claim.counter) or held_now.get(claim.counter)
            if counter is None and (counter := self._begin(claim, second, seeds)) is None:
                unknown.append(i)
                continue
            counters.append(counter)
            wait_s = counter.wait_s(claim, now_s, second)
            if wait_s >= 0:
                waits.append((i, wait_s))
        if unknown:
            return Verdict(at_s=now_s, unknown=tuple(unknown))
        if waits:
            refused = tuple(i for i, _ in waits)
            used = tuple([self._used(claim) for claim in claims])
            longest_s = max(wait_s for _, wait_s in waits)
            return Verdict(at_s=now_s, used=used, refused=refused, retry_after_s=longest_s)
        ends_s = now_s + LEASE_S
        pairs = zip(counters, claims, strict=True)
        used = tuple([counter.take(claim, request_id, ends_s) for counter, claim in pairs])
        return Verdict(at_s=now_s, used=used)

    def settle(self, reservation: Reservation, actual: Sequence[int], *, now_s: float) -> None:
        second, made = int(now_s), int(reservation.at_s)
        for claim, amount in zip(reservation.claims, actual, strict=True):
            if claim.mode == "window":
                if amount == claim.amount:
                    continue
                window = self._windows.get(claim.counter)
                if window is None:
                    window = self._windows[claim.counter] = _Window(second)
                window.settle(amount - claim.amount, made=made, second=second)
            elif (held := self._held.get(claim.counter)) is not None:
                held.release(reservation.id)
                if claim.mode == "budget":
                    held.used += amount

    def take_now(self, form: ClaimForm, amounts: Sequence[int], now_s: float) -> Taken | None:
        """
        Take all claims if there is surely room for them; None: ``reserve_now`` can say.

        Nothing that is taken so has a lease: it is gone with the process, like its counter.
        """
        bound, second = form.bound, int(now_s)
        if type(bound) is not _Bound or bound.era is not self._era:
            bound = form.bound = self._bind(form, second)
        if bound is None or now_s - self._swept_s > _SWEEP_S:
            return None
        for held, limit in bound.held:
            if held.held >= limit:
                return None
        for budget, limit, quiet in bound.budgets:
            if budget.used >= quiet or budget.used + budget.held >= limit:
                return None
        used = _fill(bound.windows, form.limits, amounts, second)
        if used is None:
            return None
        for held, _ in bound.held:
            held.held += 1
        at = form.n_firm
        for budget, _, _ in bound.budgets:
            budget.held += amounts[at]
            at += 1
        return Taken(form, amounts, now_s, second, used, bound)

    def settle_now(self, taken: Taken, actual: Sequence[int], now_s: float) -> None:
        """Do what ``settle`` does for what ``take_now`` has taken."""
        form, reserved, bound = taken.form, taken.amounts, taken.where
        assert type(bound) is _Bound
        if bound.era is not self._era:
            self._remember(form, bound)
        second, made = int(now_s), taken.second
        for window, was, amount in zip(bound.windows, reserved, actual, strict=False):
            if amount == was:
                continue
            if made == second == window.second:  # mostly, and then it holds all that was taken
                window.amount += amount - was
                window.used += amount - was
            else:
                window.settle(amount - was, made=made, second=second)
        for held, _ in bound.held:
            held.held -= 1
        at = form.n_firm
        for budget, _, _ in bound.budgets:
            budget.held -= reserved[at]
            budget.used += actual[at]
            at += 1

    def renew(self, reservations: Sequence[Reservation], *, now_s: float) -> None:
        for reservation in reservations:
            for claim in reservation.claims:
                if claim.mode == "window":
                    continue
                held = self._held.get(claim.counter)
                if held is None and claim.mode == "held":
                    held = self._held[claim.counter] = _Held()
                if held is not None:
                    held.take(claim, reservation.id, now_s + LEASE_S)

    async def close(self) -> None:
        return None

    def _bind(self, form: ClaimForm, second: int) -> _Bound | None:
        """Find or make the counters of a form; None: ``reserve_now`` has to look at them first."""
        if 0 in form.limits:
            return None
        windows: list[_Window] = []
        others: list[_Held] = []
        for claim in form.claims([0] * len(form.limits)):
            counter = self._windows.get(claim.counter) or self._held.get(claim.counter)
            counter = counter or self._begin(claim, second, NO_SEEDS)
            if isinstance(counter, _Window):
                windows.append(counter)
            elif counter is not None:
                others.append(counter)
            else:
                return None
        return _Bound(self._era, form, windows, others)

    def _remember(self, form: ClaimForm, bound: _Bound) -> None:
        """Put windows back that were empty and so forgotten; of what is held nothing was."""
        for i, window in enumerate(bound.windows):
            bound.windows[i] = self._windows.setdefault(form.heads[i][0], window)

    def _begin(self, claim: Claim, second: int, seeds: Mapping[str, int]) -> _Window | _Held | None:
        """Return a new counter; None: it is of a budget, and needs a seed."""
        name = claim.counter
        if claim.mode == "window":
            window = self._windows[name] = _Window(second)
            return window
        used = 0 if claim.mode == "held" else seeds.get(name)
        if used is None:
            return None
        held = self._held[name] = _Held(ends_s=claim.ends_s, used=used)
        return held

    def _used(self, claim: Claim) -> int:
        if claim.mode == "window":
            return self._windows[claim.counter].used
        held = self._held[claim.counter]
        return held.used if claim.mode == "budget" else held.held

    def _sweep(self, now_s: float) -> None:
        """Forget counters that nothing is left of."""
        self._swept_s = now_s
        self._era = object()
        for window in self._windows.values():
            window.roll(int(now_s))
        self._windows = {name: window for name, window in self._windows.items() if window.used > 0}
        for held in self._held.values():
            held.expire(now_s)
        self._held = {
            name: held
            for name, held in self._held.items()
            if held.held or held.leases or held.ends_s + _FORGET_S > now_s
        }


def _fill(
    windows: Sequence[_Window], limits: Sequence[int], amounts: Sequence[int], second: int
) -> list[int] | None:
    """Count *amounts* in *windows*, return what is in use; None: there was no room, none was."""
    used: list[int] = []
    for window, limit, amount in zip(windows, limits, amounts, strict=False):
        if second > window.second:
            window.roll(second)
        window.amount += amount
        window.used = n = window.used + amount
        used.append(n)
        if n > limit:
            for filled, back in zip(windows[: len(used)], amounts, strict=False):
                filled.amount -= back
                filled.used -= back
            return None
    return used
