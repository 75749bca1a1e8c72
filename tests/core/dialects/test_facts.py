"""The facts about each model are those of the reference, dated and whole."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragoman.core.dialects.facts import Family, ModelFacts
from dragoman.core.dialects.generic import GENERIC_FAMILY
from dragoman.core.dialects.platforms import PLATFORMS
from dragoman.core.dialects.registry import FAMILIES, find_profile
from dragoman.core.usage import Usage, usage_of_chat
from dragoman.wire import openai_chat
from support.turns import DONE, chunk, make_plan, read, run, sse

# Model dialects, models, 2026-11-22; figures of the vendors.
MODELS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("models.json").read_text(encoding="utf-8")
)
VENDOR = {"deepseek": "deepseek", "kimi": "moonshot", "glm": "zai", "mimo": "mimo"}
VENDOR |= {"qwen": "dashscope"}
# The detectors of SGLang, and our grammar of the same form.
PARSERS = {
    "deepseekv3": "deepseek_v3",
    "deepseekv31": "deepseek_v31",
    "deepseekv32": "deepseek_dsml",
    "deepseekv4": "deepseek_dsml",
    "deepseekv41": "deepseek_dsml",
    "qwen3_coder": "qwen3_coder",
    "qwen25": "hermes",
    "kimi_k2": "kimi_k2",
    "kimi_k3": "kimi_k3",
    "glm45": "glm",
    "glm47": "glm",
    "mimo": "mimo",
}
OWN = [family for family in FAMILIES if family is not GENERIC_FAMILY]


def entry(name: str) -> tuple[Family, ModelFacts]:
    [found] = [(f, m) for f in FAMILIES for m in f.models if name in m.ids]
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_entry_of_a_model(name: str) -> None:
    figures, (family, model) = MODELS[name], entry(name)
    assert family.name == figures["family"]
    assert list(model.inputs) == figures["inputs"]
    profile = find_profile(name, platform="generic")
    assert profile.name == model.name, "the id leads to its own entry"
    assert profile.sees_images == ("image" in model.inputs)
    if figures["thinking"] == "toggle":
        assert model.thinks_by_default is figures["thinks_by_default"]
    else:
        assert model.thinks_by_default is None


@pytest.mark.parametrize("name", MODELS)
def test_the_profile_at_the_vendor(name: str) -> None:
    figures = MODELS[name]
    profile = find_profile(name, platform=VENDOR[figures["family"]])
    # "preserved": only where the model is told to, which Qwen3.8 is by default.
    echoes = {"preserved": "always" if name.startswith("qwen3.8") else "never"}
    assert profile.echo_reasoning == echoes.get(figures["echo"], figures["echo"])
    assert profile.top_p_min == (figures["top_p_min"] or profile.top_p_min)
    assert profile.thinking_budget_field == figures["budget_field"]
    assert PARSERS[figures["parser"]] in profile.tool_text or not profile.has_tools
    assert (profile.tool_call_ids == "kimi") is figures["kimi_ids"]
    if figures["family"] != "qwen":  # there it depends on the model, and nobody says on which
        strongest = (figures["response_formats"] or ["json_object"])[-1]
        assert profile.response_format == strongest


@pytest.mark.parametrize("name", MODELS)
def test_what_a_vendor_sends_is_read_for_every_model(name: str) -> None:
    figures = MODELS[name]
    profile = find_profile(name, platform=VENDOR[figures["family"]])
    for finish in ("stop", "length", "tool_calls", *figures["finish_reasons"]):
        ended = run([sse(chunk(content="Hi"), chunk(finish), DONE)], make_plan(profile=profile))
        message = read(ended)
        assert message.stop_reason or message.error
        assert "unknown" not in (message.error or {}).get("message", "")
    for path in figures["cached"]:
        counts: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 1}
        *outer, last = path.split(".")[1:]
        counts |= {outer[0]: {last: 4}} if outer else {last: 4}
        usage = usage_of_chat(msgspec.convert(counts, openai_chat.Usage), Usage())
        assert (usage.input_tokens, usage.cache_read_input_tokens) == (6, 4)


def test_all_models_are_listed_once() -> None:
    ids = [name for family in FAMILIES for model in family.models for name in model.ids]
    assert sorted(ids) == sorted(MODELS)


@pytest.mark.parametrize("family", OWN, ids=[family.name for family in OWN])
def test_sources_are_dated(family: Family) -> None:
    assert len(family.sources) >= 3
    for source in family.sources:
        assert re.fullmatch(r"2026-\d\d(-\d\d)?", source.read), source.what
        assert source.what


def test_platforms_of_the_reference_are_known() -> None:
    assert set(VENDOR.values()) <= set(PLATFORMS)
