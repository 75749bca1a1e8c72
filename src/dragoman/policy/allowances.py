"""
What a request may use: the rules of its key, workspace, model and upstream, and what they say.

A rule is one number of a ``Limits`` or ``Budget`` and whose it is. With what a request is expected
to use it becomes a claim on a counter; the limiter's verdict becomes headers, warnings, an error.
"""

import datetime as dt
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Final, Literal, NamedTuple, Protocol

from msgspec import Struct

from dragoman.core.counted import counted
from dragoman.core.errors import BudgetExhausted, LimitExceeded, LimitOfNothing
from dragoman.limit_settings import Budget, Limits
from dragoman.policy.access import Caller
from dragoman.policy.limit_headers import LimitHeaders, WindowKind
from dragoman.policy.limits import (
    REQUESTS_AT_WORK_RETRY_S,
    Claim,
    ClaimForm,
    ClaimHead,
    Mode,
    OwnedHead,
    OwnerForm,
    Verdict,
)

Scope = Literal["key", "workspace", "model", "upstream"]
Kind = Literal["requests", "input_tokens", "output_tokens", "concurrent", "cost_micros", "tokens"]
Period = Literal["", "day", "month"]

_MODES: Final[Mapping[Kind, Mode]] = {
    "requests": "window",
    "input_tokens": "window",
    "output_tokens": "window",
    "concurrent": "held",
    "cost_micros": "budget",
    "tokens": "budget",
}
_TOKEN_KINDS: Final = frozenset({"input_tokens", "output_tokens", "tokens", "cost_micros"})
_WINDOW_KINDS: Final[tuple[WindowKind, ...]] = ("requests", "input_tokens", "output_tokens")
_ORDER: Final[Mapping[Mode, int]] = {"window": 0, "held": 1, "budget": 2}
_BUDGET_HELD_RETRY_S: Final = 2.0  # until a request at work has ended and said what it used
_DAY_S: Final = 86_400
_DOLLAR: Final = 1_000_000  # in millionths
_ALONE: Final = (
    "the shared counters cannot be reached, and until they can, each process gives out a part of "
    "every limit"
)
_ALONE_RETRY_S: Final = 10.0  # nobody knows when they can
_MAX_KNOWN: Final = 4_096  # pairs of key and model whose rules are kept ready


class Use(NamedTuple):
    """What a request uses, or is expected to."""

    requests: int = 1
    input_tokens: int = 0  # those that came from no cache
    output_tokens: int = 0
    tokens: int = 0  # all of prompt and reply
    cost_micros: int = 0
    concurrent: int = 1


Amounts = tuple[int, int, int, int, int, int]  # a use; to make one takes less


class Till(Protocol):
    """
    Gives out at once what is far from its limit, under rules that hold together.

    Attributes:
        requests: What the nearest limit of a minute leaves.
        fresh: The same of input tokens.
        output: The same of output tokens.
    """

    requests: int
    fresh: int
    output: int

    @property
    def is_closed(self) -> bool:
        """Whether it gives nothing more: there is another one."""
        ...

    def take(self, use: Amounts, now_s: float) -> bool:
        """Take what a request may use, where that needs no wait and no word; else nothing."""
        ...

    def settle(self, was: Amounts, actual: Amounts, at_s: float, now_s: float) -> None:
        """Replace what was taken at *at_s*, in seconds since 1970, by what was used."""


class Rule(Struct, frozen=True, kw_only=True, gc=False):
    """
    One number that holds for somebody.

    Attributes:
        owner: Id of whose it is, as in usage records.
        name: The same for people.
        warn_at: Of a budget: what to warn from.
    """

    scope: Scope
    owner: str
    name: str
    kind: Kind
    limit: int
    period: Period = ""
    warn_at: int = 0

    @property
    def mode(self) -> Mode:
        """How its counter counts."""
        return _MODES[self.kind]

    @property
    def whose(self) -> str:
        """Whose it is, for people."""
        return f'{self.scope} "{self.name}"'


class Span(Struct, frozen=True, gc=False):
    """A day or month of UTC, in seconds since 1970."""

    label: str
    starts_s: float
    ends_s: float


