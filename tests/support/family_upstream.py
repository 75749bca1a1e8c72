"""
An upstream that behaves like one vendor on its worst day, and refuses whatever the vendor refuses.

Each family has a table of laws. A request that breaks one gets 400 in the vendor's own form, and is
remembered, so that a test can say that nothing was refused. The sections named are of the model
dialects, read 2026-11-22.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from support.chat_script import Reply, give, refuse
from support.chat_upstream import ChatUpstream, Recorded
from support.family_wire import WIRES, Step, call_id

Body = dict[str, Any]
Message = dict[str, Any]


@dataclass
class Past:
    """What the upstream has sent: for each call, by name and input, its id and its reasoning."""

    calls: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def add(self, family: str, step: Step) -> None:
        """Remember a step."""
        for name, given in step.calls:
            made = call_id(family, name, len(self.calls))
            self.calls[name, _canonical(given)] = (made, step.thought)

    def find(self, call: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return id and reasoning of a call of the history, if it was made here."""
        function = call["function"]
        return self.calls.get((function["name"], _canonical(json.loads(function["arguments"]))))


@dataclass(frozen=True)
class Law:
    """Something that the vendor refuses; *broken* yields what it then says."""

    name: str
    source: str
    broken: Callable[[Body, Past], Iterator[str]]
    param: str | None = None


@dataclass(frozen=True)
class FamilyCase:
    """A vendor: where Dragoman is told that it is, a model of it, its laws and its errors."""

    name: str
    platform: str
    model: str
    laws: tuple[Law, ...]
    error: Callable[[str, str | None], Body]


class FamilyUpstream(ChatUpstream):
    """The server; plays steps one after another to requests that break no law."""

    def __init__(self, family: FamilyCase) -> None:
        super().__init__(models=(family.model,))
        self.family = family
        self.refused: list[str] = []  # the laws that were broken, and what was said
        self._steps: list[Step] = []
        self._past = Past()
        self._has_failed = False

    def play(self, *steps: Step) -> None:
        """Forget the past and play *steps* from now on."""
        self.script()
        self.refused.clear()
        self._steps = list(steps)
        self._past = Past()

    def choose(self, recorded: Recorded) -> Reply:
        """Record a chat request; refuse it, fail, or give the next step."""
        with self._arrived:
            self.requests.append(recorded)
            self._arrived.notify_all()
            for law in self.family.laws:
                said = next(law.broken(recorded.body, self._past), None)
                if said is not None:
                    self.refused.append(f"{law.name}: {said}")
                    body = json.dumps(self.family.error(said, law.param)).encode()
                    return give(body, status=400).reply
            if not self._steps:
                self.unmatched.append(recorded)
                return refuse(400, "the script is over").reply
            return self._next(self._steps[0]).reply

    def _next(self, step: Step) -> Any:
        wire, model = WIRES[self.family.name], self.family.model
        self._has_failed = step.trouble and not self._has_failed
        if self._has_failed and wire.fail is not None:
            return give(wire.fail(model), content_type="text/event-stream")
        body = wire.stream(model, step, len(self._past.calls))
        self._past.add(self.family.name, step)
        self._steps.pop(0)
        self._has_failed = False
        return give(body, content_type="text/event-stream;charset=utf-8")


def _canonical(given: Any) -> str:
    return json.dumps(given, sort_keys=True)


# -- laws that several vendors have


def _is_thinking(body: Body, *, default: bool = True) -> bool:
    if "enable_thinking" in body:
        return bool(body["enable_thinking"])
    switch = body.get("thinking")
    return switch["type"] != "disabled" if switch else default


def _assistants(body: Body) -> Iterator[tuple[int, Message]]:
    return ((n, m) for n, m in enumerate(body["messages"]) if m["role"] == "assistant")


