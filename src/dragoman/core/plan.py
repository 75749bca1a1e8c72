"""Request + deployment -> Plan: everything decided before the upstream is called."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

from dragoman.core.adjustments import Adjustment, Adjustments
from dragoman.core.blocks import BlockRenderer
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import InvalidRequest
from dragoman.core.guards import Guards, watch_repeats
from dragoman.core.history import (
    HistoryReader,
    HistoryWriter,
    Recall,
    cut_at_compaction,
    system_text,
)
from dragoman.core.server_tools import UNAVAILABLE, ServerTool
from dragoman.core.settings import (
    FormatPlan,
    note_other_fields,
    plan_format,
    plan_max_tokens,
    plan_sampling,
    plan_stops,
)
from dragoman.core.signatures import Signer
from dragoman.core.thinking import plan_thinking
from dragoman.core.token_count import (
    calibrated,
    estimate_json,
    estimate_prompt,
    read_prompt,
)
from dragoman.core.tool_choice import ToolChoicePlan, plan_tool_choice
from dragoman.core.tools import TableMemory, ToolTable, plan_tools
from dragoman.wire.anthropic import Block, MessagesRequest

__all__ = [
    "Adjustment",
    "Deployment",
    "Plan",
    "ServerCall",
    "ServerTool",
    "make_plan",
    "plan_after_server_tools",
    "plan_once_more",
    "with_max_tokens",
]

_encode: Final = msgspec.json.Encoder().encode
# A client fingerprint that changes with every conversation: it would spoil prefix caches.
_ATTRIBUTION: Final = "x-anthropic-billing-header"
_PREFILL_FIELDS: Final = ("continue_final_message", "add_generation_prompt")
_SUMMARIZE: Final = (
    "Summarize the conversation so far, so that it can be continued from the summary alone. "
    "Write nothing but the summary."
)


class Deployment(Struct, frozen=True, kw_only=True):
    """An upstream, the model's name there, and how that model behaves."""

    upstream: str
    model: str
    profile: DialectProfile
    kind: Literal["openai", "anthropic"] = "openai"
    guards: Guards = Guards()


class ServerCall(Struct, frozen=True, kw_only=True):
    """The model's call of a server tool; *id* is the upstream's, or ours where it sent none."""

    id: str
    name: str
    arguments_json: str


class Plan(Struct, frozen=True, kw_only=True):
    """
    What will be sent and how the reply is to be read.

    ``body`` is the chat-completions request as plain JSON values, ready to be encoded. Its tools
    may be shared by plans.
    """

    request: MessagesRequest
    deployment: Deployment
    body: dict[str, Any]
    adjustments: tuple[Adjustment, ...]
    input_tokens_estimate: int
    # Before calibration; 0 where no count would teach anything: pictures are guessed.
    uncalibrated_tokens: int = 0
    is_calibrated: bool = False
    tool_names: frozenset[str] = frozenset()
    tool_table: ToolTable | None = None
    # Function name upstream -> (name, toolset_name) for members of a client toolset.
    toolset_members: dict[str, tuple[str, str]] = field(default_factory=dict)
    server_tools: dict[str, ServerTool] = field(default_factory=dict)
    # Function name -> the client's schema, where the upstream got another: arguments must fit it.
    own_schemas: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Matched and cut by us, because the upstream cannot say which one matched or takes fewer.
    local_stop_sequences: tuple[str, ...] = ()
    # A forced tool sent as response_format json_schema: the text that comes back is its call.
    forced_by_schema: bool = False
    forced_by_hint: bool = False  # a forced tool that could only be asked for
    forced_by_choice: bool = False  # a forced tool that the upstream was told to bind
    show_thinking: Literal["full", "omitted", "none"] = "none"
    begins_thinking: bool = True  # the reply may begin with thinking
    single_tool_call: bool = False
    # The window left no more tokens than were asked for: to use them up is to fill the window.
    fills_window: bool = False
    is_looping: bool = False  # the last call has been made too often with the same input


