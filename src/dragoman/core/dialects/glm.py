"""
GLM.

Sources, read 2026-11-22: model dialects, sections 1 to 3; docs.z.ai (chat-completion,
guides/capabilities/thinking-mode); third-party compliance notes of 2026-09 over docs.bigmodel.cn;
zai-org/z-ai-sdk-python; litellm 1.109.1 price file.
"""

from typing import Any, Final

from dragoman.core.dialects.facts import COMMON_FORMS, Family, ModelFacts, Source

_WHOLE_ARGUMENTS: Final = {"zai": {"tool_stream": False}, "bigmodel": {"tool_stream": False}}


def _weights(context_window: int, **more: object) -> dict[str, Any]:
    return {
        "context_window": context_window,
        "max_output_tokens": 131_072,
        "thinking": "toggle",  # on by default
        # Asked for within a tool loop; a missing one is no error, but costs quality and cache.
        "echo_reasoning": "tool_turns",
        **more,
    }


GLM: Final = Family(
    name="glm",
    sources=(
        Source("docs.z.ai: chat-completion, guides/capabilities/thinking-mode", "2026-09-06"),
        Source("docs.bigmodel.cn, openapi files, in notes", "2026-09-06"),
        Source("models.dev, providers, commit f3fc692", "2026-07-02"),
        Source("litellm 1.109.1, price file", "2026-11-22"),
        Source("sglang 0.5.23 and vllm 0.33.0, packages", "2026-11-22"),
        Source("docs.ksyun.com/documents/44863", "2026-04-16"),
    ),
    platforms=frozenset({"zai", "bigmodel", "kspmas"}),
    weights={
        "tool_text": ("glm", *COMMON_FORMS),
        # Its template's text, counted with two other vocabularies; both gave the same.
        "tool_preamble_tokens": 115,
        "tool_tokens_factor": 1.25,
    },
    vendor_switch="thinking_type",
    template_switch="template_enable_thinking",
    vendor={
        "temperature_max": 1.0,  # above it: 400, code 1214
        "top_p_min": 0.01,
        "max_stop_sequences": 1,  # the text says one, the schema four
        "response_format": "json_object",
        "forced_tools": "hint",  # auto only
        "forced_tools_need_no_thinking": True,
        "parallel_tool_calls_field": False,  # not in the schema
    },
    models=(
        ModelFacts(
            name="glm-5.3-flash",
            ids=("glm-5.3-flash",),
            inputs=("text", "image"),
            pattern=r"glm-5[.p_-]3-flash",
            # Switching thinking off is an error on 5.3.
            weights=_weights(1_048_576, thinking="always", sees_images=True),
            vendor={"effort_values": ("low", "high", "max")},
        ),
        ModelFacts(
            name="glm-5.3",
            ids=("glm-5.3",),
            pattern=r"glm-5[.p_-]3(?!\d)",
            weights=_weights(1_000_000, thinking="always"),
            vendor={"effort_values": ("low", "high", "max")},
        ),
        ModelFacts(
            name="glm-5.2",
            ids=("glm-5.2",),
            thinks_by_default=True,
            pattern=r"glm-5[.p_-]2(?!\d)",
            weights=_weights(1_000_000),
            vendor={"effort_values": ("high", "max")},
            hosts={"siliconflow": {"effort_values": ("high", "max")}},
        ),
        ModelFacts(
            name="glm-4.5v",
            pattern=r"glm-(?:4[.p_-]\d|5)v",
            weights={"thinking": "toggle", "sees_images": True},
            hosts=_WHOLE_ARGUMENTS,
        ),
        ModelFacts(
            name="glm-5",
            ids=("glm-5", "glm-5.1"),
            thinks_by_default=True,
            pattern=r"glm-5",
            weights=_weights(200_000),
        ),
        ModelFacts(
            name="glm-4.7",
            ids=("glm-4.7",),
            thinks_by_default=True,
            pattern=r"glm-4[.p_-]7(?!\d)",
            weights=_weights(204_800),
        ),
        ModelFacts(
            name="glm-4.6",
            ids=("glm-4.6",),
            thinks_by_default=True,
            pattern=r"glm-4[.p_-]6(?!\d)",
            weights=_weights(204_800),
            hosts={"dashscope": {"context_window": 202_752, "max_output_tokens": 16_384}},
        ),
        ModelFacts(
            name="glm-4.5",  # limits from memory
            pattern=r"glm-4[.p_-]5(?!\d)",
            weights=_weights(131_072, max_output_tokens=98_304),
            hosts=_WHOLE_ARGUMENTS,
        ),
        # Those to come: what the latest ones have in common, and no limits.
        ModelFacts(
            name="glm-6",
            pattern=r"glm-[6-9]",
            weights={"thinking": "toggle", "echo_reasoning": "tool_turns"},
        ),
        ModelFacts(name="glm", pattern=r"(?:chat)?glm", weights={}),
    ),
)
