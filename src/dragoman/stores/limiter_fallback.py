"""What happens when counters cannot be reached: this process counts alone, or refuses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct, structs

from dragoman.core.errors import SharedStateUnavailable
from dragoman.policy.limits import (
    NO_SEEDS,
    WINDOW_S,
    Claim,
    Limiter,
    Reservation,
    Verdict,
)
from dragoman.stores.limiter_memory import MemoryLimiter

_MAX_KNOWN: Final = 20_000  # counters whose last state is remembered
State = Literal["alone", "shared"]
Told = Callable[[State], None]


class _Seen(Struct, frozen=True, gc=False):
    used: int
    at_s: float

    def in_window(self, now_s: float) -> int:
        """Return how much of it a window still holds, as if it had been used evenly."""
        age_s = min(max(0.0, now_s - self.at_s), WINDOW_S)
        return round(self.used * (1 - age_s / WINDOW_S))


class FallbackLimiter:
    """
    Ask *main*; while it cannot be reached, give out a share of every limit and budget alone.

    Nor is more given out than was left when a counter was last seen: a single late answer makes no
    full limit give way. Of a budget the share is given out once in the whole of its period, and
    told to *main* when that is back.

    Args:
        main: The counters that count.
        is_open: Whether to go on alone at all; may be changed, as may *share_pct*.
        share_pct: Of each limit and budget.
        told: Called with ``alone`` when *main* cannot be reached, with ``shared`` when it can.

    Attributes:
        is_alone: Whether *main* could not be reached the last time.
        n_alone: Requests that were counted alone, or refused for want of counters.
    """

    def __init__(self, main: Limiter, *, is_open: bool, share_pct: int, told: Told) -> None:
        self._main = main
        # That of this process is never away, and there is nothing to remember of it.
        self._memory = main if type(main) is MemoryLimiter else None
        self._alone = MemoryLimiter()
        self.is_open = is_open
        self.share_pct = share_pct
        self._told = told
        self._reserved_alone: set[str] = set()
        self._last_seen: dict[str, _Seen] = {}
        self.is_alone = False
        self.n_alone = 0

    @property
    def at_hand(self) -> MemoryLimiter | None:
        """The counters, if they are those of this process."""
        return self._memory

    async def reserve(
        self,
        request_id: str,
        claims: Sequence[Claim],
        *,
        now_s: float,
        seeds: Mapping[str, int] = NO_SEEDS,
    ) -> Verdict:
        if self._memory is not None:
            return self._memory.reserve_now(request_id, claims, now_s=now_s, seeds=seeds)
        try:
            verdict = await self._main.reserve(request_id, claims, now_s=now_s, seeds=seeds)
        except SharedStateUnavailable as error:
            if not self.is_alone:
                self._turn(is_alone=True)
            return self.reserve_alone(request_id, claims, now_s=now_s, cause=error)
        if self.is_alone:
            self._turn(is_alone=False)
        for claim, used in zip(claims, verdict.used, strict=False):
            if claim.mode != "held":
                self._remember(claim.counter, used, now_s)
        return verdict

    def reserve_alone(
        self,
        request_id: str,
        claims: Sequence[Claim],
        *,
        now_s: float,
        cause: SharedStateUnavailable,
    ) -> Verdict:
        """
        Reserve without the counters that count.

        Raises:
            SharedStateUnavailable: *cause*, where nothing may be given out alone.
        """
        self.n_alone += 1
        if not self.is_open:
            raise cause
        scaled = [self._share(claim, now_s) for claim in claims]
        seeds = {claim.counter: 0 for claim in claims if claim.mode == "budget"}
        verdict = self._alone.reserve_now(request_id, scaled, now_s=now_s, seeds=seeds)
        if verdict.is_granted:
            self._reserved_alone.add(request_id)
        triples = zip(claims, scaled, verdict.used, strict=True)
        used = tuple([self._shown(*each) for each in triples])
        return structs.replace(verdict, used=used, is_alone=True)

    def settle(self, reservation: Reservation, actual: Sequence[int], *, now_s: float) -> None:
        if reservation.id not in self._reserved_alone:
            self._main.settle(reservation, actual, now_s=now_s)
            return
        self._reserved_alone.discard(reservation.id)
        self._alone.settle(reservation, actual, now_s=now_s)
        pairs = zip(reservation.claims, actual, strict=True)
        owed = [(claim, amount) for claim, amount in pairs if claim.mode == "budget" and amount]
        if owed:  # windows and places are over by the time that it is back
            claims, amounts = zip(*owed, strict=True)
            debt = structs.replace(reservation, claims=claims)
            self._main.settle(debt, amounts, now_s=now_s)

    def renew(self, reservations: Sequence[Reservation], *, now_s: float) -> None:
        alone = [each for each in reservations if each.id in self._reserved_alone]
        if alone:
            self._alone.renew(alone, now_s=now_s)
            reservations = [each for each in reservations if each.id not in self._reserved_alone]
        if reservations:
            self._main.renew(reservations, now_s=now_s)

    def hear(self, is_there: bool, reason: str) -> None:  # noqa: ARG002 - as RedisLink tells
        """Note that *main* is back: no request may come for hours that would find out."""
        if is_there and self.is_alone:
            self._turn(is_alone=False)

    async def close(self) -> None:
        await self._main.close()

    def _share(self, claim: Claim, now_s: float) -> Claim:
        share = claim.limit * self.share_pct // 100
        if claim.mode != "budget" and claim.limit:
            share = max(1, share)
        if (seen := self._last_seen.get(claim.counter)) is not None:
            used = seen.used if claim.mode == "budget" else seen.in_window(now_s)
            share = min(share, max(0, claim.limit - used))
        return structs.replace(claim, limit=share)

    def _shown(self, claim: Claim, share: Claim, used: int) -> int:
        """
        Return what counts as used of the whole limit, so that clients are told what is left to us.

        Of a budget it is what was surely used: one of which only our share is used up is not.
        """
        if claim.mode == "window":
            return used + claim.limit - share.limit
        seen = self._last_seen.get(claim.counter) if claim.mode == "budget" else None
        return used if seen is None else max(used, seen.used)

    def _remember(self, counter: str, used: int, now_s: float) -> None:
        if counter not in self._last_seen and len(self._last_seen) >= _MAX_KNOWN:
            self._last_seen.pop(next(iter(self._last_seen)))
        self._last_seen[counter] = _Seen(used, now_s)

    def _turn(self, *, is_alone: bool) -> None:
        self.is_alone = is_alone
        self._told("alone" if is_alone else "shared")
