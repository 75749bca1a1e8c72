"""
Kimi.

Sources, read 2026-11-22: model dialects, sections 1 to 3; platform.kimi.ai and platform.moonshot.cn
documentation, partly through third-party notes of 2026-07 to 2026-10; MoonshotAI/kimi-cli, commit
4a550ef; sglang 0.5.23 package.
"""

from typing import Final

from dragoman.core.dialects.facts import COMMON_FORMS, Facts, Family, ModelFacts, Source

_K2: Final[Facts] = {"context_window": 262_144, "max_output_tokens": 262_144}
# Sampling is fixed from K2.5 on, and any other value is a 400.
_FIXED_SAMPLING: Final[Facts] = {"temperature_max": None, "top_p": False}
# DashScope: 32768 tokens of thinking and 16384 of answer.
_DASHSCOPE: Final = {"dashscope": {"max_output_tokens": 32_768, "forced_tools": "hint"}}
# 400 "reasoning_content is missing in assistant tool call message" without it; one space passes.
_PLACEHOLDER: Final[Facts] = {"reasoning_placeholder": " "}

KIMI: Final = Family(
    name="kimi",
    sources=(
        Source("platform.kimi.ai, platform.moonshot.cn: documentation, partly in notes", "2026-10"),
        Source("MoonshotAI/kimi-cli, commit 4a550ef", "2026-07-16"),
        Source("models.dev, providers, commit f3fc692", "2026-07-02"),
        Source("litellm 1.109.1, price file", "2026-11-22"),
        Source("sglang 0.5.23 and vllm 0.33.0, packages", "2026-11-22"),
        Source("docs.ksyun.com/documents/44863", "2026-04-16"),
    ),
    platforms=frozenset({"moonshot", "kspmas"}),
    weights={"tool_text": ("kimi_k2", "kimi_k3", *COMMON_FORMS), "tool_call_ids": "kimi"},
    vendor_switch="thinking_type",
    template_switch="template_thinking",
    vendor={
        "max_stop_sequences": 5,  # each at most 32 bytes
        "forced_tools": "hint",  # none and auto; named is a 400 while thinking
        "forced_tools_need_no_thinking": True,
        "parallel_tool_calls_field": False,
        "temperature_max": 1.0,
        "empty_content": "omitted",  # as its own client does; an empty text is a 400
    },
    models=(
        ModelFacts(
            # ``required`` binds while it thinks, as it always does; a named tool is a 400.
            name="kimi-k3",
            ids=("kimi-k3",),
            inputs=("text", "image", "video"),
            pattern=r"(?:kimi-k3|k3[.p]\d)",
            weights={
                "context_window": 1_048_576,
                "max_output_tokens": 1_048_576,
                "sees_images": True,
                "thinking": "always",
                "echo_reasoning": "always",
                "tool_call_ids": "any",  # its own are NAME:NUMBER
            },
            vendor={
                **_FIXED_SAMPLING,
                **_PLACEHOLDER,
                "effort_values": ("low", "high", "max"),
                "default_max_tokens": 131_072,
                "forced_tools": "required_only",
                "forced_tools_need_no_thinking": False,
            },
        ),
        ModelFacts(
            name="kimi-k2.7-code",
            ids=("kimi-k2.7-code",),
            inputs=("text", "image"),
            pattern=r"kimi-k2[.p_-]7(?!\d)",
            weights={**_K2, "sees_images": True, "thinking": "always", "echo_reasoning": "always"},
            vendor={**_FIXED_SAMPLING, **_PLACEHOLDER},
        ),
        ModelFacts(
            name="kimi-k2.5",
            ids=("kimi-k2.5", "kimi-k2.6"),
            inputs=("text", "image", "video"),
            thinks_by_default=True,
            pattern=r"kimi-k2[.p_-][56](?!\d)",
            weights={
                **_K2,
                "sees_images": True,
                "thinking": "toggle",  # on by default
                "echo_reasoning": "tool_turns",
            },
            vendor={**_FIXED_SAMPLING, **_PLACEHOLDER},
            hosts=_DASHSCOPE,
        ),
        ModelFacts(
            name="kimi-k2-thinking",
            ids=("kimi-k2-thinking", "kimi-k2-thinking-turbo"),
            pattern=r"kimi-k2-thinking",
            weights={**_K2, "thinking": "always", "echo_reasoning": "tool_turns"},
            vendor=_PLACEHOLDER,
            hosts=_DASHSCOPE,
        ),
        ModelFacts(
            name="kimi-k2",
            ids=("kimi-k2-0905-preview", "kimi-k2-turbo-preview", "kimi-k2-turbo-enterprise"),
            pattern=r"kimi-k2",
            weights={**_K2, "thinking": "never"},
        ),
        # Those to come: what the latest ones have in common, and no limits.
        ModelFacts(
            name="kimi-k4",
            pattern=r"kimi-k[4-9]",
            weights={"thinking": "always", "echo_reasoning": "always", "tool_call_ids": "any"},
            vendor={**_FIXED_SAMPLING, **_PLACEHOLDER},
        ),
        ModelFacts(name="kimi-vl", pattern=r"kimi-vl", weights={"sees_images": True}),
        ModelFacts(name="kimi", pattern=r"(?:kimi|moonshot-v1)", weights={}),
    ),
)
