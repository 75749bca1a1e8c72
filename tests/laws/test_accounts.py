"""Whatever becomes of a request: limits, records and metrics count the same tokens and money."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.usage import Usage
from dragoman.limit_settings import BudgetConfig, Limits
from dragoman.settings import KeyConfig, PriceConfig, Secret
from support.app_case import (
    ASK,
    GONE,
    LATE,
    NATIVE_BEGUN,
    RESET,
    AppCase,
    Script,
    chunk,
    exchange_of,
    failing,
    native_saying,
    refusing,
    run,
    saying,
)
from support.fakes import data, fail, head

KEY = b"key-of-ada-0123456789"
ADA = KeyConfig(
    name="ada",
    key=Secret(KEY.decode()),
    limits=Limits(concurrent=9, output_tokens_per_minute=10**6),
    budgets=(BudgetConfig(period="day", cost_usd=1e6),),
)
PRICE = PriceConfig(models=("real-m",), input_per_mtok=1e3, output_per_mtok=1e4)
PLANS: dict[str, dict[str, Any]] = {
    "one after the other": {},
    "two at once": {"hedge_percentile": 90.0, "hedge_min_s": 0.01},
    "joined": {"join_resends": True},
}
SOON = 0.02
NEVER = 30.0
FAILURES: list[Script] = [failing(GONE), failing(LATE), refusing(503), refusing(400), [NEVER]]
CHAT: list[Script] = [
    saying("Hello"),
    [SOON, *saying("Hello, late")],
    [head(), data(chunk(content="Hello, all of you")), SOON, fail(RESET)],
    [head(), data(chunk(content="Hello, all of you")), NEVER],
]
NATIVE: list[Script] = [
    [head(), NATIVE_BEGUN, SOON, fail(RESET)],
    [head(), NATIVE_BEGUN, NEVER],
    [head(), NATIVE_BEGUN, SOON, *native_saying(True)[1:]],
]


def scripts(own: list[Script]) -> st.SearchStrategy[list[Script]]:
    return st.lists(st.sampled_from([*own, *own, *FAILURES]), min_size=12, max_size=12)


async def account(case: AppCase, leaves_after_s: list[float], *, is_stream: bool) -> list[Usage]:
    """Send requests, leave each after a while; return what was settled of them."""
    settled: list[Usage] = []
    settle = case.admission.settle

    def note(*args: Any, usage: Usage | None, cost_micros: int | None) -> None:
        settled.append(usage or Usage())
        settle(*args, usage=usage, cost_micros=cost_micros)

    case.admission.settle = note

    async def one(after_s: float) -> None:
        exchange = exchange_of({**ASK, "stream": is_stream}, headers={b"x-api-key": KEY})
        task = asyncio.create_task(case.app.handle(exchange))
        await asyncio.wait([task], timeout=after_s)
        exchange.leave()
        await task

    async with asyncio.timeout(20):
        await asyncio.gather(*map(one, leaves_after_s))
    await case.close()
    return settled


def total(samples: list[Any], name: str) -> float:
    return sum(sample.value for sample in samples if sample.name == name)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@settings(max_examples=40)
@given(
    lab=scripts(CHAT),
    native=scripts(NATIVE),
    leaves_after_s=st.lists(st.sampled_from([0.0, 0.01, 0.03, 0.08]), min_size=1, max_size=3),
    is_stream=st.booleans(),
)
def test_all_accounts_agree(
    plan: dict[str, Any],
    lab: list[Script],
    native: list[Script],
    leaves_after_s: list[float],
    is_stream: bool,
) -> None:
    case = AppCase(
        {"lab": lab, "native": native},
        options={"lab": {"retries": 0}, "native": {"retries": 0}, "model": plan},
        settings={"keys": (ADA,)},
        prices=[PRICE],
        routing={"failures_to_open": 1000},
    )
    for _ in range(20):
        case.load.observe("lab real-m", 0.001, 0.0)
    settled = run(account(case, leaves_after_s, is_stream=is_stream))
    samples = [*case.metrics.samples()]
    names = ("input_tokens", "output_tokens")
    recorded = sum(record.get(name, 0) for record in case.records for name in names)
    assert len(case.records) == len(leaves_after_s)
    assert recorded == sum(each.prompt_tokens + each.output_tokens for each in settled)
    assert recorded == total(samples, "dragoman_tokens_total")
    cost_micros = sum(record.get("cost_micros") or 0 for record in case.records)
    assert cost_micros == pytest.approx(total(samples, "dragoman_cost_dollars_total") * 1e6)
    assert case.admission.n_held == 0
