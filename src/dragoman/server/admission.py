"""Limits and budgets on the request path: reserve before, settle after, tell the client."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from dragoman.core.errors import (
    HeaderFields,
    SharedStateUnavailable,
    UpstreamLimitExceeded,
)
from dragoman.core.plan import Deployment
from dragoman.core.usage import Usage
from dragoman.policy.allowances import (
    Amounts,
    Rule,
    RuleBook,
    RuleSet,
    Till,
    Use,
    budget_warnings,
    label_of,
    refusal,
)
from dragoman.policy.expected_use import Expected, ExpectedUse
from dragoman.policy.limit_headers import LimitHeaders
from dragoman.policy.limits import (
    RENEW_S,
    Claim,
    ClaimForm,
    Limiter,
    Reservation,
    Verdict,
)
from dragoman.policy.prices import Prices, cost_micros
from dragoman.policy.routes import Target
from dragoman.policy.told import Told
from dragoman.server.asked import Asked
from dragoman.server.budget_seeds import BudgetSeeds
from dragoman.server.telemetry import EventLog, RequestRecord

_WARNING_HEADER: Final = b"x-dragoman-budget-warning"
_TELL_AGAIN_S: Final = 60.0


_ONE_REQUEST: Final = Use()


class CountersAtHand(Protocol):
    """Counters that need not be waited for."""

    def open_till(self, form: ClaimForm, headers: LimitHeaders, now_s: float) -> Till | None:
        """Return what gives out at once whatever is far from its limit; None: not yet."""
        ...


class LimiterAtHand(Limiter, Protocol):
    """A limiter that can go on without its shared counters, or may have them at hand."""

    @property
    def at_hand(self) -> CountersAtHand | None:
        """The counters, if they need not be waited for."""
        ...

    def reserve_alone(
        self,
        request_id: str,
        claims: Sequence[Claim],
        *,
        now_s: float,
        cause: SharedStateUnavailable,
    ) -> Verdict:
        """Reserve without the counters that count, or raise *cause*."""
        ...


class Admitted(Struct, frozen=True):
    """What a request has reserved; its answer gets the *headers*, and those in *lines*."""

    rules: RuleSet
    reservation: Reservation
    lines: bytes = b""
    headers: HeaderFields = ()


class Taken(Struct, frozen=True, gc=False):
    """What a request has taken out of a till at *at_s*; *lines* are headers of its answer."""

    rules: RuleSet
    till: Till
    use: Amounts
    at_s: float
    lines: bytes = b""
    headers: HeaderFields = ()


class Admission:
    """
    Admits requests within the limits. Belongs to one event loop.

    Args:
        rules: What holds for whom.
        limiter: Counts.
        expected: What requests will probably use.
        prices: Of what they use.
        seeds: What was used of budgets before.
        log: Told of budgets that run out.
        told: What it was told before.
        contact: Whom people are told to ask.
        clock: Seconds since 1970.

    Attributes:
        rules: What holds for whom; where nothing does, nothing need be admitted.
        n_held: Requests at work that have reserved something.
    """

    def __init__(
        self,
        rules: RuleBook,
        limiter: LimiterAtHand,
        *,
        expected: ExpectedUse,
        prices: Prices,
        seeds: BudgetSeeds,
        log: EventLog,
        told: Told,
        contact: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.rules = rules
        self._limiter = limiter
        self._at_hand = limiter.at_hand
        self._unpriced: Deployment | None = None  # the last one without a price: that was told
        self._expected = expected
        self._prices = prices
        self._seeds = seeds
        self._log = log
        self._contact = contact
        self._clock = clock
        self._held: dict[str, Reservation] = {}
        self._n_taken = 0  # at work as well, of counters at hand
        self._renewal: asyncio.TimerHandle | None = None
        self._n_calls = 0
        self._told = told
        self._told_of_unknown_s = -_TELL_AGAIN_S

    @property
    def n_held(self) -> int:
        """How many reservations are open."""
        return len(self._held) + self._n_taken

    def take(self, rules: RuleSet, asked: Asked, *, target: Target) -> Taken | None:
        """
        Take what a request will probably use, if nothing is near its limit; None: ``admit`` knows.

        Args:
            rules: What holds for it, at least one.
            asked: The request.
            target: Which will probably answer; its price counts.
        """
        use, now_s = self._use_of(rules, asked, target), self._clock()
        till = rules.till
        if till is None or not till.take(use, now_s):
            till = self._take_anew(rules, use, now_s)
        if till is None:
            return None
        self._n_taken += 1
        return Taken(rules, till, use, now_s, rules.headers.lines_of_rest(till, now_s))

    async def admit(
        self, rules: RuleSet, asked: Asked, record: RequestRecord, *, target: Target
    ) -> Admitted:
        """
        Reserve what a request will probably use, where ``take`` cannot tell.

        Args:
            rules: What holds for it, at least one.
            asked: The request.
            record: Of it.
            target: Which will probably answer; its price counts.

        Raises:
            LimitExceeded: There is no room now.
            BudgetExhausted: There is none in this day or month.
            SharedStateUnavailable: Nobody can say, and the configuration wants to be sure.
        """
        use = self._use_of(rules, asked, target)
        reservation, verdict = await self._reserve(record.request_id, rules, use)
        used_ = verdict.used
        near = [(i, rule) for i, rule in rules.budgets if used_[i] >= rule.warn_at]
        if near:
            self._tell_of_budgets(near, reservation, verdict)
        if verdict.is_granted:
            headers = (_warning(rules, verdict),) if near else ()
            lines = rules.headers.lines(used_, verdict.at_s)
            return Admitted(rules, reservation, lines, headers)
        error = refusal(rules, verdict, expected=Use(*use), contact=self._contact)
        record.refused_by = error.limit
        raise error

    async def admit_to_upstream(
        self, rules: RuleSet, asked: Asked, record: RequestRecord, *, target: Target
    ) -> Admitted | Taken:
        """
        Reserve what a call of an upstream will probably use; one request may make several.

        Raises:
            UpstreamLimitExceeded: It shall not be asked now.
            SharedStateUnavailable: As for ``admit``.
        """
        use, now_s = self._use_of(rules, asked, target), self._clock()
        till = rules.till
        if till is None or not till.take(use, now_s):
            till = self._take_anew(rules, use, now_s)
        if till is not None:
            self._n_taken += 1
            return Taken(rules, till, use, now_s)
        self._n_calls += 1
        reservation_id = f"{record.request_id}/{self._n_calls}"
        reservation, verdict = await self._reserve(reservation_id, rules, use)
        if verdict.is_granted:
            return Admitted(rules, reservation)
        error = refusal(rules, verdict, expected=Use(*use), contact=self._contact)
        is_over = error.should_retry is False
        when = f"at all; ask {self._contact}" if is_over else "at present; try again"
        raise UpstreamLimitExceeded(
            f"the model's servers may not be asked {when}",
            retry_after_s=error.retry_after_s,
            should_retry=error.should_retry,
            limit=error.limit,
            log_detail=error.message,
        )

    async def standing(self, record: RequestRecord) -> HeaderFields:
        """
        Return what a client is told of its limits whose request could not be read: none is taken.

        Args:
            record: Of the request; it says whose key it is. Nothing, if nobody can say.
        """
        rules, now_s = self.rules.of_request(record.caller, record.alias), self._clock()
        if rules is None:
            return ()
        form, n_windows = rules.form(now_s), rules.n_windows
        if not n_windows:
            return ()
        nothing = [0] * len(form.limits)
        claims = form.claims(nothing)[:n_windows]
        try:
            verdict = await self._limiter.reserve(record.request_id, claims, now_s=now_s)
        except SharedStateUnavailable:
            return ()
        if verdict.is_alone:  # what is given out alone is remembered by its request until settled
            asked = Reservation(id=record.request_id, claims=claims, at_s=verdict.at_s)
            self._limiter.settle(asked, nothing[:n_windows], now_s=now_s)
        return rules.headers.fields(verdict.used, verdict.at_s)

    def settle(
        self,
        admitted: Admitted | Taken,
        asked: Asked,
        *,
        usage: Usage | None,
        cost_micros: int | None,
    ) -> None:
        """
        Replace what was reserved by what was used.

        Args:
            admitted: Of ``admit`` or ``admit_to_upstream``.
            asked: The request.
            usage: Tokens; None: none were used.
            cost_micros: Their price; None: nothing, or nobody knows.
        """
        now_s, cost = self._clock(), cost_micros or 0
        if usage is None:
            actual = 1, 0, 0, 0, cost, 1
        else:
            fresh = usage.input_tokens + usage.cache_creation_input_tokens
            output, cached = usage.output_tokens, usage.cache_read_input_tokens
            actual = 1, fresh, output, fresh + cached + output, cost, 1
        if isinstance(admitted, Taken):
            self._n_taken -= 1
            admitted.till.settle(admitted.use, actual, admitted.at_s, now_s)
        else:
            reservation = admitted.reservation
            self._held.pop(reservation.id, None)
            self._limiter.settle(reservation, admitted.rules.amounts(actual), now_s=now_s)
        if asked.teaches and usage is not None and not usage.is_estimate:
            self._expected.observe(asked, usage)

    def close(self) -> None:
        """Renew nothing any more."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _use_of(self, rules: RuleSet, asked: Asked, target: Target) -> Amounts:
        if not rules.counts_tokens:
            return _ONE_REQUEST
        fresh, prompt, output = expected = self._expected.of(asked, asked.request.max_tokens)
        cost, deployment = 0, target.deployment
        if rules.counts_money and deployment is not self._unpriced:
            cost = self._cost_of(expected, deployment)
        return 1, fresh, output, prompt + output, cost, 1

    def _cost_of(self, expected: Expected, deployment: Deployment) -> int:
        price = self._prices.find(deployment.model, upstream=deployment.upstream)
        if price is None:
            self._unpriced = deployment
            self._tell_of_no_price(deployment)
            return 0
        fresh, prompt, output = expected
        return cost_micros(Usage(fresh, max(0, prompt - fresh), 0, output), price)

    def _tell_of_no_price(self, deployment: Deployment) -> None:
        """Log once for each model that a budget in money does not see it."""
        if self._told.is_news(f"{deployment.upstream} {deployment.model}", "no price"):
            self._log.event(
                "budget", state="no price", model=deployment.model, upstream=deployment.upstream
            )

    def _take_anew(self, rules: RuleSet, use: Amounts, now_s: float) -> Till | None:
        """Take out of a new till, where there was none or it is closed; None: ask and wait."""
        till = rules.till
        if self._at_hand is None or (till is not None and not till.is_closed):
            return None
        till = rules.till = self._at_hand.open_till(rules.form(now_s), rules.headers, now_s)
        return till if till is not None and till.take(use, now_s) else None

    async def _reserve(
        self, reservation_id: str, rules: RuleSet, use: Amounts
    ) -> tuple[Reservation, Verdict]:
        now_s = self._clock()
        claims = rules.claims(use, now_s)
        verdict = await self._limiter.reserve(reservation_id, claims, now_s=now_s)
        if verdict.unknown:
            verdict = await self._reserve_with_seeds(reservation_id, rules, claims, first=verdict)
        reservation = Reservation(id=reservation_id, claims=claims, at_s=verdict.at_s)
        if rules.holds and verdict.is_granted:
            self._held[reservation_id] = reservation
            if self._renewal is None:
                self._renewal = asyncio.get_running_loop().call_later(RENEW_S, self._renew)
        return reservation, verdict

    async def _reserve_with_seeds(
        self,
        reservation_id: str,
        rules: RuleSet,
        claims: tuple[Claim, ...],
        *,
        first: Verdict,
    ) -> Verdict:
        """Reserve once more, with what was used of budgets that have no counter yet."""
        now_s = self._clock()
        try:
            unknown = [rules.rules[i] for i in first.unknown]
            amounts = await self._seeds.used(unknown, now_s=first.at_s)
        except SharedStateUnavailable as error:
            if now_s - self._told_of_unknown_s >= _TELL_AGAIN_S:
                self._told_of_unknown_s = now_s
                self._log.event("limits", state="unknown budgets", reason=error.log_detail)
            return self._limiter.reserve_alone(reservation_id, claims, now_s=now_s, cause=error)
        counters = [claims[i].counter for i in first.unknown]
        seeds = dict(zip(counters, amounts, strict=True))
        return await self._limiter.reserve(reservation_id, claims, now_s=now_s, seeds=seeds)

    def _renew(self) -> None:
        self._renewal = None
        if self._held:
            self._limiter.renew([*self._held.values()], now_s=self._clock())
            self._renewal = asyncio.get_running_loop().call_later(RENEW_S, self._renew)

    def _tell_of_budgets(
        self, near: Sequence[tuple[int, Rule]], reservation: Reservation, verdict: Verdict
    ) -> None:
        """Log each budget once when it passes its threshold, and once when it is used up."""
        for i, rule in near:
            claim, used_ = reservation.claims[i], verdict.used[i]
            state = "used up" if used_ >= rule.limit else "nearly used up"
            if not self._told.is_news(claim.counter, state):
                continue
            self._log.event(
                "budget",
                state=state,
                whose=rule.whose,
                budget=label_of(rule),
                used=used_,
                limit=rule.limit,
            )


def _warning(rules: RuleSet, verdict: Verdict) -> tuple[bytes, bytes]:
    text = "; ".join(budget_warnings(rules, verdict))
    return _WARNING_HEADER, text.encode("ascii", "backslashreplace")
