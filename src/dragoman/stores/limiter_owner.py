"""
Counters of the workers of one machine, in the process that looks after them.

``OwnedLimiter`` implements ``Limiter``. All of them have the machine's clock, so that times are
those of the worker.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from dragoman.policy.limits import NO_SEEDS, Claim, Reservation, Verdict
from dragoman.stores.limiter_memory import MemoryLimiter
from dragoman.stores.owner_link import OwnerLink
from dragoman.stores.peer import Answer, Hear, News, Question


class _Reserve(Struct, array_like=True):
    request_id: str
    claims: tuple[Claim, ...]
    seeds: Mapping[str, int]
    now_s: float


class _Settle(Struct, array_like=True):
    reservation: Reservation
    actual: Sequence[int]
    now_s: float


class _Renew(Struct, array_like=True):
    reservations: Sequence[Reservation]
    now_s: float


_MAX_OPEN: Final = 20_000  # of one worker; twice the connections that it takes
_RESERVE: Final = Question("limits.reserve", _Reserve, Verdict)
_SETTLE: Final = News("limits.settle", _Settle)
_RENEW: Final = News("limits.renew", _Renew)


class OwnedLimiter:
    """
    A worker's way to the counters.

    Args:
        link: To the owner.
    """

    def __init__(self, link: OwnerLink) -> None:
        self._link = link

    async def reserve(
        self,
        request_id: str,
        claims: Sequence[Claim],
        *,
        now_s: float,
        seeds: Mapping[str, int] = NO_SEEDS,
    ) -> Verdict:
        asked = _Reserve(request_id, tuple(claims), seeds, now_s)
        return await self._link.ask(_RESERVE, asked)

    def settle(self, reservation: Reservation, actual: Sequence[int], *, now_s: float) -> None:
        self._link.tell(_SETTLE, _Settle(reservation, actual, now_s))

    def renew(self, reservations: Sequence[Reservation], *, now_s: float) -> None:
        self._link.tell(_RENEW, _Renew(reservations, now_s))

    async def close(self) -> None:
        return None  # what was told is on its way


class LimiterSeat:
    """
    What one worker does with the owner's counters.

    Args:
        limiter: Of all workers.
    """

    def __init__(self, limiter: MemoryLimiter) -> None:
        self._limiter = limiter
        self._open: dict[str, Reservation] = {}
        self._now_s = 0.0

    @property
    def answers(self) -> Mapping[str, Answer]:
        """What the worker may ask."""
        return {_RESERVE.name: _RESERVE.answered_by(self._reserve)}

    @property
    def hears(self) -> Mapping[str, Hear]:
        """What the worker may tell."""
        return {
            _SETTLE.name: _SETTLE.heard_by(self._settle),
            _RENEW.name: _RENEW.heard_by(self._renew),
        }

    def leave(self) -> None:
        """
        Give back what the worker holds: it has ended.

        What its requests were going to use counts as used: nobody can say any more.
        """
        for reservation in self._open.values():
            amounts = [claim.amount for claim in reservation.claims]
            self._limiter.settle(reservation, amounts, now_s=self._now_s)
        self._open.clear()

    async def _reserve(self, asked: _Reserve) -> Verdict:
        self._now_s = asked.now_s
        verdict = self._limiter.reserve_now(
            asked.request_id, asked.claims, now_s=asked.now_s, seeds=asked.seeds
        )
        if verdict.is_granted and any(claim.mode != "window" for claim in asked.claims):
            if len(self._open) >= _MAX_OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[asked.request_id] = Reservation(
                id=asked.request_id, claims=asked.claims, at_s=verdict.at_s
            )
        return verdict

    def _settle(self, told: _Settle) -> None:
        self._now_s = told.now_s
        self._open.pop(told.reservation.id, None)
        self._limiter.settle(told.reservation, told.actual, now_s=told.now_s)

    def _renew(self, told: _Renew) -> None:
        self._limiter.renew(told.reservations, now_s=told.now_s)