def _echo(said: str, *, everywhere: bool, default: bool = True) -> Law:
    """Reasoning must come back: byte for byte what went out with these calls."""

    def broken(body: Body, past: Past) -> Iterator[str]:
        if not _is_thinking(body, default=default):
            return
        for number, message in _assistants(body):
            calls = message.get("tool_calls") or ()
            if not calls and not everywhere:
                continue
            reasoning = message.get("reasoning_content")
            known = [found[1] for call in calls if (found := past.find(call))]
            if not reasoning or any(thought not in ("", reasoning) for thought in known):
                yield said.format(number)

    where = "every assistant turn" if everywhere else "every turn with calls"
    return Law(f"reasoning comes back on {where}", "section 3", broken, "reasoning_content")


def _no_more_tokens(field_name: str, limit: int) -> Law:
    def broken(body: Body, past: Past) -> Iterator[str]:
        for name in ("max_tokens", "max_completion_tokens"):
            if body.get(name, 0) > limit:
                yield f"Range of {name} should be [1, {limit}]"

    return Law("max_tokens within the model's limit", "section 1", broken, field_name)


def _choices(allowed: tuple[str, ...], thinking: tuple[str, ...], said: str) -> Law:
    """Values of tool_choice; ``named`` stands for a function."""

    def broken(body: Body, past: Past) -> Iterator[str]:
        choice = body.get("tool_choice", "auto")
        kind = choice if isinstance(choice, str) else "named"
        if kind not in (thinking if _is_thinking(body) else allowed):
            yield said.format("specified" if kind == "named" else kind)

    return Law("tool_choice of the table", "section 2, tool_choice", broken, "tool_choice")


def _at_most(name: str, limit: float, said: str) -> Law:
    def broken(body: Body, past: Past) -> Iterator[str]:
        if body.get(name) is not None and body[name] > limit:
            yield said

    return Law(f"{name} at most {limit}", f"section 2, {name}", broken, name)


def _without(name: str, said: str) -> Law:
    def broken(body: Body, past: Past) -> Iterator[str]:
        if name in body:
            yield said

    return Law(f"no {name}", "section 2", broken, name)


def _stops(limit: int, max_bytes: int = 2**10) -> Law:
    def broken(body: Body, past: Past) -> Iterator[str]:
        stops = body.get("stop") or []
        if len(stops) > limit or any(len(stop.encode()) > max_bytes for stop in stops):
            yield f"stop takes at most {limit} sequences of {max_bytes} bytes"

    return Law(f"at most {limit} stop sequences", "section 2, stop", broken, "stop")


def _no_images(body: Body, past: Past) -> Iterator[str]:
    if "image_url" in json.dumps(body["messages"]):
        yield "This model does not support image input"


def _system_first(body: Body, past: Past) -> Iterator[str]:
    if any(m["role"] == "system" for m in body["messages"][1:]):
        yield "System message must be at the beginning."


def _plain_results(body: Body, past: Past) -> Iterator[str]:
    for message in body["messages"]:
        if message["role"] == "tool" and not isinstance(message["content"], str):
            yield "`text` is not set"


def _functions(body: Body, past: Past) -> Iterator[str]:
    tools = body.get("tools", [])
    if len(tools) > 128:
        yield "at most 128 tools are supported"
    for tool in tools:
        name = tool["function"]["name"]
        if tool["type"] != "function" or not re.fullmatch("[a-zA-Z0-9_-]{1,64}", name):
            yield f"Invalid function name: {name}"


def _answered(body: Body, past: Past) -> Iterator[str]:
    """Results follow their calls directly, one for each."""
    messages = body["messages"]
    for number, message in _assistants(body):
        ids = [call["id"] for call in message.get("tool_calls") or ()]
        behind = messages[number + 1 : number + 1 + len(ids)]
        if [m.get("tool_call_id") for m in behind] != ids:
            yield "an assistant message with 'tool_calls' must be followed by tool messages"


def _asks_someone(body: Body, past: Past) -> Iterator[str]:
    if not any(m["role"] == "user" for m in body["messages"]):
        yield "messages must hold at least one user message"
    if any("name" in m for m in body["messages"]):
        yield "messages: unknown field name"


