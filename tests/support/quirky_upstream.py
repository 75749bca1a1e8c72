"""An upstream with chosen quirks: what it accepts, refuses and makes of a request."""

import json
from dataclasses import dataclass, field
from typing import Any

from dragoman.core.tool_schemas import schema_keywords
from support.chat_script import Call, Reply, Thought, give, refuse, render_events, render_whole, say
from support.chat_upstream import ChatUpstream, Recorded


@dataclass
class Quirks:
    """How one model behind one server behaves. The defaults: an obliging one that never thinks."""

    limit_fields: tuple[str, ...] = ("max_tokens", "max_completion_tokens")
    refused_fields: tuple[str, ...] = ()
    max_output: int | None = None
    temperatures: tuple[float, float] = (0.0, 2.0)
    top_k_is_read: bool = True
    efforts: tuple[str, ...] | None = None
    thinks: bool = False  # unless told otherwise
    switch: dict[str, Any] | None = None  # field -> value that switches it off (or on)
    reasoning: str = "reasoning_content"  # or "tags", "closing tag"
    echo: str = "any"  # "refused", "tool_turns", "always"
    takes_placeholder: bool = True
    sees_images: bool = False
    has_tools: bool = True
    forced: tuple[str, ...] = ("required", "named")
    forces_while_thinking: bool = True
    formats: tuple[str, ...] = ("json_object", "json_schema")
    schema_refused: tuple[str, ...] = ()
    schema_types: bool = False
    stop_report: str = ""
    max_stops: int | None = None
    prefill: str = ""
    mid_system: bool = True
    call_id: str | None = None
    counts: str = ""
    listed: dict[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """A 400 with this message."""


def answer(body: dict[str, Any], quirks: Quirks) -> tuple[int, bytes]:
    """Return status and body of the answer to a chat request."""
    try:
        _check(body, quirks)
        reply = _reply(body, quirks)
    except Refused as refused:
        raw = refuse(400, str(refused)).reply.raw
        assert raw is not None
        return 400, raw
    if body.get("stream"):
        return 200, b"".join(render_events(reply, body))
    return 200, json.dumps(render_whole(reply, body)).encode()


class QuirkyUpstream(ChatUpstream):
    """A server like that on loopback."""

    def __init__(self, quirks: Quirks, *models: str) -> None:
        super().__init__(models=models)
        self.quirks = quirks
        self.tokens_per_request = 7 if quirks.counts == "vllm" else None

    def choose(self, recorded: Recorded) -> Reply:
        self.requests.append(recorded)
        status, raw = answer(recorded.body, self.quirks)
        kind = "text/event-stream" if raw.startswith(b"data:") else "application/json"
        return give(raw, status=status, content_type=kind).reply


def is_thinking(body: dict[str, Any], quirks: Quirks) -> bool:
    """Tell whether the model thinks about this request."""
    if quirks.switch is None:
        return quirks.thinks
    ((name, value),) = quirks.switch.items()
    return not quirks.thinks if body.get(name) == value else quirks.thinks


def _check(body: dict[str, Any], quirks: Quirks) -> None:
    for name in quirks.refused_fields:
        if name in body or name in body["messages"][-1]:
            raise Refused(f"Unrecognized request argument supplied: {name}")
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body and name not in quirks.limit_fields:
            raise Refused(f"Unsupported parameter: '{name}'")
        if quirks.max_output is not None and body.get(name, 0) > quirks.max_output:
            raise Refused(f"Range of {name} should be [1, {quirks.max_output}]")
    low, high = quirks.temperatures
    if not low <= body.get("temperature", high) <= high:
        said = f"only {high:g} is allowed" if low == high else f"must be between {low} and {high}"
        raise Refused(f"invalid temperature: {said}")
    if quirks.top_k_is_read and isinstance(body.get("top_k"), str):
        raise Refused("top_k: Input should be a valid integer")
    if quirks.efforts is not None and body.get("reasoning_effort", "high") not in quirks.efforts:
        raise Refused(f"reasoning_effort must be one of {', '.join(quirks.efforts)}")
    if quirks.max_stops is not None and len(body.get("stop") or ()) > quirks.max_stops:
        raise Refused(f"stop: at most {quirks.max_stops} sequences")
    _check_messages(body, quirks)
    _check_tools(body, quirks)


def _check_messages(body: dict[str, Any], quirks: Quirks) -> None:
    messages = body["messages"]
    has_image = any(isinstance(message["content"], list) for message in messages)
    if has_image and not quirks.sees_images:
        raise Refused("this model does not support image input")
    if not quirks.mid_system and any(m["role"] == "system" for m in messages[1:]):
        raise Refused("System message must be at the beginning.")
    for message in messages:
        if message["role"] != "assistant" or message is messages[-1]:
            continue
        reasoning = message.get("reasoning_content")
        if quirks.echo == "refused" and reasoning is not None:
            raise Refused("messages: Extra inputs are not permitted: reasoning_content")
        is_needed = quirks.echo == "always" or (
            quirks.echo == "tool_turns" and "tool_calls" in message
        )
        is_empty = reasoning is None or (not reasoning.strip() and not quirks.takes_placeholder)
        if is_needed and is_thinking(body, quirks) and is_empty:
            raise Refused("reasoning_content is missing in assistant message at index 1")


def _check_tools(body: dict[str, Any], quirks: Quirks) -> None:
    if not quirks.has_tools and "tools" in body:
        raise Refused("this model does not support tools")
    for tool in body.get("tools") or ():
        schema = tool["function"]["parameters"]
        for keyword in sorted(schema_keywords(schema) & set(quirks.schema_refused)):
            raise Refused(f"tools.0.function.parameters: keyword '{keyword}' is not supported")
        for name, part in schema["properties"].items():
            if quirks.schema_types and not part.keys() & {"type", "anyOf", "$ref"}:
                raise Refused(f"invalid schema: At path 'properties.{name}': type is not defined")
    choice = body.get("tool_choice")
    kind = "named" if isinstance(choice, dict) else choice
    if kind in ("named", "required"):
        if not quirks.forces_while_thinking and is_thinking(body, quirks):
            raise Refused("Thinking mode does not support this tool_choice")
        if kind == "required" and "no required" in quirks.forced:
            raise Refused("tool_choice: required is unsupported")
    kind = (body.get("response_format") or {}).get("type", "json_object")
    if kind not in quirks.formats and "response_format" in body and "lax" not in quirks.formats:
        raise Refused(f"response_format: {kind} is not supported")


def _reply(body: dict[str, Any], quirks: Quirks) -> Reply:
    parts: list[Any] = []
    if is_thinking(body, quirks):
        parts += {
            "tags": ["<think>Hm.</think>"],
            "closing tag": ["Hm.</think>"],
        }.get(quirks.reasoning, [Thought("Hm.")])
    options: dict[str, Any] = {}
    if quirks.reasoning == "reasoning":
        options["reasoning_field"] = "reasoning"
    said = _said(body, quirks)
    stops = body.get("stop") or ()
    if isinstance(said[0], str) and any(stop in said[0] for stop in stops):
        found = next(stop for stop in stops if stop in said[0])
        said = [said[0].partition(found)[0]]
        if quirks.stop_report:
            options["extra"] = {quirks.stop_report: found}
    return say(*parts, *said, **options).reply


def _said(body: dict[str, Any], quirks: Quirks) -> list[Any]:
    messages, choice = body["messages"], body.get("tool_choice")
    last = messages[-1]
    text = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
    if last["role"] == "assistant":
        marks = {"prefix": "prefix" in last, "partial": "partial" in last}
        marks["continue_final_message"] = "continue_final_message" in body
        form = next((name for name, is_set in marks.items() if is_set), "native")
        return ["5, 6, 7, 8, 9" if form == quirks.prefill else "1, 2, 3"]
    format_ = body.get("response_format") or {}
    if format_.get("type") == "json_schema" and "json_schema" in quirks.formats:
        properties = format_["json_schema"]["schema"]["properties"]
        return [json.dumps(_filled(properties))]
    if "tools" in body and (made := _calls(body, choice, text=text, quirks=quirks)):
        return made
    if any(m["role"] == "system" and "PELICAN" in m["content"] for m in messages):
        return ["PELICAN" if quirks.mid_system else "Fine."]
    if "colour is this" in text:
        return ["Red."]
    return ["1, 2, 3, 4, 5, 6, 7, 8" if text.startswith("Count") else '{"colour": "red"}']


def _calls(body: dict[str, Any], choice: Any, *, text: str, quirks: Quirks) -> list[Any]:
    names = [tool["function"]["name"] for tool in body["tools"]]
    if isinstance(choice, dict) and "named" in quirks.forced:
        names = [choice["function"]["name"]]
    elif choice != "required" or "required" not in quirks.forced:
        names = ["get_weather"] if "get_weather" in text else []
    names *= 2 if "both at once" in text and body.get("parallel_tool_calls") is not False else 1
    return [Call(name, '{"city": "Paris"}', id=quirks.call_id) for name in names]


def _filled(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        name: part["enum"][0] if "enum" in part else {"city": "Paris"}
        for name, part in properties.items()
    }
