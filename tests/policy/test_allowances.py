"""What holds for whom, what it takes of counters, and what people are told of it."""

import datetime as dt

import pytest

from dragoman.core.errors import BudgetExhausted, LimitExceeded, error_headers
from dragoman.limit_settings import Budget, Limits
from dragoman.policy.access import Caller, VirtualKey, Workspace
from dragoman.policy.allowances import (
    RuleBook,
    RuleSet,
    Use,
    budget_warnings,
    label_of,
    refusal,
    rules_of,
    span_of,
)
from dragoman.policy.limits import Claim, Verdict

NOON = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
NOW_S = NOON.timestamp()
TEAM = Workspace(
    id="wrkspc_1", name="team", created_at=NOON, limits=Limits(concurrent=9, requests_per_minute=90)
)
NONE = Limits()
DAY = Budget(period="day", cost_micros=20_000_000, warn_at_pct=80)


def book(**changes: object) -> RuleBook:
    plain = {"key": Limits(), "workspace": Limits(), "keys": {}, "models": {}, "upstreams": {}}
    return RuleBook(**{**plain, **changes})


def stored(limits: Limits = NONE, *budgets: Budget, team: Workspace | None = None) -> Caller:
    key = VirtualKey(
        id="apikey_1",
        name="ci",
        digest=b"x",
        hint="sk",
        created_at=NOON,
        limits=limits,
        budgets=budgets,
    )
    return Caller(key_id=key.id, key_name=key.name, workspace=team, key=key)


def shown(rules: RuleSet | None) -> dict[str, int]:
    assert rules is not None
    return {f"{rule.whose} {label_of(rule)}": rule.limit for rule in rules.rules}


# -- which rules hold


def test_without_limits_there_are_no_rules() -> None:
    assert book().of_request(stored(), "m") is None
    assert book().of_call("lab", "") is None


def test_rules_of_key_workspace_and_model() -> None:
    rules = book(models={"m": Limits(output_tokens_per_minute=5)}).of_request(
        stored(Limits(input_tokens_per_minute=7), DAY, team=TEAM), "m"
    )
    assert shown(rules) == {
        'key "ci" key input_tokens': 7,
        'key "ci" key cost_micros per day': 20_000_000,
        'workspace "team" workspace requests': 90,
        'workspace "team" workspace concurrent': 9,
        'model "m" model output_tokens': 5,
    }


def test_defaults_fill_in_number_by_number() -> None:
    defaults = book(
        key=Limits(requests_per_minute=60, concurrent=4),
        workspace=Limits(concurrent=1, input_tokens_per_minute=3),
    )
    rules = defaults.of_request(stored(Limits(concurrent=8), team=TEAM), "m")
    assert shown(rules) == {
        'key "ci" key requests': 60,
        'key "ci" key concurrent': 8,
        'workspace "team" workspace requests': 90,
        'workspace "team" workspace input_tokens': 3,
        'workspace "team" workspace concurrent': 9,
    }


def test_keys_of_the_configuration() -> None:
    keys = {"config:dev": (Limits(concurrent=2), [Budget(period="month", tokens=10)])}
    caller = Caller(key_id="config:dev", key_name="dev")
    rules = book(keys=keys).of_request(caller, "m")
    assert shown(rules) == {'key "dev" key concurrent': 2, 'key "dev" key tokens per month': 10}


def test_a_changed_key_has_its_new_rules_at_once() -> None:
    one = book()
    assert one.of_request(stored(), "m") is None
    assert shown(one.of_request(stored(Limits(concurrent=1)), "m")) == {
        'key "ci" key concurrent': 1
    }
    assert one.of_request(stored(), "m") is None


def test_a_limit_of_0_is_a_limit() -> None:
    (rule,) = rules_of("key", "k", "k", limits=Limits(requests_per_minute=0))
    assert rule.limit == 0


# -- what they claim


def test_claims() -> None:
    use = Use(input_tokens=10, output_tokens=20, tokens=35, cost_micros=99)
    limits = Limits(
        requests_per_minute=1,
        input_tokens_per_minute=2,
        output_tokens_per_minute=3,
        concurrent=4,
    )
    budgets = [DAY, Budget(period="month", tokens=6)]
    rules = RuleSet(tuple(rules_of("key", "k", "ci", limits=limits, budgets=budgets)))
    midnight, month = NOW_S + 12 * 3600, dt.datetime(2026, 12, 1, tzinfo=dt.UTC).timestamp()
    assert rules.amounts(use) == (1, 10, 20, 1, 99, 35)
    assert list(rules.claims(use, NOW_S)) == [
        Claim(counter="key:k:requests", mode="window", limit=1, amount=1),
        Claim(counter="key:k:input_tokens", mode="window", limit=2, amount=10),
        Claim(counter="key:k:output_tokens", mode="window", limit=3, amount=20),
        Claim(counter="key:k:concurrent", mode="held", limit=4, amount=1),
        Claim(
            counter="key:k:cost_micros:2026-11-25",
            mode="budget",
            limit=20_000_000,
            amount=99,
            ends_s=midnight,
        ),
        Claim(counter="key:k:tokens:2026-11", mode="budget", limit=6, amount=35, ends_s=month),
    ]


