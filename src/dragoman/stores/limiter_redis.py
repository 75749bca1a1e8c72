"""
Counters of all gateways, in Redis; implements ``Limiter``.

Reserving is one script, so one step and one round trip. Settling and renewing are written in
batches by one task; nobody waits for them. Each reservation is settled once, however often Redis
is told of it. The clock is that of Redis: those of the gateways need not agree.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from dragoman.core.errors import SharedStateUnavailable
from dragoman.policy.limits import LEASE_S, NO_SEEDS, Claim, Reservation, Verdict
from dragoman.stores.redis_link import RedisLink, Script

if TYPE_CHECKING:
    from dragoman.stores.redis_link import Redis

_BATCH: Final = 50
_MAX_WAITING: Final = 10_000  # reservations to be settled; some megabytes
_MAX_RENEWED: Final = 500  # leases in one step of Redis
_RETRY_S: Final = 0.25
_CLOSE_S: Final = 2.0
_LEASE_MS: Final = int(LEASE_S * 1000)


class _Settlement(Struct, frozen=True):
    reservation: Reservation
    actual: tuple[int, ...]
    now_s: float


class RedisLimiter:
    """
    Counters that many gateways share. Belongs to one event loop.

    Args:
        link: The way to Redis.
        uses_own_clock: Whether the time comes from Redis; tests bring their own.

    Attributes:
        n_lost: Reservations that could not be settled, as too many waited for it.
    """

    def __init__(self, link: RedisLink, *, uses_own_clock: bool = True) -> None:
        self._link = link
        self._uses_own_clock = uses_own_clock
        self._reserve = _script("reserve")
        self._settle = _script("settle")
        self._renew = _script("renew")
        self._waiting: deque[_Settlement] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._renewer: asyncio.Task[None] | None = None
        self.n_lost = 0

    async def reserve(
        self,
        request_id: str,
        claims: Sequence[Claim],
        *,
        now_s: float,
        seeds: Mapping[str, int] = NO_SEEDS,
    ) -> Verdict:
        keys: list[str] = []
        arguments: list[str | int] = [self._time(now_s), request_id, _LEASE_MS]
        for claim in claims:
            keys += self._keys(claim)
            seed = seeds.get(claim.counter, "")
            arguments += (claim.mode, claim.limit, claim.amount, int(claim.ends_s * 1000), seed)
        answer = await self._link.run(partial(_run, self._reserve, keys, arguments))
        at_ms, used, refused, wait_ms, unknown = answer
        return Verdict(
            at_s=at_ms / 1000,
            used=tuple(used),
            refused=tuple(refused),
            retry_after_s=wait_ms / 1000,
            unknown=tuple(unknown),
        )

    def settle(self, reservation: Reservation, actual: Sequence[int], *, now_s: float) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            self._waiting.popleft()
            self.n_lost += 1
        self._waiting.append(_Settlement(reservation, tuple(actual), now_s))
        if self._writer is None:
            loop = asyncio.get_running_loop()
            self._writer = loop.create_task(self._write(), name="limits: settle")

    def renew(self, reservations: Sequence[Reservation], *, now_s: float) -> None:
        if self._renewer is None:  # else the one before is late, and the next one comes soon
            work = self._extend(reservations, now_s)
            self._renewer = asyncio.get_running_loop().create_task(work, name="limits: renew")

    async def close(self) -> None:
        """Settle what waits, for a short time."""
        tasks = [task for task in (self._writer, self._renewer) if task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=_CLOSE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _write(self) -> None:
        """Settle until nothing waits; while Redis is away, all of it does."""
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                try:
                    await self._send(batch)
                except SharedStateUnavailable:
                    # It may have been done all the same: the second time nothing happens then.
                    self._waiting.extendleft(reversed(batch))
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._writer = None

    async def _send(self, batch: Sequence[_Settlement]) -> None:
        keys: list[str] = []
        arguments: list[str | int] = [self._time(batch[-1].now_s)]
        for each in batch:
            reservation = each.reservation
            keys.append(self._link.key("limit", "settled", reservation.id))
            n_claims = len(reservation.claims)
            made_ms, over_ms = int(reservation.at_s * 1000), int(each.now_s * 1000)
            arguments += (reservation.id, made_ms, over_ms, n_claims)
            for claim, used in zip(reservation.claims, each.actual, strict=True):
                keys += self._keys(claim)
                arguments += (claim.mode, claim.amount, used)
        await self._link.run(partial(_run, self._settle, keys, arguments))

    async def _extend(self, reservations: Sequence[Reservation], now_s: float) -> None:
        held = [(r.id, c) for r in reservations for c in r.claims if c.mode != "window"]
        try:
            for first in range(0, len(held), _MAX_RENEWED):
                keys: list[str] = []
                arguments: list[str | int] = [self._time(now_s), _LEASE_MS]
                for request_id, claim in held[first : first + _MAX_RENEWED]:
                    keys += self._keys(claim)
                    arguments += (claim.mode, request_id, claim.amount)
                await self._link.run(partial(_run, self._renew, keys, arguments))
        except SharedStateUnavailable:
            return  # counted by the link; two renewals may be lost before a lease runs out
        finally:
            self._renewer = None

    def _keys(self, claim: Claim) -> tuple[str, str]:
        key = self._link.key("limit", claim.counter)
        return key, f"{key}:leases"

    def _time(self, now_s: float) -> str:
        return "" if self._uses_own_clock else str(int(now_s * 1000))


def _script(name: str) -> Script:
    text = resources.files("dragoman.stores").joinpath("scripts", f"{name}.lua").read_text("utf-8")
    return Script(text)


async def _run(
    script: Script, keys: Sequence[str], arguments: Sequence[str | int], client: "Redis"
) -> list[Any]:
    answer: list[Any] = await script.run(client, keys, arguments)
    return answer
