"""Request + deployment -> Plan: everything decided before the upstream is called."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dragoman.core.adjustments import Adjustment, Adjustments
from dragoman.core.blocks import BlockRenderer
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import InvalidRequest
from dragoman.core.guards import watch_repeats
from dragoman.core.history import (
    HistoryReader,
    HistoryWriter,
    Recall,
    cut_at_compaction,
    system_text,
)
from dragoman.core.plain_history import write_plainly
from dragoman.core.plan_frame import (
    DELIVERY_FIELDS,
    Ending,
    PlanMemory,
    find_frame,
    fit_budget,
    plan_ending,
)
from dragoman.core.plan_types import Deployment, Plan, ServerCall
from dragoman.core.server_tools import UNAVAILABLE, ServerTool
from dragoman.core.settings import has_room
from dragoman.core.signatures import Signer
from dragoman.core.token_count import calibrated, estimate_plain, estimate_prompt, read_prompt
from dragoman.core.tool_uses import NO_TOOL, wanted_tools
from dragoman.core.tools import ToolTable
from dragoman.wire.anthropic import Block, MessagesRequest

__all__ = [
    "Adjustment",
    "Deployment",
    "Plan",
    "ServerCall",
    "ServerTool",
    "make_plan",
    "plan_after_server_tools",
    "plan_anything",
    "plan_once_more",
    "plan_texts",
    "with_max_tokens",
]

_filled: Final = msgspec.structs.replace
# A client fingerprint that changes with every conversation: it would spoil prefix caches.
_ATTRIBUTION: Final = "x-anthropic-billing-header"
_PREFILL_FIELDS: Final = ("continue_final_message", "add_generation_prompt")
_SUMMARIZE: Final = (
    "Summarize the conversation so far, so that it can be continued from the summary alone. "
    "Write nothing but the summary."
)


def make_plan(
    request: MessagesRequest,
    deployment: Deployment,
    *,
    signer: Signer,
    texts: Mapping[str, str] | None = None,
    recall: Recall | None = None,
    stream: bool | None = None,
    estimate_ratio: float = 1.0,
    memory: PlanMemory | None = None,
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
        memory: What plans with the same tools and settings have in common.

    Raises:
        InvalidRequest: A message thread, or content that only a file id points at.
    """
    is_stream = stream is not False
    plan = plan_texts(
        request, deployment, is_stream=is_stream, estimate_ratio=estimate_ratio, memory=memory
    )
    if plan is not None:
        return plan
    return plan_anything(
        request,
        deployment,
        signer=signer,
        texts=texts,
        recall=recall,
        is_stream=is_stream,
        estimate_ratio=estimate_ratio,
        memory=memory,
    )


def plan_anything(
    request: MessagesRequest,
    deployment: Deployment,
    *,
    signer: Signer,
    texts: Mapping[str, str] | None,
    recall: Recall | None,
    estimate_ratio: float,
    memory: PlanMemory | None,
    is_stream: bool = True,
) -> Plan:
    """Return what ``make_plan`` does where ``plan_texts`` returns None."""
    if request.thread is not None:
        raise _thread_refused()
    wanted = wanted_tools(request.messages)
    frame = find_frame(request, deployment, wanted=wanted, is_stream=is_stream, memory=memory)
    profile = deployment.profile
    prefill: dict[str, Any] = {}
    said = Adjustments(frame.before)
    reader = _reader(deployment, frame.tools, signer=signer, texts=texts or {}, adjustments=said)
    is_looping, reminder = watch_repeats(request, deployment.guards, said)
    messages, prefill = _messages(
        request, reader, note=frame.note, reminder=reminder, recall=recall, adjustments=said
    )
    is_continued = _is_continued(request, profile)
    ending = frame.ending
    body = _body(request, deployment, messages=messages, ending=ending, prefill=prefill)
    prompt = read_prompt(body, tools_tokens=frame.tools_tokens)
    uncalibrated = estimate_prompt(prompt, profile)
    is_calibrated = estimate_ratio != 1.0
    prompt_tokens = calibrated(uncalibrated, estimate_ratio) if is_calibrated else uncalibrated
    if has_room(profile, prompt_tokens, ending.limit):
        said.add_all(ending.adjustments)
    else:
        ending = plan_ending(request, frame, prompt_tokens=prompt_tokens, adjustments=said)
        body = _body(request, deployment, messages=messages, ending=ending, prefill=prefill)
    return _filled(
        frame.plan,
        request=request,
        body=body,
        adjustments=said.take(),
        input_tokens_estimate=prompt_tokens,
        is_calibrated=is_calibrated,
        uncalibrated_tokens=0 if prompt.images else uncalibrated,
        begins_thinking=frame.plan.begins_thinking and not is_continued,
        fills_window=ending.limit.is_window,
        is_looping=is_looping,
    )


