"""
What is fuzzed. A target takes bytes and returns, or raises: an AssertionError, or what broke.

Everything beside the bytes (where they are cut, which profile reads them) is derived from them, so
that a file in the corpus is a whole bug report.
"""

import json
import tracemalloc
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from dragoman.core.adjustments import render_adjustments
from dragoman.core.attachments import find_attachments
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import (
    GatewayError,
    PromptTooLong,
    RequestError,
    UpstreamProtocolError,
    error_headers,
    render_error,
)
from dragoman.core.passthrough import PassthroughTurn, rewrite_request
from dragoman.core.plan import Deployment, make_plan
from dragoman.core.render import render
from dragoman.core.server_tools import ServerTool
from dragoman.core.signatures import Signer, has_our_mark
from dragoman.core.sse import SseParser
from dragoman.core.upstream_errors import ReplyContext, error_of_reply
from dragoman.core.validate import parse_request
from dragoman.wire.anthropic import MessagesRequest
from support import turns
from support.chat_law import check_body
from support.conversations import PROFILES
from support.sse_grammar import check_error

MAX_NESTING = 100
MAX_REPLY_BYTES = 2 * 2**20
SECRET = "sk-fuzz-0123456789abcdef"
_SIGNER = Signer(b"a secret of sixteen bytes or more")
_EAGER = DialectProfile(
    name="eager",
    context_window=8192,
    max_output_tokens=4096,
    max_tokens_field="max_completion_tokens",
    sees_images=True,
    thinking="toggle",
    thinking_switch="enable_thinking",
    thinking_budget_field="thinking_budget",
    effort_values=("low", "high"),
    echo_reasoning="always",
    forced_tools="hint",
    forced_tools_need_no_thinking=True,
    parallel_tool_calls_field=False,
    response_format="json_object",
    max_stop_sequences=1,
    reports_stop=True,
    mid_system="native",
    sends_user=False,
)
_SEARCH = ServerTool(
    name="web_search",
    result_type="web_search_tool_result",
    error_type="web_search_tool_result_error",
)
# The tools that the samples call, so that calls in text are found and inputs put right.
_DECLARED: dict[str, dict[str, str]] = {
    "get_weather": {"city": "string", "days": "integer"},
    "list_files": {},
    "write_file": {"path": "string", "content": "string", "append": "boolean"},
    "f": {"a": "array", "b": "number", "c": "object"},
}
_TYPED: dict[str, Any] = {
    "tool_names": frozenset(_DECLARED),
    "body": {
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "parameters": {
                        "type": "object",
                        "properties": {field: {"type": kind} for field, kind in fields.items()},
                    },
                },
            }
            for name, fields in _DECLARED.items()
        ]
    },
}
_PLANS: tuple[dict[str, Any], ...] = (
    {},
    _TYPED,
    {**_TYPED, "profile": DialectProfile(tool_text=("mimo",)), "show_thinking": "omitted"},
    {"show_thinking": "none", "local_stop_sequences": ("##", "a")},
    {"show_thinking": "omitted", "single_tool_call": True},
    {"forced_by_schema": True, "fills_window": True},
    {"server_tools": {"g": _SEARCH}},
    {"profile": DialectProfile(think_tag_open_at_start=True)},
    {"profile": DialectProfile(think_tags=False, finish_reasons={"odd": "refusal"})},
)


def fuzz_request(data: bytes) -> None:
    """A client's body, up to the upstream's request on every kind of upstream."""
    request = _parse(data, for_count=len(data) % 5 == 0)
    if request is None:
        return
    for profile in (*PROFILES, _EAGER):
        deployment = Deployment(upstream="lab", model="upstream-model", profile=profile)
        try:
            found = find_attachments(request, sees_images=profile.sees_images)
            texts = {a.key: "The text of it." for a in found[::2]}
            plan = make_plan(request, deployment, signer=_SIGNER, texts=texts)
        except RequestError as error:
            _check_error(error)
            continue
        body = json.loads(render(plan))
        check_body(body)
        assert "safeguards" not in body
        assert plan.input_tokens_estimate > 0
        header = render_adjustments(plan.adjustments)
        assert len(header) <= 1024
        assert header.decode("ascii").isprintable()


def fuzz_native_request(data: bytes) -> None:
    """A client's body, up to what a native upstream gets."""
    request = _parse(data)
    if request is None:
        return
    is_trusted = len(data) % 2 == 0
    sent = rewrite_request(data, request, model="native", is_trusted=is_trusted)
    again = _parse(sent)
    assert again is not None
    assert again.model == "native"
    assert again.safeguards is None or is_trusted
    assert _without_marked(request) == _without_marked(again)
    # Whoever reads the first of equal keys must not see what was taken out.
    first = json.loads(sent, object_pairs_hook=_first_of_each)
    assert first["model"] == "native"
    assert is_trusted or "safeguards" not in first


def fuzz_reply(data: bytes) -> None:
    """A chat-completions stream in any cuts, for every plan, streamed on and collected."""
    random = _random(data)
    for fields in _PLANS:
        plan = turns.make_plan(**fields)
        ended = _ended(turns.run([data], plan, reply=_context()))
        turns.read(ended)
        assert len(ended.body) < 10_000 + 100 * len(data)
        places = [random.randrange(len(data) + 1) for _ in range(random.randrange(12))]
        slices = turns.cut(data, places)
        assert _ended(turns.run(slices, plan, reply=_context())).body == ended.body
        whole = _ended(turns.run(slices, plan, is_stream=False, reply=_context()))
        turns.read(whole, is_stream=False)


