"""One reply for several clients that have sent the same request."""

import asyncio
from collections.abc import Sequence
from typing import Final

from dragoman.server.telemetry import RequestRecord
from dragoman.server.transport.reply_head import with_length
from dragoman.server.transport.seams import ClientGone, Exchange, ExchangeWatcher, HeaderList

_MAX_REPLAY_BYTES: Final = 64 * 2**10  # before the first content there are signs of life alone
# A client that has stopped reading, as one that has given up its first try may have, must not
# hold up the others: so much is kept for it, then its connection is cut.
_MAX_BEHIND_BYTES: Final = 4 * 2**20
_CONTENT: Final = b"event: content_block_start"
_REQUEST_ID: Final = b"request-id"


class Member:
    """
    One client's request among several that are the same; implements ``ExchangeWatcher``.

    Args:
        exchange: The client's request.
        record: Of it; gets the reply's status.
        reply: What all of them get.

    Attributes:
        done: Ends with the reply; with ClientGone if the client has left before.
    """

    def __init__(self, exchange: Exchange, record: RequestRecord, reply: "FanOut") -> None:
        self.exchange = exchange
        self.record = record
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_paused = False
        self._behind_bytes = 0
        self._reply = reply

    @property
    def has_ended(self) -> bool:
        """Tell whether it has its whole reply."""
        done = self.done
        return done.done() and not done.cancelled() and done.exception() is None

    def start(self, status: int, headers: HeaderList, lines: bytes) -> None:
        """Send the head, with the id of this very request."""
        own = (_REQUEST_ID, self.record.request_id.encode())
        self.record.status = status
        headers = [own if h[0] == _REQUEST_ID else h for h in headers]
        self.exchange.start_reply(status, headers, lines)

    def write(self, data: bytes) -> None:
        """Send a piece; a client that is too far behind is cut off."""
        self.exchange.write(data)
        if self.is_paused:
            self._behind_bytes += len(data)
            if self._behind_bytes > _MAX_BEHIND_BYTES:
                self.exchange.abort()
                self.on_gone()

    def end(self) -> None:
        """End the reply."""
        self.exchange.watch(None)
        self.exchange.end_reply()
        self._finish(None)

    def fail(self, error: BaseException | None) -> None:
        """Take note that there will be no more of a reply."""
        self.exchange.watch(None)
        self._finish(error)

    def on_gone(self) -> None:
        self._finish(ClientGone())
        self._reply.leave(self)

    def on_pause(self) -> None:
        self.is_paused = True
        self._reply.balance()

    def on_resume(self) -> None:
        self.is_paused, self._behind_bytes = False, 0
        self._reply.balance()

    def _finish(self, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class FanOut:
    """
    The reply to all of them; implements ``Exchange``. It is gone when the last of them has left.

    Args:
        first: The request that came first; its body and headers stand for all.
    """

    def __init__(self, first: Exchange) -> None:
        self.method, self.path, self.query = first.method, first.path, first.query
        self.headers, self.peer = first.headers, first.peer
        self.gone = False
        self.has_content = False
        self._first = first
        self._members: list[Member] = []
        self._head: tuple[int, HeaderList, bytes] | None = None
        self._written: list[bytes] = []  # for those who come later; none once there is content
        self._watcher: ExchangeWatcher | None = None
        self._is_paused = False

    @property
    def members(self) -> Sequence[Member]:
        """Those who are still there."""
        return self._members

    def join(self, exchange: Exchange, record: RequestRecord) -> Member:
        """Add a request, and show it what the others have seen."""
        member = Member(exchange, record, self)
        self._members.append(member)
        if self._head is not None:
            member.start(*self._head)
        for data in self._written:
            member.write(data)
        exchange.watch(member)
        return member

    def leave(self, member: Member) -> None:
        """Go on without *member*; the last one ends everything."""
        if member in self._members:
            self._members.remove(member)
        if self._members:
            self.balance()
        elif not self.gone:
            self.gone = True
            if self._watcher is not None:
                self._watcher.on_gone()

    def balance(self) -> None:
        """Stop the upstream only where nobody reads on."""
        is_paused = bool(self._members) and all(member.is_paused for member in self._members)
        if is_paused == self._is_paused:
            return
        self._is_paused = is_paused
        if self._watcher is not None:
            (self._watcher.on_pause if is_paused else self._watcher.on_resume)()

    def fail_all(self, error: BaseException | None) -> None:
        """End the wait of those whose reply has not ended."""
        for member in [*self._members]:
            member.fail(error)

    # -- as an exchange

    def body_at_hand(self, max_bytes: int) -> bytes | None:
        """Return the same of the first request."""
        return self._first.body_at_hand(max_bytes)

    async def read_body(self, max_bytes: int) -> bytes:
        """Return the body of the first request."""
        return await self._first.read_body(max_bytes)

    def watch(self, watcher: ExchangeWatcher | None) -> None:
        self._watcher = watcher
        if watcher is not None and self.gone:
            watcher.on_gone()
        elif watcher is not None and self._is_paused:
            watcher.on_pause()

    def reply_whole(
        self, status: int, headers: HeaderList, body: bytes, lines: bytes = b""
    ) -> None:
        self.start_reply(status, with_length(headers, body), lines)
        self.write(body)
        self.end_reply()

    def start_reply(self, status: int, headers: HeaderList, lines: bytes = b"") -> None:
        self._head = (status, headers, lines)
        self.has_content = any(name == b"content-length" for name, _ in headers)
        for member in self._members:
            member.start(status, headers, lines)

    def write(self, data: bytes) -> None:
        if not self.has_content:
            self._written.append(data)
            size = sum(map(len, self._written))
            if _CONTENT in data or size > _MAX_REPLAY_BYTES:
                self.has_content = True
                self._written.clear()
        for member in [*self._members]:
            member.write(data)

    def end_reply(self) -> None:
        self.has_content = True
        for member in self._members:
            member.end()
        self._watcher = None

    def abort(self) -> None:
        for member in [*self._members]:
            member.exchange.abort()
            member.on_gone()
