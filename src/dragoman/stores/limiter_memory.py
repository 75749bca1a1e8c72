"""Counters in the memory of one process; implements ``Limiter``."""

from collections.abc import Mapping, Sequence
from typing import Final

from dragoman.policy.allowances import Till
from dragoman.policy.limit_headers import LimitHeaders
from dragoman.policy.limits import (
    LEASE_S,
    NO_SEEDS,
    Claim,
    ClaimForm,
    OwnerForm,
    Reservation,
    Verdict,
)
from dragoman.stores.counters import Held, Window, pour
from dragoman.stores.tally import Limited, LimitedWindow, Tallies, Tally

_SWEEP_S: Final = 60.0
_FORGET_S: Final = 3_600.0  # after the end of a budget's period: late replies still belong to it


class MemoryLimiter:
    """Counters of one process; they are gone with it. Belongs to one event loop."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}
        self._held: dict[str, Held] = {}
        self._tallies: dict[str, Tally] = {}  # by owner
        self._swept_s = 0.0

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
        self.sweep_if_due(now_s)
        second, windows, held_now = int(now_s), self._windows, self._held
        counters: list[Window | Held] = []
        waits, unknown = [], []
        for i, claim in enumerate(claims):  # one pass where all is well: this is every request
            counter = windows.get(claim.counter) or held_now.get(claim.counter)
            if counter is None and (counter := self._begin(claim, second, seeds)) is None:
                unknown.append(i)
                continue
            pour(counter)
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
                window = self.window(claim.counter, second)
                pour(window)
                window.settle(amount - claim.amount, made=made, second=second)
            elif (held := self._held.get(claim.counter)) is not None:
                pour(held)
                held.release(reservation.id)
                if claim.mode == "budget":
                    held.used += amount

    def open_till(self, form: ClaimForm, headers: LimitHeaders, now_s: float) -> Till | None:
        """
        Return what takes, at once, whatever is far from the limits of *form*.

        Nothing that is taken so has a lease: it is gone with the process, like its counter.

        Args:
            form: Of the rules that hold together.
            headers: Told which of their limits is nearest.
            now_s: Seconds since 1970.

        Returns:
            None, where ``reserve_now`` has to look at the counters first.
        """
        if 0 in form.limits:
            return None
        self.sweep_if_due(now_s)  # now, as it would close those that are just being opened
        tallies = []
        for owner in form.owners:
            if (tally := self._tally(owner, int(now_s))) is None:
                return None
            tallies.append(tally)
        return tallies[0] if len(tallies) == 1 else Tallies(tallies, headers)

    def renew(self, reservations: Sequence[Reservation], *, now_s: float) -> None:
        for reservation in reservations:
            for claim in reservation.claims:
                if claim.mode == "window":
                    continue
                held = self._held.get(claim.counter)
                if held is None and claim.mode == "held":
                    held = self._held[claim.counter] = Held()
                if held is not None:
                    pour(held)
                    held.take(claim, reservation.id, now_s + LEASE_S)

    async def close(self) -> None:
        return None

    def _tally(self, form: OwnerForm, second: int) -> Tally | None:
        """Return the tally of an owner; None: nothing is known yet of one of his budgets."""
        known = self._tallies.get(form.owner)
        if known is not None and known.form == form and not known.is_closed:
            return known
        windows: dict[str, LimitedWindow] = {}
        held: dict[str, list[Limited]] = {}
        for owned in form.heads:
            name, mode, limit, ends_s = owned.head
            counter = self._windows.get(name) or self._held.get(name)
            if counter is None:
                counter = self._begin(Claim(name, mode, limit, 0, ends_s), second, NO_SEEDS)
            if isinstance(counter, Window):
                windows[owned.counts] = LimitedWindow(name, counter, limit)
            elif counter is not None:
                limited = Limited(counter, limit, owned.quiet)
                held.setdefault(owned.counts, []).append(limited)
            else:
                return None
        if known is not None:
            known.close()
        tally = self._tallies[form.owner] = Tally(self, form, windows=windows, held=held)
        return tally

    def _begin(self, claim: Claim, second: int, seeds: Mapping[str, int]) -> Window | Held | None:
        """Return a new counter; None: it is of a budget, and needs a seed."""
        name = claim.counter
        if claim.mode == "window":
            window = self._windows[name] = Window(second)
            return window
        used = 0 if claim.mode == "held" else seeds.get(name)
        if used is None:
            return None
        held = self._held[name] = Held(ends_s=claim.ends_s, used=used)
        return held

    def _used(self, claim: Claim) -> int:
        if claim.mode == "window":
            return self._windows[claim.counter].used
        held = self._held[claim.counter]
        return held.used if claim.mode == "budget" else held.held

    def sweep_if_due(self, now_s: float) -> None:
        """Forget counters that nothing is left of, and tallies that nobody has asked of late."""
        if now_s - self._swept_s <= _SWEEP_S:
            return
        self._swept_s = now_s
        for tally in self._tallies.values():
            tally.pour()
            if not tally.n_open:
                tally.close()
        self._tallies = {who: tally for who, tally in self._tallies.items() if not tally.is_closed}
        for window in self._windows.values():
            window.roll(int(now_s))
        self._windows = {
            name: window
            for name, window in self._windows.items()
            if window.used > 0 or window.tally is not None
        }
        for held in self._held.values():
            held.expire(now_s)
        self._held = {
            name: held
            for name, held in self._held.items()
            if held.held or held.leases or held.tally is not None or held.ends_s + _FORGET_S > now_s
        }

    def window(self, name: str, second: int) -> Window:
        """Return the window of that name, a new one if there is none."""
        if (window := self._windows.get(name)) is None:
            window = self._windows[name] = Window(second)
        return window
