"""
Xiaomi MiMo.

Sources, read 2026-11-22: model dialects, sections 1 to 3; platform.xiaomimimo.com documentation of
2026-06-03 and third-party notes of 2026-06 to 2026-09; sglang 0.5.23 and vllm 0.33.0 packages.
"""

from typing import Any, Final

from dragoman.core.dialects.facts import Family, ModelFacts, Source


def _weights(context_window: int, max_output_tokens: int, **more: object) -> dict[str, Any]:
    return {
        "context_window": context_window,
        "max_output_tokens": max_output_tokens,
        # v2-flash: off by default, later ones on. vLLM's parser assumes on, SGLang's off.
        "thinking": "toggle",
        "echo_reasoning": "always",  # 400 "Param Incorrect" without it while thinking
        **more,
    }


MIMO: Final = Family(
    name="mimo",
    sources=(
        Source("platform.xiaomimimo.com: openai-api, anthropic-api", "2026-06-03"),
        Source("notes from the field", "2026-09-28"),
        Source("models.dev, providers, commit f3fc692", "2026-07-02"),
        Source("litellm 1.109.1, price file", "2026-11-22"),
        Source("sglang 0.5.23 and vllm 0.33.0, packages", "2026-11-22"),
        Source("docs.ksyun.com/documents/44863", "2026-04-16"),
    ),
    platforms=frozenset({"mimo", "kspmas"}),
    weights={
        "tool_text": ("mimo", "hermes", "invoke"),  # its own is Qwen3-Coder's but for line breaks
        # Tools are rewritten as XML, as for Qwen3-Coder, whose figures these are.
        "tool_preamble_tokens": 193,
        "tool_tokens_factor": 1.58,
    },
    vendor_switch="thinking_type",
    template_switch="template_enable_thinking",
    vendor={
        "response_format": "json_object",
        "forced_tools": "hint",  # every value but auto is dropped by the service
        "forced_tools_need_no_thinking": True,
        "parallel_tool_calls_field": False,
        "reasoning_placeholder": " ",  # as for the others that insist; not tried there
    },
    models=(
        ModelFacts(
            name="mimo-v2-flash",
            ids=("mimo-v2-flash",),
            thinks_by_default=False,
            pattern=r"mimo-v2-flash",
            weights=_weights(262_144, 65_536),
        ),
        ModelFacts(
            name="mimo-v2.5-pro",
            ids=("mimo-v2.5-pro",),
            thinks_by_default=True,
            pattern=r"mimo-v2[.p_-]5-pro",
            weights=_weights(1_048_576, 131_072),
        ),
        ModelFacts(
            name="mimo-v2.6",
            ids=("mimo-v2.5", "mimo-v2.6-flash", "mimo-v2.6-pro"),
            inputs=("text", "image", "audio", "video"),
            thinks_by_default=True,  # 2.5, 2.6-flash, 2.6-pro
            pattern=r"mimo-v2[.p_-][56](?!\d)",
            weights=_weights(1_048_576, 131_072, sees_images=True),
        ),
        # Others and those to come: what the known ones have in common, and no limits.
        ModelFacts(
            name="mimo-v3",
            pattern=r"mimo-v(?:2-(?:pro|omni)|2[.p_-][7-9]|[3-9])",
            weights={"thinking": "toggle", "echo_reasoning": "always"},
        ),
        ModelFacts(name="mimo", pattern=r"mimo(?![a-z])", weights={}),
    ),
)
