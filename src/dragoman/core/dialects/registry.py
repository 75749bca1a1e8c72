"""
A model's name and where it is served -> its profile.

Later facts stand above earlier ones: generic, weights, vendor (where the vendor's own API is
spoken), platform, model on that platform, overrides of the configuration.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from dragoman.core.dialects.deepseek import DEEPSEEK
from dragoman.core.dialects.facts import Family, ModelFacts, PlatformFacts
from dragoman.core.dialects.generic import GENERIC_FAMILY
from dragoman.core.dialects.glm import GLM
from dragoman.core.dialects.kimi import KIMI
from dragoman.core.dialects.mimo import MIMO
from dragoman.core.dialects.platforms import PLATFORMS
from dragoman.core.dialects.profile import DialectProfile, ThinkingSwitch
from dragoman.core.dialects.qwen import QWEN

# DeepSeek first: its distilled models carry the name of the family they were made from, too.
FAMILIES: Final = (DEEPSEEK, KIMI, GLM, MIMO, QWEN, GENERIC_FAMILY)

_MAX_NAME: Final = 200  # a longer one is no model's name, and matching should not cost
_COMPILED: Final = tuple(
    (family, model, re.compile(rf"(?<![a-z0-9])(?:{model.pattern})"))
    for family in FAMILIES
    for model in family.models
)


def find_profile(
    model: str, *, platform: str, overrides: Mapping[str, Any] | None = None
) -> DialectProfile:
    """
    Return what is known of *model* on *platform*; an unknown model gets the generic facts.

    Args:
        model: The upstream's name for it, with whatever makers, tags and suffixes it carries.
        platform: A name of ``PLATFORMS``; any other counts as generic.
        overrides: Fields that the configuration sets, already checked.
    """
    host = PLATFORMS.get(platform, PLATFORMS["generic"])
    found = _find(model)
    values = _compose(found, host, platform=platform) if found else _unknown(host)
    label = found[1].name if found else "this model"
    values["name"] = label if platform == "generic" else f"{label} on {platform}"
    return DialectProfile(**{**values, **(overrides or {})})


def is_known(model: str) -> bool:
    """Return whether the name of *model* says anything about it."""
    return _find(model) is not None


def family_names() -> tuple[str, ...]:
    """Return the names of the families; each says something of a model by itself."""
    return tuple(family.name for family in FAMILIES if family is not GENERIC_FAMILY)


def model_names() -> tuple[str, ...]:
    """Return the models of all families, by their usual ids."""
    return tuple(name for family in FAMILIES for model in family.models for name in model.ids)


def _find(model: str) -> tuple[Family, ModelFacts] | None:
    """
    Return the facts for a name like ``Pro/deepseek-ai/DeepSeek-V3.1-FP8:free``.

    A tag may say which model it is: ``qwen3:235b-a22b-thinking-2507``.
    """
    name = model[-_MAX_NAME:].casefold().rstrip("/").rsplit("/", 1)[-1].replace(":", "-")
    for family, facts, pattern in _COMPILED:
        if pattern.search(name):
            return family, facts
    return None


def _compose(
    found: tuple[Family, ModelFacts], host: PlatformFacts, *, platform: str
) -> dict[str, Any]:
    family, model = found
    values: dict[str, Any] = {**family.weights, **model.weights}
    if platform in family.platforms:
        values |= {**family.vendor, **model.vendor}
    values |= host.facts
    thinks = values.get("thinking") in {"toggle", "always"}
    if thinks:
        values |= host.thinking_facts
    values |= model.hosts.get(platform, {})
    if values.get("thinking") == "toggle" or (thinks and host.switch == "openrouter"):
        values["thinking_switch"] = _switch(family, host)
    return values


def _switch(family: Family, host: PlatformFacts) -> ThinkingSwitch:
    if host.switch == "vendor":
        return family.vendor_switch
    return family.template_switch if host.switch == "template" else host.switch


def _unknown(host: PlatformFacts) -> dict[str, Any]:
    """Return the platform's facts; of the switches only OpenRouter's own fits every model."""
    values = dict(host.facts)
    if host.switch == "openrouter":
        values["thinking_switch"] = "openrouter"
    return values
