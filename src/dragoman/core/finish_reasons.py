"""How chat completions say why a reply has ended."""

from typing import Final

from dragoman.core.block_writer import BlockWriter
from dragoman.core.errors import UpstreamError, UpstreamOverloaded, UpstreamUnavailable
from dragoman.core.plan import Plan

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
# Those of replies that are not whole, whatever has come.
BROKEN_OFF: Final = frozenset(
    {"aborted", "abort", "network_error", "error", "insufficient_system_resource"}
)
# Those that leave nothing to be told; of others people may want to know.
PLAIN_FINISHES: Final = frozenset(
    {"stop", "tool_calls", "function_call", "length", "content_filter", "eos", "max_tokens"}
)


def error_of_finish(finish: str) -> UpstreamError:
    """Return the error that such a finish reason stands for."""
    if finish == "insufficient_system_resource":
        return UpstreamOverloaded("The model's server ran out of resources. Try again.")
    return UpstreamUnavailable(f"The model's server broke off the reply ({finish}).")


def reason_of(finish: str, plan: Plan) -> str | None:
    """Return what a finish reason means; None: it is unknown."""
    return plan.deployment.profile.finish_reasons.get(finish) or STOP_REASONS.get(finish)


def stop_reason_of(
    plan: Plan, blocks: BlockWriter, *, finish: str | None, reason: str | None, stop: str | None
) -> str:
    """
    Return why the message ends.

    Args:
        plan: What was asked for.
        blocks: What came.
        finish: The upstream's reason, if it gave one.
        reason: What that means.
        stop: The stop sequence that has ended the reply.
    """
    reason = reason or reason_of("stop", plan) or "end_turn"
    if plan.request.max_tokens == 0:
        return "max_tokens"
    if finish == "length" and plan.fills_window:
        return "model_context_window_exceeded"
    is_cut, has_calls = blocks.has_cut_call, blocks.has_client_calls
    if reason in ("end_turn", "tool_use"):
        if stop is not None and (is_cut or not has_calls):
            return "stop_sequence"
        if is_cut:
            return "max_tokens"  # what the API says of a call that is not whole
        return "tool_use" if has_calls else "end_turn"
    return reason
