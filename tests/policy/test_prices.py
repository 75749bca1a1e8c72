"""What a reply costs: exact, rounded once, and only where a price is known."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.usage import Usage
from dragoman.policy.prices import Prices, cost_micros, rates_of
from dragoman.settings import PriceConfig
from support.app_case import GONE as NO_CONNECTION
from support.app_case import deliver, failing, refusing, saying

MILLION = 1_000_000


def price(*models: str, **fields: Any) -> PriceConfig:
    return PriceConfig(models=models, **{"input_per_mtok": 2, "output_per_mtok": 6, **fields})


FULL = price("m", cached_input_per_mtok=0.2, cache_write_per_mtok=2.5)
COSTS = {
    "nothing": (Usage(), FULL, 0),
    "input": (Usage(input_tokens=MILLION), FULL, 2 * MILLION),
    "output": (Usage(output_tokens=MILLION), FULL, 6 * MILLION),
    "from the cache": (Usage(cache_read_input_tokens=MILLION), FULL, 200_000),
    "into the cache": (Usage(cache_creation_input_tokens=MILLION), FULL, 2_500_000),
    "a cache without a price": (
        Usage(cache_read_input_tokens=10, cache_creation_input_tokens=10),
        price("m"),
        40,
    ),
    "one token": (Usage(input_tokens=1), price("m", input_per_mtok=0.0028), 0),
    "half a micro": (Usage(input_tokens=1), price("m", input_per_mtok=0.5), 1),
    "many cheap ones": (Usage(input_tokens=1000), price("m", input_per_mtok=0.0028), 3),
    "free": (Usage(output_tokens=5), price("m", output_per_mtok=0), 0),
}


@pytest.mark.parametrize(("usage", "known", "micros"), COSTS.values(), ids=COSTS)
def test_cost(usage: Usage, known: PriceConfig, micros: int) -> None:
    assert cost_micros(usage, rates_of(known)) == micros


COUNTS = st.integers(0, 2**40)
PRICES = st.integers(0, 200_000_000).map(lambda micros: micros / MILLION)


@given(COUNTS, COUNTS, COUNTS, PRICES, PRICES, PRICES)
def test_the_cost_is_the_exact_one_rounded(
    fresh: int, cached: int, output: int, first: float, second: float, third: float
) -> None:
    usage = Usage(input_tokens=fresh, cache_read_input_tokens=cached, output_tokens=output)
    known = price("m", input_per_mtok=first, cached_input_per_mtok=second, output_per_mtok=third)
    pairs = ((fresh, first), (cached, second), (output, third))
    exact = sum(Fraction(n) * round(p * MILLION) / MILLION for n, p in pairs)
    assert abs(cost_micros(usage, rates_of(known)) - exact) <= Fraction(1, 2)


FOUND = {
    "by name": ("m", "any", 1),
    "whoever made it": ("maker/M", "any", 1),
    "another model": ("m2", "any", None),
    "a tag": ("m:free", "any", None),
    "by platform": ("p", "vendor", 2),
    "on another platform": ("p", "any", None),
    "by upstream": ("u", "mine", 3),
    "at another upstream": ("u", "any", None),
    "the first one counts": ("twice", "any", 4),
}


@pytest.mark.parametrize(("model", "upstream", "found"), FOUND.values(), ids=FOUND)
def test_find(model: str, upstream: str, found: int | None) -> None:
    prices = Prices(
        [
            price("m", input_per_mtok=1),
            price("p", input_per_mtok=2, platforms=("deepseek",)),
            price("u", input_per_mtok=3, upstreams=("mine",)),
            price("twice", input_per_mtok=4),
            price("twice", input_per_mtok=5),
        ],
        {"vendor": "deepseek", "any": "generic"},
    )
    known = prices.find(model, upstream=upstream)
    assert (known and known.fresh) == (found and found * MILLION)


@pytest.mark.parametrize("is_stream", [True, False])
def test_the_cost_is_on_the_record(is_stream: bool) -> None:
    known = price("real-m", platforms=("deepseek",))
    script = [saying("Hello", prompt=1000, output=100)]
    _, case = deliver(script, is_stream=is_stream, prices=[known])
    assert case.record["cost_micros"] == 1000 * 2 + 100 * 6
    _, case = deliver(script, is_stream=is_stream)
    assert "cost_micros" not in case.record


@pytest.mark.parametrize("script", [refusing(400), failing(NO_CONNECTION)])
def test_what_was_refused_costs_nothing(script: Any) -> None:
    _, case = deliver([script, script, script], prices=[price("real-m")])
    assert case.record["status"] >= 400
    assert "cost_micros" not in case.record
