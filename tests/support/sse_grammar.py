"""
Read a reply as the strictest client would: any departure from the grammar is an error.

Source of the rules: Anthropic API reference, "Streaming messages", and what the SDKs' accumulators
and Claude Code were seen to rely on.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
STOP_REASONS = {
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "compaction",
    "refusal",
    "model_context_window_exceeded",
}
# With these the last block may have been cut in its middle.
_CUTTING = {"max_tokens", "model_context_window_exceeded", "refusal", "stop_sequence"}
ERROR_TYPES = {
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "api_error",
    "overloaded_error",
}
_TOOLS = {"tool_use", "server_tool_use", "mcp_tool_use"}
_STREAMED = {"text": "text", "thinking": "thinking"}
_WHOLE = re.compile(r".*_tool_result|redacted_thinking|container_upload|fallback|mcp_tool_listing")
_COUNTERS = ("input_tokens", "output_tokens", "cache_read_input_tokens")
_COUNTERS += ("cache_creation_input_tokens",)


class GrammarError(AssertionError):
    """The reply is not one the API could have sent."""


@dataclass
class AssembledMessage:
    """A message put together from its events, or taken from a whole body."""

    id: str = ""
    model: str = ""
    content: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)  # start and delta, merged as SDKs do
    start_usage: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None  # the error object of an ``error`` event
    pings: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text blocks as one string."""
        return "".join(b["text"] for b in self.content if b["type"] == "text")

    @property
    def thinking(self) -> str:
        """All thinking blocks as one string."""
        return "".join(b["thinking"] for b in self.content if b["type"] == "thinking")

    @property
    def tool_uses(self) -> list[dict[str, Any]]:
        """The client's tool calls, in order."""
        return [b for b in self.content if b["type"] == "tool_use"]


def check_stream(body: bytes) -> AssembledMessage:
    """
    Return the message that *body*, a whole event stream, carries.

    Raises:
        GrammarError: An event, its order, an index or a value is not as the API sends it, or the
            stream does not end with exactly one ``message_stop`` or ``error``.
    """
    reader = _StreamReader()
    for data in split_events(body):
        reader.take(data)
    return reader.end()


def check_message(body: bytes) -> AssembledMessage:
    """Return the message in *body*, a whole JSON reply, checked by the same rules."""
    raw = _parse_object(body.decode(), "the body")
    _need(raw.get("type") == "message", f"type is {raw.get('type')!r}")
    _check_head(raw)
    message = AssembledMessage(raw["id"], raw["model"], raw["content"])
    message.stop_reason, message.stop_sequence = raw["stop_reason"], raw["stop_sequence"]
    message.usage = message.start_usage = raw["usage"]
    for block in message.content:
        _check_block(block)
    _check_usage(message.usage, {"input_tokens", "output_tokens"})
    _check_ending(message)
    return message


def check_error(body: bytes) -> dict[str, Any]:
    """Return the error object in *body*, checked for the API's shape."""
    raw = _parse_object(body.decode(), "the body")
    _check_error_shape(raw)
    _need(isinstance(raw.get("request_id"), str), "an error body names its request_id")
    error: dict[str, Any] = raw["error"]
    return error


def split_events(body: bytes) -> list[dict[str, Any]]:
    """Cut *body* into the data of its events, each with a matching ``event:`` line."""
    text = body.decode("utf-8")
    _need("\r" not in text, "a carriage return")
    if not text:
        return []
    _need(text.endswith("\n\n"), f"the last event is cut: {text[-80:]!r}")
    return [_parse_event(raw) for raw in text[:-2].split("\n\n")]


def _parse_event(raw: str) -> dict[str, Any]:
    lines = raw.split("\n")
    _need(len(lines) == 2, f"an event is an event line and a data line: {raw[:200]!r}")
    _need(lines[0].startswith("event: "), f"no event line: {raw[:200]!r}")
    _need(lines[1].startswith("data: "), f"no data line: {raw[:200]!r}")
    data = _parse_object(lines[1][6:], "data")
    _need(data.get("type") == lines[0][7:], f"event line and type differ: {raw[:200]!r}")
    return data


