"""What upstreams say went wrong, in the forms that they say it in."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import (
    GatewayError,
    PromptTooLong,
    RequestTooLarge,
    UpstreamLacksModel,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from dragoman.core.upstream_errors import (
    OutputTooLong,
    RefusedByUpstream,
    ReplyContext,
    error_of_event,
    error_of_reply,
    redact,
)

KEY = "plain-looking-credential"
CONTEXT = ReplyContext(prompt_tokens_estimate=150_000, context_window=131_072, secrets=(KEY,))
NATIVE = ReplyContext(is_native=True, secrets=(KEY,))


def of(status: int, body: Any, context: ReplyContext = CONTEXT, **headers: str) -> GatewayError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
    return error_of_reply(status, fields, body=raw, context=context)


def said(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "code": 400} | fields}


OVERFLOWS = {
    "SiliconFlow": (
        "length of prompt_tokens (40000) must be less than max_seq_len (32768).",
        (40000, 32768),
    ),
    "Ark": ("Total tokens of image and text exceed max message tokens", None),
    "TGI, the prompt alone": (
        "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
        (5000, 4095),
    ),
    "OpenAI": (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in "
        "9000 tokens. Please reduce the length of the messages.",
        (9000, 8192),
    ),
    "vLLM": (
        "This model's maximum context length is 4096 tokens. However, your request has 5000 input "
        "tokens. Please reduce the length of the input messages.",
        (5000, 4096),
    ),
    "vLLM, length": ("Input length (5000) exceeds model's maximum context length (4096).", None),
    "SGLang": (
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        (5000, 4096),
    ),
    "SGLang, with max_tokens": (
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You "
        "requested a total of 6000 tokens",
        (6000, 4096),
    ),
    "llama.cpp": (
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        (5000, 4096),
    ),
    "DashScope": ("Range of input length should be [1, 98304]", (150_000, 98_304)),
    "Moonshot": ("Your request exceeded model token limit: 8192 (requested: 9000)", (9000, 8192)),
    "Z.ai": ("Prompt exceeds max length", (150_000, 131_072)),
    "the API itself": ("prompt is too long: 210000 tokens > 200000 maximum", (210_000, 200_000)),
    "Bedrock": ("Input is too long for requested model.", (150_000, 131_072)),
    "Gemini": (
        "The input token count (5000) exceeds the maximum number of tokens allowed (4096).",
        None,
    ),
    "code alone": ("nope", None),
    **dict.fromkeys(
        [
            "context_length_exceeded",
            "the prompt exceeds the context window",
            "ContextWindowExceededError: no",
            "it is longer than the maximum model length",
            "input token length too long",
            "input tokens exceed the configured limit of the server",
            "this is over the maximum context limit",
            "the maximum prompt length was passed",
            "tokens in request more than max tokens allowed",
            "context window exceeds limit",
            "you sent 9000 tokens, but model only supports up to 8192",
            "please reduce the length of the prompt",
        ],
        None,
    ),
}


@pytest.mark.parametrize("name", OVERFLOWS)
def test_every_wording_of_overflow_becomes_the_api_s_sentence(name: str) -> None:
    message, numbers = OVERFLOWS[name] or (name, None)
    fields = {"code": "context_length_exceeded"} if name == "code alone" else {}
    error = of(400, said(message, **fields))
    assert isinstance(error, PromptTooLong)
    assert error.status == 400
    match = re.fullmatch(r"prompt is too long: (\d+) tokens > (\d+) maximum", error.message)
    assert match is not None
    tokens, maximum = map(int, match.groups())
    assert tokens > maximum > 0
    if numbers is not None:
        assert (tokens, maximum) == numbers


@pytest.mark.parametrize("status", [413, 422, 429, 500, 502, 503])
def test_overflow_counts_whatever_the_status(status: int) -> None:
    error = of(status, said("Input length (5000) exceeds the maximum context length (4096)."))
    assert isinstance(error, PromptTooLong)
    assert error.status == 400


def test_llama_cpp_s_own_numbers_count() -> None:
    body = {"error": {"code": 400, "message": "too big", "type": "exceed_context_size_error"}}
    body["error"] |= {"n_prompt_tokens": 5000, "n_ctx": 4096}
    assert of(400, body).args == ("prompt is too long: 5000 tokens > 4096 maximum",)


@pytest.mark.parametrize(
    ("message", "fitting"),
    [
        ("max_tokens=9000 cannot be greater than max_model_len=4096", 4095),
        (
            "max_tokens: 32000 > 8192, which is the maximum allowed number of output tokens for "
            "this model",
            8191,
        ),
        (
            "This model's maximum context length is 8192 tokens. However, you requested 9000 "
            "tokens (5000 in the messages, 4000 in the completion).",
            8192 - 5000 - 16,
        ),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
            "Given: 4000 `inputs` tokens and 1096 `max_new_tokens`",
            4096 - 4000 - 16,
        ),
        ("InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 16384]", 16384),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 8192),
        (
            "max_tokens is too large: 100000. This model supports at most 16384 completion "
            "tokens, whereas you provided 100000.",
            16384,
        ),
        ("max_tokens must be less than or equal to 8192", 8192),
        ("`max_completion_tokens` cannot exceed 4096", 4096),
    ],
)
def test_a_limit_on_the_answer_says_what_would_fit(message: str, fitting: int) -> None:
    error = of(400, said(message))
    assert isinstance(error, OutputTooLong)
    assert error.fitting_max_tokens == fitting
    (limit,) = error.limits.items()
    assert limit in (("max_output_tokens", fitting), ("context_window", fitting + 5016)) or (
        limit == ("context_window", 4096)
    )


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens must be a positive integer",
        "max_tokens must be at least 1",
        "max_tokens should be set for 3 choices",
    ],
)
def test_other_words_about_the_answer_are_no_limit(message: str) -> None:
    assert not isinstance(of(400, said(message)), OutputTooLong)


def test_a_quota_says_when_it_begins_anew() -> None:
    until = "Usage limit reached for 5 hours. Your limit will reset at 2026-11-25 12:00:00"
    error = of(429, {"error": {"code": "1308", "message": until}})
    assert until in error.message
    assert error.should_retry is False


KINDS = {
    "wrong key": (401, said("Incorrect API key"), UpstreamUnauthorized),
    "no balance": (402, {"error": {"message": "Insufficient Balance"}}, UpstreamUnauthorized),
    "no permission": (403, b"<html>forbidden</html>", UpstreamUnauthorized),
    "Anthropic, no balance": (400, said("Your credit balance is too low"), UpstreamUnauthorized),
    "OpenAI, no balance": (
        429,
        said("You exceeded your current quota, please check your plan and billing details."),
        UpstreamUnauthorized,
    ),
    "OpenAI, not paid": (400, said("Billing hard limit has been reached"), UpstreamUnauthorized),
    "a tool about bills": (400, said("tools.0.name: billing lookup is no name"), UpstreamRejected),
    "a tool about balances": (
        400,
        said("Invalid 'tools[0].name': 'insufficient balance' does not match the pattern"),
        UpstreamRejected,
    ),
    "Moonshot, no balance": (
        429,
        {"error": {"message": "x", "type": "exceeded_current_quota_error"}},
        UpstreamUnauthorized,
    ),
    "Z.ai, no balance": (429, {"error": {"code": "1113", "message": "x"}}, UpstreamUnauthorized),
    "DashScope, no balance": (
        400,
        {"error": {"code": "Arrearage", "message": "Access denied"}},
        UpstreamUnauthorized,
    ),
    "rate": (429, said("Rate limit reached", code=429), UpstreamRateLimited),
    "Moonshot, full": (
        429,
        {"error": {"message": "x", "type": "engine_overloaded_error"}},
        UpstreamOverloaded,
    ),
    "Z.ai, full": (429, {"error": {"code": "1305", "message": "x"}}, UpstreamOverloaded),
    "llama.cpp, loading": (503, said("Loading model", code=503), UpstreamOverloaded),
    "529": (529, {}, UpstreamOverloaded),
    "unsafe": (
        400,
        {"error": {"code": "data_inspection_failed", "message": "x"}},
        RefusedByUpstream,
    ),
    "OpenRouter, unsafe": (403, said("Input was flagged", code=403), RefusedByUpstream),
    "Z.ai, used up": (429, {"error": {"code": "1310", "message": "x"}}, UpstreamRateLimited),
    "TGI, broken off": (424, {"error": "x", "error_type": "generation"}, UpstreamUnavailable),
    "Moonshot, too large": (
        400,
        said("total message size 5000000 exceeds limit 4194304"),
        RequestTooLarge,
    ),
    "unknown model": (404, said("The model `x` does not exist"), UpstreamLacksModel),
    "too large": (413, b"", RequestTooLarge),
    "timed out": (408, b"", UpstreamTimeout),
    "gateway timed out": (504, b"<html>", UpstreamTimeout),
    "validation": (422, {"detail": "no"}, UpstreamRejected),
    "teapot": (418, b"teapot", UpstreamRejected),
    "failed": (500, {"error": "boom"}, UpstreamUnavailable),
    "not implemented": (501, {}, UpstreamUnavailable),
    "web page": (502, b"<html><body>Bad gateway</body></html>", UpstreamUnavailable),
    "redirect": (307, b"", UpstreamProtocolError),
    "created": (201, b"{}", UpstreamProtocolError),
}


@pytest.mark.parametrize(("status", "body", "kind"), KINDS.values(), ids=KINDS)
def test_kinds(status: int, body: Any, kind: type[GatewayError]) -> None:
    error = of(status, body)
    assert type(error) is kind
    assert f"upstream status {status}" in error.log_detail or kind is RequestTooLarge
    in_stream = error_of_event({"code": status, "message": ""}, CONTEXT)
    if status not in (307, 201) and not isinstance(body, dict):
        assert type(in_stream) is kind


def test_what_the_operator_must_repair_is_not_told_to_clients() -> None:
    error = of(401, said("Incorrect API key provided: sk-abcdefgh. You can find it at https://x.y"))
    assert (error.status, error.kind, error.should_retry) == (502, "api_error", False)
    assert "Incorrect" not in error.message
    assert "Incorrect" in error.log_detail
    assert "abcdefgh" not in error.log_detail
    assert "x.y" not in error.log_detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "3"}, 3.0),
        ({"retry_after_ms": "1500", "retry_after": "3"}, 1.5),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "1e30"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert of(429, b"", **headers).retry_after_s == seconds
    assert of(400, b"", **headers).retry_after_s is None


# -- what may be shown


@pytest.mark.parametrize(
    "text",
    [
        f"invalid key {KEY}!",
        "Incorrect API key provided: sk-proj-abcdef1234",
        "Authorization: Bearer abcdef1234",
        "api_key=abcdef1234 is wrong",
        "API key: abcdef1234",
        "cannot reach https://abcdef1234.internal:8000/v1",
        "cannot reach 10.20.30.40:8000",
    ],
)
def test_neither_keys_nor_addresses_are_shown(text: str) -> None:
    for shown in (redact(text, (KEY,)), of(400, said(text)).message, of(500, said(text)).message):
        assert KEY not in shown
        assert "abcdef1234" not in shown
        assert "10.20.30.40" not in shown


def test_an_empty_secret_is_nowhere() -> None:
    assert redact("as it is", ("",)) == "as it is"


QUOTING: dict[str, Any] = {
    "FastAPI": {
        "detail": [
            {"loc": ["body", "messages", 0], "msg": "Input should be a dict", "input": "PRIVATE"},
            {"loc": ["body"], "msg": "Value error", "ctx": {"error": "PRIVATE"}},
            "PRIVATE",
        ]
    },
    "vLLM": said(
        "[{'type': 'dict_type', 'loc': ('body', 'messages', 0), 'msg': 'Input should be a dict', "
        "'input': 'PRIVATE'}]"
    ),
    "llama.cpp": said("Failed to parse input at pos 12: PRIVATE\n words", code=500),
}


@pytest.mark.parametrize("body", QUOTING.values(), ids=QUOTING)
@pytest.mark.parametrize("status", [400, 422, 500])
def test_what_quotes_the_conversation_is_cut(body: Any, status: int) -> None:
    error = of(status, body)
    assert "PRIVATE" not in error.message + error.log_detail
    assert "Input should be a dict" in error.message or "Failed to parse" in error.message


def test_excerpts_are_short() -> None:
    error = of(400, said("x" * 100_000))
    assert len(error.message) < 1200
    assert len(error.log_detail) < 1200
    assert len(of(500, b"x" * 60_000).log_detail) < 1200


# -- native upstreams

NATIVE_ERROR: dict[str, Any] = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "messages: nope"},
    "request_id": "req_theirs",
}


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429, 529])
def test_a_native_upstream_speaks_for_itself(status: int) -> None:
    raw = b"  " + json.dumps(NATIVE_ERROR).encode()
    error = of(status, raw, NATIVE, x_should_retry="false")
    assert (error.status, error.passthrough_body, error.should_retry) == (status, raw, False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, NATIVE_ERROR),
        (403, NATIVE_ERROR),
        (500, NATIVE_ERROR),
        (400, {"detail": "a proxy in between"}),
        (400, b'{"type":"error","error":{"type":"inval'),
        (400, {**NATIVE_ERROR, "error": {"type": "x", "message": f"your key {KEY} is bad"}}),
        (429, b"<html>"),
    ],
)
def test_but_not_with_these(status: int, body: Any) -> None:
    error = of(status, body, NATIVE)
    assert not error.passthrough_body
    assert KEY not in error.message


def test_a_chat_upstream_never_speaks_for_itself() -> None:
    assert not of(400, NATIVE_ERROR).passthrough_body


# -- any shape at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["error", "message", "msg", "detail", "code", "type", "loc", "n_ctx"]),
            inner,
        )
    ),
)


@given(st.integers(100, 599), JSON, st.booleans())
def test_whatever_an_upstream_says_is_an_error_of_the_tree(
    status: int, body: Any, is_native: bool
) -> None:
    context = ReplyContext(is_native=is_native)
    for error in (of(status, body, context), error_of_event(body, context)):
        assert isinstance(error, GatewayError)
        assert 400 <= error.status <= 599
        assert error.message


@given(st.integers(100, 599), st.binary())
def test_so_is_what_is_no_json(status: int, body: bytes) -> None:
    assert isinstance(of(status, body), GatewayError)
