"""A counter in memory: of a minute, of what is held right now, of a day's or month's budget."""

from collections import deque
from typing import Protocol

from msgspec import Struct

from dragoman.policy.limits import WINDOW_S, Claim


class Pourable(Protocol):
    """Amounts of a counter that it has not been told of yet."""

    def pour(self) -> None:
        """Tell it."""


class Window:
    """How much in the last 60 seconds, by second."""

    __slots__ = ("_older", "amount", "second", "tally", "used")

    def __init__(self, second: int) -> None:
        self.second = second  # the last one, and what fell into it
        self.amount = 0
        self._older: deque[list[int]] = deque()  # [second, amount] before it, oldest first
        self.used = 0
        self.tally: Pourable | None = None

    def roll(self, second: int) -> None:
        """
        Forget what is older than the window: a second counts until all of it is.

        Where the clock was set back, the last second goes on until it has come again. Where that
        would take longer than a window, all that counts was just now, or nobody could use anything
        for hours.
        """
        if second <= self.second:
            if second < self.second - WINDOW_S:
                self._older.clear()
                self.second, self.amount = second, self.used
            return
        older = self._older
        if self.amount:
            older.append([self.second, self.amount])
        self.second, self.amount = second, 0
        while older and older[0][0] < second - WINDOW_S:
            self.used -= older.popleft()[1]

    def wait_s(self, claim: Claim, now_s: float, second: int) -> float:
        """Return in how many seconds the claim will fit; below 0: it fits."""
        if second != self.second:
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

    def settle(self, difference: int, *, made: int, second: int) -> int:
        """
        Count now what was more than reserved, as nobody knew of it before; give back the rest.

        Returns by how much what is in use has changed.

        Args:
            difference: Of what was used to what was reserved.
            made: The second in which it was reserved.
            second: This one.
        """
        if second != self.second:
            self.roll(second)
        if difference > 0:
            self.amount += difference
            self.used += difference
            return difference
        if made == self.second:
            given = min(-difference, self.amount)
            self.amount -= given
            self.used -= given
            return -given
        return -self._give_back(-difference, made)

    def _give_back(self, amount: int, made: int) -> int:
        for slot in reversed(self._older):
            if slot[0] <= made:
                given = min(amount, slot[1]) if slot[0] == made else 0
                slot[1] -= given
                self.used -= given
                return given
        return 0


class _Lease(Struct):
    amount: int
    ends_s: float


class Held:
    """How much right now, by whom. Of a budget also how much was used."""

    __slots__ = ("ends_s", "held", "leases", "tally", "used")

    def __init__(self, *, ends_s: float = 0.0, used: int = 0) -> None:
        self.leases: dict[str, _Lease] = {}
        self.held = 0
        self.used = used
        self.ends_s = ends_s
        self.tally: Pourable | None = None

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


def pour(counter: Window | Held) -> None:
    """Have a counter told of all that it has not been told of: somebody looks at it."""
    if counter.tally is not None:
        counter.tally.pour()
