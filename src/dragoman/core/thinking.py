"""How thinking is asked for: switch, budget and effort, in each upstream's own way."""

from typing import Any, Final, Literal

from msgspec import Struct, field

from dragoman.core.adjustments import Adjustments
from dragoman.core.dialects.profile import DialectProfile
from dragoman.wire.anthropic import MessagesRequest

# Strength of the effort words of all APIs, weakest first; "none" is no effort but off.
_STRENGTH: Final = {"minimal": 0, "low": 1, "medium": 2, "high": 3, "xhigh": 4, "max": 5}
_LOW_BUDGET: Final = 4096  # tokens; how budgets read as efforts where there is no budget
_MEDIUM_BUDGET: Final = 16384


class ThinkingPlan(Struct, frozen=True):
    """
    What to send, and what comes of it.

    Attributes:
        fields: For the upstream.
        show: What the client wants to see of it.
        is_on: The model will think.
        begins_reply: It may: nobody knows of every model.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    show: Literal["full", "omitted", "none"] = "none"
    is_on: bool = False
    begins_reply: bool = True


def plan_thinking(
    request: MessagesRequest,
    profile: DialectProfile,
    *,
    is_forcing_tool: bool,
    adjustments: Adjustments,
) -> ThinkingPlan:
    """
    Return how to ask for the thinking that *request* wants.

    Args:
        request: The request.
        profile: Of the upstream's model.
        is_forcing_tool: A tool is forced in a way that the profile's facts about forcing concern.
        adjustments: Where what cannot be had is reported.
    """
    asked = request.thinking
    wants = asked is not None and asked.type in ("enabled", "adaptive")
    show: Literal["full", "omitted", "none"] = "none"
    if asked is not None and wants:
        show = "omitted" if asked.display == "omitted" else "full"
    elif asked is not None and asked.type != "disabled":
        is_known = asked.type == "between_tools"
        kind = "notes between tools are not written" if is_known else "this type is not known"
        adjustments.add("thinking.type", "dropped", reason=f"{kind}: taken as disabled")
    is_on = wants
    is_quiet = is_forcing_tool and profile.forced_tools_need_no_thinking
    if is_quiet and wants and profile.thinking != "never":
        is_on = False
        reason = "the model cannot be forced to call a tool while it thinks"
        adjustments.add("thinking", "dropped", reason=reason)
    else:
        _note_thinking(request, profile, is_on=is_on, adjustments=adjustments)
    if asked is not None and asked.block_binding is not None:
        reason = "thinking blocks of the history are not checked"
        adjustments.add("thinking.block_binding", "dropped", reason=reason)
    fields = _switch(profile, is_on=is_on)
    budget = asked.budget_tokens if asked is not None and is_on else None
    effort = _effort(request, profile, budget=budget, is_on=is_on, adjustments=adjustments)
    if budget is not None and profile.thinking_budget_field is not None:
        fields[profile.thinking_budget_field] = _clamp_budget(budget, profile, adjustments)
    if effort is not None and profile.thinking_switch == "openrouter":
        fields.setdefault("reasoning", {})["effort"] = effort
    elif effort is not None:
        fields["reasoning_effort"] = effort
    is_thinking = profile.thinking == "always" or (is_on and profile.thinking != "never")
    may_think = is_thinking or profile.thinking == "unknown"
    return ThinkingPlan(fields, show, is_thinking, may_think)


def can_stop_thinking(profile: DialectProfile) -> bool:
    """Tell whether thinking can be switched off, or is never on."""
    if profile.thinking == "never":
        return True
    return profile.thinking != "always" and profile.thinking_switch != "none"


def _note_thinking(
    request: MessagesRequest, profile: DialectProfile, *, is_on: bool, adjustments: Adjustments
) -> None:
    asked = request.thinking
    if asked is None:  # in the API this is off, too
        if profile.thinking == "always":
            reason = "the model always thinks, asked or not; its thinking is not shown"
            adjustments.add("thinking", "noticed", reason=reason)
        elif profile.thinking == "toggle" and profile.thinking_switch == "none":
            reason = "the model may think, for that cannot be switched off on this upstream"
            adjustments.add("thinking", "noticed", reason=reason)
        return
    is_fixed = profile.thinking_switch == "none" or profile.thinking in ("always", "never")
    if is_on and profile.thinking == "never":
        adjustments.add("thinking", "dropped", reason="the model does not think")
    elif not is_on and profile.thinking == "always":
        reason = "the model always thinks; its thinking is not shown"
        adjustments.add("thinking", "dropped", reason=reason)
    elif is_fixed and profile.thinking in ("toggle", "unknown") and asked.type != "adaptive":
        reason = "thinking cannot be switched on this upstream"
        adjustments.add("thinking", "dropped", reason=reason)


def _clamp_budget(budget: int, profile: DialectProfile, adjustments: Adjustments) -> int:
    limit = profile.thinking_budget_max
    if limit is None or budget <= limit:
        return budget
    reason = f"the upstream takes at most {limit}"
    adjustments.add("thinking.budget_tokens", "clamped", reason=reason)
    return limit


def _switch(profile: DialectProfile, *, is_on: bool) -> dict[str, Any]:
    if profile.thinking in ("never", "always"):
        return {}
    match profile.thinking_switch:
        case "thinking_type":
            return {"thinking": {"type": "enabled" if is_on else "disabled"}}
        case "enable_thinking":
            return {"enable_thinking": is_on}
        case "template_thinking":
            return {"chat_template_kwargs": {"thinking": is_on}}
        case "template_enable_thinking":
            return {"chat_template_kwargs": {"enable_thinking": is_on}}
        case "openrouter":
            return {"reasoning": {"enabled": is_on}}
        case "effort_none":
            return {} if is_on else {"reasoning_effort": "none"}
        case _:
            return {}


def _effort(
    request: MessagesRequest,
    profile: DialectProfile,
    *,
    budget: int | None,
    is_on: bool,
    adjustments: Adjustments,
) -> str | None:
    """Return the upstream's word for the effort asked for, if it has one."""
    path, asked = _asked_effort(request)
    values = [value for value in profile.effort_values if value in _STRENGTH]
    if budget is not None and profile.thinking_budget_field is None:
        path, asked = _effort_of_budget(path, asked, budget, adjustments, has_effort=bool(values))
    if asked is None:
        return None
    if not values:
        adjustments.add(path, "dropped", reason="the model has no levels of effort")
        return None
    if not is_on and profile.thinking != "always":
        adjustments.add(path, "dropped", reason="effort is about thinking, which is off")
        return None
    if asked in profile.effort_values:
        return asked
    strength = _STRENGTH.get(asked, _STRENGTH["high"])
    # Of two as near, the stronger one: DeepSeek reads medium as high, xhigh as max.
    nearest = min(values, key=lambda v: (abs(_STRENGTH[v] - strength), -_STRENGTH[v]))
    adjustments.add(path, "clamped", reason=f"the nearest effort that the model has is {nearest}")
    return nearest


def _asked_effort(request: MessagesRequest) -> tuple[str, str | None]:
    """Return field and value; what a system message says later in the conversation wins."""
    for number in range(len(request.messages) - 1, -1, -1):
        config = request.messages[number].output_config
        if request.messages[number].role == "system" and isinstance(config, dict):
            effort = config.get("effort")
            if isinstance(effort, str):
                return f"messages.{number}.output_config.effort", effort
    config = request.output_config
    return "output_config.effort", config.effort if config is not None else None


def _effort_of_budget(
    path: str, asked: str | None, budget: int, adjustments: Adjustments, *, has_effort: bool
) -> tuple[str, str | None]:
    field_name = "thinking.budget_tokens"
    if not has_effort or asked is not None:
        adjustments.add(field_name, "dropped", reason="the upstream takes no thinking budget")
        return path, asked
    low_or_medium = "low" if budget <= _LOW_BUDGET else "medium"
    effort = low_or_medium if budget <= _MEDIUM_BUDGET else "high"
    adjustments.add(field_name, "emulated", reason=f"sent as effort {effort}")
    return field_name, effort
