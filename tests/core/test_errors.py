"""The tree of errors: what each is to a client, and how it is written."""

import inspect
import json

import pytest

from dragoman.core import errors
from dragoman.core.errors import (
    AuthenticationFailed,
    GatewayError,
    InvalidRequest,
    LimitError,
    Overloaded,
    PermissionDenied,
    PromptTooLong,
    RequestError,
    RequestTimeout,
    RequestTooLarge,
    UnknownModel,
    UnknownPath,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
    error_headers,
    render_error,
    render_error_event,
)
from support.sse_grammar import check_error

# status, type, may another deployment be tried, x-should-retry
EXPECTED: dict[type[GatewayError], tuple[int, str, bool, bool | None]] = {
    GatewayError: (500, "api_error", False, None),
    RequestError: (400, "invalid_request_error", False, None),
    InvalidRequest: (400, "invalid_request_error", False, None),
    PromptTooLong: (400, "invalid_request_error", False, None),
    AuthenticationFailed: (401, "authentication_error", False, False),
    PermissionDenied: (403, "permission_error", False, None),
    UnknownModel: (404, "not_found_error", False, None),
    UnknownPath: (404, "not_found_error", False, None),
    RequestTooLarge: (413, "request_too_large", False, None),
    RequestTimeout: (408, "timeout_error", False, None),
    LimitError: (500, "api_error", False, None),
    Overloaded: (529, "overloaded_error", False, None),
    UpstreamError: (502, "api_error", True, None),
    UpstreamRejected: (400, "invalid_request_error", False, None),
    UpstreamRateLimited: (429, "rate_limit_error", True, None),
    UpstreamUnauthorized: (502, "api_error", True, False),
    UpstreamUnavailable: (502, "api_error", True, None),
    UpstreamOverloaded: (529, "overloaded_error", True, None),
    UpstreamTimeout: (504, "timeout_error", True, None),
    UpstreamProtocolError: (502, "api_error", True, None),
}


def made(kind: type[GatewayError]) -> GatewayError:
    """Return an error of *kind*, whose arguments may differ."""
    if issubclass(kind, InvalidRequest):
        return kind("messages.0", "is odd")
    if issubclass(kind, PromptTooLong):
        return kind(9, 8)
    return kind("something happened")


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
def test_what_each_is_to_a_client(kind: type[GatewayError]) -> None:
    error = made(kind)
    status, kind_name, retryable, should_retry = EXPECTED[kind]
    assert (error.status, error.kind, error.retryable) == (status, kind_name, retryable)
    assert error.should_retry is should_retry
    assert check_error(render_error(error, "req_1")) == {
        "type": kind_name,
        "message": error.message,
    }


def test_no_kind_is_without_a_parent_in_the_tree() -> None:
    kinds = [
        k
        for _, k in inspect.getmembers(errors, inspect.isclass)
        if k.__module__ == "dragoman.core.errors"
    ]
    assert all(issubclass(kind, GatewayError) for kind in kinds)
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in kinds if kind.__name__ not in drawn] == []


def test_a_path_stands_before_its_reason() -> None:
    error = InvalidRequest("messages.0.content", "Field required", details={"error_code": "x"})
    assert (error.path, error.message) == (
        "messages.0.content",
        "messages.0.content: Field required",
    )
    assert InvalidRequest("", "the body is empty").message == "the body is empty"
    assert json.loads(render_error(error, "req_1"))["error"]["details"] == {"error_code": "x"}


def test_the_sentence_that_makes_clients_compact() -> None:
    assert PromptTooLong(9, 8).message == "prompt is too long: 9 tokens > 8 maximum"


def test_an_error_event() -> None:
    written = render_error_event(Overloaded('busy "now"\n'), "req_1")
    assert written == (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
        b'"message":"busy \\"now\\"\\n"},"request_id":"req_1"}\n\n'
    )


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (GatewayError("x"), []),
        (GatewayError("x", retry_after_s=0), [(b"retry-after", b"0")]),
        (GatewayError("x", retry_after_s=0.2), [(b"retry-after", b"1")]),
        (GatewayError("x", retry_after_s=2.0), [(b"retry-after", b"2")]),
        (GatewayError("x", retry_after_s=-5), [(b"retry-after", b"0")]),
        (GatewayError("x", should_retry=True), [(b"x-should-retry", b"true")]),
        (AuthenticationFailed("x"), [(b"x-should-retry", b"false")]),
        (AuthenticationFailed("x", should_retry=True), [(b"x-should-retry", b"true")]),
    ],
)
def test_headers(error: GatewayError, headers: list) -> None:
    assert error_headers(error) == headers


def test_a_rejection_may_have_a_status_of_its_own() -> None:
    error = UpstreamRejected("no such model", status=404, kind="not_found_error", log_detail="l")
    assert (error.status, error.kind, error.log_detail) == (404, "not_found_error", "l")
    assert (UpstreamRejected.status, UpstreamRejected.kind) == (400, "invalid_request_error")