def fuzz_whole_reply(data: bytes) -> None:
    """A chat-completions reply that is no stream, streamed on and collected."""
    for fields in _PLANS:
        plan = turns.make_plan(**fields)
        for is_stream in (True, False):
            ended = _ended(turns.run_whole(data, plan, is_stream=is_stream))
            turns.read(ended, is_stream=is_stream)


def fuzz_native_reply(data: bytes) -> None:
    """A native reply, streamed in any cuts and whole: the same bytes come out."""
    random = _random(data)
    places = [random.randrange(len(data) + 1) for _ in range(random.randrange(12))]
    for model in ("alias", "upstream-model"):
        turn, out = _native_turn(model, is_stream=True), b""
        try:
            for piece in turns.cut(data, places):
                out += turn.feed(piece)
            out += turn.close().removesuffix(b"\n\n")  # completes an event without empty line
        except GatewayError as error:
            _check_error(error)
            _check_failing(turn, error)
        if model == "upstream-model":
            assert out == data[: len(out)]
        _check_counts(turn)
        whole = _native_turn(model, is_stream=False)
        try:
            sent = whole.feed_whole(data)
            assert model == "alias" or sent == data
        except GatewayError as error:
            _check_error(error)


def fuzz_error_reply(data: bytes) -> None:
    """The body of an upstream's error, under every status."""
    context = ReplyContext(prompt_tokens_estimate=500, secrets=(SECRET,))
    native = msgspec.structs.replace(context, is_native=True)
    random = _random(data)
    retry_after = random.choice((b"1", b"0.5", b"-1", b"nan", b"inf", b"1e99", b"soon", data[:9]))
    for status in (400, 401, 402, 404, 408, 413, 422, 429, 500, 503, 529, random.randrange(1000)):
        headers = {b"retry-after": retry_after, b"x-should-retry": data[:5]}
        for about in (context, native):
            error = error_of_reply(status, headers, body=data, context=about)
            _check_error(error)
            assert SECRET not in error.message + error.log_detail
            assert SECRET.encode() not in error.passthrough_body


def fuzz_events(data: bytes) -> None:
    """Anything, as an event stream: the cuts never matter, and little is held."""
    random, limit = _random(data), 5000
    places = [random.randrange(len(data) + 1) for _ in range(random.randrange(12))]
    whole, cut = _payloads([data], limit), _payloads(turns.cut(data, places), limit)
    assert whole is None or cut is None or whole == cut


TARGETS: dict[str, Callable[[bytes], None]] = {
    "request": fuzz_request,
    "native_request": fuzz_native_request,
    "reply": fuzz_reply,
    "whole_reply": fuzz_whole_reply,
    "native_reply": fuzz_native_reply,
    "error_reply": fuzz_error_reply,
    "events": fuzz_events,
}


def run_measured(target: Callable[[bytes], None], data: bytes) -> None:
    """Run *target*; see to it that memory is bounded by the size of the input."""
    tracemalloc.start()
    try:
        target(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20 + 400 * len(data), f"{peak} bytes of memory for {len(data)}"


def _random(data: bytes) -> Random:
    return Random(zlib.crc32(data))  # cuts, not secrets


def _parse(data: bytes, *, for_count: bool = False) -> MessagesRequest | None:
    try:
        return parse_request(data, max_messages=1000, max_nesting=MAX_NESTING, for_count=for_count)
    except RequestError as error:
        _check_error(error)
        return None


def _check_error(error: GatewayError) -> None:
    check_error(render_error(error, "req_1"))
    assert 400 <= error.status <= 599
    for name, value in error_headers(error):
        assert name
        assert value.decode("ascii").isprintable()
    if isinstance(error, PromptTooLong):
        tokens, maximum = map(int, error.message.removesuffix(" maximum")[20:].split(" tokens > "))
        assert tokens > maximum > 0


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _without_marked(request: MessagesRequest) -> object:
    """Return what must be left of *request*: without our thinking and with any model."""
    messages = []
    for message in request.messages:
        content = message.content
        if message.role == "assistant" and not isinstance(content, str):
            content = [
                block
                for block in content
                if block.type != "thinking"
                or (block.signature and not has_our_mark(block.signature))
            ]
            if message.content and not content:
                continue
        messages.append(msgspec.structs.replace(message, content=content))
    return msgspec.structs.replace(
        request, messages=messages, model="", safeguards=None, unknown_fields=()
    )


def _context() -> ReplyContext:
    return ReplyContext(max_reply_bytes=MAX_REPLY_BYTES, context_window=8192)


def _ended(ended: turns.Ended) -> turns.Ended:
    """Return a reply that has ended: one that waits for another after server tools is failed."""
    if ended.error is None and ended.turn.server_calls and ended.turn.stop_reason is None:
        error = UpstreamProtocolError("the next reply failed")
        ended = turns.Ended(ended.body + ended.turn.fail(error), ended.turn, error)
    return ended


def _native_turn(model: str, *, is_stream: bool) -> PassthroughTurn:
    return PassthroughTurn(
        model=model,
        upstream_model="upstream-model",
        is_stream=is_stream,
        request_id="req_1",
        reply=msgspec.structs.replace(_context(), is_native=True),
    )


def _check_failing(turn: PassthroughTurn, error: GatewayError) -> None:
    has_ended = turn.is_done and turn.has_content
    assert turn.fail(error).startswith(b"" if has_ended else b"event: error\n")


def _check_counts(turn: PassthroughTurn) -> None:
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens"):
        assert isinstance(getattr(turn.usage, name), int)


def _payloads(slices: list[bytes], limit: int) -> list[bytes] | None:
    """Return the payloads; None where one is too long, which is seen sooner in some cuts."""
    parser = SseParser(limit)
    found: list[bytes] = []
    try:
        for piece in slices:
            found += parser.feed(piece)
        return found + parser.close()
    except UpstreamProtocolError:
        return None
