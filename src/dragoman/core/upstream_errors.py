"""
What an upstream says went wrong -> our error tree.

Sources: model dialects, section 6 (error bodies of each vendor and engine); real clients, sections
1.5 to 1.7 (what Claude Code and the SDKs do with each answer).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from dragoman.core.errors import (
    GatewayError,
    PromptTooLong,
    RequestTooLarge,
    UpstreamError,
    UpstreamLacksModel,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from dragoman.core.rate_headers import spent_for_s
from dragoman.core.usage import bounded_count

_decode: Final = msgspec.json.Decoder().decode
_TEACHING_STATUSES: Final = frozenset({400, 422})  # said of a field that could be left out
_NATIVE_STATUSES: Final = frozenset({400, 404, 409, 413, 422, 429, 529})
# Inside a stream only the type tells; names of the Anthropic and the OpenAI API.
_TYPE_STATUSES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_MARGIN_TOKENS: Final = 16  # a chat template may add a few between two counts
_MAX_EXCERPT: Final = 1000  # characters of an upstream's text that are shown or logged
_MAX_FAULTS: Final = 10
_MAX_SEARCHED: Final = 8000  # characters; what an error says, it says at its beginning

# Wordings of "the prompt does not fit", lower case, of every engine and vendor read.
_OVERFLOW: Final = re.compile(
    r"maximum context length|context_length_exceeded|exceeds the context window"
    r"|contextwindowexceeded"
    r"|longer than the maximum model length|longer than the model'?s context length"
    r"|exceeds? (?:the )?(?:model'?s )?(?:available )?context (?:size|length)|exceed_context_size"
    r"|exceeds the maximum number of tokens allowed|exceeded model token limit"
    r"|input token length too long|input tokens exceed the configured limit|maximum context limit"
    r"|maximum prompt length|prompt exceeds max length"
    r"|tokens in request more than max tokens allowed"
    r"|range of input length should be|context window exceeds limit|but model only supports up to"
    r"|reduce the length of the (?:messages|prompt|input)|input is too long for requested model"
    r"|exceeds model'?s maximum context length|prompt is too long|input length .{0,40}exceed"
    r"|prompt (?:too long|larger than the context)|exceed max message tokens"
    r"|length of prompt_tokens .{0,20}must be less than"
    r"|inputs. (?:tokens \+ .max_new_tokens. must be <=|must have less than) \d"
)
_OVERFLOW_CODES: Final = frozenset(
    {"1261", "exceed_context_size_error", "context_length_exceeded", "context_window_exceeded"}
)
# "max_tokens=N cannot be greater than max_model_len=M", "max_tokens: N > M, which is the maximum".
_OUTPUT_OVERFLOW: Final = re.compile(
    r"max_(?:completion_)?tokens\D{0,12}(\d{1,9}) (?:cannot be greater than|is too large|>)"
    r"\D{0,80}(\d{1,9})"
)
# "Range of max_tokens should be [1, 16384]", "at most 16384 completion tokens".
_OUTPUT_LIMIT: Final = re.compile(
    r"range of max_(?:completion_)?tokens\W{0,3} (?:should be|must be|is) (?:in )?"
    r"\[\d+, ?(\d{2,9})\]"
    r"|at most (\d{2,9}) (?:completion|output) tokens"
    r"|max_(?:completion_)?tokens\W{0,3} (?:must|should|cannot|can't|may not)[^.\d]{0,40}"
    r"(?:<=|equal to|at most|greater than|more than|larger than|exceed) (\d{2,9})\b"
)
# In each tuple the surest wording first.
_WINDOW: Final = (
    re.compile(r"tokens > (\d+) maximum"),
    re.compile(r"range of input length should be \[\d+, ?(\d+)\]"),
    re.compile(
        r"(?:context (?:length|size|window)|only supports up to|prompt length|token limit"
        r"|max_model_len|max_seq_len|n_ctx|max_new_tokens. must be <=|must have less than"
        r")(?: is| of|:|=| )* ?\(?(\d[\d,]*)"
    ),
)
_PROMPT: Final = (
    re.compile(r"prompt is too long: (\d+) tokens"),
    re.compile(
        r"(\d[\d,]*)(?: tokens)? (?:in|from|of) the (?:input |prompt )?(?:message|input|prompt)"
    ),
    re.compile(r"(\d[\d,]*) (?:input|prompt|`inputs`) tokens"),
    re.compile(r"given: (\d+)|length of prompt_tokens \((\d+)\)"),
    re.compile(r"(?:input|prompt)(?: length| contains| has|) \(?(\d[\d,]*)"),
    re.compile(r"(?:requested token count|requested|resulted in|request)\D{0,24}?(\d[\d,]*)"),
)
_OUTPUT: Final = (
    re.compile(r"(\d[\d,]*)(?: tokens)? (?:in|for|from) the completion"),
    re.compile(r"(\d[\d,]*) (?:output tokens|`max_new_tokens`)"),
)

_BALANCE: Final = re.compile(
    r"insufficient.{0,12}(?:balance|quota|credit)|exceeded_current_quota|arrearage|no balance"
    r"|balance is (?:not enough|insufficient|too low)|insufficient_quota"
    r"|account.{0,24}(?:overdue|suspended)"
    # Not the word alone: a request with a tool of such a name may be refused for it.
    r"|payment required|billing_(?:error|not_active|hard_limit)|(?:and|&|your) billing"
    r"|billing (?:account|details|hard limit|information|to be enabled)"
)
_QUOTED: Final = re.compile(r"\"[^\"]*\"|`[^`]*`|(?<!\w)'[^']*'(?!\w)")  # mostly the client's words
_BALANCE_CODES: Final = frozenset({"1113", "Arrearage", "insufficient_quota"})
_OVERLOAD: Final = re.compile(
    r"engine_overloaded|overloaded|service[ _]unavailable|server is busy"
    r"|system resource|no capacity"
)
# Z.ai: used up until a time that only the text tells.
_QUOTA_CODES: Final = frozenset({"1308", "1310"})
_TOO_LARGE: Final = re.compile(r"total message size \d+ exceeds")  # Moonshot, with a 400
_OVERLOAD_CODES: Final = frozenset({"1305", "503", "529"})
_UNSAFE: Final = re.compile(
    r"data_inspection_failed|content_filter|content policy|moderation|input was flagged"
)
_UNSAFE_CODES: Final = frozenset({"1301", "data_inspection_failed", "content_filter"})

_KEY_LIKE: Final = re.compile(
    r"(?i)\b(?:sk|key|rk|pk|ak|xai|gsk|nvapi)-[a-z0-9*_.-]{4,}|bearer\s+\S+"
    r"|(api[ _-]?key)(?:\s+provided)?\s*[:=]\s*\S+"
)
_ADDRESS: Final = re.compile(r"(?i)\bhttps?://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b")
# What follows quotes the request (validators of vLLM and FastAPI) or the reply (llama.cpp), and
# belongs neither into the log nor into a message.
_QUOTING: Final = re.compile(
    r"(?is)((?:[\"']input[\"']|failed to parse [a-z ]{1,40}[^:]{0,40}):).*"
)


class Complaint(msgspec.Struct, frozen=True):
    """An upstream's error, whatever its shape. Empty strings and None: not said."""

    message: str = ""
    type: str = ""
    code: str = ""
    prompt_tokens: int | None = None
    window: int | None = None
    param: str = ""  # the field that it is about

    @property
    def text(self) -> str:
        """What was said, in lower case, to search in."""
        return f"{self.type} {self.code} {self.message}"[:_MAX_SEARCHED].lower()