def make_plan(
    request: MessagesRequest,
    deployment: Deployment,
    *,
    signer: Signer,
    texts: Mapping[str, str] | None = None,
    recall: Recall | None = None,
    stream: bool | None = None,
    estimate_ratio: float = 1.0,
    memory: TableMemory | None = None,
) -> Plan:
    """
    Decide everything about the upstream's request. Pure: the same arguments give the same plan.

    Args:
        request: As parsed.
        deployment: Where it goes.
        signer: Reads thinking that our own signatures carry.
        texts: Texts of documents by attachment key; a document without one could not be read.
        recall: Finds reasoning that the client has not sent back.
        stream: Whether the upstream shall stream; it always does unless told otherwise.
        estimate_ratio: What the upstream has counted for each token of our estimates.
        memory: Tables of tools that come again and again.

    Raises:
        InvalidRequest: A message thread, or content that only a file id points at.
    """
    _refuse_thread(request)
    profile, adjustments = deployment.profile, Adjustments()
    tools = plan_tools(request, profile, adjustments, memory=memory)
    choice = plan_tool_choice(request, profile, tools=tools, adjustments=adjustments)
    form = plan_format(
        request, profile, is_taken=choice.response_format is not None, adjustments=adjustments
    )
    thinking = plan_thinking(
        request, profile, is_forcing_tool=choice.is_forcing, adjustments=adjustments
    )
    reader = _reader(deployment, tools, signer=signer, texts=texts or {}, adjustments=adjustments)
    notes = [*tools.notes, choice.note, form.note]
    is_looping, reminder = watch_repeats(request, deployment.guards, adjustments)
    body: dict[str, Any] = {"model": deployment.model}
    body["messages"], prefill = _messages(
        request, reader, notes=notes, reminder=reminder, recall=recall, adjustments=adjustments
    )
    body |= _tool_fields(tools, choice, profile) | _format_fields(choice, form)
    prompt = read_prompt(body, tools_tokens=_tools_tokens(body, tools, profile))
    uncalibrated = estimate_prompt(prompt, profile)
    prompt_tokens = calibrated(uncalibrated, estimate_ratio)
    stops = plan_stops(request, profile, adjustments)
    limit = plan_max_tokens(request, profile, prompt_tokens=prompt_tokens, adjustments=adjustments)
    body[profile.max_tokens_field] = limit.value
    body |= plan_sampling(request, profile, is_thinking=thinking.is_on, adjustments=adjustments)
    body |= ({"stop": stops.upstream} if stops.upstream else {}) | thinking.fields | prefill
    if fitted := _fit_budget(body, profile):
        adjustments.add(fitted.field, fitted.action, reason=fitted.reason)
    body |= _delivery_fields(request, profile, body=body, is_stream=stream is not False)
    note_other_fields(request, profile, adjustments)
    return Plan(
        request=request,
        deployment=deployment,
        body=body,
        adjustments=adjustments.take(),
        input_tokens_estimate=prompt_tokens,
        is_calibrated=estimate_ratio != 1.0,
        uncalibrated_tokens=0 if prompt.images else uncalibrated,
        tool_names=_names_of(body.get("tools", ()), tools),
        tool_table=tools,
        toolset_members=tools.toolset_members,
        server_tools=tools.server_tools,
        own_schemas=tools.own_schemas,
        local_stop_sequences=stops.local,
        forced_by_schema=choice.response_format is not None,
        forced_by_hint=bool(choice.note) and "tools" in body,
        forced_by_choice=choice.is_forcing and choice.response_format is None,
        show_thinking=thinking.show,
        begins_thinking=thinking.begins_reply and not _is_continued(request, profile),
        single_tool_call=choice.is_single,
        fills_window=limit.is_window,
        is_looping=is_looping,
    )


def plan_after_server_tools(
    plan: Plan, text: str, calls: Sequence[ServerCall], *, thinking: str = ""
) -> Plan:
    """
    Return the plan for going on after the model has called server tools.

    It is told that they are unavailable, and they are gone from the tools: there is one such round.

    Args:
        plan: The plan that led to the calls.
        text: What the model said before them.
        calls: The calls.
        thinking: What it thought before them, if that is known.
    """
    profile = plan.deployment.profile
    body = {key: value for key, value in plan.body.items() if key not in _PREFILL_FIELDS}
    messages = [*body["messages"]]
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if messages and messages[-1]["role"] == "assistant":  # a prefill: both are one message
        message["content"] = f"{messages.pop()['content']}{text}"
    reasoning = thinking or profile.reasoning_placeholder
    if profile.echo_reasoning != "never" and reasoning is not None:
        message[profile.reasoning_field] = reasoning
    message["tool_calls"] = _tool_calls(calls)
    messages.append(message)
    messages += [
        {"role": "tool", "tool_call_id": made["id"], "content": UNAVAILABLE}
        for made in message["tool_calls"]
    ]
    body["messages"] = messages
    table = plan.tool_table  # where one tool alone was sent, to force it, the others come now
    offered = table.functions if table is not None else body.get("tools", ())
    tools = [t for t in offered if t["function"]["name"] not in plan.server_tools]
    _replace_tools(body, tools, is_forced=plan.forced_by_schema)
    return msgspec.structs.replace(
        plan,
        body=body,
        tool_names=frozenset(tool["function"]["name"] for tool in tools),
        server_tools={},
        forced_by_schema=False,
        forced_by_choice=False,
    )


