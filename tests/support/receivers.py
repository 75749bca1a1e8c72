"""A receiver of upstream replies that notes everything and checks the order of what it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from dragoman.core.errors import UpstreamError
from dragoman.server.transport.http_upstream import HttpUpstream
from dragoman.server.transport.seams import Call, Headers, Upstream, UpstreamRequest

ASK = UpstreamRequest(path="/chat/completions", body=b'{"model":"m"}')


class Recorder:
    """
    Notes what it is told; fails when that comes in a wrong order.

    Attributes:
        hooks: Called with the recorder inside of on_head, on_data, on_end, on_error.
    """

    def __init__(self, **hooks: "Callable[[Recorder], None]") -> None:
        self.hooks = hooks
        self.call: Call | None = None
        self.status = 0
        self.headers: Headers = {}
        self.pieces: list[bytes] = []
        self.error: UpstreamError | None = None
        self.is_ended = False
        self.is_deaf = False  # set by ``abort``: from there on it must be told nothing
        self.wrong: list[str] = []
        self._over = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    async def over(self, limit_s: float = 20) -> "Recorder":
        """Wait for on_end or on_error."""
        async with asyncio.timeout(limit_s):
            await self._over.wait()
        assert not self.wrong, self.wrong
        return self

    def abort(self) -> None:
        assert self.call is not None
        self.is_deaf = True
        self.call.abort()

    def on_head(self, status: int, headers: Headers) -> None:
        self._check("on_head", not self.status)
        self.status, self.headers = status, headers
        self._hook("on_head")

    def on_data(self, data: bytes) -> None:
        self._check("on_data", bool(self.status and data))
        self.pieces.append(data)
        self._hook("on_data")

    def on_end(self) -> None:
        self._check("on_end", bool(self.status))
        self.is_ended = True
        self._over.set()
        self._hook("on_end")

    def on_error(self, error: UpstreamError) -> None:
        self._check("on_error", isinstance(error, UpstreamError))
        self.error = error
        self._over.set()
        self._hook("on_error")

    def _check(self, event: str, is_right: bool) -> None:
        is_open = not (self.is_ended or self.error or self.is_deaf)
        if not (is_right and is_open and self.call is not None):
            self.wrong.append(event)

    def _hook(self, event: str) -> None:
        if event in self.hooks:
            self.hooks[event](self)


def send(
    upstream: Upstream, request: UpstreamRequest, **hooks: Callable[[Recorder], None]
) -> Recorder:
    """Start a call whose reply a new recorder gets; it must not be told of it in here."""
    recorder = Recorder(**hooks)
    recorder.call = upstream.send(request, recorder)
    return recorder


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[HttpUpstream]:
    """Make an upstream, check at the end that it holds nothing but idle connections, close it."""
    upstream = HttpUpstream(url, **options)
    try:
        yield upstream
        assert upstream.n_calls == 0
        assert upstream.n_connections == upstream.n_idle
    finally:
        await upstream.close()
    assert upstream.n_connections == 0
