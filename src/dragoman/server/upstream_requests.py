"""What is sent to a target beside the body: path and headers of native upstreams."""

from typing import Final

from dragoman.core.plan import Plan
from dragoman.core.render import render
from dragoman.server.transport.seams import HeaderList, Headers, Timeouts, UpstreamRequest

_CHAT_PATH: Final = "/chat/completions"
_NATIVE_PATH: Final = "/v1/messages"
_DEFAULT_VERSION: Final = b"2023-06-01"  # what a client that says nothing was written for
_FORWARDED: Final = (b"anthropic-beta",)


def chat_request(plan: Plan, timeouts: Timeouts) -> UpstreamRequest:
    """Return the request to a chat-completions upstream."""
    return UpstreamRequest(path=_CHAT_PATH, body=render(plan), timeouts=timeouts)


def native_request(body: bytes, headers: HeaderList, timeouts: Timeouts) -> UpstreamRequest:
    """Return the request to a native upstream; *headers* are of ``native_headers``."""
    return UpstreamRequest(path=_NATIVE_PATH, body=body, headers=headers, timeouts=timeouts)


def native_headers(sent: Headers) -> HeaderList:
    """Return what a native upstream gets of the client's headers: no credential, no identity."""
    version = (b"anthropic-version", sent.get(b"anthropic-version") or _DEFAULT_VERSION)
    return [version, *((name, sent[name]) for name in _FORWARDED if name in sent)]