@pytest.mark.parametrize(
    ("at", "period", "label", "days"),
    [
        ("2026-02-28T23:59:59+00:00", "month", "2026-02", 28),
        ("2028-02-29T00:00:00+00:00", "month", "2028-02", 29),
        ("2026-12-31T23:59:59+00:00", "month", "2026-12", 31),
        ("2026-12-31T23:59:59+00:00", "day", "2026-12-31", 1),
        ("2026-01-01T00:00:00+00:00", "day", "2026-01-01", 1),
    ],
)
def test_spans(at: str, period: str, label: str, days: int) -> None:
    now_s = dt.datetime.fromisoformat(at).timestamp()
    span = span_of(period, now_s)
    assert span.label == label
    assert span.starts_s <= now_s < span.ends_s
    assert span.ends_s - span.starts_s == days * 86_400


def test_claims_of_the_next_day_are_on_new_counters() -> None:
    rules = RuleSet(tuple(rules_of("key", "k", "ci", limits=NONE, budgets=[DAY])))
    days = [rules.claims(Use(), NOW_S + hours * 3600)[0].counter[-10:] for hours in (0, 11, 12, 36)]
    assert days == ["2026-11-25", "2026-11-25", "2026-11-26", "2026-11-27"]


# -- what is told


def rules(limits: Limits = NONE, *budgets: Budget) -> RuleSet:
    return RuleSet(tuple(rules_of("key", "apikey_1", "ci", limits=limits, budgets=budgets)))


def test_headers_show_the_rule_with_the_smallest_rest() -> None:
    of_key = rules(Limits(requests_per_minute=100, input_tokens_per_minute=1000, concurrent=3))
    of_model = rules_of(
        "model", "m", "m", limits=Limits(requests_per_minute=50, output_tokens_per_minute=70)
    )
    both = RuleSet((*of_key.rules, *of_model))
    verdict = Verdict(at_s=NOW_S + 0.5, used=(60, 1200, 49, 20, 1))
    reset = b"2026-11-25T12:01:02Z"
    assert dict(both.headers.fields(verdict.used, verdict.at_s)) == {
        b"anthropic-ratelimit-requests-limit": b"50",
        b"anthropic-ratelimit-requests-remaining": b"1",
        b"anthropic-ratelimit-requests-reset": reset,
        b"anthropic-ratelimit-input-tokens-limit": b"1000",
        b"anthropic-ratelimit-input-tokens-remaining": b"0",
        b"anthropic-ratelimit-input-tokens-reset": reset,
        b"anthropic-ratelimit-output-tokens-limit": b"70",
        b"anthropic-ratelimit-output-tokens-remaining": b"50",
        b"anthropic-ratelimit-output-tokens-reset": reset,
        b"anthropic-ratelimit-tokens-limit": b"1070",
        b"anthropic-ratelimit-tokens-remaining": b"50",
        b"anthropic-ratelimit-tokens-reset": reset,
    }


def test_budgets_alone_show_no_limits() -> None:
    assert rules(Limits(concurrent=1), DAY).headers.fields((0, 0), NOW_S) == ()


@pytest.mark.parametrize(("used", "warns"), [(15_999_999, False), (16_000_000, True)])
def test_a_budget_warns_from_its_threshold_on(used: int, warns: bool) -> None:
    warnings = budget_warnings(rules(Limits(), DAY), Verdict(at_s=NOW_S, used=(used,)))
    said = (
        'day\'s budget of key "ci": $16.00 of $20.00 used; '
        "it begins anew on 2026-11-26 at 00:00 UTC"
    )
    assert warnings == ([said] if warns else [])


REFUSALS = {
    "requests": (
        Limits(requests_per_minute=60),
        60,
        12.4,
        'key "ci" may send 60 requests per minute; try again in 13 s',
    ),
    "input": (
        Limits(input_tokens_per_minute=1000),
        900,
        3.0,
        'key "ci" may use 1,000 input tokens per minute: 100 left, and this request needs '
        "about 500; try again in 3 s",
    ),
    "one": (
        Limits(requests_per_minute=1),
        1,
        0.0,
        'key "ci" may send 1 request per minute; try again in 1 s',
    ),
    "one at work": (
        Limits(concurrent=1),
        1,
        0.0,
        'key "ci" has 1 request at work and may have 1; try again in 1 s',
    ),
    "concurrent": (
        Limits(concurrent=4),
        4,
        0.0,
        'key "ci" has 4 requests at work and may have 4; try again in 1 s',
    ),
}


