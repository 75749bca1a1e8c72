"""Sampling, limits, structured output, and the fields that have nothing to become upstream."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from dragoman.core.adjustments import Adjustments
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.tool_schemas import fit_schema
from dragoman.wire.anthropic import Message, MessagesRequest, OutputFormat

_encode: Final = msgspec.json.Encoder().encode
# A guess that is too low would be refused: what the estimate may be wrong by is left free.
_ESTIMATE_ERROR: Final = 0.05
# Tokens that are asked for even where the estimate leaves no room: estimates err, and what truly
# does not fit is refused by the upstream with its own count.
_MIN_ROOM: Final = 4096
_JSON_NOTE: Final = (
    "Answer with JSON only, without any other text, fences or comments. "
    "The JSON must conform to this schema:\n"
)
# Asked for, but with no counterpart: field -> (values that ask for nothing, reason).
_WITHOUT_COUNTERPART: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "service_tier": (("auto", "standard_only"), "there is one service tier"),
    "container": ((), "there is no sandbox"),
    "speed": (("standard",), "there is one speed"),
    "inference_geo": ((), "the place of inference is the upstream's"),
    "diagnostics": ((), "cache misses are not diagnosed"),
    "fallbacks": (("none",), "fallback models are set by the gateway's configuration"),
    "fallback_credit_token": ((), "no credit is applied"),
    "billing_policy": (({"type": "self"},), "the gateway's key pays"),
    "safeguards": ((), "there are no safety verdicts, and they are not sent on"),
}
_NONE_OF_THEM: Final = (None,) * len(_WITHOUT_COUNTERPART)
_EDITS: Final = {
    "clear_tool_uses_20250919": "old tool results are not cleared",
    "compact_20260112": "conversations are not compacted here",
}


class StopPlan(Struct, frozen=True):
    """Stop strings for the upstream, and those that the gateway looks for itself."""

    upstream: list[str]
    local: tuple[str, ...]


def plan_sampling(
    request: MessagesRequest,
    profile: DialectProfile,
    *,
    is_thinking: bool,
    adjustments: Adjustments,
) -> dict[str, Any]:
    """
    Return temperature, top_p and top_k as far as the upstream takes them.

    Args:
        request: The request.
        profile: Of the upstream's model.
        is_thinking: The model will think in this turn.
        adjustments: Where what cannot be had is reported.
    """
    fields: dict[str, Any] = {}
    if request.temperature is not None and is_thinking and not profile.temperature_in_thinking:
        reason = "it has no effect while the model thinks"
        adjustments.add("temperature", "dropped", reason=reason)
    elif request.temperature is not None:
        fields |= _temperature(request.temperature, profile, adjustments)
    if request.top_p is not None and profile.top_p:
        fields["top_p"] = max(request.top_p, profile.top_p_min)
        if request.top_p < profile.top_p_min:
            reason = f"the upstream takes at least {profile.top_p_min:g}"
            adjustments.add("top_p", "clamped", reason=reason)
    elif request.top_p is not None:
        adjustments.add("top_p", "dropped", reason="the upstream fixes it")
    if request.top_k is not None and request.top_k > 0:  # 0 and -1: off
        if profile.top_k:
            fields["top_k"] = request.top_k
        else:
            adjustments.add("top_k", "dropped", reason="the upstream does not know it")
    return fields


def _temperature(
    asked: float, profile: DialectProfile, adjustments: Adjustments
) -> dict[str, float]:
    limit = profile.temperature_max
    if limit is None:
        adjustments.add("temperature", "dropped", reason="the upstream fixes it")
        return {}
    # Two decimals are what the strictest upstream reads (GLM); finer ones change nothing.
    temperature = round(min(asked, limit), 2)
    if asked > limit:
        adjustments.add("temperature", "clamped", reason=f"the upstream takes at most {limit:g}")
    return {"temperature": temperature}


class TokenLimit(Struct, frozen=True):
    """What is sent as max_tokens; *is_window*: it is all that the prompt leaves of the window."""

    value: int
    is_window: bool = False


def plan_max_tokens(
    request: MessagesRequest,
    profile: DialectProfile,
    *,
    prompt_tokens: int,
    adjustments: Adjustments,
) -> TokenLimit:
    """Return max_tokens as far as the model and its window allow."""
    asked = request.max_tokens if request.max_tokens is not None else profile.default_max_tokens
    allowed = max(1, asked)
    if profile.max_output_tokens is not None:
        allowed = min(allowed, profile.max_output_tokens)
    if profile.context_window is not None:
        room = _room(profile.context_window, prompt_tokens)
        floor = min(_MIN_ROOM, max(1, profile.context_window // 4))
        allowed = min(allowed, max(room, floor))
    if request.max_tokens == 0:
        reason = "upstreams take no 0: one token is asked for and not shown"
        adjustments.add("max_tokens", "emulated", reason=reason)
    elif request.max_tokens is not None and allowed < asked:
        adjustments.add("max_tokens", "clamped", reason=f"{allowed} is what fits the model")
    is_window = allowed < min(asked, profile.max_output_tokens or asked)
    return TokenLimit(allowed, is_window)


def has_room(profile: DialectProfile, prompt_tokens: int, limit: TokenLimit) -> bool:
    """Tell whether *limit*, that of an empty prompt, stands for one of *prompt_tokens*, too."""
    window = profile.context_window
    return window is None or _room(window, prompt_tokens) >= limit.value


def _room(window: int, prompt_tokens: int) -> int:
    """Return how many tokens of *window* the prompt leaves for sure."""
    return window - prompt_tokens - int(prompt_tokens * _ESTIMATE_ERROR)


def plan_stops(
    request: MessagesRequest, profile: DialectProfile, adjustments: Adjustments
) -> StopPlan:
    """
    Share the stop strings out between the upstream and the gateway.

    The client is told which one matched; where the upstream does not say, only our own match can.
    """
    stops = [stop for stop in request.stop_sequences if stop and not stop.isspace()]
    if len(stops) < len(request.stop_sequences):
        reason = "stop sequences without a visible character are ignored"
        adjustments.add("stop_sequences", "dropped", reason=reason)
    stops = list(dict.fromkeys(stops))
    if not profile.reports_stop:
        return StopPlan([], tuple(stops))
    limit = profile.max_stop_sequences
    sent = stops if limit is None else stops[:limit]
    return StopPlan(sent, tuple(stops[len(sent) :]))


class FormatPlan(Struct, frozen=True):
    """How structured output is asked for."""

    response_format: dict[str, Any] | None = None
    note: str = ""  # for the system prompt


def plan_format(
    request: MessagesRequest,
    profile: DialectProfile,
    *,
    is_taken: bool,
    adjustments: Adjustments,
) -> FormatPlan:
    """
    Return how to ask for the format that *request* wants.

    Args:
        request: The request.
        profile: Of the upstream's model.
        is_taken: A forced tool call needs the field already.
        adjustments: Where what is emulated is reported.
    """
    config = request.output_config
    path, form = "output_config.format", config.format if config is not None else None
    if form is None:
        path, form = "output_format", request.output_format
    if form is None:
        return FormatPlan()
    if form.type != "json_schema" or form.schema is None:
        adjustments.add(path, "dropped", reason=f"unknown format {form.type[:40]}")
        return FormatPlan()
    if is_taken:
        adjustments.add(path, "dropped", reason="a tool call is forced, so there is no text")
        return FormatPlan()
    return _format(form, path, profile=profile, adjustments=adjustments)


def _format(
    form: OutputFormat, path: str, *, profile: DialectProfile, adjustments: Adjustments
) -> FormatPlan:
    if profile.response_format == "json_schema":
        fitted = fit_schema(form.schema or {}, profile)
        for action, said in fitted.notes:
            adjustments.add(f"{path}.schema", action, reason=said)
        json_schema = {"name": "response", "schema": fitted.schema, "strict": True}
        return FormatPlan({"type": "json_schema", "json_schema": json_schema})
    reason = "the schema goes into the prompt: the upstream does not enforce it"
    adjustments.add(path, "emulated", reason=reason)
    note = _JSON_NOTE + _encode(form.schema).decode()
    if profile.response_format == "json_object":
        return FormatPlan({"type": "json_object"}, note)
    return FormatPlan(None, note)


def ignored_fields(request: MessagesRequest) -> tuple[str, ...]:
    """Return the names of fields that ask for something that nothing upstream is like."""
    values = (  # in the order of the table; nearly always none is there
        request.service_tier,
        request.container,
        request.speed,
        request.inference_geo,
        request.diagnostics,
        request.fallbacks,
        request.fallback_credit_token,
        request.billing_policy,
        request.safeguards,
    )
    if values == _NONE_OF_THEM:
        return ()
    return tuple(
        name
        for (name, (harmless, _)), value in zip(_WITHOUT_COUNTERPART.items(), values, strict=True)
        if value is not None and value not in harmless and value not in ({}, [])
    )


def note_other_fields(
    request: MessagesRequest, profile: DialectProfile, adjustments: Adjustments
) -> None:
    """Report what is accepted without being done."""
    for name in ignored_fields(request):
        adjustments.add(name, "dropped", reason=_WITHOUT_COUNTERPART[name][1])
    metadata = request.metadata
    if metadata is not None and metadata.user_id and not profile.sends_user:
        reason = "the upstream takes no name of the user"
        adjustments.add("metadata.user_id", "dropped", reason=reason)
    if request.output_config is not None and request.output_config.task_budget is not None:
        reason = "the model is not told of a budget"
        adjustments.add("output_config.task_budget", "dropped", reason=reason)
    _note_edits(request, profile, adjustments)
    for number, message in enumerate(request.messages):
        if message.output_config is not None:
            _note_message_config(message, f"messages.{number}.output_config", adjustments)
    for name in request.unknown_fields:
        adjustments.add(name, "dropped", reason=f"unknown field {name}")


def _note_message_config(message: Message, path: str, adjustments: Adjustments) -> None:
    """Report what a message of the conversation asks for besides effort."""
    config = message.output_config
    is_read = message.role == "system" and isinstance(config, dict)
    if not is_read or config.keys() - {"effort"}:
        reason = "only a system message's effort is read"
        adjustments.add(path, "dropped", reason=reason)


def _note_edits(
    request: MessagesRequest, profile: DialectProfile, adjustments: Adjustments
) -> None:
    management = request.context_management
    edits = management.get("edits") if isinstance(management, dict) else None
    for number, edit in enumerate(edits if isinstance(edits, list) else ()):
        kind = edit.get("type") if isinstance(edit, dict) else None
        path = f"context_management.edits.{number}"
        if kind == "clear_thinking_20251015":
            # Claude Code asks for "all" with every request; other values save tokens, and only
            # where thinking goes back at all.
            if edit.get("keep", "all") != "all" and profile.echo_reasoning != "never":
                adjustments.add(path, "dropped", reason="old thinking is not cleared")
            continue
        reason = _EDITS.get(kind) if isinstance(kind, str) else None
        adjustments.add(path, "dropped", reason=reason or "this edit is not known")