class OutputTooLong(UpstreamRejected):
    """
    The prompt fits, but not together with max_tokens, or max_tokens alone is over a limit.

    Args:
        message: In the API's own wording, which clients match to lower max_tokens themselves.
        fitting_max_tokens: A value that would have fitted.
        limits: What was said of the model, by fields of its profile.
    """

    def __init__(self, message: str, *, fitting_max_tokens: int, limits: Mapping[str, int]) -> None:
        super().__init__(message)
        self.fitting_max_tokens = max(1, fitting_max_tokens)
        self.limits = limits


class RefusedByUpstream(UpstreamRejected):
    """The upstream's own content inspection refused; in a stream this is stop_reason refusal."""


class ReplyContext(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the request that failed."""

    prompt_tokens_estimate: int = 0
    context_window: int | None = None
    max_reply_bytes: int = 64 * 2**20
    is_native: bool = False  # the upstream speaks the Anthropic API: its own errors may go on
    secrets: Sequence[str] = ()

    def of_prompt(self, tokens_estimate: int) -> "ReplyContext":
        """Return the same for a request of that length, for all that fail share the rest."""
        return msgspec.structs.replace(self, prompt_tokens_estimate=tokens_estimate)


def read_complaint(error: object) -> Complaint:
    """Return what an error value says: an object, a string, or a list of either."""
    if isinstance(error, str):
        return Complaint(message=error)
    if isinstance(error, list) and error:
        return read_complaint(error[0])
    if not isinstance(error, dict):
        return Complaint()
    inner = error.get("error")
    if isinstance(inner, dict | list) or (isinstance(inner, str) and "message" not in error):
        nested = read_complaint(inner)
        kind = nested.type or _text(error.get("error_type"))
        return msgspec.structs.replace(nested, type=kind)
    detail = error.get("detail")
    return Complaint(
        message=_text(error.get("message")) or _text(error.get("msg")) or _details(detail),
        type=_text(error.get("type")),
        code=_text(error.get("code")),
        prompt_tokens=bounded_count(_int(error.get("n_prompt_tokens"))) or None,
        window=bounded_count(_int(error.get("n_ctx"))) or None,
        param=_text(error.get("param")),
    )


def error_of_reply(
    status: int, headers: Mapping[bytes, bytes], *, body: bytes, context: ReplyContext
) -> GatewayError:
    """
    Return the error for a reply whose status is not 200.

    Args:
        status: HTTP status of the upstream's reply.
        headers: Its headers, names in lower case.
        body: Its body, or the beginning of it.
        context: The request that failed.
    """
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    complaint = read_complaint(document)
    excerpt = complaint.message or body[:_MAX_EXCERPT].decode("utf-8", "replace")
    log = f"upstream status {status}: {redact(excerpt, context.secrets)}"
    error = _classify(status, complaint, context=context, log=log)
    retry_after = _retry_after_s(headers)
    if retry_after is not None and error.status in (429, 529):
        error.retry_after_s = retry_after
    is_ours = isinstance(error, UpstreamUnauthorized)  # an account that no client can repair
    if not is_ours and _is_native_error(document, status, context):
        _pass_on(error, status, headers, body=body, secrets=context.secrets)
    return error


def _is_native_error(document: object, status: int, context: ReplyContext) -> bool:
    has_form = isinstance(document, dict) and document.get("type") == "error"
    return has_form and context.is_native and status in _NATIVE_STATUSES


def _pass_on(
    error: GatewayError,
    status: int,
    headers: Mapping[bytes, bytes],
    *,
    body: bytes,
    secrets: Sequence[str],
) -> None:
    """Let the client see a native upstream's own words, unless they hold a key."""
    if is_presentable(body, secrets):
        error.status, error.passthrough_body = status, body
        said = headers.get(b"x-should-retry", b"")
        error.should_retry = {b"true": True, b"false": False}.get(said)


def error_of_event(error: object, context: ReplyContext) -> GatewayError:
    """Return the error for an error object inside a stream whose status was 200."""
    complaint = read_complaint(error)
    code = _int(complaint.code)
    is_status = code is not None and 400 <= code <= 599
    status = code if code is not None and is_status else _TYPE_STATUSES.get(complaint.type, 500)
    log = f"upstream error in stream: {redact(complaint.message, context.secrets)}"
    return _classify(status, complaint, context=context, log=log)


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Return *text*, shortened, without anything that is or looks like a key or an address."""
    return _QUOTING.sub(r"\1 [...]", _masked(text, secrets))[:_MAX_EXCERPT]


def is_presentable(body: bytes, secrets: Sequence[str]) -> bool:
    """Tell whether a client may see *body* as it is: nothing in it is or looks like a key."""
    text = body.decode("utf-8", "replace")
    return _masked(text, secrets) == text


def _masked(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]")
    text = _KEY_LIKE.sub("[redacted]", text)
    return _ADDRESS.sub("[address]", text)


def _classify(
    status: int, complaint: Complaint, *, context: ReplyContext, log: str
) -> GatewayError:
    text = complaint.text
    # Whatever the status: engines and proxies in front of them also say it with a 500.
    overflow = _overflow(complaint, context=context, log=log)
    if overflow is not None:
        return overflow
    is_refused = complaint.code in _UNSAFE_CODES or _UNSAFE.search(text)
    if status == 403 and is_refused:  # OpenRouter, for hosts that moderate
        return RefusedByUpstream(_said(complaint, context, "content refused"), log_detail=log)
    is_unpaid = complaint.code in _BALANCE_CODES or _BALANCE.search(_QUOTED.sub(" ", text))
    if status in (401, 402, 403) or is_unpaid:
        return UpstreamUnauthorized(
            "The gateway's own account with the model's provider was refused (credential, "
            "permission or balance). Only the gateway's operator can repair this; see its log.",
            log_detail=log,
        )
    if is_refused:
        return RefusedByUpstream(_said(complaint, context, "content refused"), log_detail=log)
    if status in (429, 503, 529) or complaint.code in _OVERLOAD_CODES:
        return _busy(status, complaint, context=context, log=log)
    return _by_status(status, complaint, context=context, log=log)


def _busy(status: int, complaint: Complaint, *, context: ReplyContext, log: str) -> UpstreamError:
    if complaint.code in _QUOTA_CODES:
        said = _said(complaint, context, "it is used up")
        message = f"The gateway's quota at the model's provider is used up: {said}"
        return UpstreamRateLimited(message, should_retry=False, log_detail=log)
    overloaded = complaint.code in _OVERLOAD_CODES or _OVERLOAD.search(complaint.text)
    if status != 429 or overloaded:
        return UpstreamOverloaded("The model's server is overloaded. Try again.", log_detail=log)
    return UpstreamRateLimited(
        "The model's provider limits the gateway's rate. Try again later.", log_detail=log
    )


def _by_status(
    status: int, complaint: Complaint, *, context: ReplyContext, log: str
) -> GatewayError:
    said = _said(complaint, context, f"HTTP {status}")
    if status == 404:
        message = f"The model's server does not know this model or path: {said}"
        return UpstreamLacksModel(message, log_detail=log)
    if status == 413 or _TOO_LARGE.search(complaint.text):
        return RequestTooLarge(f"The model's server refused the size of the request: {said}")
    if status == 408:
        return UpstreamTimeout(f"The model's server timed out: {said}", log_detail=log)
    if status == 424:  # TGI: it had begun
        return UpstreamUnavailable(f"The model's server failed: {said}", log_detail=log)
    if 400 <= status < 500:
        refused = UpstreamRejected(
            f"The model's server refused the request: {said}", log_detail=log
        )
        if status in _TEACHING_STATUSES:
            refused.refusal = (complaint.text, complaint.param)
        return refused
    if status == 504:
        return UpstreamTimeout(f"The model's server timed out: {said}", log_detail=log)
    if status >= 500:
        return UpstreamUnavailable(f"The model's server failed: {said}", log_detail=log)
    message = f"The model's server answered with an unexpected status ({status})."
    return UpstreamProtocolError(message, log_detail=log)


def _overflow(complaint: Complaint, *, context: ReplyContext, log: str) -> GatewayError | None:
    text = complaint.message[:_MAX_SEARCHED].lower()  # codes and types hold numbers, too
    if match := _OUTPUT_OVERFLOW.search(text):
        asked, limit = map(int, match.groups())
        return OutputTooLong(
            f"max_tokens: {asked} > {limit}, which is the maximum allowed number of output "
            "tokens for this model",
            fitting_max_tokens=min(limit, asked) - 1,
            limits={"max_output_tokens": min(limit, asked) - 1},
        )
    if match := _OUTPUT_LIMIT.search(text):
        limit = next(int(number) for number in match.groups() if number)
        return OutputTooLong(
            f"max_tokens: over {limit}, which is the maximum allowed number of output tokens "
            "for this model",
            fitting_max_tokens=limit,
            limits={"max_output_tokens": limit},
        )
    if complaint.code not in _OVERFLOW_CODES and not _OVERFLOW.search(complaint.text):
        return None
    window = complaint.window or _number(_WINDOW, text) or context.context_window
    prompt = complaint.prompt_tokens or _number(_PROMPT, text)
    output = _number(_OUTPUT, text)
    if window and prompt and output and prompt + output > window > prompt:
        return OutputTooLong(
            "input length and `max_tokens` exceed context limit: "
            f"{prompt} + {output} > {window}, decrease input length or `max_tokens` and try again",
            fitting_max_tokens=window - prompt - _MARGIN_TOKENS,
            limits={"context_window": window},
        )
    window = window or max(1, context.prompt_tokens_estimate - 1)
    prompt = prompt or context.prompt_tokens_estimate
    # Engines count prompt + max_tokens in one figure; whatever they say, the sentence must be true.
    return PromptTooLong(max(prompt, window + 1), window, log_detail=log)


def _said(complaint: Complaint, context: ReplyContext, otherwise: str) -> str:
    return redact(complaint.message, context.secrets).strip() or otherwise


def _number(patterns: Sequence[re.Pattern[str]], text: str) -> int | None:
    match = next((m for p in patterns if (m := p.search(text))), None)
    digits = next(filter(None, match.groups()), "").replace(",", "") if match else ""
    return int(digits) if 0 < len(digits) < 12 else None


def _retry_after_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Read retry-after in seconds; HTTP dates are left to the client's own back-off."""
    for name, unit_s in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        try:
            value = float(headers.get(name, b""))
        except ValueError:
            continue
        if 0 <= value < 1e9:
            return value * unit_s
    return spent_for_s(headers)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    return msgspec.json.encode(value).decode()[:_MAX_EXCERPT]


def _details(detail: object) -> str:
    """Return what FastAPI says of a request: where each fault is, without the value there."""
    if not isinstance(detail, list):
        return _text(detail)
    faults = [fault for fault in detail[:_MAX_FAULTS] if isinstance(fault, dict)]
    return "; ".join(f"{_place(fault.get('loc'))}{_text(fault.get('msg'))}" for fault in faults)


def _place(location: object) -> str:
    steps = [_text(step) for step in location] if isinstance(location, list) else []
    return f"{'.'.join(steps)}: " if steps else ""


def _int(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 12:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value
