"""Every model of the reference gets its facts, by any spelling of its name, on any platform."""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.dialects.platforms import PLATFORMS
from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.dialects.registry import FAMILIES, find_profile, is_known
from dragoman.settings import Platform

# Model dialects, models, 2026-11-22; figures of the vendors.
MODELS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("models.json").read_text(encoding="utf-8")
)
VENDOR = {"deepseek": "deepseek", "kimi": "moonshot", "glm": "zai", "mimo": "mimo"}
VENDOR |= {"qwen": "dashscope"}
THINKING = {"none": "never", "toggle": "toggle", "always": "always"}


def vendor_profile(model: str) -> DialectProfile:
    return find_profile(model, platform=VENDOR[MODELS[model]["family"]])


def test_the_reference_has_all_models() -> None:
    assert len(MODELS) == 35


@pytest.mark.parametrize("model", MODELS)
def test_facts_of_the_reference(model: str) -> None:
    facts, profile = MODELS[model], vendor_profile(model)
    assert profile.context_window == facts["context_window"]
    assert profile.max_output_tokens == facts["max_output"] or facts["max_output"] is None
    assert profile.sees_images == facts["images"]
    assert profile.thinking == THINKING[facts["thinking"]]
    assert profile.effort_values == tuple(facts["effort_values"] or ())
    if facts["stop_max"]:
        assert profile.max_stop_sequences == facts["stop_max"]
    if facts["temperature_max"] == "fixed" or str(facts["temperature_max"]).startswith("fixed"):
        assert profile.temperature_max is None
        assert not profile.top_p
    elif facts["temperature_max"] is not None:
        assert profile.temperature_max is not None
        assert facts["temperature_max"] - 0.01 <= profile.temperature_max
        assert profile.temperature_max <= facts["temperature_max"]


@pytest.mark.parametrize("model", MODELS)
def test_no_refused_way_of_forcing_a_tool(model: str) -> None:
    """A forced choice goes upstream only where the vendor takes it, thinking or not."""
    facts, profile = MODELS[model], vendor_profile(model)
    if profile.forced_tools in {"native", "named_only"} and profile.has_tools:
        thinking_is_off = profile.forced_tools_need_no_thinking or facts["thinking"] == "none"
        always = profile.forced_tools_need_no_thinking and facts["thinking"] == "always"
        assert always or "named" in facts["forces_tools"]
        assert (
            always
            or thinking_is_off
            or "named" in facts["forces_tools_thinking"]
            or (
                facts["forces_tools_thinking"] == []  # V3.1: nothing is known of its thinking mode
            )
        )
        if profile.forced_tools == "native":
            assert always or "required" in facts["forces_tools"]


@pytest.mark.parametrize(
    ("model", "platform", "switch"),
    [
        ("deepseek-v3.2", "deepseek", "thinking_type"),
        ("deepseek-v3.1", "kspmas", "thinking_type"),
        ("deepseek-v3.1", "vllm", "template_thinking"),
        ("deepseek-v3.1", "dashscope", "enable_thinking"),
        ("deepseek-v3.1", "ark", "thinking_type"),
        ("deepseek-v3.1", "generic", "thinking_type"),
        ("qwen3-32b", "generic", "enable_thinking"),
        ("anything", "generic", "none"),
        ("deepseek-v3-0324", "deepseek", "none"),
        ("deepseek-r1-0528", "vllm", "none"),
        ("deepseek-r1-0528", "openrouter", "openrouter"),
        ("qwen3.8-max", "dashscope", "enable_thinking"),
        ("qwen3-32b", "llamacpp", "template_enable_thinking"),
        ("qwen3-32b", "siliconflow", "enable_thinking"),
        ("kimi-k2.5", "moonshot", "thinking_type"),
        ("kimi-k2.5", "sglang", "template_thinking"),
        ("kimi-k3", "moonshot", "none"),
        ("glm-4.7", "bigmodel", "thinking_type"),
        ("glm-4.7", "vllm", "template_enable_thinking"),
        ("glm-4.7", "siliconflow", "enable_thinking"),
        ("glm-5.3", "zai", "none"),
        ("mimo-v2-flash", "mimo", "thinking_type"),
        ("mimo-v2-flash", "sglang", "template_enable_thinking"),
        ("anything", "openrouter", "openrouter"),
        ("anything", "vllm", "none"),
        ("deepseek-v3.2", "ollama", "effort_none"),
        ("qwen3:32b", "ollama", "effort_none"),
        ("kimi-k2-thinking:cloud", "ollama", "none"),
    ],
)
def test_thinking_switch_by_platform(model: str, platform: str, switch: str) -> None:
    assert find_profile(model, platform=platform).thinking_switch == switch


