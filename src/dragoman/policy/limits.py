"""
Limits and budgets as counters: what a request takes of them, and what a limiter has to do.

A counter is of one of three modes:

- ``window``: how much in the last 60 seconds, in slots of one second. A slot counts until all of
  it is older, so that in no 60 seconds more is given out than the limit says.
- ``held``: how much right now; it is given back at the end.
- ``budget``: how much in a day or a month: what was used, and what requests at work may still use.

What is held has a lease. It is renewed while its request is at work, and runs out if the process
that held it has died.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct

WINDOW_S: Final = 60
LEASE_S: Final = 60.0
RENEW_S: Final = 20.0  # two renewals may be lost
REQUESTS_AT_WORK_RETRY_S: Final = 1.0  # nobody knows when one of them ends

Mode = Literal["window", "held", "budget"]
ClaimHead = tuple[str, Mode, int, float]  # of a claim: all but its amount
NO_SEEDS: Final[Mapping[str, int]] = {}


class Claim(Struct, frozen=True, gc=False):
    """
    What a request takes of one counter. Not by keywords alone: each request makes several.

    Attributes:
        limit: A claim fits if it leaves no more than that in use. One that is over the limit by
            itself fits an empty window, or it never would. A budget takes every claim until it
            is used up.
        amount: An estimate, put right when the reservation is settled.
        ends_s: Of a budget's period, in seconds since 1970; then its counter is forgotten.
    """

    counter: str
    mode: Mode
    limit: int
    amount: int = 1
    ends_s: float = 0.0


class OwnedHead(Struct, frozen=True):
    """
    A claim's head, and what its counter counts.

    Attributes:
        counts: Which field of a request's use.
        quiet: How much of a budget may be used while nobody need be told.
    """

    counts: str
    head: ClaimHead
    quiet: int = 0


class OwnerForm(Struct, frozen=True):
    """
    What claims under one owner's rules have in common, until *ends_s*.

    Nobody but *owner* has claims on these counters, and no two claims are on one.
    """

    owner: str
    ends_s: float
    heads: tuple[OwnedHead, ...]


class ClaimForm:
    """
    What the claims of all requests under the same rules have in common, for a day.

    Args:
        heads: Counter, mode, limit and end of each claim.
        owners: The same by owner.
    """

    __slots__ = ("heads", "limits", "owners")

    def __init__(self, heads: Sequence[ClaimHead], owners: Sequence[OwnerForm]) -> None:
        self.heads = heads
        self.limits = [limit for _, _, limit, _ in heads]
        self.owners = owners

    def claims(self, amounts: Sequence[int]) -> tuple[Claim, ...]:
        """Return the claims of a request on so much."""
        pairs = zip(self.heads, amounts, strict=True)
        return tuple(
            [Claim(counter, mode, limit, n, ends_s) for (counter, mode, limit, ends_s), n in pairs]
        )


class Reservation(Struct, frozen=True, kw_only=True):
    """What one request has taken; *id* is its own, *at_s* is by the limiter's clock."""

    id: str
    claims: tuple[Claim, ...]
    at_s: float


class Verdict(Struct, frozen=True, kw_only=True):
    """
    All of the claims were granted, or none.

    Attributes:
        at_s: Seconds since 1970, by the limiter's clock.
        used: Of each counter, with what was taken; of a budget without what is only held.
        refused: Which claims do not fit.
        retry_after_s: When those of windows will; 0: there are none among them.
        unknown: Which budgets nothing is known of: they need a seed. Nothing was decided then.
        is_alone: The counters that count could not be reached: one process has decided, by its
            share of each limit.
    """

    at_s: float
    used: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    retry_after_s: float = 0.0
    unknown: tuple[int, ...] = ()
    is_alone: bool = False

    @property
    def is_granted(self) -> bool:
        """Whether the claims were taken."""
        return not self.refused and not self.unknown


class Limiter(Protocol):
    """Counters, of one process or shared. Everything that goes in or out can be encoded."""

    async def reserve(
        self,
        request_id: str,
        claims: Sequence[Claim],
        *,
        now_s: float,
        seeds: Mapping[str, int] = NO_SEEDS,
    ) -> Verdict:
        """
        Take all claims or none, at once.

        Args:
            request_id: Names what is held.
            claims: On different counters.
            now_s: Seconds since 1970; a limiter that is shared uses its own clock instead.
            seeds: Counter -> use so far, for budgets that nothing is known of.

        Raises:
            SharedStateUnavailable: The counters cannot be reached.
        """
        ...

    def settle(self, reservation: Reservation, actual: Sequence[int], *, now_s: float) -> None:
        """
        Put *actual* in the place of what each claim had reserved, and give back what is held.

        Never waits; what cannot be told to a limiter elsewhere in time is lost, and counted.
        """

    def renew(self, reservations: Sequence[Reservation], *, now_s: float) -> None:
        """Extend the leases of all that is held. Never waits."""

    async def close(self) -> None:
        """Tell what is still to be told, for a short time."""
