"""One upstream call on its way through a turn: when it is over, and whether it has succeeded."""

import asyncio
from typing import Final, Protocol

from msgspec import Struct

from dragoman.core.errors import GatewayError, UpstreamProtocolError
from dragoman.core.turn_interface import Turn
from dragoman.core.upstream_errors import ReplyContext, error_of_reply
from dragoman.server.transport.seams import Call, Headers

_MAX_ERROR_BODY_BYTES: Final = 64 * 2**10
_EVENT_BEGINS: Final = frozenset(b"de:")  # data, event, a comment: no JSON
_USUAL_TYPES: Final = frozenset(
    {b"text/event-stream", b"text/event-stream; charset=utf-8", b"application/json", None}
)
# After the finish reason only token counts can come, and after the end nothing: we wait this long.
_FINISH_GRACE_S: Final = 5.0
_DRAIN_GRACE_S: Final = 1.0
_ERROR_GRACE_S: Final = 10.0  # for the body of an error; its status is enough to go on


class ReplyOwner(Protocol):
    """Carries the reply to the client."""

    reply_headers: Headers

    def relay(self, data: bytes) -> None:
        """Send what the turn made of one read."""

    def finish(self, attempt: "Attempt", error: Exception | None) -> None:
        """Take note that *attempt* is over."""


class Attempt(Struct, eq=False):  # made in C
    """
    One upstream call: the receiver of its reply.

    Args:
        relay: Whose reply it is for.
        turn: Reads the upstream's.
        context: What must be known of that.
    """

    relay: ReplyOwner
    turn: Turn
    context: ReplyContext
    call: Call | None = None
    _status: int = 0
    _whole: bytearray | None = None  # a body that is read as one: an error, or JSON
    _blank: bytes | None = b""  # how the body begins; None once that says what it is
    _is_over: bool = False  # the message is complete or has failed
    _timer: asyncio.TimerHandle | None = None

    @property
    def is_taken_up(self) -> bool:
        """Tell whether the upstream has begun a reply that is no refusal."""
        return self._status == 200

    def pause(self) -> None:
        if self.call is not None:
            self.call.pause()

    def resume(self) -> None:
        if self.call is not None:
            self.call.resume()

    def leave(self) -> None:
        """Give the call up, unless it is only waiting for the end of a complete reply."""
        if self._is_over and (self._timer is not None or self.call is None):
            return
        self._abort()

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status
        self.relay.reply_headers = headers
        if status != 200:
            self._whole, self._blank = bytearray(), None
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_ERROR_GRACE_S, self._end_error)
        elif (kind := headers.get(b"content-type")) not in _USUAL_TYPES and _is_html(kind):
            self._fail(UpstreamProtocolError("The model's server sent a web page, not a reply."))

    def on_data(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._blank is not None:
            if self._blank or not data or data[0] not in _EVENT_BEGINS:
                data = self._look(data)
            else:
                self._blank = None
        if self._whole is not None:
            self._collect(data)
            return
        turn = self.turn
        try:
            if out := turn.feed(data):
                self.relay.relay(out)
        except Exception as error:
            self._fail(error)
            return
        if turn.is_done:
            self._succeed()
        elif turn.is_finishing and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_FINISH_GRACE_S, self._end_body)

    def on_end(self) -> None:
        if self._is_over:
            if self._timer is not None:
                self._stop_timer()
            self.call = None
        elif self._status != 200:
            self._end_error()
        else:
            self._end_body()

    def on_error(self, error: GatewayError) -> None:
        if self._is_over:
            self._stop_timer()
            self.call = None
        elif self.turn.is_finishing and self._whole is None:
            self._end_body()  # all that was missing were counts
        elif self._status not in (0, 200):
            self.on_end()  # an error reply that was cut off is still that error
        else:
            self._fail(error)

    def _end_error(self) -> None:
        """Fail with what an error reply says, as far as it has come."""
        body = bytes(self._whole or b"")
        try:
            context = self.context.of_prompt(self.turn.prompt_tokens_estimate)
            headers = self.relay.reply_headers
            error: Exception = error_of_reply(self._status, headers, body=body, context=context)
        except Exception as bug:  # told to who waits, not to the transport
            error = bug
        self._fail(error)

    def _look(self, data: bytes) -> bytes:
        """Tell JSON from events by how the body begins, for content types are often wrong."""
        begin = (self._blank or b"") + data
        start = begin.lstrip()[:1]
        if not start and len(begin) <= self.context.max_reply_bytes:
            self._blank = begin  # servers send blank lines to show that they are at work
            return b""
        if start in (b"{", b"["):
            self._whole = bytearray()
        self._blank = None
        return begin

    def _collect(self, data: bytes) -> None:
        whole = self._whole if self._whole is not None else bytearray()
        if self._status != 200:
            whole += data[: _MAX_ERROR_BODY_BYTES - len(whole)]
            if len(whole) == _MAX_ERROR_BODY_BYTES:
                self._end_error()
            return
        whole += data
        if len(whole) > self.context.max_reply_bytes:
            self._fail(UpstreamProtocolError("The model's server sent a reply that is too large."))

    def _end_body(self) -> None:
        self._stop_timer()
        if self._is_over:
            return
        turn = self.turn
        try:
            out = b"" if self._whole is None else turn.feed_whole(bytes(self._whole))
            out += turn.close()
            if out:
                self.relay.relay(out)
        except Exception as error:
            self._fail(error)
            return
        self._succeed()

    def _succeed(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._stop_timer()
        call = self.call
        if call is not None and not call.is_complete:
            if self.turn.is_cut:
                self._abort()
            else:  # let the connection end its body, so that it can be used again
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(_DRAIN_GRACE_S, self._abort)
        self.relay.finish(self, None)

    def _fail(self, error: Exception) -> None:
        """End the attempt; an error that is no GatewayError is a bug, told to who waits."""
        self._is_over = True
        if isinstance(error, GatewayError):
            error.upstream_status = self._status
        self._abort()
        self.relay.finish(self, error)

    def _abort(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._stop_timer()
        call, self.call = self.call, None
        if call is not None:
            call.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _is_html(content_type: bytes | None) -> bool:
    return content_type is not None and b"html" in content_type.lower()