def plan_once_more(plan: Plan, text: str, note: str, *, thinking: str = "") -> Plan:
    """
    Return the plan for asking again after a reply that was none.

    Args:
        plan: The plan that led to it.
        text: What the model said, if anything.
        note: What it is told.
        thinking: What it thought; it goes back where the upstream reads it.
    """
    profile = plan.deployment.profile
    body = {key: value for key, value in plan.body.items() if key not in _PREFILL_FIELDS}
    messages = [*body["messages"]]
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if messages[-1]["role"] == "assistant":  # a prefill: both are one message
        message["content"] = f"{messages.pop()['content']}{text}"
    reasoning = thinking or profile.reasoning_placeholder
    if profile.echo_reasoning != "never" and reasoning is not None:
        message[profile.reasoning_field] = reasoning
    if message["content"]:  # an empty one is refused by some
        messages.append(message)
    last = messages[-1]
    if last["role"] == "user":  # two in a row are refused by some, too
        said = last["content"]
        more = f"{said}\n\n{note}"
        is_text = isinstance(said, str)
        messages[-1] = {
            **last,
            "content": more if is_text else [*said, {"type": "text", "text": note}],
        }
    else:
        messages.append({"role": "user", "content": note})
    body["messages"] = messages
    return msgspec.structs.replace(plan, body=body, forced_by_hint=False, forced_by_choice=False)


def with_max_tokens(plan: Plan, max_tokens: int) -> Plan:
    """Return *plan* with fewer tokens asked for, as the upstream has said that it takes."""
    profile = plan.deployment.profile
    body = {**plan.body, profile.max_tokens_field: max_tokens}
    fitted = [Adjustment("max_tokens", "clamped", f"{max_tokens} is what the upstream takes")]
    if budget := _fit_budget(body, profile):
        fitted.append(budget)
    fields = {adjustment.field for adjustment in fitted}
    others = [a for a in plan.adjustments if a.field not in fields]
    return msgspec.structs.replace(plan, body=body, adjustments=(*others, *fitted))


def _is_continued(request: MessagesRequest, profile: DialectProfile) -> bool:
    """Tell whether the upstream goes on with an answer that the client has begun."""
    last = request.messages[-1]
    return last.role == "assistant" and request.compaction is None and profile.prefill != "hint"