@pytest.mark.parametrize(
    ("spelling", "model"),
    [
        ("deepseek-ai/DeepSeek-V3.1", "deepseek-v3.1"),
        ("deepseek/deepseek-chat-v3.1:free", "deepseek-v3.1"),
        ("deepseek-v3.1-terminus", "deepseek-v3.1"),
        ("accounts/fireworks/models/deepseek-v3p1", "deepseek-v3.1"),
        ("Pro/deepseek-ai/DeepSeek-V3.2-Exp", "deepseek-v3.2"),
        ("deepseek-v3-2-251201", "deepseek-v3.2"),
        ("deepseek-reasoner", "deepseek-r1-0528"),
        ("deepseek-r1:70b", "deepseek-r1-0528"),
        ("deepseek.v3.1", "deepseek-v3.1"),
        ("us.deepseek.r1-v1:0", "deepseek-r1-0528"),
        ("deepseek_v3.2", "deepseek-v3.2"),
        ("qwen3:235b-a22b-thinking-2507-q4_K_M", "qwen3-235b-a22b-thinking-2507"),
        ("qwen3-coder:480b-cloud", "qwen3-coder-480b-a35b-instruct"),
        ("k3.1-pro", "kimi-k3"),
        ("deepseek-chat", "deepseek-v3-0324"),
        ("deepseek-v4-flash-0731", "deepseek-flash"),
        ("deepseek/deepseek-v4.1-flash", "deepseek-flash"),
        ("deepseek-v4-pro-0813", "deepseek-v4-pro"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "qwen3-coder-480b-a35b-instruct"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b-instruct-2507"),
        ("qwen/qwen3-235b-a22b-2507", "qwen3-235b-a22b-instruct-2507"),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", "qwen3-235b-a22b-thinking-2507"),
        ("unsloth/Qwen3-235B-A22B-Instruct-2507-GGUF:Q4_K_M", "qwen3-235b-a22b-instruct-2507"),
        ("moonshotai/kimi-k2", "kimi-k2-0905-preview"),
        ("moonshotai/Kimi-K2-Instruct-0905", "kimi-k2-0905-preview"),
        ("moonshotai/Kimi-K2-Thinking", "kimi-k2-thinking"),
        ("kimi-k2-thinking-251104", "kimi-k2-thinking"),
        ("kimi-k2-5-260127", "kimi-k2.5"),
        ("kimi-k2.7-code-highspeed", "kimi-k2.7-code"),
        ("zai-org/GLM-4.6-FP8", "glm-4.6"),
        ("glm-4-7-251222", "glm-4.7"),
        ("glm-4.7[1m]", "glm-4.7"),
        ("z-ai/glm-5.3-flash", "glm-5.3-flash"),
        ("XiaomiMiMo/MiMo-V2-Flash", "mimo-v2-flash"),
        ("claude-glm-4.7", "glm-4.7"),
    ],
)
def test_spellings(spelling: str, model: str) -> None:
    assert is_known(spelling)
    expected = find_profile(model, platform="kspmas")
    assert find_profile(spelling, platform="kspmas") == expected


@pytest.mark.parametrize("name", ["DeepSeek-R1-0528-Qwen3-8B", "deepseek-r1-distill-llama-70b"])
def test_distilled_models_have_anothers_tokens_and_limits(name: str) -> None:
    profile = find_profile(name, platform="vllm")
    assert (profile.thinking, profile.vocabulary) == ("always", "unknown")
    assert (profile.context_window, profile.max_output_tokens) == (None, None)


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("deepseek-v5-pro", "deepseek-v4-pro"),
        ("moonshotai/kimi-k4", "kimi-k3"),
        ("glm-6", "glm-5.2"),
        ("mimo-v3-pro", "mimo-v2.6-pro"),
        ("xiaomi/mimo-v2-pro", "mimo-v2.6-pro"),
        ("Qwen/Qwen4-480B", "qwen3.7-max"),
    ],
)
def test_models_to_come_behave_like_the_latest_without_limits(name: str, like: str) -> None:
    for platform in ("kspmas", "vllm"):
        found, latest = (find_profile(n, platform=platform) for n in (name, like))
        assert (found.context_window, found.max_output_tokens) == (None, None)
        for fact in ("thinking", "thinking_switch", "echo_reasoning", "tool_text", "vocabulary"):
            assert getattr(found, fact) == getattr(latest, fact), fact
        assert found.reasoning_placeholder == latest.reasoning_placeholder