class RuleSet:
    """
    Rules that hold together, and what every request asks of them, found out once.

    Attributes:
        rules: At least one; those of a minute come first, budgets last.
        counts_tokens: Whether it matters how many tokens a request uses, or what they cost.
        counts_money: Whether it matters what they cost.
        holds: Whether something is given back at the end.
        n_windows: How many of the rules are of a minute.
        budgets: Those of a day or month, with their places among the rules.
        headers: What clients are told of those of a minute.
        amounts: Returns of a use how much of it each rule counts.
        till: Where requests take it, kept by whoever admits them; None: none is known.
    """

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules = tuple(sorted(rules, key=lambda rule: _ORDER[rule.mode]))
        kinds = [rule.kind for rule in rules]
        self.counts_tokens = not _TOKEN_KINDS.isdisjoint(kinds)
        self.counts_money = "cost_micros" in kinds
        self.n_windows = sum(rule.mode == "window" for rule in rules)
        self.holds = self.n_windows < len(rules)
        self.budgets = [(i, rule) for i, rule in enumerate(rules) if rule.period]
        windows = {kind: _places_of(kind, rules) for kind in _WINDOW_KINDS if kind in kinds}
        self.headers = LimitHeaders(windows)
        places = [Use._fields.index(kind) for kind in kinds]
        self.amounts = _amounts_at(places)
        self.till: Till | None = None
        self._form = ClaimForm((), ())
        self._form_from_s = self._form_until_s = 0.0

    def form(self, now_s: float) -> ClaimForm:
        """Return what all claims on the rules' counters have in common on that day."""
        if not self._form_from_s <= now_s < self._form_until_s:
            day = int(now_s // _DAY_S)
            self._form_from_s, self._form_until_s = day * _DAY_S, (day + 1) * _DAY_S
            heads = [_head_of(rule, now_s) for rule in self.rules]
            owners: dict[str, list[OwnedHead]] = {}
            for rule, head in zip(self.rules, heads, strict=True):
                quiet = min(rule.warn_at, rule.limit)
                owned = OwnedHead(rule.kind, head, quiet)
                owners.setdefault(f"{rule.scope}:{rule.owner}", []).append(owned)
            forms = [OwnerForm(o, self._form_until_s, tuple(own)) for o, own in owners.items()]
            self._form = ClaimForm(heads, forms)
        return self._form

    def claims(self, use: Amounts, now_s: float) -> tuple[Claim, ...]:
        """Return what a request that uses *use* takes of each rule's counter."""
        return self.form(now_s).claims(self.amounts(use))


class RuleBook:
    """
    All rules of a configuration, and those of the keys and workspaces that call.

    Args:
        key: For every key, number by number where it says nothing itself.
        workspace: For every workspace, in the same way.
        keys: Limits and budgets of keys that are in no store, by their ids.
        models: Limits of models, by alias.
        upstreams: Limits of upstreams, by name.
    """

    def __init__(
        self,
        *,
        key: Limits,
        workspace: Limits,
        keys: Mapping[str, tuple[Limits, Sequence[Budget]]],
        models: Mapping[str, Limits],
        upstreams: Mapping[str, Limits],
    ) -> None:
        self._key = key
        self._workspace = workspace
        self._keys = dict(keys)
        self._models = {
            alias: tuple(rules_of("model", alias, alias, limits=limits))
            for alias, limits in models.items()
        }
        self._upstreams = {
            name: tuple(rules_of("upstream", name, name, limits=limits))
            for name, limits in upstreams.items()
        }
        self._known: dict[tuple[str, str], tuple[Caller, RuleSet | None]] = {}
        self._of_calls: dict[tuple[str, str], RuleSet | None] = {}

    def of_request(self, caller: Caller, alias: str) -> RuleSet | None:
        """Return what holds for a request of *caller* for a model; None: nothing does."""
        known = self._known.get((caller.key_id, alias))
        if known is not None and known[0] is caller:
            return known[1]
        rules = rule_set(*self._of_caller(caller), *self._models.get(alias, ()))
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[caller.key_id, alias] = (caller, rules)
        return rules

    def of_call(self, upstream: str, stand_in: str) -> RuleSet | None:
        """
        Return what holds for a call of an upstream; None: nothing does.

        Args:
            upstream: Its name.
            stand_in: The model that is asked instead of the one that was meant; empty: none is.
        """
        which = upstream, stand_in
        if which not in self._of_calls:  # no more than the configuration has names
            own, others = self._upstreams.get(upstream, ()), self._models.get(stand_in, ())
            self._of_calls[which] = rule_set(*own, *others)
        return self._of_calls[which]

    def _of_caller(self, caller: Caller) -> Iterator[Rule]:
        limits, budgets = self._keys.get(caller.key_id, (Limits(), ()))
        if caller.key is not None:
            limits, budgets = caller.key.limits, caller.key.budgets
        filled = _filled(limits, self._key)
        yield from rules_of("key", caller.key_id, caller.key_name, limits=filled, budgets=budgets)
        if (team := caller.workspace) is not None:
            filled = _filled(team.limits, self._workspace)
            yield from rules_of(
                "workspace", team.id, team.name, limits=filled, budgets=team.budgets
            )


def rules_of(
    scope: Scope, owner: str, name: str, *, limits: Limits, budgets: Iterable[Budget] = ()
) -> Iterator[Rule]:
    """Return a rule for each number that is given."""
    numbers: dict[Kind, int | None] = {
        "requests": limits.requests_per_minute,
        "input_tokens": limits.input_tokens_per_minute,
        "output_tokens": limits.output_tokens_per_minute,
        "concurrent": limits.concurrent,
    }
    for kind, limit in numbers.items():
        if limit is not None:
            yield Rule(scope=scope, owner=owner, name=name, kind=kind, limit=limit)
    for budget in budgets:
        amounts: dict[Kind, int | None] = {
            "cost_micros": budget.cost_micros,
            "tokens": budget.tokens,
        }
        for kind, limit in amounts.items():
            if limit is not None:
                yield Rule(
                    scope=scope,
                    owner=owner,
                    name=name,
                    kind=kind,
                    limit=limit,
                    period=budget.period,
                    warn_at=math.ceil(limit * budget.warn_at_pct / 100),
                )


def rule_set(*rules: Rule) -> RuleSet | None:
    """Return the rules together; None: there are none."""
    return RuleSet(rules) if rules else None


def span_of(period: Period, now_s: float) -> Span:
    """Return the day or month that *now_s* lies in."""
    return _span(period, int(now_s // _DAY_S))


@lru_cache(maxsize=64)
def _span(period: Period, day: int) -> Span:
    start = dt.datetime.fromtimestamp(day * _DAY_S, dt.UTC)
    if period == "month":
        start = start.replace(day=1)
        after = (start + dt.timedelta(days=32)).replace(day=1)
        return Span(f"{start:%Y-%m}", start.timestamp(), after.timestamp())
    after = start + dt.timedelta(days=1)
    return Span(f"{start:%Y-%m-%d}", start.timestamp(), after.timestamp())


# -- what people and clients are told


def budget_warnings(rules: RuleSet, verdict: Verdict) -> list[str]:
    """Return a sentence for each budget that is used up so far that it warns."""
    return [
        f"{_budget(rule)}: {_amounts(rule, verdict.used[i])} used; {_anew(rule, verdict.at_s)}"
        for i, rule in rules.budgets
        if verdict.used[i] >= rule.warn_at
    ]


def refusal(rules: RuleSet, verdict: Verdict, *, expected: Use, contact: str) -> LimitExceeded:
    """
    Return the error for a request that was refused.

    What waiting does not help comes first: a limit of nothing, then a used-up budget.
    """
    refused = [(rules.rules[i], verdict.used[i]) for i in verdict.refused]
    headers = rules.headers.fields(verdict.used, verdict.at_s)
    for rule, _ in refused:
        if not rule.limit and not rule.period:
            return LimitOfNothing(
                f"{_none_allowed(rule)}. No waiting helps; ask {contact}.",
                headers=headers,
                limit=label_of(rule),
            )
    for rule, used in refused:
        if rule.period and used >= rule.limit:
            return BudgetExhausted(
                f"The {_budget(rule)} is used up: {_amounts(rule, used)}. To go on before "
                f"{_anew(rule, verdict.at_s)}, ask {contact}.",
                retry_after_s=span_of(rule.period, verdict.at_s).ends_s - verdict.at_s,
                headers=headers,
                limit=label_of(rule),
            )
    rule, used = max(refused, key=lambda each: each[0].mode == "window")
    state = (_state_alone if verdict.is_alone else _limit_state)(rule, used, expected)
    least_s = _ALONE_RETRY_S if verdict.is_alone and rule.period else _least_wait_s(rule)
    wait_s = max(verdict.retry_after_s, least_s)
    return LimitExceeded(
        f"{state}; try again in {math.ceil(wait_s)} s",
        retry_after_s=wait_s,
        headers=headers,
        limit=label_of(rule),
    )


def label_of(rule: Rule) -> str:
    """Return the rule's name for logs and metrics; it does not say whose it is."""
    return f"{rule.scope} {rule.kind}{f' per {rule.period}' if rule.period else ''}"


def _filled(own: Limits, others: Limits) -> Limits:
    def first(one: int | None, other: int | None) -> int | None:
        return other if one is None else one

    return Limits(
        requests_per_minute=first(own.requests_per_minute, others.requests_per_minute),
        input_tokens_per_minute=first(own.input_tokens_per_minute, others.input_tokens_per_minute),
        output_tokens_per_minute=first(
            own.output_tokens_per_minute, others.output_tokens_per_minute
        ),
        concurrent=first(own.concurrent, others.concurrent),
    )


def _amounts_at(places: Sequence[int]) -> Callable[[Amounts], tuple[int, ...]]:
    """Return what takes the numbers at these places out of a use."""
    if len(places) > 1:
        return itemgetter(*places)
    (place,) = places  # of one it would give no tuple
    return lambda use: (use[place],)


def _head_of(rule: Rule, now_s: float) -> ClaimHead:
    """Return what all claims on the rule's counter have in common on a day."""
    counter = f"{rule.scope}:{rule.owner}:{rule.kind}"
    if not rule.period:
        return counter, rule.mode, rule.limit, 0.0
    span = span_of(rule.period, now_s)
    return f"{counter}:{span.label}", rule.mode, rule.limit, span.ends_s


def _places_of(kind: Kind, rules: Sequence[Rule]) -> list[tuple[int, int]]:
    return [(i, rule.limit) for i, rule in enumerate(rules) if rule.kind == kind]


def _least_wait_s(rule: Rule) -> float:
    if rule.mode == "window":
        return 1.0
    return _BUDGET_HELD_RETRY_S if rule.period else REQUESTS_AT_WORK_RETRY_S


def _none_allowed(rule: Rule) -> str:
    if rule.kind == "concurrent":
        return f"{rule.whose} may have no requests at work: its limit is 0"
    what = rule.kind.replace("_", " ")
    return f"{rule.whose} may use no {what}: its limit per minute is 0"


def _state_alone(rule: Rule, used: int, expected: Use) -> str:
    if rule.period:
        state = f"the part of the {_budget(rule)} that this process gives out alone is used up"
    else:
        state = _limit_state(rule, used, expected)
    return f"{state} ({_ALONE})"


def _limit_state(rule: Rule, used: int, expected: Use) -> str:
    if rule.period:
        return f"what is left of the {_budget(rule)} is held by requests at work"
    if rule.kind == "concurrent":
        return f"{rule.whose} has {counted(used, 'request')} at work and may have {rule.limit:,}"
    if rule.kind == "requests":
        return f"{rule.whose} may send {counted(rule.limit, 'request')} per minute"
    left, wanted = max(0, rule.limit - used), getattr(expected, rule.kind)
    what = rule.kind.replace("_", " ").removesuffix("s")
    return (
        f"{rule.whose} may use {counted(rule.limit, what)} per minute: {left:,} left, and this "
        f"request needs about {wanted:,}"
    )


def _budget(rule: Rule) -> str:
    return f"{rule.period}'s budget of {rule.whose}"


def _amounts(rule: Rule, used: int) -> str:
    if rule.kind == "tokens":
        return f"{used:,} of {rule.limit:,} tokens"
    digits = 2 if rule.limit >= _DOLLAR else 4
    return f"${used / _DOLLAR:,.{digits}f} of ${rule.limit / _DOLLAR:,.{digits}f}"


def _anew(rule: Rule, now_s: float) -> str:
    ends = dt.datetime.fromtimestamp(span_of(rule.period, now_s).ends_s, dt.UTC)
    return f"it begins anew on {ends:%Y-%m-%d} at 00:00 UTC"