def _fit_budget(body: dict[str, Any], profile: DialectProfile) -> Adjustment | None:
    """Leave a quarter of max_tokens to the answer where the thinking could use up all of them."""
    field_name = profile.thinking_budget_field
    max_tokens = body[profile.max_tokens_field]
    if field_name is None or body.get(field_name, 0) < max_tokens:
        return None
    body[field_name] = budget = max(1, max_tokens * 3 // 4)
    reason = f"{budget} leaves room for an answer in max_tokens"
    return Adjustment("thinking.budget_tokens", "clamped", reason)


def _tool_calls(calls: Sequence[ServerCall]) -> list[dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for number, call in enumerate(calls):
        call_id = call.id
        while call_id in made:
            call_id = f"{call_id}_{number}"
        function = {"name": call.name, "arguments": call.arguments_json}
        made[call_id] = {"id": call_id, "type": "function", "function": function}
    return list(made.values())


def _replace_tools(body: dict[str, Any], tools: list[dict[str, Any]], *, is_forced: bool) -> None:
    """Put *tools* in; whatever call was forced has been made."""
    if is_forced:
        body.pop("response_format", None)
    if is_forced or body.get("tool_choice") not in (None, "auto", "none"):
        body.pop("tool_choice", None)
    if tools:
        body["tools"] = tools
        return
    for key in ("tools", "tool_choice", "parallel_tool_calls", "tool_stream"):
        body.pop(key, None)


def _refuse_thread(request: MessagesRequest) -> None:
    if request.thread is None:
        return
    reason = "message threads are not kept here; send the whole conversation"
    details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    raise InvalidRequest("thread", reason, details=details)


def _messages(
    request: MessagesRequest,
    reader: HistoryReader,
    *,
    notes: Sequence[str],
    reminder: str,
    recall: Recall | None,
    adjustments: Adjustments,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the messages, the system prompt first, and fields that a prefill needs."""
    summary, messages = cut_at_compaction(request.messages, adjustments)
    prompt = [_system_prompt(request.system, adjustments)]
    first = 0
    while first < len(messages) and messages[first][1].role == "system" and not summary:
        number, message = messages[first]
        prompt.append(system_text(message.content, f"messages.{number}.content", adjustments))
        first += 1
    if summary:
        reader.add_user_text(f"<summary>\nThe conversation so far:\n{summary}\n</summary>")
    entries = reader.read(messages[first:])
    if reminder and request.messages[-1].role == "user":  # at the end, where no cache is spoilt
        reader.add_user_text(f"<system-reminder>\n{reminder}\n</system-reminder>")
    if request.compaction is not None:
        reason = "the summary will come as text, not as a compaction block"
        adjustments.add("compaction", "emulated", reason=reason)
        reader.add_user_text(_summary_request(request.compaction))
    writer = HistoryWriter(reader.profile, adjustments, recall=recall)
    writer.write(entries)
    is_prefill = request.messages[-1].role == "assistant" and request.compaction is None
    prefill = writer.finish(is_prefill=is_prefill)
    writer.require_user()
    text = "\n\n".join(part for part in (*prompt, *notes) if part)
    head = [{"role": "system", "content": text}] if text else []
    return [*head, *writer.messages], prefill


def _system_prompt(system: str | list[Block] | None, adjustments: Adjustments) -> str:
    if system is None:
        return ""
    if isinstance(system, str):
        return _without_attribution(system)
    kept = []
    for block in system:
        text = block.text
        if text is not None and text.startswith(_ATTRIBUTION):
            kept.append(Block("text", text=_without_attribution(text)))
        else:
            kept.append(block)
    return system_text(kept, "system", adjustments)


def _without_attribution(text: str) -> str:
    if not text.startswith(_ATTRIBUTION):
        return text
    return text.partition("\n")[2].lstrip("\n")


def _summary_request(compaction: object) -> str:
    instructions = compaction.get("instructions") if isinstance(compaction, dict) else None
    return instructions if isinstance(instructions, str) and instructions else _SUMMARIZE


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


def _names_of(sent: Sequence[dict[str, Any]], tools: ToolTable) -> frozenset[str]:
    if sent is tools.functions:
        return tools.names
    return frozenset(tool["function"]["name"] for tool in sent)


def _tools_tokens(
    body: Mapping[str, Any], tools: ToolTable, profile: DialectProfile
) -> float | None:
    """Return an estimate of the tools that is kept with them; None: others are sent."""
    if body.get("tools") is not tools.functions:
        return None
    if tools.tokens is None:
        tools.tokens = estimate_json(tools.encode(), profile)
    return tools.tokens


def _format_fields(choice: ToolChoicePlan, form: FormatPlan) -> dict[str, Any]:
    """Return the format that a forced call needs, or else the one that was asked for."""
    response_format = choice.response_format or form.response_format
    return {"response_format": response_format} if response_format else {}


def _reader(
    deployment: Deployment,
    tools: ToolTable,
    *,
    signer: Signer,
    texts: Mapping[str, str],
    adjustments: Adjustments,
) -> HistoryReader:
    profile = deployment.profile
    blocks = BlockRenderer(
        deployment.model,
        sees_images=profile.sees_images,
        texts=texts,
        tools=tools,
        adjustments=adjustments,
    )
    return HistoryReader(
        profile, tools=tools, blocks=blocks, signer=signer, adjustments=adjustments
    )


def _delivery_fields(
    request: MessagesRequest, profile: DialectProfile, *, body: Mapping[str, Any], is_stream: bool
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    user_id = request.metadata.user_id if request.metadata is not None else None
    if user_id and profile.sends_user:
        fields["user"] = user_id
    fields["stream"] = is_stream
    if is_stream and profile.stream_options:
        fields["stream_options"] = {"include_usage": True}
    if is_stream and profile.tool_stream and "tools" in body:
        fields["tool_stream"] = True
    return fields
