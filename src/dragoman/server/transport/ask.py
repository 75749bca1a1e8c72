"""One short call to an upstream, awaited as a whole."""

import asyncio

from msgspec import Struct

from dragoman.core.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout
from dragoman.server.transport.seams import Headers, Upstream, UpstreamRequest


class Answer(Struct, frozen=True):
    """A whole reply, whatever its status."""

    status: int
    headers: Headers
    body: bytes


async def ask(upstream: Upstream, request: UpstreamRequest) -> Answer:
    """
    Send *request* and return the reply; cancelling the await aborts the call.

    The whole call may take as long as its three time-outs together: one that trickles in ends, too.

    Raises:
        UpstreamError: No reply came, or not all of it, or more than ``request.max_body_bytes``.
    """
    receiver = _Collector(request.max_body_bytes)
    times = request.timeouts
    call = upstream.send(request, receiver)
    try:
        async with asyncio.timeout(times.connect_s + times.first_byte_s + times.idle_s):
            return await receiver.answer
    except TimeoutError:
        raise UpstreamTimeout("The model's server took too long to reply.") from None
    finally:
        call.abort()


class _Collector:
    """The receiver of one reply."""

    def __init__(self, max_bytes: int) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._max_bytes = max_bytes
        self._status = 0
        self._headers: Headers = {}
        self._body = bytearray()

    def on_head(self, status: int, headers: Headers) -> None:
        self._status, self._headers = status, headers

    def on_data(self, data: bytes) -> None:
        if self.answer.done():
            return
        self._body += data
        if self._max_bytes and len(self._body) > self._max_bytes:
            self.on_error(UpstreamProtocolError("The model's server sent a reply too large."))

    def on_end(self) -> None:
        if not self.answer.done():
            self.answer.set_result(Answer(self._status, self._headers, bytes(self._body)))

    def on_error(self, error: UpstreamError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
