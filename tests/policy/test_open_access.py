"""Without keys: programs of this machine are answered, web pages are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import GatewayError, InvalidRequest, PermissionDenied
from dragoman.policy.open_access import check_open_access

JSON = b"application/json"


def check(
    host: bytes | None = b"127.0.0.1:7777",
    origin: bytes | None = None,
    content_type: bytes | None = JSON,
    method: str = "POST",
) -> None:
    check_open_access(
        method,
        host=host,
        origin=origin,
        content_type=content_type,
        allowed_hosts=("Gateway.lan", "[fd00::1]"),
    )


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LocalHost:7777",
        b"localhost.:7777",
        b"127.0.0.1",
        b"127.0.0.1:1",
        b"[::1]",
        b"[::1]:7777",
        b"gateway.lan:7777",
        b"GATEWAY.LAN",
        b"[fd00::1]:7777",
    ],
)
def test_own_names(host: bytes) -> None:
    check(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        b"",
        b":7777",
        b"evil.example",
        b"evil.example:7777",
        b"127.0.0.1.evil.example",
        b"localhost.evil.example:7777",
        b"127.0.0.1:7777, evil.example",
        b"evil.example, 127.0.0.1:7777",
        b"evil@127.0.0.1",
        b"127.0.0.1:7777@evil.example",
        b"127.0.0.1:evil.example",
        b"::1",
        b"0.0.0.0:7777",
        b"192.168.1.10:7777",
        b"\xff",
    ],
)
def test_foreign_names(host: bytes | None) -> None:
    with pytest.raises(PermissionDenied, match="no client keys") as raised:
        check(host)
    assert raised.value.status == 403


@pytest.mark.parametrize(
    "origin",
    [b"http://127.0.0.1:7777", b"http://localhost:7777", b"HTTP://[::1]:7777"],
)
def test_own_origins(origin: bytes) -> None:
    check(origin=origin)


@pytest.mark.parametrize(
    "origin",
    [
        b"",
        b"null",
        b"https://evil.example",
        b"https://evil.example:7777",
        b"http://localhost:3000",
        b"http://localhost",
        b"file://",
        b"chrome-extension://abc",
        b"http://127.0.0.1:7777.evil.example",
        b"http://127.0.0.1:7777@evil.example",
        b"localhost:7777",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_foreign_origins(origin: bytes, method: str) -> None:
    with pytest.raises(PermissionDenied, match="web pages"):
        check(origin=origin, method=method)


def test_origin_behind_the_usual_ports() -> None:
    check(host=b"gateway.lan", origin=b"https://gateway.lan")
    check(host=b"localhost", origin=b"http://localhost:80")


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"Application/JSON; charset=utf-8", b" application/json "]
)
def test_json_bodies(content_type: bytes) -> None:
    check(content_type=content_type)


@pytest.mark.parametrize(
    "content_type",
    [None, b"", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data",
     b"text/plain; application/json", b"application/jsonp"],
)  # fmt: skip
def test_bodies_that_a_page_may_send_unasked(content_type: bytes | None) -> None:
    with pytest.raises(InvalidRequest, match="content-type: must be application/json"):
        check(content_type=content_type)
    check(content_type=content_type, method="GET")


@given(st.binary(max_size=40), st.none() | st.binary(max_size=40))
def test_nothing_but_own_names_passes(host: bytes, origin: bytes | None) -> None:
    try:
        check(host, origin)
    except GatewayError:
        return
    name = host.lower().strip()
    assert name.startswith((b"localhost", b"127.0.0.1", b"[::1]", b"gateway.lan", b"[fd00::1]"))
