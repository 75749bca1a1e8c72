"""
How one model behind one upstream departs from the common chat-completions API: facts only.

Every fact may be overridden per model in the configuration, so a user never needs a release.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

ThinkingSwitch = Literal[
    "none",  # nothing to send: the model never thinks, always thinks, or the upstream decides
    "thinking_type",  # {"thinking": {"type": "enabled" | "disabled"}}
    "enable_thinking",  # {"enable_thinking": true | false}
    "template_thinking",  # {"chat_template_kwargs": {"thinking": true | false}}
    "template_enable_thinking",  # {"chat_template_kwargs": {"enable_thinking": true | false}}
    "openrouter",  # {"reasoning": {"enabled": true | false, "effort": ...}}
    "effort_none",  # {"reasoning_effort": "none"} switches it off; on is the default
]
# What a reply may end with that did not fail.
StopReason = Literal[
    "end_turn", "tool_use", "max_tokens", "refusal", "model_context_window_exceeded"
]
Tokens = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Few = Annotated[int, Meta(ge=0, le=100_000)]
# How families write tool calls as text; core/tool_grammars has the forms.
ToolGrammar = Literal[
    "deepseek_v3",
    "deepseek_v31",
    "deepseek_dsml",
    "invoke",
    "qwen3_coder",
    "mimo",
    "hermes",
    "glm",
    "kimi_k2",
    "kimi_k3",
]
# Which rates estimate tokens, and which local tokenizer counts them.
Vocabulary = Literal["unknown", "deepseek", "qwen", "qwen3_5"]


class DialectProfile(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one model behind one upstream accepts and sends.

    The defaults are the safe generic profile: what any chat-completions server can be asked.
    Token limits are in tokens; None means unknown, and nothing is clamped to it.
    """

    name: str = "generic"
    context_window: Tokens | None = None
    max_output_tokens: Tokens | None = None
    default_max_tokens: Tokens = 4096  # only where a request may leave it out
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    sees_images: bool = False
    has_tools: bool = True

    thinking: Literal["never", "toggle", "always", "unknown"] = "unknown"
    thinking_switch: ThinkingSwitch = "none"
    thinking_budget_field: str | None = None  # a top-level request field taking a token budget
    thinking_budget_max: Tokens | None = None  # clamped to it
    effort_values: tuple[str, ...] = ()  # values that ``reasoning_effort`` takes, weakest first
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    # Which assistant turns of the history get their reasoning back.
    echo_reasoning: Literal["never", "tool_turns", "always"] = "never"
    # Sent where reasoning must be echoed but was lost; None: leave the field out.
    reasoning_placeholder: str | None = None
    think_tags: bool = True  # <think> in content is reasoning
    # Content begins inside the think block: only the closing tag is ever written.
    think_tag_open_at_start: bool = False

    temperature_max: Annotated[float, Meta(gt=0, le=100)] | None = (
        2.0  # clamped to it; None: the model takes none, drop it
    )
    temperature_in_thinking: bool = True  # has it an effect while the model thinks?
    top_p: bool = True
    top_p_min: Annotated[float, Meta(ge=0, le=1)] = 0.0  # raised to it
    top_k: bool = False

    max_stop_sequences: Few | None = 4  # None: no limit known
    # Does the reply say which stop string matched? If not, we match locally and send none.
    reports_stop: bool = False

    # How a forced tool (any, tool) is made to bind.
    forced_tools: Literal["native", "named_only", "required_only", "json_schema", "hint"] = "native"
    # Forcing is refused while the model thinks: thinking is switched off for that turn.
    forced_tools_need_no_thinking: bool = False
    # Calls in these forms are found in text that the upstream should have parsed; empty: in none.
    # Unless the model is known, all that cannot be taken for each other. MiMo's is Qwen's but for
    # the line breaks around values.
    tool_text: tuple[ToolGrammar, ...] = (
        "deepseek_v3",
        "deepseek_v31",
        "deepseek_dsml",
        "invoke",
        "qwen3_coder",
        "hermes",
        "glm",
        "kimi_k2",
        "kimi_k3",
    )
    # Kimi's templates print ids into the prompt: only functions.NAME:NUMBER reads as it should.
    tool_call_ids: Literal["any", "kimi"] = "any"
    # An assistant message that only calls tools: has it an empty text, or no content at all?
    empty_content: Literal["text", "omitted"] = "text"
    parallel_tool_calls_field: bool = True  # does ``parallel_tool_calls: false`` exist?
    strict_tools: bool = False
    # Keywords that a JSON schema may not hold there, of tools and of structured output. "$schema"
    # means nothing to a model, and every client sends it with every tool.
    schema_refused: tuple[str, ...] = ("$schema",)
    schema_refs: bool = True  # are references into "$defs" understood? else they are written out
    schema_types: bool = False  # must each schema have a type, and a union only in its branches?

    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    # How a trailing assistant message is continued.
    prefill: Literal["hint", "native", "continue_final_message", "prefix", "partial"] = "hint"
    mid_system: Literal["user_text", "native"] = "user_text"
    stream_options: bool = True  # ask for usage in the stream
    tool_stream: bool = False  # do arguments stream only where ``tool_stream: true`` asks for it?
    sends_user: bool = True
    # Which exact counting endpoint the upstream has.
    count_tokens: Literal["none", "llamacpp", "vllm", "sglang", "moonshot"] = "none"
    vocabulary: Vocabulary = "unknown"
    tokens_per_message: Few = 4  # role and turn markers of the chat template
    tool_preamble_tokens: Few = 100  # what the template says about tools when there are any
    tool_tokens_factor: Annotated[float, Meta(gt=0, le=100)] = (
        1.2  # tokens of a tool in the prompt for each of its compact JSON
    )
    # finish_reason -> Anthropic stop_reason, beyond the common ones.
    finish_reasons: dict[str, StopReason] = msgspec.field(default_factory=dict)


GENERIC = DialectProfile()
