"""Who is left alone, why, for how long, and how it comes back; with a clock of our own."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from dragoman.core.errors import (
    GatewayError,
    InvalidRequest,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from dragoman.policy.health import CAUSES, Health, HealthEvent
from dragoman.settings import RoutingConfig


class Place(Struct, frozen=True):
    endpoint: str
    id: str


HERE = Place("lab/1", "lab/1 m")
OTHER_MODEL = Place("lab/1", "lab/1 n")
OTHER_KEY = Place("lab/2", "lab/2 m")


def failed(
    error: type[GatewayError], status: int = 0, retry_after_s: float | None = None
) -> GatewayError:
    made = error("no", retry_after_s=retry_after_s)
    made.upstream_status = status
    return made


REFUSED = failed(UpstreamUnauthorized, 401)
BROKEN = failed(UpstreamUnavailable, 500)
AWAY = failed(UpstreamUnavailable)


def health(**rules: Any) -> Health:
    return Health(RoutingConfig(**rules))


def asked(ill: Health, error: GatewayError, *, at_s: float = 0.0, times: int = 1) -> Health:
    for _ in range(times):
        ill.begin(HERE, at_s)
        ill.fail(HERE, error, at_s)
    return ill


def whom(ill: Health, now_s: float = 0.0) -> tuple[bool, bool, bool]:
    """Return who may be asked: the target, another model there, another key."""
    places = (HERE, OTHER_MODEL, OTHER_KEY)
    here, model, key = (ill.may_ask(place, now_s) for place in places)
    return here, model, key


def test_nobody_is_ill_at_first() -> None:
    assert health().is_clear
    assert whom(health()) == (True, True, True)


COOL_DOWNS: dict[str, tuple[GatewayError, float, tuple[bool, bool, bool]]] = {
    "429 for the time it names": (failed(UpstreamRateLimited, 429, 7), 7, (False, True, True)),
    "429 for the longest at most": (failed(UpstreamRateLimited, 429, 999), 60, (False, True, True)),
    "429 without a time": (failed(UpstreamRateLimited, 429), 5, (False, True, True)),
    "429 of a full engine": (failed(UpstreamOverloaded, 429, 3), 3, (False, True, True)),
    "529 for the time it names": (failed(UpstreamOverloaded, 529, 4), 4, (False, True, True)),
    "401 for all models": (REFUSED, 600, (False, False, True)),
    "402 for all models": (failed(UpstreamUnauthorized, 402), 600, (False, False, True)),
    "403 for this model": (failed(UpstreamUnauthorized, 403), 600, (False, True, True)),
    "empty account in a 400": (failed(UpstreamUnauthorized, 400), 600, (False, False, True)),
}


@pytest.mark.parametrize(("error", "for_s", "free"), COOL_DOWNS.values(), ids=COOL_DOWNS)
def test_one_error_is_enough(
    error: GatewayError, for_s: float, free: tuple[bool, bool, bool]
) -> None:
    ill = asked(health(), error, at_s=100)
    assert whom(ill, 100 + for_s - 0.01) == free
    assert whom(ill, 100 + for_s) == (True, True, True)


FAILURES: dict[str, tuple[GatewayError, tuple[bool, bool, bool]]] = {
    "500": (BROKEN, (False, True, True)),
    "503": (failed(UpstreamOverloaded, 503), (False, True, True)),
    "time-out before a byte": (failed(UpstreamTimeout), (False, True, True)),
    "504": (failed(UpstreamTimeout, 504), (False, True, True)),
    "garbage": (failed(UpstreamProtocolError, 200), (False, True, True)),
    "no connection": (AWAY, (False, False, True)),
}


@pytest.mark.parametrize(("error", "free"), FAILURES.values(), ids=FAILURES)
def test_a_series_of_failures_opens(error: GatewayError, free: tuple[bool, bool, bool]) -> None:
    ill = asked(health(), error, times=4)
    assert whom(ill) == (True, True, True)
    assert whom(asked(ill, error)) == free


NEUTRAL: dict[str, GatewayError] = {
    "400": UpstreamRejected("no"),
    "our own limit of connections": failed(UpstreamOverloaded),
    "a request of ours": InvalidRequest("x", "no"),
}


@pytest.mark.parametrize("error", NEUTRAL.values(), ids=NEUTRAL)
def test_what_says_nothing_against_it(error: GatewayError) -> None:
    assert asked(health(failures_to_open=1), error, times=3).is_clear


def test_successes_make_up_for_failures() -> None:
    ill = health()
    for _ in range(20):
        asked(ill, BROKEN)
        ill.succeed(HERE, 0)
    assert ill.is_clear
    for _ in range(4):
        asked(ill, BROKEN, times=2)
        ill.succeed(HERE, 0)
    assert not ill.may_ask(HERE, 0)


def test_a_refusal_of_the_request_is_an_answer() -> None:
    ill = asked(health(), BROKEN, times=4)
    asked(ill, UpstreamRejected("no"), times=4)
    assert ill.is_clear


def test_one_probe_at_a_time() -> None:
    ill = asked(health(), BROKEN, times=5)
    assert not ill.may_ask(HERE, 4.9)
    assert ill.may_ask(HERE, 5)
    ill.begin(HERE, 5)
    assert not ill.may_ask(HERE, 5)
    ill.succeed(HERE, 6)
    assert ill.may_ask(HERE, 6)
    assert ill.is_clear


def test_a_failed_probe_opens_for_longer_each_time() -> None:
    ill = asked(health(open_s=5, max_open_s=30), BROKEN, times=5)
    now_s = 0.0
    for wait_s in (5, 10, 20, 30, 30):
        assert not ill.may_ask(HERE, now_s + wait_s - 0.01)
        now_s += wait_s
        assert ill.may_ask(HERE, now_s)
        asked(ill, BROKEN, at_s=now_s)


def test_a_probe_whose_client_left_says_nothing() -> None:
    ill = asked(health(), REFUSED)
    ill.begin(HERE, 600)
    ill.leave(HERE)
    assert ill.may_ask(HERE, 600)
    ill.begin(HERE, 600)
    assert not ill.may_ask(HERE, 600)


def test_after_a_rate_limit_all_may_come_at_once() -> None:
    ill = asked(health(), failed(UpstreamRateLimited, 429, 5))
    ill.begin(HERE, 5)
    assert ill.may_ask(HERE, 5)


def test_rate_limits_without_a_time_grow() -> None:
    ill, now_s = health(), 0.0
    for wait_s in (5, 10, 20, 40, 60, 60):
        asked(ill, failed(UpstreamRateLimited, 429), at_s=now_s)
        assert ill.limited_for_s(HERE, now_s) == wait_s
        now_s += wait_s
    ill.succeed(HERE, now_s)
    assert ill.is_clear


def test_of_an_overload_nobody_is_told_to_wait() -> None:
    ill = asked(health(), failed(UpstreamOverloaded, 503, 9))
    assert not ill.may_ask(HERE, 8)
    assert ill.limited_for_s(HERE, 0) == 0
    ill.begin(HERE, 9)
    assert ill.may_ask(HERE, 9)


def test_a_failure_after_a_rate_limit_is_one_failure() -> None:
    ill = asked(health(), failed(UpstreamRateLimited, 429, 1))
    asked(ill, BROKEN, at_s=2, times=4)
    assert ill.may_ask(HERE, 2)
    assert not asked(ill, BROKEN, at_s=2).may_ask(HERE, 2)


def test_replies_that_had_begun_before_say_nothing() -> None:
    for error in (failed(UpstreamRateLimited, 429, 5), REFUSED, BROKEN):
        ill = asked(health(failures_to_open=1), error)
        ill.succeed(HERE, 1)
        assert not ill.may_ask(HERE, 1)


def test_calls_that_fail_together_count_once() -> None:
    told: list[HealthEvent] = []
    ill = Health(RoutingConfig(), told.append)
    asked(ill, BROKEN, times=50)
    assert told == [HealthEvent(subject=HERE.id, cause="failing", for_s=5)]
    assert ill.n_trips == {"rate_limited": 0, "overloaded": 0, "refused": 0, "failing": 1}
    assert ill.may_ask(HERE, 5)


def test_the_longer_of_two_times_holds() -> None:
    ill = asked(health(), failed(UpstreamRateLimited, 429, 9))
    asked(ill, failed(UpstreamRateLimited, 429, 2), at_s=1)
    assert ill.limited_for_s(HERE, 1) == 8
    asked(ill, failed(UpstreamRateLimited, 429, 30), at_s=1)
    assert ill.limited_for_s(HERE, 1) == 30


ERRORS: list[Callable[[Health, float], None]] = [
    lambda ill, now_s: asked(ill, BROKEN, at_s=now_s),
    lambda ill, now_s: asked(ill, AWAY, at_s=now_s),
    lambda ill, now_s: asked(ill, REFUSED, at_s=now_s),
    lambda ill, now_s: asked(ill, failed(UpstreamRateLimited, 429), at_s=now_s),
    lambda ill, now_s: ill.succeed(HERE, now_s),
    lambda ill, _: ill.leave(HERE),
    lambda ill, now_s: ill.begin(HERE, now_s),
    lambda ill, now_s: ill.limit(HERE, 3.0, now_s),
]


@given(st.lists(st.tuples(st.sampled_from(ERRORS), st.floats(0, 100)), max_size=40))
def test_another_process_that_is_told_knows_the_same(steps: list[Any]) -> None:
    follower, now_s = health(), 0.0
    times_s: list[float] = []

    def tell(event: HealthEvent) -> None:
        follower.apply(event, times_s[-1])

    leader = Health(RoutingConfig(), tell)
    for step, wait_s in steps:
        now_s += wait_s
        times_s.append(now_s)
        step(leader, now_s)
        told = {illness.subject: illness for illness in follower.illnesses(now_s)}
        assert told == {illness.subject: illness for illness in leader.illnesses(now_s)}


@given(st.lists(st.tuples(st.sampled_from(ERRORS), st.floats(0, 100)), max_size=40))
def test_nobody_is_left_alone_for_ever(steps: list[Any]) -> None:
    ill, now_s = health(), 0.0
    for step, wait_s in steps:
        now_s += wait_s
        step(ill, now_s)
    ill.leave(HERE)
    assert ill.may_ask(HERE, now_s + 600)
    assert all(illness.cause in CAUSES for illness in ill.illnesses(now_s))


def test_what_others_say_is_not_said_again() -> None:
    told: list[HealthEvent] = []
    ill = Health(RoutingConfig(), told.append)
    ill.apply(HealthEvent(subject=HERE.endpoint, cause="refused", for_s=10), 0)
    assert whom(ill) == (False, False, True)
    ill.apply(HealthEvent(subject=HERE.endpoint, cause=None), 1)
    assert ill.is_clear
    assert told == []


def test_memory_is_bounded() -> None:
    ill = health()
    for number in range(10_050):
        ill.apply(HealthEvent(subject=str(number), cause="refused", for_s=10), 0)
    assert len(list(ill.illnesses(0))) == 10_000
