"""
What a scripted upstream answers, and when: rules, replies, and replies as bytes.

Rules are tried in order; a rule is used up after *times* replies. A conversation of three steps is
three rules::

    upstream.script(say(call("Read", path="a")), say(call("Edit", path="a")), say("Done."))
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

FOREVER = -1
BEFORE_HEAD = -1  # a number of events: not even the status line is sent


@dataclass(frozen=True)
class Thought:
    """A piece of reasoning."""

    text: str


@dataclass(frozen=True)
class Call:
    """A tool call; *arguments* may be text that is no JSON."""

    name: str
    arguments: str
    id: str | None = None  # None: call_0, call_1, ... as engines number them in every reply


@dataclass(frozen=True)
class Reply:
    """
    What the upstream answers. ``*_after`` counts events sent before it happens.

    Attributes:
        raw: The body as it is, instead of *parts*.
        cut_event: Send half of the next event before a drop or an end.
        silent_after: Then say nothing until the client leaves.
        interleave: Send the fragments of parallel calls in turn.
    """

    parts: tuple[str | Thought | Call, ...] = ()
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str | None = None
    raw: bytes | None = None
    finish: str | None = "auto"
    usage: dict[str, Any] | None = None
    usage_style: Literal["trailing", "finish", "every", "none"] = "trailing"
    reasoning_field: str = "reasoning_content"
    chunk_chars: int = 12
    interleave: bool = False
    done: bool = True
    close: bool = False  # the body ends with the connection
    extra: dict[str, Any] = field(default_factory=dict)  # into the finish chunk's choice
    head_delay_s: float = 0
    delay_s: float = 0  # between two events
    drop_after: int | None = None
    eof_after: int | None = None
    silent_after: int | None = None
    cut_event: bool = False


@dataclass
class Rule:
    """When to give which reply; every condition that is set must hold."""

    reply: Reply
    times: int = 1
    last_has: str | None = None  # in the last message, whoever wrote it
    user_has: str | None = None  # in the last message of the user
    any_has: str | None = None  # anywhere in the request
    tool: str | None = None  # offered as a function
    messages: int | None = None  # how many there are
    when: Callable[[dict[str, Any]], bool] | None = None

    def matches(self, body: dict[str, Any]) -> bool:
        """Tell whether this rule answers *body*."""
        messages = body.get("messages") or [{}]
        users = [m for m in messages if m.get("role") == "user"]
        tools = [t.get("function", {}).get("name") for t in body.get("tools") or []]
        return (
            self.times != 0
            and (self.last_has is None or self.last_has in text_of(messages[-1]))
            and (self.user_has is None or (bool(users) and self.user_has in text_of(users[-1])))
            and (self.any_has is None or self.any_has in json.dumps(body, ensure_ascii=False))
            and (self.tool is None or self.tool in tools)
            and (self.messages is None or self.messages == len(messages))
            and (self.when is None or self.when(body))
        )


def call(name: str, /, **arguments: Any) -> Call:
    """Return a tool call with these arguments."""
    return Call(name, json.dumps(arguments))


def say(*parts: str | Thought | Call, **options: Any) -> Rule:
    """Return a rule that answers with *parts*; options are fields of Rule or Reply."""
    rule_keys = {k: options.pop(k) for k in list(options) if k in Rule.__dataclass_fields__}
    return Rule(reply=Reply(parts=parts, **options), **rule_keys)


def refuse(
    status: int, message: str, *, kind: str = "invalid_request_error", **options: Any
) -> Rule:
    """Return a rule that answers with an error in the form OpenAI gives it."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return give(json.dumps(body).encode(), status=status, **options)


def give(
    raw: bytes, *, status: int = 200, content_type: str = "application/json", **options: Any
) -> Rule:
    """Return a rule that answers with exactly these bytes, and ends the body after them."""
    return say(raw=raw, status=status, content_type=content_type, **options)


def hang(**options: Any) -> Rule:
    """Return a rule that never answers at all."""
    return say(silent_after=BEFORE_HEAD, **options)


def text_of(message: dict[str, Any]) -> str:
    """Return all text of one message."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or "" for part in content)


def render_events(reply: Reply, body: dict[str, Any]) -> Iterator[bytes]:
    """Yield the SSE events of *reply*, one chunk each."""
    usage = _usage(reply, body)
    for delta in _deltas(reply):
        chunk = _chunk(body, delta, None)
        yield _event({**chunk, "usage": usage} if reply.usage_style == "every" else chunk)
    last = _chunk(body, {}, _finish(reply))
    last["choices"][0] |= reply.extra
    yield _event({**last, "usage": usage} if reply.usage_style in ("finish", "every") else last)
    wants_usage = (body.get("stream_options") or {}).get("include_usage")
    if reply.usage_style == "trailing" and wants_usage:
        yield _event({**_chunk(body, {}, None), "choices": [], "usage": usage})
    if reply.done:
        yield b"data: [DONE]\n\n"


def render_whole(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    """Return *reply* as one chat completion."""
    texts = [part for part in reply.parts if isinstance(part, str)]
    thoughts = [part.text for part in reply.parts if isinstance(part, Thought)]
    calls = [
        {"id": _call_id(c, n), "type": "function", "function": _function(c.name, c.arguments)}
        for n, c in enumerate(p for p in reply.parts if isinstance(p, Call))
    ]
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    if thoughts:
        message[reply.reasoning_field] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply), **reply.extra}
    usage = {} if reply.usage_style == "none" else {"usage": _usage(reply, body)}
    return {**_chunk(body, {}, None), "object": "chat.completion", "choices": [choice], **usage}


def _deltas(reply: Reply) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    index = 0
    held: list[Iterator[dict[str, Any]]] = []
    for part in reply.parts:
        if isinstance(part, Call):
            fragments = _call_deltas(part, index, reply.chunk_chars)
            index += 1
            if reply.interleave:
                held.append(fragments)
            else:
                yield from fragments
        elif isinstance(part, Thought):
            yield from ({reply.reasoning_field: t} for t in _cut(part.text, reply.chunk_chars))
        else:
            yield from ({"content": t} for t in _cut(part, reply.chunk_chars))
    for turn in zip_longest(*held):
        yield from (fragment for fragment in turn if fragment)


def _call_deltas(part: Call, index: int, size: int) -> Iterator[dict[str, Any]]:
    first = {"index": index, "id": _call_id(part, index), "type": "function"}
    yield {"tool_calls": [{**first, "function": _function(part.name, "")}]}
    for piece in _cut(part.arguments, size):
        yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _call_id(part: Call, index: int) -> str:
    return f"call_{index}" if part.id is None else part.id


def _function(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}


def _cut(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def _finish(reply: Reply) -> str | None:
    if reply.finish != "auto":
        return reply.finish
    return "tool_calls" if any(isinstance(part, Call) for part in reply.parts) else "stop"


def _usage(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    if reply.usage is not None:
        return reply.usage
    prompt = max(1, len(json.dumps(body.get("messages") or [])) // 4)
    completion = sum(1 for _ in _deltas(reply))
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _chunk(body: dict[str, Any], delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000}
    return {**head, "model": body.get("model", ""), "choices": [choice]}


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
