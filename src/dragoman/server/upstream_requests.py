"""What is sent to a target beside the body: path, headers of native upstreams, times."""

from typing import Final

from dragoman.core.plan import Plan
from dragoman.core.render import render
from dragoman.policy.routes import Target
from dragoman.server.transport.seams import HeaderList, Headers, Timeouts, UpstreamRequest

_CHAT_PATH: Final = "/chat/completions"
_NATIVE_PATH: Final = "/v1/messages"
_DEFAULT_VERSION: Final = b"2023-06-01"  # what a client that says nothing was written for
_FORWARDED: Final = (b"anthropic-beta",)


def chat_request(plan: Plan, target: Target) -> UpstreamRequest:
    """Return the request to a chat-completions upstream."""
    return UpstreamRequest(path=_CHAT_PATH, body=render(plan), timeouts=timeouts_of(target))


def native_request(body: bytes, headers: HeaderList, target: Target) -> UpstreamRequest:
    """Return the request to a native upstream; *headers* are of ``native_headers``."""
    return UpstreamRequest(
        path=_NATIVE_PATH, body=body, headers=headers, timeouts=timeouts_of(target)
    )


def native_headers(sent: Headers) -> HeaderList:
    """Return what a native upstream gets of the client's headers: no credential, no identity."""
    version = (b"anthropic-version", sent.get(b"anthropic-version") or _DEFAULT_VERSION)
    return [version, *((name, sent[name]) for name in _FORWARDED if name in sent)]


def timeouts_of(target: Target) -> Timeouts:
    """Return how long to wait for *target*."""
    return Timeouts(
        connect_s=target.connect_timeout_s,
        first_byte_s=target.first_byte_timeout_s,
        idle_s=target.idle_timeout_s,
    )