_EVERYWHERE = (
    Law("the system message comes first", "section 2, message quirks", _system_first, "messages"),
    Law("results are plain strings", "section 2, message quirks", _plain_results, "messages"),
    Law("functions only, named as allowed", "section 2, tools limits", _functions, "tools"),
    Law("each call is answered at once", "section 2", _answered, "messages"),
)
_TEXT_ONLY = Law("no images", "section 1, input", _no_images, "messages")


# -- DeepSeek


def _no_empty_turn(body: Body, past: Past) -> Iterator[str]:
    """V3.2's encoder refuses a turn behind the last user message that says and thinks nothing."""
    users = [n for n, m in enumerate(body["messages"]) if m["role"] == "user"]
    for number, message in _assistants(body):
        empty = not (message.get("reasoning_content") or message.get("tool_calls"))
        if number > max(users, default=-1) and empty:
            yield "Invalid assistant message"


def _options_of_a_stream(body: Body, past: Past) -> Iterator[str]:
    if "stream_options" in body and not body.get("stream"):
        yield "stream_options should be set along with stream = true"


def _deepseek_error(said: str, param: str | None) -> Body:
    kind = "invalid_request_error"
    return {"error": {"message": said, "type": kind, "param": None, "code": kind}}


DEEPSEEK = FamilyCase(
    name="deepseek",
    platform="deepseek",
    model="deepseek-v3.2",
    laws=(
        _echo(
            "Missing `reasoning_content` field in the assistant message at message index {}. The "
            "reasoning_content in the thinking mode must be passed back to the API.",
            everywhere=False,
        ),
        _choices(
            ("none", "auto", "required", "named"),
            ("none", "auto"),
            "Thinking mode does not support this tool_choice",
        ),
        _no_more_tokens("max_tokens", 65_536),
        _at_most("temperature", 2, "Invalid temperature value, the valid range is [0, 2]"),
        _stops(16),
        Law("no turn without anything", "section 3", _no_empty_turn),
        Law("stream_options with streams only", "section 5", _options_of_a_stream),
        _TEXT_ONLY,
        *_EVERYWHERE,
    ),
    error=_deepseek_error,
)


# -- Qwen on DashScope


def _no_tags(body: Body, past: Past) -> Iterator[str]:
    if any("<think>" in str(m.get("content")) for _, m in _assistants(body)):
        yield "reasoning must not be inside content"


def _qwen_error(said: str, param: str | None) -> Body:
    message = f"<400> InternalError.Algo.InvalidParameter: {said}"
    code = "invalid_parameter_error"
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


QWEN = FamilyCase(
    name="qwen",
    platform="dashscope",
    model="qwen3.8-max",
    laws=(
        _choices(
            ("none", "auto", "named"),
            ("none", "auto"),
            "The tool_choice parameter does not support being set to {} in thinking mode",
        ),
        _no_more_tokens("max_completion_tokens", 131_072),
        _at_most("temperature", 1.999, "'temperature' must be in [0, 2)"),
        _at_most("top_p", 1, "'top_p' must be in (0, 1]"),
        Law("no reasoning inside content", "section 2, message quirks", _no_tags),
        *_EVERYWHERE,
    ),
    error=_qwen_error,
)


# -- Kimi


def _own_ids(body: Body, past: Past) -> Iterator[str]:
    """The template prints ids into the prompt: they must be those that came."""
    for number, message in _assistants(body):
        for call in message.get("tool_calls") or ():
            found = past.find(call)
            if (found is not None and found[0] != call["id"]) or not re.fullmatch(
                r"functions\.[a-zA-Z0-9_-]+:\d+", call["id"]
            ):
                yield f"tool_call_id {call['id']} is not found at index {number}"


def _untyped(schema: Any, path: str) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    for name, node in (schema.get("properties") or {}).items():
        at = f"{path}.{name}"
        if ("type" in node) == bool({"anyOf", "$ref"} & node.keys()):  # in one place, not in both
            yield at
        yield from _untyped(node, at)
    for keyword in ("items", "additionalProperties"):
        yield from _untyped(schema.get(keyword), f"{path}.{keyword}")
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, node in enumerate(schema.get(keyword) or ()):
            yield from _untyped(node, f"{path}.{keyword}.{number}")
    for keyword in ("$defs", "definitions"):
        for name, node in (schema.get(keyword) or {}).items():
            yield from _untyped(node, f"{path}.{keyword}.{name}")


