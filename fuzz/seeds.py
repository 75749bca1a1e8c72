"""Where inputs begin: recorded requests, samples of replies, and one of everything in small."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from dragoman.core.errors import GatewayError
from dragoman.core.signatures import Signer
from support import turns
from support.api_rows import REQUESTS, fields_of
from support.plans import MINIMAL

ROOT = Path(__file__).parents[1]
CORPUS = Path(__file__).parent / "corpus"
_REQUESTS = ROOT / "tests" / "fixtures" / "requests"
_STREAMS = ROOT / "tests" / "streams" / "dialects"
_MAX_TOOLS = 3  # of a recorded request: twelve alike teach nothing more
_OURS = Signer(b"a secret of sixteen bytes or more").sign("Hm.", carry=True)

_PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgoAAAA"}
_PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK"}
_EVERYTHING: dict[str, Any] = {
    "model": "alias",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi", "citations": [{"type": "char_location"}]},
                {"type": "image", "source": _PNG, "transformations": {"oversized_image": "error"}},
                {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}},
                {"type": "document", "source": _PDF, "title": "T", "context": "C"},
                {"type": "document", "source": {"type": "text", "data": "D"}},
                {"type": "container_upload", "file_id": "f"},
                {
                    "type": "document",
                    "source": {"type": "content", "content": [{"type": "text", "text": "x"}]},
                    "citations": {"enabled": True},
                },
                {
                    "type": "search_result",
                    "source": "s",
                    "title": "t",
                    "content": [{"type": "text", "text": "x"}],
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "EqoB"},
                {"type": "thinking", "thinking": "", "signature": _OURS},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "toolu_12345678901-rcall_0", "name": "f", "input": {}},
                {"type": "tool_use", "id": "b", "name": "g", "input": {"__unparsedToolInput": {}}},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "s",
                    "content": [{"type": "web_search_result", "title": "t", "url": "u"}],
                },
                {"type": "mcp_tool_use", "id": "m", "name": "x", "server_name": "c", "input": {}},
                {"type": "mcp_tool_result", "tool_use_id": "m", "content": [], "is_error": True},
                {"type": "fallback", "to": {"model": "m"}},
                {"type": "mcp_tool_listing", "mcp_server_name": "c", "tools": [{"name": "x"}]},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "b", "content": "B", "is_error": True},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_12345678901-rcall_0",
                    "content": [
                        {"type": "image", "source": _PNG},
                        {"type": "tool_reference", "tool_name": "d"},
                        {"type": "browser_state", "tabs": []},
                    ],
                },
                {"type": "text", "text": "And now?"},
            ],
        },
        {
            "role": "system",
            "content": [
                {"type": "text", "text": "Mind."},
                {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "d"}},
                {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "g"}},
            ],
            "clear_at": "never",
            "output_config": {"effort": "low"},
        },
        {"role": "assistant", "content": [{"type": "compaction", "content": None}]},
        {"role": "assistant", "content": "It is"},
    ],
    "tools": [
        {"name": "f", "input_schema": {"type": "object", "$defs": {"a": {}}}, "strict": True},
        {"name": "g", "type": "custom", "input_schema": {}, "input_examples": [{"a": 1}]},
        {"name": "d", "input_schema": {}, "defer_loading": True},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 1},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "computer_toolset_20260801", "configs": {"key": {"enabled": False}}},
        {"type": "mcp_toolset", "mcp_server_name": "c", "tools": [{"name": "x"}]},
    ],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "stop_sequences": ["##", "x"],
    "stream": True,
    "temperature": 1,
    "top_p": 0.9,
    "top_k": 5,
    "metadata": {"user_id": "u"},
    "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {}}},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "mcp_servers": [{"type": "url", "name": "c", "url": "https://c.example"}],
    "safeguards": [{"type": "dangerous_tool_use"}],
    "service_tier": "auto",
    "container": "c",
    "tags": ["x"],
}
_WHOLE: tuple[dict[str, Any], ...] = (
    {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "<think>Hm.</think>\n\nHello ##",
                    "reasoning_content": "Hm.",
                    "tool_calls": [
                        {"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}},
                        {"id": 5, "index": 1, "function": {"name": "g", "arguments": {"b": []}}},
                    ],
                },
                "finish_reason": "tool_calls",
                "matched_stop": "##",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "cached_tokens": 2},
    },
    {
        "choices": [
            {"message": {"content": [{"text": "a"}, {"text": None}]}, "finish_reason": "stop"}
        ]
    },
    {"choices": [{"message": {"refusal": "No."}, "finish_reason": "content_filter"}]},
    {"choices": [{"message": {"content": '{"name":"f","arguments":{"a":1}}'}}]},
    {"error": {"message": "overloaded", "type": "overloaded_error", "code": 529}},
)
_ERRORS: tuple[Any, ...] = (
    {"error": {"message": "Incorrect API key: sk-fuzz-0123456789abcdef", "type": "x", "code": "1"}},
    {"object": "error", "message": "This model's maximum context length is 10 tokens", "code": 400},
    {"error": {"message": "9 tokens from the input messages and 5 output tokens, n_ctx: 12"}},
    {"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 5}},
    {"error": "max_tokens: 32000 > 8192, which is the maximum", "error_type": "validation"},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    {"error": {"message": "Insufficient Balance", "code": "1113", "param": None}},
    {"detail": [{"msg": "field required", "loc": ["body", "x"]}]},
    [{"error": {"message": "data_inspection_failed"}}],
    "service unavailable at https://10.0.0.1:8000/x",
)
# Arguments of calls as models write them.
_ARGUMENTS = (
    r'{"a": "x\n\"\u00e9\ud83d\ude00\\", "b": [1, -2.5e3, true, null], "c": {"d": {}}}',
    '{"a": "raw\nline\t", "b": "bad \\x escape", "c": "half \\ud83d"}',
    "{'a': 1}",
    '{"a": True, "b": None, "c": [1,], }',
    '{"a": 1}{"a": 1}',
    '"{\\"a\\": 1}"',
    '{"a": "cut',
    "null",
    "",
)
_HTML = b"<html><body>502 Bad Gateway nginx http://10.1.2.3/</body></html>"


@cache
def seeds_of(target: str) -> tuple[bytes, ...]:
    """Return the inputs that *target* begins with, its corpus among them, in a fixed order."""
    kept = tuple(path.read_bytes() for path in corpus_of(target))
    return (*_MADE[target](), *kept)


def corpus_of(target: str) -> list[Path]:
    """Return the files that are kept for *target*."""
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


def _requests() -> list[bytes]:
    bodies = [_EVERYTHING, *(MINIMAL | fields_of(row) for row in REQUESTS.values())]
    for path in sorted(_REQUESTS.glob("*/*.json")):
        recording = json.loads(path.read_bytes())
        body = recording["body"]
        if recording["path"].startswith("/v1/messages") and isinstance(body, dict):
            body["tools"] = body.get("tools", [])[:_MAX_TOOLS]
            bodies.append(body)
    return [json.dumps(body).encode() for body in bodies]


def _streams() -> list[bytes]:
    made = [path.read_bytes() for path in sorted(_STREAMS.glob("*.sse"))]
    for written in _ARGUMENTS:
        pieces = [written[at : at + 5] for at in range(0, len(written), 5)]
        calls = [turns.call(0, "c", "f", piece) for piece in pieces]
        more = turns.call(1, "d", "g", written)
        made.append(turns.sse(*calls, more, turns.chunk("tool_calls"), turns.DONE))
    return made


def _native_streams() -> list[bytes]:
    made = [turns.run([body]).body for body in _streams()]
    return [body.replace(b'"alias"', b'"upstream-model"', 1) for body in made]


def _native_replies() -> list[bytes]:
    made = _native_streams()
    for body in _streams():
        turn = turns.make_turn(is_stream=False)
        try:
            made.append(turn.feed(body) + turn.close())
        except GatewayError as error:
            made.append(turn.fail(error))
    return made


def _whole() -> list[bytes]:
    return [json.dumps(body).encode() for body in _WHOLE]


def _errors() -> list[bytes]:
    return [_HTML, *(json.dumps(body).encode() for body in _ERRORS)]


_MADE = {
    "request": _requests,
    "native_request": _requests,
    "reply": _streams,
    "whole_reply": _whole,
    "native_reply": _native_replies,
    "error_reply": _errors,
    "events": _streams,
}
