"""Write docs/reference/models.md from the profiles: ``python tools/make_models_page.py``."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from dragoman.core.dialects.facts import Family, ModelFacts
from dragoman.core.dialects.platforms import PLATFORMS
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.dialects.registry import FAMILIES, find_profile
from dragoman.core.thinking import can_stop_thinking
from dragoman.policy.prices import Prices
from dragoman.presets import load_catalog
from dragoman.price_files import read_prices
from dragoman.settings import PriceConfig

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "reference" / "models.md"
# Where each family's own API is spoken; Qwen's is DashScope, which serves others, too.
VENDORS: Final = {
    "deepseek": "deepseek",
    "qwen": "dashscope",
    "kimi": "moonshot",
    "glm": "zai",
    "mimo": "mimo",
}
TITLES: Final = {
    "deepseek": "DeepSeek",
    "qwen": "Qwen",
    "kimi": "Kimi",
    "glm": "GLM",
    "mimo": "MiMo",
}
NATIVE: Final = "native"
QUIET: Final = "native, thinking off"  # for that turn
EMULATED: Final = "emulated"
NEVER: Final = "not possible"
_HEAD: Final = """\
<!-- Written by tools/make_models_page.py from src/dragoman/core/dialects and prices.toml. -->

# Models and platforms

What is known of each model, and what becomes of what a client may ask for. The tables about models
are for the vendor's own platform, and for [KSPMAS](#kingsoft-cloud-kspmas), which serves all of
the families; what other platforms and engines do differently is in [the last
one](#platforms-and-engines). Models that are not listed here get what their name says of their
family, or the cautious facts of a model that nobody knows. `[models.NAME.profile]` [changes any
fact](configuration.md#profile).

| Status | Meaning |
| --- | --- |
| native | the upstream is asked for it, in its own words |
| native, thinking off | the same, but the model does not think in that turn: it is refused else |
| emulated | the gateway does it, or asks the model for it |
| not possible | dropped; the reply's header `x-dragoman-adjustments` and the log say so |

Whatever the model: counts of tokens are read wherever they come (in the last chunk, behind it, in
every chunk, inside the choice), reasoning in whichever field, finish reasons by one table; and
calls that come as text are found in the forms named here. An estimate of tokens is measured where
[a tokenizer](../explanation/counting-tokens.md) could be had to fit it to. Prices are in US dollars
for a million tokens of input, cached input and output, [with dates](configuration.md#prices).
"""


def _forced(profile: DialectProfile, *, is_named: bool) -> str:
    how = profile.forced_tools
    if not profile.has_tools:
        return NEVER
    must_stop = profile.forced_tools_need_no_thinking and profile.thinking != "never"
    if must_stop and not can_stop_thinking(profile):
        return EMULATED
    if how == "hint" or how == ("required_only" if is_named else "named_only"):
        return EMULATED
    binding = EMULATED if how == "json_schema" else NATIVE
    return QUIET if must_stop and binding == NATIVE else binding


def _thinking(profile: DialectProfile) -> str:
    return NATIVE if profile.thinking_switch != "none" and profile.thinking != "never" else NEVER


def _budget(profile: DialectProfile) -> str:
    if profile.thinking_budget_field is not None:
        return NATIVE
    return EMULATED if profile.effort_values else NEVER


def _takes_temperature(profile: DialectProfile) -> bool:
    always_thinks = profile.thinking == "always"
    return profile.temperature_max is not None and (
        profile.temperature_in_thinking or not always_thinks
    )


def _measured(profile: DialectProfile) -> str:
    return "measured" if profile.vocabulary != "unknown" else "unmeasured"


def _if(condition: bool, otherwise: str) -> str:
    return NATIVE if condition else otherwise


FEATURES: Final[dict[str, Callable[[DialectProfile], str]]] = {
    "thinking on and off": _thinking,
    "effort": lambda p: _if(bool(p.effort_values), NEVER),
    "thinking budget": _budget,
    "earlier thinking goes back": lambda p: _if(p.echo_reasoning != "never", NEVER),
    "a tool, `any`": lambda p: _forced(p, is_named=False),
    "a tool, by name": lambda p: _forced(p, is_named=True),
    "no tool": lambda p: NEVER if not p.has_tools else _if(p.forced_tools != "hint", EMULATED),
    "one call at a time": lambda p: (
        NEVER if not p.has_tools else _if(p.parallel_tool_calls_field, EMULATED)
    ),
    "stop sequences": lambda p: _if(p.reports_stop, EMULATED),
    "temperature": lambda p: _if(_takes_temperature(p), NEVER),
    "top_p": lambda p: _if(p.top_p, NEVER),
    "top_k": lambda p: _if(p.top_k, NEVER),
    "structured output": lambda p: _if(p.response_format == "json_schema", EMULATED),
    "images": lambda p: _if(p.sees_images, NEVER),
    "prefill": lambda p: _if(p.prefill != "hint", EMULATED),
    "exact token counts": lambda p: _if(p.count_tokens != "none", EMULATED),
}


def listed_models(family: Family) -> list[tuple[str, ModelFacts]]:
    """Return the ids of a family with their facts, in the order of the family."""
    return [(name, model) for model in family.models for name in model.ids]


def render_page() -> str:
    """Return the page."""
    prices, _ = read_prices(None)
    hosts = [*PLATFORMS, *(name for price in prices for name in price.upstreams)]
    book = Prices(prices, {name: name for name in hosts})
    parts = [_HEAD]
    parts += [_family(family, book, hosts) for family in FAMILIES if family.name in VENDORS]
    parts += [_kspmas(), _platforms()]
    return "\n".join(parts)


def _family(family: Family, book: Prices, hosts: list[str]) -> str:
    models = listed_models(family)
    platform = VENDORS[family.name]
    profiles = {name: find_profile(name, platform=platform) for name, _ in models}
    rows = [
        (*_figures(name, facts, profiles[name]), _price(name, book, hosts))
        for name, facts in models
    ]
    head = ("model", "window", "output", "takes", "thinking", "calls as text", "estimate", "price")
    tokenizer = family.tokenizer or "none that a package carries: counts are estimates, unmeasured"
    lines = [f"## {TITLES[family.name]}", "", f"Platform `{platform}`. Tokenizer: {tokenizer}.", ""]
    lines += [*_table(head, rows), ""]
    lines += [*_features(profiles), "", "Sources:", ""]
    lines += [f"- {source.what} ({source.read})" for source in family.sources]
    return "\n".join([*lines, ""])


def _figures(name: str, facts: ModelFacts, profile: DialectProfile) -> tuple[str, ...]:
    return (
        f"`{name}`",
        _count(profile.context_window),
        _count(profile.max_output_tokens),
        ", ".join(facts.inputs),
        _thinking_words(facts, profile),
        ", ".join(f"`{grammar}`" for grammar in profile.tool_text) if profile.has_tools else "-",
        _measured(profile),
    )


def _thinking_words(facts: ModelFacts, profile: DialectProfile) -> str:
    if profile.thinking != "toggle":
        return profile.thinking
    return "on by default" if facts.thinks_by_default else "off by default"


def _price(name: str, book: Prices, hosts: list[str]) -> str:
    for host in hosts:
        if (price := book.find_price(name, upstream=host)) is not None:
            return _price_words(price, host)
    return "unknown"


def _price_words(price: PriceConfig, host: str) -> str:
    figures = (price.input_per_mtok, price.cached_input_per_mtok, price.output_per_mtok)
    shown = " / ".join("-" if figure is None else f"{figure:g}" for figure in figures)
    return f"{shown} ({host}, {price.date})"


def _kspmas() -> str:
    served = load_catalog().presets["kspmas"].models.values()
    lines = ["## Kingsoft Cloud KSPMAS", ""]
    lines += [
        "Windows, outputs and what a model takes are as above; what it costs there is not known."
    ]
    for family in FAMILIES:
        names = [name for name, _ in listed_models(family) if name in served]
        if names:
            profiles = {name: find_profile(name, platform="kspmas") for name in names}
            lines += ["", f"### {TITLES[family.name]} at KSPMAS", "", *_features(profiles)]
    return "\n".join([*lines, ""])


def _platforms() -> str:
    profiles = {name: find_profile("a-model-nobody-knows", platform=name) for name in PLATFORMS}
    lines = ["## Platforms and engines", "", "For a model that nobody knows. A family's own facts"]
    lines += ["stand below those of the platform.", ""]
    return "\n".join([*lines, *_features(profiles), ""])


def _features(profiles: dict[str, DialectProfile]) -> list[str]:
    rows = [(name, *map(status, profiles.values())) for name, status in FEATURES.items()]
    return _table(("asked for", *(f"`{name}`" for name in profiles)), rows)


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> list[str]:
    titles = tuple(head)
    lines = [titles, ("---",) * len(titles), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