def _typed(body: Body, past: Past) -> Iterator[str]:
    for tool in body.get("tools", ()):
        function = tool["function"]
        for path in _untyped(function["parameters"], function["name"]):
            yield (
                "tools.function.parameters is not a valid moonshot flavored json schema, details: "
                f"<At path '{path}': type is not defined>"
            )


def _nothing_empty(body: Body, past: Past) -> Iterator[str]:
    for number, message in enumerate(body["messages"]):
        content = message.get("content")
        texts = [p.get("text") for p in content] if isinstance(content, list) else [content]
        if "" in texts:
            yield f"Invalid request: text content is empty at index {number}"


def _pictures_inside(body: Body, past: Past) -> Iterator[str]:
    if '"image_url": {"url": "http' in json.dumps(body["messages"]):
        yield "Invalid request: unsupported image url, use base64 or a file id"


def _kimi_error(said: str, param: str | None) -> Body:
    return {"error": {"message": said, "type": "invalid_request_error"}}


KIMI = FamilyCase(
    name="kimi",
    platform="moonshot",
    model="kimi-k2.5",
    laws=(
        _echo(
            "thinking is enabled but reasoning_content is missing in assistant tool call message "
            "at index {}",
            everywhere=False,
        ),
        Law("ids come back as they were", "rule 5, section 4.2", _own_ids),
        Law("each nested property has a type", "section 2, strict tools", _typed),
        Law("no empty text", "section 2, message quirks", _nothing_empty),
        Law("images in base64", "section 2, message quirks", _pictures_inside),
        _choices(
            ("none", "auto"),
            ("none", "auto"),
            "tool_choice '{}' is incompatible with thinking enabled",
        ),
        _without("temperature", "invalid temperature: only 1 is allowed for this model"),
        _without("top_p", "invalid top_p: only 0.95 is allowed for this model"),
        _without("top_k", "unknown field top_k"),
        _stops(5, 32),
        _no_more_tokens("max_completion_tokens", 262_144),
        *_EVERYWHERE,
    ),
    error=_kimi_error,
)


# -- GLM


def _glm_error(said: str, param: str | None) -> Body:
    return {"error": {"code": "1214", "message": said}}


GLM = FamilyCase(
    name="glm",
    platform="zai",
    model="glm-4.7",
    laws=(
        _echo("messages parameter is illegal: reasoning of message {}", everywhere=False),
        _choices(("auto",), ("auto",), "tool_choice supports auto only"),
        _at_most("temperature", 1, "temperature parameter is illegal, the range is [0, 1]"),
        _at_most("top_p", 1, "top_p parameter is illegal, the range is [0.01, 1]"),
        _without("top_k", "top_k parameter is illegal"),
        _without("parallel_tool_calls", "parallel_tool_calls parameter is illegal"),
        _stops(1),
        _no_more_tokens("max_tokens", 131_072),
        Law("someone asks, nameless", "section 2, message quirks", _asks_someone),
        _TEXT_ONLY,
        *_EVERYWHERE,
    ),
    error=_glm_error,
)


# -- MiMo


def _mimo_error(said: str, param: str | None) -> Body:
    return {"error": {"code": "400", "message": "Param Incorrect", "param": said, "type": ""}}


MIMO = FamilyCase(
    name="mimo",
    platform="mimo",
    model="mimo-v2-flash",
    laws=(
        _echo(
            "reasoning_content of message {} must be passed back", everywhere=True, default=False
        ),
        _choices(("auto",), ("auto",), "tool_choice: only auto is supported"),
        _no_more_tokens("max_completion_tokens", 65_536),
        _TEXT_ONLY,
        *_EVERYWHERE,
    ),
    error=_mimo_error,
)

FAMILIES = {case.name: case for case in (DEEPSEEK, QWEN, KIMI, GLM, MIMO)}
