"""Which failures are tried again, and when."""

import pytest

from dragoman.core.errors import (
    GatewayError,
    InvalidRequest,
    PromptTooLong,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from dragoman.policy.retries import may_try_next, retry_delay_s


def of_status(error: GatewayError, status: int) -> GatewayError:
    error.upstream_status = status
    return error


AGAIN = {
    "no connection, or a reset before any byte": UpstreamUnavailable("x"),
    "502": of_status(UpstreamUnavailable("x"), 502),
    "503": of_status(UpstreamOverloaded("x"), 503),
    "529": of_status(UpstreamOverloaded("x"), 529),
    "out of resources in a stream without content": of_status(UpstreamOverloaded("x"), 200),
    "429 with a short wait": UpstreamRateLimited("x", retry_after_s=2),
    "429 of a full engine, with a short wait": of_status(
        UpstreamOverloaded("x", retry_after_s=1), 429
    ),
}
NOT_AGAIN = {
    "500": of_status(UpstreamUnavailable("x"), 500),
    "reset inside a reply": of_status(UpstreamUnavailable("x"), 200),
    "429": UpstreamRateLimited("x"),
    "429 with a long wait": UpstreamRateLimited("x", retry_after_s=2.5),
    "429 of a full engine": of_status(UpstreamOverloaded("x"), 429),
    "time-out": UpstreamTimeout("x"),
    "refused": UpstreamRejected("x"),
    "our key": UpstreamUnauthorized("x"),
    "garbage": UpstreamProtocolError("x"),
    "prompt too long": PromptTooLong(3, 2),
}
ELSEWHERE = {"429", "429 with a long wait", "500", "reset inside a reply", "time-out"}
ELSEWHERE |= {"our key", "garbage", "429 of a full engine"}


@pytest.mark.parametrize("error", AGAIN.values(), ids=AGAIN)
def test_again(error: GatewayError) -> None:
    assert retry_delay_s(error, 1, jitter=0.5) is not None
    assert may_try_next(error)


@pytest.mark.parametrize(("name", "error"), NOT_AGAIN.items(), ids=NOT_AGAIN)
def test_not_again(name: str, error: GatewayError) -> None:
    assert retry_delay_s(error, 1, jitter=0.5) is None
    assert may_try_next(error) is (name in ELSEWHERE)


def test_the_client_s_own_mistakes_are_tried_nowhere() -> None:
    assert not may_try_next(InvalidRequest("model", "x"))


def test_delays_grow_and_differ() -> None:
    error = UpstreamUnavailable("x")
    assert [retry_delay_s(error, n, jitter=0.5) for n in (1, 2, 3)] == [0.25, 0.5, 1.0]
    assert retry_delay_s(error, 1, jitter=0.0) == 0.125
    assert retry_delay_s(error, 1, jitter=1.0) == 0.375


def test_the_upstream_s_own_wait_is_kept() -> None:
    assert retry_delay_s(UpstreamOverloaded("x", retry_after_s=3), 1, jitter=0.5) == 3
    assert retry_delay_s(UpstreamRateLimited("x", retry_after_s=1), 1, jitter=1.0) == 1.1
