"""How chat completions say why a reply has ended."""

from typing import Final

# Model dialects, section 6. What is not in here is an error, never end_turn.
STOP_REASONS: Final = {
    "stop": "end_turn",
    "eos": "end_turn",
    "eos_token": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "repetition_truncation": "max_tokens",
    "content_filter": "refusal",
    "sensitive": "refusal",
    "model_context_window_exceeded": "model_context_window_exceeded",
}
# Those that leave nothing to be told; of others people may want to know.
PLAIN_FINISHES: Final = frozenset(
    {"stop", "tool_calls", "function_call", "length", "content_filter", "eos", "max_tokens"}
)