@pytest.mark.parametrize("name", ["qwen2.5vl:7b", "qwen3-vl-235b", "qwen3-omni-30b", "kimi-vl-a3b"])
def test_models_that_see(name: str) -> None:
    assert find_profile(name, platform="ollama").sees_images


@pytest.mark.parametrize(
    "model", ["", "gpt-5", "llama-3.3-70b", "lama", "x" * 10_000, "-", "/", ":", "mydeepseek-v3"]
)
def test_unknown_models_get_the_generic_facts(model: str) -> None:
    assert not is_known(model)
    found = find_profile(model, platform="generic")
    assert found == msgspec.structs.replace(GENERIC, name="this model")
    assert find_profile(model, platform="no such platform").thinking_switch == "none"
    assert find_profile(model, platform="vllm").count_tokens == "vllm"


@pytest.mark.parametrize(
    ("platform", "facts"),
    [
        ("vllm", {"reports_stop": True, "top_k": True, "max_stop_sequences": None}),
        ("sglang", {"reports_stop": True, "count_tokens": "sglang"}),
        ("llamacpp", {"forced_tools": "json_schema", "prefill": "native", "reports_stop": False}),
        ("moonshot", {"count_tokens": "moonshot", "max_tokens_field": "max_completion_tokens"}),
        ("dashscope", {"top_k": True, "forced_tools": "named_only"}),
        ("openrouter", {"reasoning_field": "reasoning"}),
        ("ollama", {"reasoning_field": "reasoning", "forced_tools": "hint"}),
    ],
)
def test_platform_facts_hold_for_known_and_unknown_models(
    platform: str, facts: dict[str, object]
) -> None:
    for model in ("glm-4.7", "no-such-model"):
        profile = find_profile(model, platform=platform)
        assert {name: getattr(profile, name) for name in facts} == facts


def test_reasoning_goes_back_where_its_absence_is_refused() -> None:
    for model in ("deepseek-v3.2", "deepseek-v4-pro", "kimi-k2-thinking", "kimi-k2.5", "kimi-k3"):
        profile = vendor_profile(model)
        assert profile.echo_reasoning != "never"
        assert profile.reasoning_placeholder == " "
    for model in ("mimo-v2-flash", "mimo-v2.6-pro", "glm-4.7"):
        assert vendor_profile(model).echo_reasoning != "never"
    for model in ("deepseek-r1-0528", "deepseek-v3.1", "qwen3-235b-a22b-thinking-2507"):
        assert vendor_profile(model).echo_reasoning == "never"
    # A template does not refuse; a placeholder would only show the model a blank thought.
    assert find_profile("deepseek-v3.2", platform="vllm").reasoning_placeholder is None


def test_overrides_win() -> None:
    profile = find_profile(
        "glm-4.7", platform="vllm", overrides={"context_window": 8192, "top_k": False, "name": "my"}
    )
    assert (profile.context_window, profile.top_k, profile.name) == (8192, False, "my")


def test_names_say_model_and_platform() -> None:
    assert find_profile("GLM-4.7", platform="vllm").name == "glm-4.7 on vllm"
    assert find_profile("glm-4.7", platform="generic").name == "glm-4.7"


def test_every_composition_is_a_valid_profile() -> None:
    for family in FAMILIES:
        for model in family.models:
            for platform in PLATFORMS:
                profile = find_profile(model.name, platform=platform)
                assert is_known(model.name)
                assert msgspec.convert(msgspec.to_builtins(profile), DialectProfile) == profile
                assert profile.thinking_switch == "none" or profile.thinking != "never"


def test_each_entry_is_found_by_its_own_name() -> None:
    for family in FAMILIES:
        for model in family.models:
            found = find_profile(model.name, platform="generic")
            assert found.name == model.name


def test_platforms_are_those_of_the_settings() -> None:
    assert set(PLATFORMS) == set(get_args(Platform))
    for family in FAMILIES:
        assert family.platforms <= set(PLATFORMS)


@given(st.text(max_size=60), st.sampled_from(sorted(PLATFORMS)))
def test_any_name_has_a_profile(model: str, platform: str) -> None:
    assert find_profile(model, platform=platform).name