@pytest.mark.parametrize(("limits", "used", "wait_s", "said"), REFUSALS.values(), ids=REFUSALS)
def test_a_limit_says_what_it_is_and_when_there_is_room(
    limits: Limits, used: int, wait_s: float, said: str
) -> None:
    verdict = Verdict(at_s=NOW_S, used=(used,), refused=(0,), retry_after_s=wait_s)
    error = refusal(rules(limits), verdict, expected=Use(input_tokens=500), contact="ops")
    assert type(error) is LimitExceeded
    assert (error.status, error.kind, error.message) == (429, "rate_limit_error", said)
    headers = dict(error_headers(error))
    assert float(headers[b"retry-after"]) >= max(1, wait_s)
    assert b"x-should-retry" not in headers


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(requests_per_minute=0), "use no requests: its limit per minute is 0"),
        (Limits(output_tokens_per_minute=0), "use no output tokens: its limit per minute is 0"),
        (Limits(concurrent=0), "have no requests at work: its limit is 0"),
    ],
)
def test_a_limit_of_0_is_not_worth_another_try(limits: Limits, said: str) -> None:
    verdict = Verdict(at_s=NOW_S, used=(0, 30_000_000), refused=(0, 1), retry_after_s=61.0)
    error = refusal(rules(limits, DAY), verdict, expected=Use(), contact="ops")
    assert (error.status, error.kind) == (429, "rate_limit_error")
    assert error.message == f'key "ci" may {said}. No waiting helps; ask ops.'
    headers = dict(error_headers(error))
    assert headers[b"x-should-retry"] == b"false"
    assert b"retry-after" not in headers


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=60), Limits(concurrent=4)])
def test_a_part_of_a_limit_says_that_it_is_one(limits: Limits) -> None:
    verdict = Verdict(at_s=NOW_S, used=(60,), refused=(0,), retry_after_s=5.0, is_alone=True)
    error = refusal(rules(limits), verdict, expected=Use(), contact="ops")
    assert "(the shared counters cannot be reached, and until they can, each" in error.message
    assert error.message.endswith("; try again in 5 s")


def test_a_part_of_a_budget_says_that_it_is_one() -> None:
    verdict = Verdict(at_s=NOW_S, used=(1,), refused=(0,), is_alone=True)
    error = refusal(rules(Limits(), DAY), verdict, expected=Use(), contact="ops")
    assert type(error) is LimitExceeded
    assert error.message.startswith('the part of the day\'s budget of key "ci" that this process')
    assert error.retry_after_s == 10.0


def test_a_used_up_budget_tells_people_all_they_need() -> None:
    verdict = Verdict(at_s=NOW_S, used=(3, 20_041_000), refused=(1,))
    mixed = rules(Limits(requests_per_minute=60), DAY)
    error = refusal(mixed, verdict, expected=Use(), contact="Ada (ops@example.com)")
    assert type(error) is BudgetExhausted
    assert (error.status, error.kind) == (429, "billing_error")
    assert error.message == (
        'The day\'s budget of key "ci" is used up: $20.04 of $20.00. To go on before it begins '
        "anew on 2026-11-26 at 00:00 UTC, ask Ada (ops@example.com)."
    )
    headers = dict(error_headers(error))
    assert headers[b"x-should-retry"] == b"false"
    assert int(headers[b"retry-after"]) == 12 * 3600
    assert headers[b"anthropic-ratelimit-requests-remaining"] == b"57"
    assert error.limit == "key cost_micros per day"


def test_a_budget_in_tokens() -> None:
    budget = Budget(period="month", tokens=1_000_000)
    verdict = Verdict(at_s=NOW_S, used=(1_000_321,), refused=(0,))
    error = refusal(rules(Limits(), budget), verdict, expected=Use(), contact="ops")
    assert "month's budget" in error.message
    assert "1,000,321 of 1,000,000 tokens" in error.message
    assert "2026-12-01" in error.message


def test_a_budget_that_is_only_held_may_be_tried_again() -> None:
    verdict = Verdict(at_s=NOW_S, used=(1,), refused=(0,))
    error = refusal(rules(Limits(), DAY), verdict, expected=Use(), contact="ops")
    assert type(error) is LimitExceeded
    assert error.retry_after_s == 2.0
    assert "is held by requests at work; try again in 2 s" in error.message


def test_a_used_up_budget_comes_before_a_limit() -> None:
    verdict = Verdict(at_s=NOW_S, used=(60, 30_000_000), refused=(0, 1), retry_after_s=9)
    mixed = rules(Limits(requests_per_minute=60), DAY)
    assert isinstance(refusal(mixed, verdict, expected=Use(), contact="ops"), BudgetExhausted)