class _StreamReader:
    def __init__(self) -> None:
        self._message = AssembledMessage()
        self._state = "new"  # new, open, delta, ended
        self._block: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._signatures = 0
        self._bad_json: str | None = None  # input of the last tool block, if it does not parse

    def take(self, data: dict[str, Any]) -> None:
        self._message.events.append(data)
        _need(self._state != "ended", f"{data['type']} after the end")
        step = getattr(self, f"_on_{data['type']}", None)
        _need(step is not None, f"unknown event {data['type']!r}")
        assert step is not None
        step(data)

    def end(self) -> AssembledMessage:
        _need(self._state == "ended", "the stream ends without message_stop or error")
        return self._message

    def _on_message_start(self, data: dict[str, Any]) -> None:
        _need(self._state == "new", "a second message_start")
        raw = data["message"]
        _check_head(raw)
        _need(raw["content"] == [], "message_start already has content")
        _need(raw["stop_reason"] is None, "message_start already has a stop_reason")
        _need(raw["stop_sequence"] is None, "message_start already has a stop_sequence")
        _check_usage(raw["usage"], {"input_tokens", "output_tokens"})
        self._message.id, self._message.model = raw["id"], raw["model"]
        self._message.start_usage = raw["usage"]
        self._message.usage = dict(raw["usage"])
        self._state = "open"

    def _on_ping(self, data: dict[str, Any]) -> None:
        _need(self._state != "new", "a ping before message_start")
        _need(data == {"type": "ping"}, f"a ping with content: {data}")
        self._message.pings += 1

    def _on_content_block_start(self, data: dict[str, Any]) -> None:
        _need(self._state == "open", f"a block starts while the message is {self._state}")
        _need(self._block is None, "a block starts inside another one")
        _need(self._bad_json is None, f"tool input is not JSON: {self._bad_json!r}")
        expected = len(self._message.content)
        _need(data["index"] == expected, f"index {data['index']}, expected {expected}")
        block = data["content_block"]
        kind = block["type"]
        if kind == "thinking":
            _need(
                block.get("thinking") == "" and block.get("signature") == "", f"not empty: {block}"
            )
        elif kind == "text":
            _need(block.get("text") == "", f"a text block starts empty: {block}")
        elif kind in _TOOLS:
            _need(block.get("input") == {}, f"a tool block starts with input {{}}: {block}")
            _check_tool_head(block)
        else:
            _check_block(block)
        self._block, self._pieces, self._signatures = dict(block), [], 0
        self._message.content.append(self._block)

    def _on_content_block_delta(self, data: dict[str, Any]) -> None:
        block = self._open_block(data)
        delta = data["delta"]
        key = {
            "text_delta": ("text", "text"),
            "thinking_delta": ("thinking", "thinking"),
            "input_json_delta": ("input", "partial_json"),
            "signature_delta": ("signature", "signature"),
            "citations_delta": ("citations", "citation"),
        }.get(delta["type"])
        _need(key is not None, f"unknown delta {delta['type']!r}")
        assert key is not None
        _need(_fits(block["type"], delta["type"]), f"{delta['type']} in a {block['type']} block")
        if key[0] == "citations":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            return
        value = delta[key[1]]
        _need(isinstance(value, str), f"{delta['type']} holds {value!r}")
        if key[0] == "signature":
            self._signatures += 1
            _need(value != "", "an empty signature")
            block["signature"] = value
            return
        _need(self._signatures == 0, "thinking goes on after its signature")
        self._pieces.append(value)

    def _on_content_block_stop(self, data: dict[str, Any]) -> None:
        block = self._open_block(data)
        joined = "".join(self._pieces)
        if block["type"] in _STREAMED:
            block[_STREAMED[block["type"]]] = joined
            _check_text(joined)
        if block["type"] == "thinking":
            _need(self._signatures == 1, f"{self._signatures} signatures in one thinking block")
        if block["type"] in _TOOLS:
            self._take_input(block, joined)
        self._block = None

    def _take_input(self, block: dict[str, Any], joined: str) -> None:
        try:
            block["input"] = json.loads(joined) if joined else {}
        except ValueError:
            self._bad_json = joined
            return
        _need(isinstance(block["input"], dict), f"tool input is no object: {joined!r}")

    def _on_message_delta(self, data: dict[str, Any]) -> None:
        _need(self._state in ("open", "delta"), f"message_delta while {self._state}")
        _need(self._block is None, "message_delta inside a block")
        delta = data["delta"]
        _need(
            {"stop_reason", "stop_sequence"} <= set(delta), f"message_delta without stop: {delta}"
        )
        _check_usage(data["usage"], {"output_tokens"})
        self._message.stop_reason = delta["stop_reason"]
        self._message.stop_sequence = delta["stop_sequence"]
        self._message.usage |= {k: v for k, v in data["usage"].items() if v is not None}
        self._state = "delta"

    def _on_message_stop(self, data: dict[str, Any]) -> None:
        _need(self._state == "delta", "message_stop without message_delta")
        _need(data == {"type": "message_stop"}, f"message_stop with content: {data}")
        if self._bad_json is not None and self._message.stop_reason not in _CUTTING:
            raise GrammarError(f"tool input is not JSON: {self._bad_json!r}")
        _check_ending(self._message)
        self._state = "ended"

    def _on_error(self, data: dict[str, Any]) -> None:
        _check_error_shape(data)
        self._message.error = data["error"]
        self._state = "ended"

    def _open_block(self, data: dict[str, Any]) -> dict[str, Any]:
        if self._block is None:
            raise GrammarError(f"{data['type']} outside a block")
        expected = len(self._message.content) - 1
        _need(data["index"] == expected, f"index {data['index']}, the open block is {expected}")
        return self._block


