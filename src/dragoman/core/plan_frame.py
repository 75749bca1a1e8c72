"""
What of a plan follows from the settings of a request, whatever was said in it.

A client asks for the same settings, and sends the same tools, with all of its requests: so this
part of their plans is made once and kept. What depends on messages, system prompt or token counts
has no place here; where they change a setting, the frame is made for one request alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from dragoman.core.adjustments import Adjustment, Adjustments
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.plan_types import Deployment, Plan
from dragoman.core.settings import (
    FormatPlan,
    TokenLimit,
    ignored_fields,
    note_other_fields,
    plan_format,
    plan_max_tokens,
    plan_sampling,
    plan_stops,
)
from dragoman.core.thinking import ThinkingPlan, plan_thinking
from dragoman.core.token_count import FixedPrompt, estimate_json, fixed_prompt
from dragoman.core.tool_choice import ToolChoicePlan, plan_tool_choice
from dragoman.core.tools import TableMemory, ToolTable, plan_tools
from dragoman.wire.anthropic import MessagesRequest, Tool

_encode: Final = msgspec.json.Encoder().encode
_MAX_SAID_BYTES: Final = 2048  # of settings that a key holds: longer ones are planned each time
_NOTHING: Final = (None,) * 15
_IGNORED_NOTHING: Final[tuple[str, ...]] = ()
_NO_REQUEST: Final = MessagesRequest(model="", messages=[])  # a frame outlives those it is made for

# How the reply is delivered; these stand last in the body.
DELIVERY_FIELDS: Final = ("user", "stream", "stream_options", "tool_stream")
# Whatever a frame depends on, but for the tools that it is kept with.
FrameKey = tuple[Any, ...]


class Ending(Struct, frozen=True):
    """
    The fields of the body behind the messages.

    Attributes:
        fields: In the order of the body; "user" is empty, for each request has its own.
        adjustments: What was reported of them.
        limit: The most tokens of the answer.
        local_stops: Stop strings that the gateway looks for.
    """

    fields: dict[str, Any]
    adjustments: tuple[Adjustment, ...]
    limit: TokenLimit
    local_stops: tuple[str, ...]


class Frame(Struct, frozen=True, kw_only=True, eq=False):
    """
    What plans for one deployment with the same settings have in common. Nobody changes it.

    Attributes:
        plan: What all of them say, if messages and prompt need no adjustments; without request,
            messages and counts.
        tools: What names of the history are called upstream.
        tools_tokens: About how many those sent have; None: none are.
        prompt: What their prompts have beside their messages.
        note: What the model must be told in the system prompt.
        choice: How a call is asked for.
        form: How a format is asked for.
        thinking: How thinking is asked for.
        before: Adjustments that come before those of the messages.
        ending: The fields behind the messages, for a prompt that leaves room for the answer.
    """

    plan: Plan
    tools: ToolTable
    tools_tokens: float | None
    prompt: FixedPrompt
    note: str
    choice: ToolChoicePlan
    form: FormatPlan
    thinking: ThinkingPlan
    before: tuple[Adjustment, ...]
    ending: Ending


class PlanMemory(TableMemory, Protocol):
    """Keeps what plans with the same tools have in common."""

    def frame(self, tools: list[Tool], key: FrameKey) -> Frame | None:
        """Return the frame kept for *key* with these tools, if there is one."""
        ...

    def keep_frame(self, tools: list[Tool], key: FrameKey, frame: Frame) -> None:
        """Keep *frame*, if its tools are known."""

    def deferred(self, tools: list[Tool]) -> frozenset[str]:
        """Return the names of those of *tools* that are sent only once the model asks for them."""
        ...


def find_frame(
    request: MessagesRequest,
    deployment: Deployment,
    *,
    wanted: frozenset[str] | None,
    is_stream: bool,
    memory: PlanMemory | None,
) -> Frame:
    """
    Return the frame of the plan for *request*: of *memory*, or else made for it.

    *wanted* is what ``wanted_tools`` says of its messages.
    """
    if memory is None or wanted is None:
        return _make_frame(request, deployment, is_stream=is_stream, memory=memory)
    if wanted:
        wanted = wanted & memory.deferred(request.tools)
    key = _key(request, deployment, wanted, is_stream=is_stream)
    if key is None:
        return _make_frame(request, deployment, is_stream=is_stream, memory=memory)
    frame = memory.frame(request.tools, key)
    if frame is None:
        frame = _make_frame(request, deployment, is_stream=is_stream, memory=memory)
        if frame.choice.response_format is None:  # it holds all schemas once more
            memory.keep_frame(request.tools, key, frame)
    return frame


def plan_ending(
    request: MessagesRequest, frame: Frame, *, prompt_tokens: int, adjustments: Adjustments
) -> Ending:
    """Return the fields behind the messages for a prompt that leaves less room than asked for."""
    return _ending(
        request,
        frame.plan.deployment.profile,
        choice=(frame.tools, frame.choice, frame.form, frame.thinking),
        prompt_tokens=prompt_tokens,
        is_stream=frame.ending.fields["stream"],
        adjustments=adjustments,
    )


def fit_budget(body: dict[str, Any], profile: DialectProfile) -> Adjustment | None:
    """Leave a quarter of max_tokens to the answer where the thinking could use up all of them."""
    field_name = profile.thinking_budget_field
    max_tokens = body[profile.max_tokens_field]
    if field_name is None or body.get(field_name, 0) < max_tokens:
        return None
    body[field_name] = budget = max(1, max_tokens * 3 // 4)
    reason = f"{budget} leaves room for an answer in max_tokens"
    return Adjustment("thinking.budget_tokens", "clamped", reason)


# -- what a frame depends on


def _key(
    request: MessagesRequest, deployment: Deployment, wanted: frozenset[str], *, is_stream: bool
) -> FrameKey | None:
    """Return all that the frame depends on; None: on too much, or on what shall not be kept."""
    rare = (  # mostly none of them is there: one look at all
        request.thinking,
        request.tool_choice,
        request.output_config,
        request.output_format,
        request.context_management,
        request.mcp_servers,
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
    said, ignored = b"", _IGNORED_NOTHING
    if rare != _NOTHING or request.stop_sequences or request.unknown_fields:
        if request.mcp_servers is not None:  # these hold credentials
            return None
        said = _encode((rare[:5], request.stop_sequences, request.unknown_fields))
        if len(said) > _MAX_SAID_BYTES:
            return None
        ignored = ignored_fields(request)
    metadata = request.metadata
    return (
        id(deployment),  # which the frame holds: nothing else can have this id while it is kept
        request.max_tokens,
        is_stream,
        said,
        request.temperature,
        request.top_p,
        request.top_k,
        metadata is not None and bool(metadata.user_id),
        ignored,
        wanted,
    )


# -- the frame itself


def _make_frame(
    request: MessagesRequest,
    deployment: Deployment,
    *,
    is_stream: bool,
    memory: PlanMemory | None,
) -> Frame:
    profile, adjustments = deployment.profile, Adjustments()
    tools = plan_tools(request, profile, adjustments, memory=memory)
    choice = plan_tool_choice(request, profile, tools=tools, adjustments=adjustments)
    form = plan_format(
        request, profile, is_taken=choice.response_format is not None, adjustments=adjustments
    )
    thinking = plan_thinking(
        request, profile, is_forcing_tool=choice.is_forcing, adjustments=adjustments
    )
    before = adjustments.take()
    ending = _ending(
        request,
        profile,
        choice=(tools, choice, form, thinking),
        prompt_tokens=0,
        is_stream=is_stream,
        adjustments=adjustments,
    )
    fields = ending.fields
    tools_tokens = _tools_tokens(fields.get("tools"), tools, profile)
    return Frame(
        plan=Plan(
            request=_NO_REQUEST,
            deployment=deployment,
            body={},
            adjustments=adjustments.take(),
            input_tokens_estimate=0,
            tool_names=_names_of(fields.get("tools", ()), tools),
            tool_table=tools,
            toolset_members=tools.toolset_members,
            server_tools=tools.server_tools,
            own_schemas=tools.own_schemas,
            local_stop_sequences=ending.local_stops,
            forced_by_schema=choice.response_format is not None,
            forced_by_hint=bool(choice.note) and "tools" in fields,
            forced_by_choice=choice.is_forcing and choice.response_format is None,
            show_thinking=thinking.show,
            begins_thinking=thinking.begins_reply,
            single_tool_call=choice.is_single,
            fills_window=ending.limit.is_window,
        ),
        tools=tools,
        tools_tokens=tools_tokens,
        prompt=fixed_prompt(fields, profile, tools_tokens=tools_tokens),
        note="\n\n".join(note for note in (*tools.notes, choice.note, form.note) if note),
        choice=choice,
        form=form,
        thinking=thinking,
        before=before,
        ending=ending,
    )


def _ending(
    request: MessagesRequest,
    profile: DialectProfile,
    *,
    choice: tuple[ToolTable, ToolChoicePlan, FormatPlan, ThinkingPlan],
    prompt_tokens: int,
    is_stream: bool,
    adjustments: Adjustments,
) -> Ending:
    tools, tool_choice, form, thinking = choice
    fields = _tool_fields(tools, tool_choice, profile) | _format_fields(tool_choice, form)
    n_before = len(adjustments.take())
    stops = plan_stops(request, profile, adjustments)
    limit = plan_max_tokens(request, profile, prompt_tokens=prompt_tokens, adjustments=adjustments)
    fields[profile.max_tokens_field] = limit.value
    fields |= plan_sampling(request, profile, is_thinking=thinking.is_on, adjustments=adjustments)
    fields |= ({"stop": stops.upstream} if stops.upstream else {}) | thinking.fields
    if fitted := fit_budget(fields, profile):
        adjustments.add(fitted.field, fitted.action, reason=fitted.reason)
    fields |= _delivery_fields(request, profile, body=fields, is_stream=is_stream)
    note_other_fields(request, profile, adjustments)
    return Ending(fields, adjustments.take()[n_before:], limit, stops.local)


def _tool_fields(
    tools: ToolTable, choice: ToolChoicePlan, profile: DialectProfile
) -> dict[str, Any]:
    if not tools.functions or choice.hides_tools:
        return {}
    fields: dict[str, Any] = {"tools": choice.sent(tools.functions)}
    if choice.tool_choice is not None:
        fields["tool_choice"] = choice.tool_choice
    if choice.is_single and profile.parallel_tool_calls_field:
        fields["parallel_tool_calls"] = False
    return fields


def _format_fields(choice: ToolChoicePlan, form: FormatPlan) -> dict[str, Any]:
    """Return the format that a forced call needs, or else the one that was asked for."""
    response_format = choice.response_format or form.response_format
    return {"response_format": response_format} if response_format else {}


def _delivery_fields(
    request: MessagesRequest, profile: DialectProfile, *, body: Mapping[str, Any], is_stream: bool
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if request.metadata is not None and request.metadata.user_id and profile.sends_user:
        fields["user"] = ""
    fields["stream"] = is_stream
    if is_stream and profile.stream_options:
        fields["stream_options"] = {"include_usage": True}
    if is_stream and profile.tool_stream and "tools" in body:
        fields["tool_stream"] = True
    return fields


def _names_of(sent: Sequence[dict[str, Any]], tools: ToolTable) -> frozenset[str]:
    if sent is tools.functions:
        return tools.names
    return frozenset(tool["function"]["name"] for tool in sent)


def _tools_tokens(
    sent: list[dict[str, Any]] | None, tools: ToolTable, profile: DialectProfile
) -> float | None:
    """Return an estimate of the tools that are sent; that of all is kept with them."""
    if not sent:
        return None
    if sent is not tools.functions:
        return estimate_json(_encode(sent), profile)
    if tools.tokens is None:
        tools.tokens = estimate_json(tools.encode(), profile)
    return tools.tokens
