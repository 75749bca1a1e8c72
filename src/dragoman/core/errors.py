"""
Everything that can go wrong, grouped by who can repair it.

GatewayError                    500 api_error: a bug of ours
├── RequestError                the client: change the request
│   ├── InvalidRequest          400 invalid_request_error
│   │   └── PromptTooLong       400, in the sentence that makes clients compact
│   ├── AuthenticationFailed    401 authentication_error
│   ├── PermissionDenied        403 permission_error
│   ├── UnknownModel, UnknownPath, UnknownId   404 not_found_error
│   ├── RequestTooLarge         413 request_too_large
│   │   └── HeadersTooLarge     431 request_too_large
│   └── RequestTimeout          408 timeout_error: the client sent its request too slowly
├── LimitError                  the client: wait
│   ├── LimitExceeded           429 rate_limit_error: too much at a time
│   │   ├── UpstreamLimitExceeded   429, of what an upstream is asked; another one may be free
│   │   └── LimitOfNothing      429: a limit of 0, which no waiting changes
│   ├── BudgetExhausted         429 billing_error: nothing more in this day or month
│   └── Overloaded              529 overloaded_error: this gateway is full
│       └── GatewayStopping     529 overloaded_error: or it ends, and another one may be there
├── SharedStateUnavailable      503 api_error: what gateways share is away; the client: try again
├── StoreUnavailable            503 api_error: our database is away; the client: try again
└── UpstreamError               the gateway: try again or elsewhere, then tell the client
    ├── UpstreamRejected        the upstream's own 4xx, mapped; never retried
    │   └── UpstreamLacksModel  404 not_found_error: no such model or path there; others may have it
    ├── UpstreamRateLimited     429 rate_limit_error
    ├── UpstreamUnauthorized    502 api_error: our credential or balance there, not the client's
    ├── UpstreamUnavailable     502 api_error: no connection, reset, 5xx
    ├── UpstreamOverloaded      529 overloaded_error
    ├── UpstreamTimeout         504 timeout_error
    └── UpstreamProtocolError   502 api_error: it broke its own API

Statuses and types: Anthropic API reference, "Errors". Retry rules: architecture, "Errors".
"""

from typing import Any, ClassVar, Final

import msgspec

HeaderFields = tuple[tuple[bytes, bytes], ...]

_encode: Final = msgspec.json.Encoder().encode


