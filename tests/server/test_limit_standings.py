"""What clients are told of their limits by answers to requests that got no further."""

from typing import Any

import pytest

from dragoman.core.errors import SharedStateUnavailable
from dragoman.limit_settings import BudgetConfig, Limits, LimitsConfig
from dragoman.policy.limits import Verdict
from dragoman.settings import KeyConfig, Secret
from dragoman.stores.limiter_memory import MemoryLimiter
from support.app_case import ASK, AppCase, error_of, run, saying
from support.fakes import FakeExchange

KEY = {b"x-api-key": b"key-of-ada-0123456789"}
LIMITS = Limits(requests_per_minute=3, input_tokens_per_minute=9000, concurrent=1)
REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "bad body": (400, {"max_tokens": -1}),
    "unknown model": (404, {"model": "nobody's"}),
    "too long": (413, {"system": "x" * 40_000}),
}


def ada(limits: Limits, *budgets: BudgetConfig) -> KeyConfig:
    key = Secret("key-of-ada-0123456789")
    return KeyConfig(name="ada", key=key, limits=limits, budgets=budgets)


def case_of(*keys: KeyConfig, limits: LimitsConfig | None = None, **more: Any) -> AppCase:
    return AppCase(
        {"lab": [saying("Hello")] * 3},
        settings={"keys": keys, "limits": limits or LimitsConfig()},
        max_body_bytes=30_000,
        clock=lambda: 1_795_608_000.0,
        **more,
    )


def left(exchange: FakeExchange) -> dict[str, str]:
    return {
        name.removeprefix(b"anthropic-ratelimit-").decode(): value.decode()
        for name, value in exchange.reply_headers.items()
        if name.startswith(b"anthropic-ratelimit-") and name.endswith(b"-remaining")
    }


@pytest.mark.parametrize(("status", "changes"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_takes_nothing_and_is_told_what_is_left(
    status: int, changes: dict[str, Any]
) -> None:
    async def main() -> None:
        case = case_of(ada(LIMITS))
        assert (await case.ask(ASK, headers=KEY)).status == 200
        standing = {
            "requests-remaining": "2",
            "input-tokens-remaining": "8997",
            "tokens-remaining": "8997",
        }
        for _ in range(4):
            exchange = await case.ask({**ASK, **changes}, headers=KEY)
            assert exchange.status == status
            assert left(exchange) == standing
        assert left(await case.ask(ASK, headers=KEY))["requests-remaining"] == "1"
        assert case.admission.n_held == 0
        await case.close()

    run(main())


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(), {}),
        (Limits(concurrent=1), {}),
        (Limits(requests_per_minute=0), {"requests-remaining": "0"}),
    ],
)
def test_who_has_no_limits_of_a_minute_is_told_nothing(
    limits: Limits, told: dict[str, str]
) -> None:
    async def main() -> None:
        case = case_of(ada(limits, BudgetConfig(period="day", tokens=5)))
        exchange = await case.ask({**ASK, "max_tokens": -1}, headers=KEY)
        assert error_of(exchange)["type"] == "invalid_request_error"
        assert left(exchange) == told
        await case.close()

    run(main())


def test_a_caller_whom_nobody_knows_is_told_nothing() -> None:
    async def main() -> None:
        case = case_of(ada(LIMITS))
        exchange = await case.ask(ASK, headers={b"x-api-key": b"wrong"})
        assert exchange.status == 401
        assert left(exchange) == {}
        await case.close()

    run(main())


class Away(MemoryLimiter):
    """Counters that cannot be reached."""

    async def reserve(self, request_id: str, claims: Any, **more: Any) -> Verdict:
        raise SharedStateUnavailable("away")


@pytest.mark.parametrize(("state", "told"), [("open", "2"), ("closed", None)])
def test_without_counters_the_error_is_the_same(state: Any, told: str | None) -> None:
    """Of what one process gives out alone there is a third: two of three count as used."""

    async def main() -> None:
        limits = LimitsConfig(when_unreachable=state, local_share_pct=67)
        case = case_of(ada(Limits(requests_per_minute=3)), limits=limits, limiter=Away())
        for _ in range(3):
            exchange = await case.ask({**ASK, "max_tokens": -1}, headers=KEY)
            assert exchange.status == 400
            assert left(exchange).get("requests-remaining") == told
        await case.close()

    run(main())