def plan_texts(
    request: MessagesRequest,
    deployment: Deployment,
    *,
    is_stream: bool,
    estimate_ratio: float,
    memory: PlanMemory | None,
) -> Plan | None:
    """
    Return what ``make_plan`` would for a conversation of nothing but texts, in one pass over it.

    None where anything else is to be considered, also where the window may be too small.
    """
    profile, system = deployment.profile, request.system
    messages = write_plainly(request.messages, profile)
    if messages is None or request.compaction is not None or request.thread is not None:
        return None
    if not (system is None or isinstance(system, str)):
        return None
    frame = find_frame(request, deployment, wanted=NO_TOOL, is_stream=is_stream, memory=memory)
    if system or frame.note:
        text = _without_attribution(system) if system else ""
        text = f"{text}\n\n{frame.note}" if text and frame.note else text or frame.note
        if text:
            messages.insert(0, {"role": "system", "content": text})
    ending = frame.ending
    body = {"model": deployment.model, "messages": messages, **ending.fields}
    if request.metadata is not None and "user" in body:
        body["user"] = request.metadata.user_id
    prompt_tokens = uncalibrated = estimate_plain(messages, frame.prompt)
    is_calibrated = estimate_ratio != 1.0
    if is_calibrated:
        prompt_tokens = calibrated(uncalibrated, estimate_ratio)
    if profile.context_window is not None and not has_room(profile, prompt_tokens, ending.limit):
        return None
    return _filled(
        frame.plan,
        request=request,
        body=body,
        input_tokens_estimate=prompt_tokens,
        is_calibrated=is_calibrated,
        uncalibrated_tokens=uncalibrated,
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
    if budget := fit_budget(body, profile):
        fitted.append(budget)
    fields = {adjustment.field for adjustment in fitted}
    others = [a for a in plan.adjustments if a.field not in fields]
    return msgspec.structs.replace(plan, body=body, adjustments=(*others, *fitted))


def _is_continued(request: MessagesRequest, profile: DialectProfile) -> bool:
    """Tell whether the upstream goes on with an answer that the client has begun."""
    last = request.messages[-1]
    return last.role == "assistant" and request.compaction is None and profile.prefill != "hint"


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


def _thread_refused() -> InvalidRequest:
    reason = "message threads are not kept here; send the whole conversation"
    details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return InvalidRequest("thread", reason, details=details)


def _body(
    request: MessagesRequest,
    deployment: Deployment,
    *,
    messages: list[dict[str, Any]],
    ending: Ending,
    prefill: dict[str, Any],
) -> dict[str, Any]:
    body: dict[str, Any] = {"model": deployment.model, "messages": messages, **ending.fields}
    if prefill:  # before how it is delivered
        delivery = {name: body.pop(name) for name in DELIVERY_FIELDS if name in body}
        body |= prefill | delivery
    if request.metadata is not None and "user" in body:
        body["user"] = request.metadata.user_id
    return body


def _messages(
    request: MessagesRequest,
    reader: HistoryReader,
    *,
    note: str,
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
    text = "\n\n".join(part for part in (*prompt, note) if part)
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