class GatewayError(Exception):
    """
    Base class. The message is shown to the client: no secret, no upstream address in it.

    Args:
        message: What happened and what the client can do about it.
        details: Goes into ``error.details`` (for example an ``error_code``).
        retry_after_s: Sent as ``retry-after``.
        should_retry: Sent as ``x-should-retry``; None sends no such header.
        log_detail: For the log only; may hold an excerpt of the upstream's answer, never a key.
    """

    status: int = 500
    kind: str = "api_error"
    retryable: ClassVar[bool] = False  # may another attempt or deployment be tried?
    upstream_status: int = 0  # of the reply that this error was read from; 0: there was none
    passthrough_body: bytes = b""  # a native upstream's own error body, sent on as it is
    default_should_retry: ClassVar[bool | None] = None
    headers: HeaderFields = ()  # further ones for the answer

    def __init__(
        self,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        log_detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.retry_after_s = retry_after_s
        self.should_retry = self.default_should_retry if should_retry is None else should_retry
        self.log_detail = log_detail


class RequestError(GatewayError):
    """The client can repair it by changing the request."""

    status = 400
    kind = "invalid_request_error"


class InvalidRequest(RequestError):
    """
    The request breaks the API. Build it with the path of the field that is wrong.

    Args:
        path: Dotted path of the field, as the API itself prints it: ``messages.0.content``.
            Empty for the body as a whole.
        reason: What is wrong and what would be right.
    """

    def __init__(self, path: str, reason: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(f"{path}: {reason}" if path else reason, details=details)
        self.path = path


class PromptTooLong(RequestError):
    """
    The prompt does not fit. Clients match this very sentence to start compacting.

    Args:
        tokens: Tokens of the prompt; estimated when the upstream does not say.
        maximum: The model's window in tokens.
    """

    def __init__(self, tokens: int, maximum: int, *, log_detail: str = "") -> None:
        super().__init__(
            f"prompt is too long: {tokens} tokens > {maximum} maximum", log_detail=log_detail
        )


class AuthenticationFailed(RequestError):
    """No key, or a key that this gateway does not know."""

    status = 401
    kind = "authentication_error"
    default_should_retry = False  # Claude Code retries a 401 like a 5xx without this


class PermissionDenied(RequestError):
    """The key is known but this is not allowed."""

    status = 403
    kind = "permission_error"


class UnknownModel(RequestError):
    """No route has this name."""

    status = 404
    kind = "not_found_error"


class UnknownPath(RequestError):
    """Nothing is served at this path."""

    status = 404
    kind = "not_found_error"


class UnknownId(RequestError):
    """No key, workspace or entry has this id."""

    status = 404
    kind = "not_found_error"


class RequestTooLarge(RequestError):
    """The body is over the limit, before or after inflating."""

    status = 413
    kind = "request_too_large"


class HeadersTooLarge(RequestTooLarge):
    """The request's head has too many bytes or fields."""

    status = 431


class RequestTimeout(RequestError):
    """The client took too long to send its headers or body."""

    status = 408
    kind = "timeout_error"


class LimitError(GatewayError):
    """The client can repair it by waiting."""


class LimitExceeded(LimitError):
    """
    A limit of a key, workspace, model or upstream leaves no room for the request now.

    Args:
        message: Which limit, and when there is room again.
        retry_after_s: The same in seconds; None: there never will be.
        headers: The state of the limits, for the client.
        limit: Whose and which it is, for logs and metrics: ``key requests``.
    """

    status = 429
    kind = "rate_limit_error"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None,
        should_retry: bool | None = None,
        headers: HeaderFields = (),
        limit: str = "",
        log_detail: str = "",
    ) -> None:
        super().__init__(
            message,
            retry_after_s=retry_after_s,
            should_retry=should_retry,
            log_detail=log_detail,
        )
        self.headers = headers
        self.limit = limit


class UpstreamLimitExceeded(LimitExceeded):
    """The upstream is asked no more at present. Another one may be free."""

    retryable = True


class LimitOfNothing(LimitExceeded):
    """A limit of 0: nothing may be used at all, now or later."""

    default_should_retry = False

    def __init__(self, message: str, *, headers: HeaderFields, limit: str) -> None:
        super().__init__(message, retry_after_s=None, headers=headers, limit=limit)


class BudgetExhausted(LimitExceeded):
    """The budget of a day or month is used up: trying again is no use before its end."""

    kind = "billing_error"
    default_should_retry = False


class Overloaded(LimitError):
    """This gateway is at its maximum of concurrent requests."""

    status = 529
    kind = "overloaded_error"


class GatewayStopping(Overloaded):
    """This gateway was told to stop. Another one, or the same in a moment, will answer."""

    def __init__(self) -> None:
        super().__init__("the gateway is stopping; try again", retry_after_s=1.0)


class SharedStateUnavailable(GatewayError):
    """
    What gateways share (Redis, or the process that looks after the workers) is away or late.

    Args:
        log_detail: Why, for operators; clients learn only that it is so.
    """

    status = 503
    default_should_retry = True

    def __init__(self, log_detail: str) -> None:
        super().__init__(
            "what this gateway shares with others cannot be reached; try again",
            retry_after_s=1.0,
            log_detail=log_detail,
        )


class StoreUnavailable(GatewayError):
    """
    The database with keys and usage cannot be reached in time, or not be used.

    Args:
        log_detail: Why, for operators; clients learn only that it is so.
    """

    status = 503
    default_should_retry = True

    def __init__(self, log_detail: str) -> None:
        super().__init__(
            "this gateway's store of keys cannot be reached; try again",
            retry_after_s=1.0,
            log_detail=log_detail,
        )


class UpstreamError(GatewayError):
    """May be retried elsewhere until the first content block has gone to the client."""

    status = 502
    kind = "api_error"
    retryable = True


class UpstreamRejected(UpstreamError):
    """The upstream refused this very request; sending it again would not help."""

    status = 400
    kind = "invalid_request_error"
    retryable = False
    refusal: tuple[str, str] | None = None  # what it said, and of which field; for ``healing``

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        log_detail: str = "",
    ) -> None:
        super().__init__(message, log_detail=log_detail)
        self.status = status
        self.kind = kind


class UpstreamLacksModel(UpstreamRejected):
    """The upstream has no such model, or no such path: its owner has changed it, not the client."""

    retryable = True

    def __init__(self, message: str, *, log_detail: str = "") -> None:
        super().__init__(message, status=404, kind="not_found_error", log_detail=log_detail)


class UpstreamRateLimited(UpstreamError):
    """The upstream limits our rate. Another deployment may be tried."""

    status = 429
    kind = "rate_limit_error"


class UpstreamUnauthorized(UpstreamError):
    """The gateway's own credential or balance was refused: nothing the client can repair."""

    default_should_retry = False


class UpstreamUnavailable(UpstreamError):
    """No connection, a reset, or a 5xx."""


class UpstreamOverloaded(UpstreamError):
    """The upstream says that it is full."""

    status = 529
    kind = "overloaded_error"


class UpstreamTimeout(UpstreamError):
    """
    The upstream was silent for too long.

    Never sent again to the same upstream: the request may still be running there, and billed.
    """

    status = 504
    kind = "timeout_error"


class UpstreamProtocolError(UpstreamError):
    """The upstream broke its own API: garbage, an oversized line, an end without a finish."""


def render_error(error: GatewayError, request_id: str) -> bytes:
    """Return the JSON body that the Anthropic API would send for *error*."""
    inner: dict[str, Any] = {"type": error.kind, "message": error.message}
    if error.details:
        inner["details"] = error.details
    return _encode({"type": "error", "error": inner, "request_id": request_id})


def render_error_event(error: GatewayError, request_id: str) -> bytes:
    """Return *error* as the last event of a stream that has already begun."""
    return b"event: error\ndata: %b\n\n" % render_error(error, request_id)


def error_headers(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """Return the headers by which SDKs decide whether and when to try again."""
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(0, round(error.retry_after_s + 0.49))))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    headers += error.headers
    return headers
