"""Token counts -> integer micro-units of money. Prices are data; who reads them is elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from dragoman.core.usage import Usage
from dragoman.settings import PriceConfig

_TOKENS: Final = 1_000_000  # that a price is for
_MAX_FOUND: Final = 4_096  # models whose price is at hand
_MICROS: Final = 1_000_000  # of the currency's unit


class Rates(Struct, frozen=True, gc=False):
    """What a million tokens cost, in millionths of a dollar: fresh, cached, written, of replies."""

    fresh: int
    cached: int
    written: int
    output: int


_NOT_SOUGHT: Final = Rates(0, 0, 0, 0)


class Prices:
    """
    What models cost where.

    Args:
        prices: The first one that fits counts.
        platforms: Of the upstreams, by their names.
    """

    def __init__(
        self, prices: Sequence[PriceConfig] = (), platforms: Mapping[str, str] | None = None
    ) -> None:
        self._platforms = platforms or {}
        self._prices: dict[str, list[PriceConfig]] = {}
        self._found: dict[tuple[str, str], Rates | None] = {}
        for price in prices:
            for model in price.models:
                self._prices.setdefault(_plain(model), []).append(price)

    def find(self, model: str, *, upstream: str) -> Rates | None:
        """Return the rates of *model* at *upstream*; None: they are not known."""
        found = self._found.get((model, upstream), _NOT_SOUGHT)
        if found is _NOT_SOUGHT:
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            price = self.find_price(model, upstream=upstream)
            found = self._found[model, upstream] = None if price is None else rates_of(price)
        return found

    def find_price(self, model: str, *, upstream: str) -> PriceConfig | None:
        """Return the same as it was written down."""
        platform = self._platforms.get(upstream, "")
        for price in self._prices.get(_plain(model), ()):
            is_anywhere = not (price.platforms or price.upstreams)
            if is_anywhere or upstream in price.upstreams or platform in price.platforms:
                return price
        return None


def rates_of(price: PriceConfig) -> Rates:
    """Return a price in whole numbers; what it does not say of a cache costs what is fresh."""
    fresh = _micros(price.input_per_mtok)
    cached, written = price.cached_input_per_mtok, price.cache_write_per_mtok
    return Rates(
        fresh,
        fresh if cached is None else _micros(cached),
        fresh if written is None else _micros(written),
        _micros(price.output_per_mtok),
    )


def cost_micros(usage: Usage, rates: Rates) -> int:
    """Return what *usage* costs in millionths of a dollar, rounded once, half up."""
    exact = (
        usage.input_tokens * rates.fresh
        + usage.cache_read_input_tokens * rates.cached
        + usage.cache_creation_input_tokens * rates.written
        + usage.output_tokens * rates.output
    )
    return (exact + _TOKENS // 2) // _TOKENS


def _micros(price: float) -> int:
    return round(price * _MICROS)


def _plain(model: str) -> str:
    """Return a model's name without its maker; a tag like ``:free`` makes it another one."""
    return model.casefold().rstrip("/").rsplit("/", 1)[-1]
