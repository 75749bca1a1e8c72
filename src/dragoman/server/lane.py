"""An exchange whose reply may yet be dropped: held back until it has content, then let through."""

from collections.abc import Callable

from dragoman.server.transport.reply_head import with_length
from dragoman.server.transport.seams import Exchange, ExchangeWatcher, HeaderList


class LaneExchange:
    """
    Implements ``Exchange`` and ``ExchangeWatcher``: one of several replies to the same request.

    What is held is what stands before the first content: a few events.

    Args:
        real: The client's request.
        has_content: Tells whether what was written has content.
        claim: Called when it first has; it may ``open`` this one.
    """

    def __init__(
        self, real: Exchange, *, has_content: Callable[[], bool], claim: Callable[[], None]
    ) -> None:
        self.method, self.path, self.query = real.method, real.path, real.query
        self.headers, self.peer = real.headers, real.peer
        self.gone = False
        self._real = real
        self._has_content = has_content
        self._claim = claim
        self._is_open = False
        self._head: tuple[int, HeaderList, bytes] | None = None
        self._held: list[bytes] = []
        self._watcher: ExchangeWatcher | None = None

    def body_at_hand(self, max_bytes: int) -> bytes | None:
        """Return the same of the client's request."""
        return self._real.body_at_hand(max_bytes)

    async def read_body(self, max_bytes: int) -> bytes:
        """Return the body of the client's request."""
        return await self._real.read_body(max_bytes)

    def watch(self, watcher: ExchangeWatcher | None) -> None:
        self._watcher = watcher

    def reply_whole(
        self, status: int, headers: HeaderList, body: bytes, lines: bytes = b""
    ) -> None:
        self.start_reply(status, with_length(headers, body), lines)
        self.write(body)
        self.end_reply()

    def start_reply(self, status: int, headers: HeaderList, lines: bytes = b"") -> None:
        self._head = (status, headers, lines)

    def write(self, data: bytes) -> None:
        if self._is_open:
            if not self.gone:
                self._real.write(data)
            return
        self._held.append(data)
        if self._has_content():
            self._claim()

    def end_reply(self) -> None:
        if not self._is_open:  # a reply without any content is one, too
            self._claim()
        if self._is_open and not self.gone:
            self._real.end_reply()
        self._watcher = None

    def abort(self) -> None:
        if self._is_open:
            self._real.abort()

    def open(self, *, is_begun: bool) -> None:
        """
        Let everything through, what was held first.

        Args:
            is_begun: The reply has a head already.
        """
        self._is_open = True
        self._real.watch(self)
        if self._real.gone:  # just now, and whoever is at work here has not been told yet
            self.on_gone()
            return
        if self._head is not None and not is_begun:
            self._real.start_reply(*self._head)
        held, self._held = b"".join(self._held), []
        self._real.write(held)

    # -- told by the real exchange, once this one is open

    def on_gone(self) -> None:
        if self.gone:
            return
        self.gone = True
        if self._watcher is not None:
            self._watcher.on_gone()

    def on_pause(self) -> None:
        if self._watcher is not None:
            self._watcher.on_pause()

    def on_resume(self) -> None:
        if self._watcher is not None:
            self._watcher.on_resume()
