"""What must hold between the settings that say where requests go; one line for each breach."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from msgspec.structs import fields

from dragoman.settings import Config, ModelConfig, UpstreamConfig
from dragoman.tables import join, unknown_name

# Addresses times keys of one upstream: each has connections and a state of health of its own.
_MAX_ENDPOINTS: Final = 256
_HEDGE_MIN_S: Final = next(f.default for f in fields(ModelConfig) if f.name == "hedge_min_s")
_T = TypeVar("_T")


def endpoint_problems(upstream: UpstreamConfig, path: str) -> Iterator[str]:
    """Yield what is wrong with the lists of addresses and keys of the upstream at *path*."""
    if upstream.base_urls and upstream.base_url not in upstream.base_urls:
        yield f"{path}.base_urls: leave base_url out, or put it into the list"
    elif not upstream.base_url:
        yield f"{path}.base_url: required"
    if upstream.api_keys and upstream.api_key is not None:
        yield f"{path}.api_keys: leave api_key out, or put it into the list"
    for name, values in (("base_urls", upstream.base_urls), ("api_keys", upstream.api_keys)):
        if (place := _repeated(values)) is not None:
            yield f"{path}.{name}[{place}]: is in the list already"
    n_endpoints = _n_endpoints_of(upstream)
    if n_endpoints > _MAX_ENDPOINTS:
        yield f"{path}: {n_endpoints} addresses times keys; at most {_MAX_ENDPOINTS}"


def choice_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with the models' upstreams in order, weights and fallbacks."""
    for alias, model in config.models.items():
        path = join("models", alias)
        yield from _table_problems(model, path)
        yield from _fallback_problems(config, alias, path)
        if model.hedge_percentile is not None and _n_endpoints(config, model) == 1:
            yield f"{path}.hedge_percentile: there is no second address, key or upstream to ask"
        if model.hedge_percentile is None and model.hedge_min_s != _HEDGE_MIN_S:
            yield f"{path}.hedge_min_s: means nothing without hedge_percentile; leave it out"


def routing_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with the times for which upstreams are left alone."""
    rules = config.routing
    for first, most in (("open_s", "max_open_s"), ("rate_limited_s", "max_rate_limited_s")):
        if getattr(rules, most) < getattr(rules, first):
            yield f"routing.{most}: less than routing.{first}; raise it, or lower the other"


def _n_endpoints_of(upstream: UpstreamConfig) -> int:
    return max(1, len(upstream.base_urls)) * max(1, len(upstream.api_keys))


def _n_endpoints(config: Config, model: ModelConfig) -> int:
    known = (config.upstreams.get(name) for name in model.upstream)
    return sum(_n_endpoints_of(upstream) for upstream in known if upstream is not None)


def _table_problems(model: ModelConfig, path: str) -> Iterator[str]:
    for field in ("priority", "weight"):
        for name in getattr(model, field):
            if name not in model.upstream:
                what = f'"{name}" is not among its upstreams'
                yield unknown_name(f"{path}.{field}", what, name=name, known=model.upstream)
    if model.balance is None and model.weight and not model.priority:
        yield f'{path}.weight: counts only among equals; add balance = "weighted"'


def _fallback_problems(config: Config, alias: str, path: str) -> Iterator[str]:
    model = config.models[alias]
    named: list[tuple[str, str | None]] = [
        *((f"{path}.fallbacks", name) for name in model.fallbacks),
        (f"{path}.long_prompt_fallback", model.long_prompt_fallback),
        (f"{path}.image_fallback", model.image_fallback),
    ]
    for place, name in named:
        if name is None:
            continue
        if name == alias:
            yield f"{place}: names the model itself"
        elif name not in config.models:
            yield unknown_name(place, f'no model "{name}"', name=name, known=config.models)
    if _repeated(model.fallbacks) is not None:
        yield f"{path}.fallbacks: names a model twice"


def _repeated(values: Sequence[_T]) -> int | None:
    """Return the place of the first value that stands in front of it already."""
    return next((i for i, value in enumerate(values) if value in values[:i]), None)
