"""
Servers and hosts that carry many families.

Sources, read 2026-11-22: model dialects, sections 1 to 8; vllm 0.33.0 and sglang 0.5.23 packages;
llama.cpp, commit 006639c, and runs of xllamacpp 2026.10.11549 on 2026-11-24; ollama, commit
fb30760; docs.siliconflow.cn; openrouter.ai/docs; help.aliyun.com/zh/model-studio.
"""

from collections.abc import Mapping
from typing import Final

from dragoman.core.dialects.facts import PlatformFacts

PLATFORMS: Final[Mapping[str, PlatformFacts]] = {
    # Nobody knows what it takes. Silence would leave thinking on, and billed, for most models; the
    # vendor's switch is ignored, or refused by its name, and then it is left out from there on.
    "generic": PlatformFacts(switch="vendor"),
    "kspmas": PlatformFacts(
        switch="vendor",
        # docs.ksyun.com/documents/44863 (2026-04-16): any and tool are supported for every model.
        facts={"forced_tools": "native"},
    ),
    "deepseek": PlatformFacts(
        switch="vendor",
        facts={"temperature_in_thinking": False},  # no error, and no effect
    ),
    "moonshot": PlatformFacts(
        switch="vendor",
        facts={
            "count_tokens": "moonshot",
            "max_tokens_field": "max_completion_tokens",  # max_tokens is deprecated there
            "prefill": "partial",
            # MoonshotAI/walle, docs/mfjs-spec.md, commit 2762b9a; 400 "type is not defined".
            "schema_types": True,
            "schema_refused": ("$schema", "$comment", "oneOf", "allOf", "if", "then", "else"),
        },
    ),
    # docs.z.ai/guides/tools/stream-tool, docs.bigmodel.cn/cn/guide/capabilities/stream-tool, read
    # 2026-11-25: arguments come whole without it; from GLM 4.6 on.
    "zai": PlatformFacts(switch="vendor", facts={"tool_stream": True}),
    "bigmodel": PlatformFacts(switch="vendor", facts={"tool_stream": True}),
    "mimo": PlatformFacts(switch="vendor", facts={"max_tokens_field": "max_completion_tokens"}),
    "dashscope": PlatformFacts(
        switch="enable_thinking",
        facts={
            "max_tokens_field": "max_completion_tokens",  # thinking and answer; the other: answer
            "temperature_max": 1.99,  # below 2
            "top_p_min": 0.01,  # above 0
            "top_k": True,
            "forced_tools": "named_only",  # ``required`` is unsupported
            "response_format": "json_object",  # json_schema depends on the model
        },
        thinking_facts={
            "thinking_budget_field": "thinking_budget",
            "forced_tools_need_no_thinking": True,
        },
    ),
    "siliconflow": PlatformFacts(
        switch="enable_thinking",
        facts={"top_k": True, "response_format": "json_object"},
        thinking_facts={
            "thinking_budget_field": "thinking_budget",
            "thinking_budget_max": 32_768,  # and at least 128; the API's own least is more
            "forced_tools_need_no_thinking": True,
        },
    ),
    "ark": PlatformFacts(
        switch="thinking_type",
        facts={"response_format": "json_object"},
        thinking_facts={"forced_tools_need_no_thinking": True},
    ),
    "openrouter": PlatformFacts(
        switch="openrouter",
        facts={"top_k": True, "reasoning_field": "reasoning"},
        thinking_facts={
            "effort_values": ("low", "medium", "high"),
            "forced_tools_need_no_thinking": True,  # the host behind it decides
        },
    ),
    "vllm": PlatformFacts(
        switch="template",
        facts={
            "top_k": True,
            "max_stop_sequences": None,
            "reports_stop": True,  # choices[].stop_reason
            "count_tokens": "vllm",
            "prefill": "continue_final_message",
        },
        # From 0.33 on, and with a reasoning parser only; a refusal says so, and is learnt from.
        thinking_facts={"thinking_budget_field": "thinking_token_budget"},
    ),
    "sglang": PlatformFacts(
        switch="template",
        facts={
            "top_k": True,
            "max_stop_sequences": None,
            "reports_stop": True,  # matched_stop
            "count_tokens": "sglang",
            "prefill": "continue_final_message",
        },
    ),
    "llamacpp": PlatformFacts(
        switch="template",
        facts={
            "top_k": True,
            "max_stop_sequences": None,
            "count_tokens": "llamacpp",
            # tool_choice binds nothing there; a grammar does, thinking or not (runs of 2026-11-24).
            "forced_tools": "json_schema",
            "prefill": "native",
        },
    ),
    "ollama": PlatformFacts(
        # openai/openai.go: reasoning_effort takes high, medium, low, none, and nothing else.
        switch="effort_none",
        facts={
            "reasoning_field": "reasoning",
            "forced_tools": "hint",  # tool_choice is not read
            "parallel_tool_calls_field": False,
        },
        thinking_facts={"effort_values": ("low", "medium", "high")},
    ),
}