def _fits(block_type: str, delta_type: str) -> bool:
    return delta_type in {
        "text": ("text_delta", "citations_delta"),
        "thinking": ("thinking_delta", "signature_delta"),
        **dict.fromkeys(_TOOLS, ("input_json_delta",)),
    }.get(block_type, ())


def _check_head(raw: dict[str, Any]) -> None:
    for key in ("id", "model", "content", "stop_reason", "stop_sequence", "usage"):
        _need(key in raw, f"the message has no {key}")
    _need(raw["type"] == "message" and raw["role"] == "assistant", f"not a message: {raw}")
    _need(isinstance(raw["id"], str) and raw["id"].startswith("msg_"), f"id {raw['id']!r}")
    _need(isinstance(raw["model"], str) and raw["model"] != "", f"model {raw['model']!r}")


def _check_block(block: dict[str, Any]) -> None:
    """Check a block that is complete."""
    kind = block["type"]
    if kind == "text":
        _check_text(block["text"])
    elif kind == "thinking":
        _check_text(block["thinking"])
        _need(bool(block["signature"]), "a thinking block without a signature")
    elif kind in _TOOLS:
        _check_tool_head(block)
        _need(isinstance(block["input"], dict), f"tool input is no object: {block}")
    else:
        _need(_WHOLE.fullmatch(kind) is not None, f"unknown block type {kind!r}")
        if kind.endswith("_tool_result"):
            _need(_TOOL_ID.fullmatch(block["tool_use_id"]) is not None, f"tool_use_id: {block}")
            _need("content" in block, f"a result without content: {block}")


def _check_tool_head(block: dict[str, Any]) -> None:
    prefix = {"tool_use": "toolu_", "server_tool_use": "srvtoolu_"}.get(block["type"], "")
    _need(isinstance(block.get("id"), str), f"a call without an id: {block}")
    _need(_TOOL_ID.fullmatch(block["id"]) is not None, f"tool id {block['id']!r}")
    _need(block["id"].startswith(prefix), f"tool id {block['id']!r}")
    _need(isinstance(block.get("name"), str) and block["name"] != "", f"no name: {block}")


def _check_usage(usage: Any, required: set[str]) -> None:
    _need(isinstance(usage, dict), f"usage is {usage!r}")
    for key in _COUNTERS:
        value = usage.get(key)
        _need(key not in required or value is not None, f"usage has no {key}: {usage}")
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        _need(value is None or is_count, f"usage.{key} is {value!r}")


def _check_ending(message: AssembledMessage) -> None:
    reason = message.stop_reason
    _need(reason in STOP_REASONS, f"stop_reason {reason!r}")
    has_match = message.stop_sequence is not None
    _need(has_match == (reason == "stop_sequence"), f"{reason}, {message.stop_sequence!r}")
    calls = message.tool_uses
    _need(bool(calls) or reason != "tool_use", "stop_reason tool_use without a call")
    _need(not calls or reason in {"tool_use"} | _CUTTING, f"calls, but stop_reason {reason}")
    ids = [b["id"] for b in message.content if b["type"] in _TOOLS]
    _need(len(ids) == len(set(ids)), f"a tool id twice: {ids}")
    results = {b["tool_use_id"] for b in message.content if b["type"].endswith("_tool_result")}
    _need(results <= set(ids), f"a result without its call: {results} {ids}")


def _check_error_shape(raw: dict[str, Any]) -> None:
    _need(raw.get("type") == "error", f"type is {raw.get('type')!r}")
    error = raw.get("error")
    _need(isinstance(error, dict), f"error is {error!r}")
    assert isinstance(error, dict)
    _need(error.get("type") in ERROR_TYPES, f"error type {error.get('type')!r}")
    _need(isinstance(error.get("message"), str) and error["message"] != "", f"message: {error}")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GrammarError(f"half a surrogate pair: {text[-40:]!r}") from None


def _parse_object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise GrammarError(f"{what} is not JSON: {text[:200]!r}") from None
    _need(isinstance(value, dict), f"{what} is no object: {text[:200]!r}")
    parsed: dict[str, Any] = value
    return parsed


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise GrammarError(message)
