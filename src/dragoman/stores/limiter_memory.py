"""Counters in the memory of one process; implements ``Limiter``."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from dragoman.policy.limits import LEASE_S, NO_SEEDS, WINDOW_S, Claim, Reservation, Verdict

_SWEEP_S: Final = 60.0
_FORGET_S: Final = 3_600.0  # after the end of a budget's period: late replies still belong to it


class _Window:
    """How much in the last 60 seconds, by second."""

    def __init__(self) -> None:
        self._slots: deque[list[int]] = deque()  # [second, amount], oldest first
        self.used = 0

    def roll(self, now_s: float) -> None:
        """Forget what is older than the window: a second counts until all of it is."""
        first = int(now_s) - WINDOW_S
        slots = self._slots
        while slots and slots[0][0] < first:
            self.used -= slots.popleft()[1]

    def add(self, amount: int, now_s: float) -> None:
        second = int(now_s)
        if not self._slots or self._slots[-1][0] < second:
            self._slots.append([second, amount])
        else:  # or the clock was set back, and then its last second goes on
            self._slots[-1][1] += amount
        self.used += amount

    def give_back(self, amount: int, at_s: float) -> None:
        """Take *amount* off the second in which it was reserved, if that still counts."""
        second = int(at_s)
        for slot in reversed(self._slots):
            if slot[0] <= second:
                given = min(amount, slot[1]) if slot[0] == second else 0
                slot[1] -= given
                self.used -= given
                return

    def wait_s(self, claim: Claim, now_s: float) -> float:
        """Return in how many seconds the claim will fit."""
        excess = self.used + min(claim.amount, claim.limit) - claim.limit
        for second, amount in self._slots:
            excess -= amount
            if excess <= 0:
                return second + WINDOW_S + 1 - now_s
        return float(WINDOW_S)


class _Lease(Struct):
    amount: int
    ends_s: float


class _Held:
    """How much right now, by whom. Of a budget also how much was used."""

    def __init__(self, *, ends_s: float = 0.0, used: int = 0) -> None:
        self.leases: dict[str, _Lease] = {}
        self.held = 0
        self.used = used
        self.ends_s = ends_s

    def take(self, request_id: str, amount: int, *, now_s: float) -> None:
        self.release(request_id)
        self.leases[request_id] = _Lease(amount, now_s + LEASE_S)
        self.held += amount

    def release(self, request_id: str) -> None:
        if (lease := self.leases.pop(request_id, None)) is not None:
            self.held -= lease.amount

    def expire(self, now_s: float) -> None:
        for request_id in [id_ for id_, lease in self.leases.items() if lease.ends_s <= now_s]:
            self.release(request_id)


class MemoryLimiter:
    """Counters of one process; they are gone with it. Belongs to one event loop."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._held: dict[str, _Held] = {}
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
        if now_s - self._swept_s > _SWEEP_S:
            self._sweep(now_s)
        unknown = tuple(i for i, claim in enumerate(claims) if not self._knows(claim, seeds))
        if unknown:
            return Verdict(at_s=now_s, unknown=unknown)
        waits = {i: wait for i, c in enumerate(claims) if (wait := self._wait_s(c, now_s)) >= 0}
        if waits:
            used = tuple(self._used(claim) for claim in claims)
            wait_s = max(waits.values())
            return Verdict(at_s=now_s, used=used, refused=tuple(waits), retry_after_s=wait_s)
        used = tuple(self._take(claim, request_id, now_s) for claim in claims)
        return Verdict(at_s=now_s, used=used)

    def settle(self, reservation: Reservation, actual: Sequence[int], *, now_s: float) -> None:
        for claim, amount in zip(reservation.claims, actual, strict=True):
            if claim.mode == "window":
                window = self._windows.setdefault(claim.counter, _Window())
                _settle_window(window, amount - claim.amount, reservation.at_s, now_s=now_s)
            elif (held := self._held.get(claim.counter)) is not None:
                held.release(reservation.id)
                held.used += amount if claim.mode == "budget" else 0

    def renew(self, reservations: Sequence[Reservation], *, now_s: float) -> None:
        for reservation in reservations:
            for claim in reservation.claims:
                if claim.mode == "window":
                    continue
                if claim.mode == "held" and claim.counter not in self._held:
                    self._held[claim.counter] = _Held()
                if (held := self._held.get(claim.counter)) is not None:
                    held.take(reservation.id, claim.amount, now_s=now_s)

    async def close(self) -> None:
        return None

    def _knows(self, claim: Claim, seeds: Mapping[str, int]) -> bool:
        if claim.mode != "budget" or claim.counter in self._held:
            return True
        if (used := seeds.get(claim.counter)) is None:
            return False
        self._held[claim.counter] = _Held(ends_s=claim.ends_s, used=used)
        return True

    def _wait_s(self, claim: Claim, now_s: float) -> float:
        """Return when the claim will fit, 0: nobody knows; below 0: it fits."""
        if claim.mode == "window":
            window = self._windows.get(claim.counter)
            if window is None:
                return -1.0 if claim.limit > 0 else float(WINDOW_S)
            window.roll(now_s)
            if claim.limit > 0 and window.used + min(claim.amount, claim.limit) <= claim.limit:
                return -1.0
            return window.wait_s(claim, now_s)
        held = self._held.get(claim.counter)
        if held is None:
            return -1.0 if claim.amount <= claim.limit else 0.0
        if not _has_room(held, claim):
            held.expire(now_s)
        return -1.0 if _has_room(held, claim) else 0.0

    def _used(self, claim: Claim) -> int:
        if claim.mode == "window":
            window = self._windows.get(claim.counter)
            return window.used if window is not None else 0
        held = self._held.get(claim.counter)
        if held is None:
            return 0
        return held.used if claim.mode == "budget" else held.held

    def _take(self, claim: Claim, request_id: str, now_s: float) -> int:
        if claim.mode == "window":
            window = self._windows.get(claim.counter)
            if window is None:
                window = self._windows[claim.counter] = _Window()
            window.add(claim.amount, now_s)
            return window.used
        held = self._held.get(claim.counter)
        if held is None:
            held = self._held[claim.counter] = _Held()
        held.take(request_id, claim.amount, now_s=now_s)
        return held.used if claim.mode == "budget" else held.held

    def _sweep(self, now_s: float) -> None:
        """Forget counters that nothing is left of."""
        self._swept_s = now_s
        for window in self._windows.values():
            window.roll(now_s)
        self._windows = {name: window for name, window in self._windows.items() if window.used > 0}
        for held in self._held.values():
            held.expire(now_s)
        self._held = {
            name: held
            for name, held in self._held.items()
            if held.leases or held.ends_s + _FORGET_S > now_s
        }


def _has_room(held: _Held, claim: Claim) -> bool:
    if claim.mode == "budget":  # whoever finds something left may use it up
        return held.used + held.held < claim.limit
    return held.held + claim.amount <= claim.limit


def _settle_window(window: _Window, difference: int, at_s: float, *, now_s: float) -> None:
    """Count now what was more than reserved, as nobody knew of it before; give back the rest."""
    window.roll(now_s)
    if difference > 0:
        window.add(difference, now_s)
    elif difference < 0:
        window.give_back(-difference, at_s)
