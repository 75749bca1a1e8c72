"""
One connection to an upstream, and the calls that it carries one after another.

The cost per event is what counts here: a read goes through ``data_received`` to the receiver with
no task, no future and no timer. A read only notes the time; whether it came too late is asked when
the one timer of the connection goes off.
"""

import asyncio
import math
from typing import Final, Protocol, cast

from msgspec import Struct

from dragoman.core.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from dragoman.server.transport.plain_head import PlainHeads
from dragoman.server.transport.reply_reader import ReplyReader
from dragoman.server.transport.seams import Receiver, UpstreamRequest

# Up to this size it is cheaper to copy a body behind its head than to write twice.
_ONE_WRITE_BYTES: Final = 64 * 2**10
# Timers may go off this much early: uvloop's count in whole milliseconds.
_SLACK_S: Final = 0.002


class Owner(Protocol):
    """Keeps connections and calls: what they need of their pool."""

    max_header_bytes: int
    heads: PlainHeads

    def open(self, connection: "Connection") -> None:
        """Take note that a socket is open."""

    def lost(self, connection: "Connection") -> None:
        """Take note that the socket is closed."""

    def release(self, connection: "Connection", promised_s: int | None) -> float:
        """
        Take a connection back that can carry another call.

        Args:
            connection: Without a call.
            promised_s: For how long the server has promised to keep it; None: not said.

        Returns:
            Seconds that it may be idle; 0: it is not.
        """
        ...

    def drop(self, connection: "Connection") -> None:
        """Forget a connection that cannot; idempotent."""

    def send_again(self, call: "HttpCall") -> None:
        """Put a call before all that wait: the next connection to be opened is for it."""

    def forget(self, call: "HttpCall") -> None:
        """Give up opening a connection for a call that has none, or let it leave the line."""


class HttpCall(Struct, eq=False):  # made in C, and little is written to it later
    """A request under way; implements ``Call``. While it waits it has no connection."""

    owner: Owner
    request: UpstreamRequest
    head: bytes
    receiver: Receiver
    connection: "Connection | None" = None
    timer: asyncio.TimerHandle | None = None  # runs until there is a connection
    is_over: bool = False
    is_paused: bool = False
    is_complete: bool = False

    def pause(self) -> None:
        self.is_paused = True
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        self.is_paused = False
        if self.connection is not None:
            self.connection.resume()

    def abort(self) -> None:
        connection = self.connection
        self._end()
        if connection is not None:
            connection.cut()

    def fail(self, error: UpstreamError) -> None:
        """Tell the receiver of *error*, unless it has given the call up."""
        if self.is_over:
            return
        self._end()
        try:
            self.receiver.on_error(error)
        except Exception as bug:
            self.blame(bug)

    def blame(self, bug: Exception) -> None:
        """
        Report what a receiver raised, whose bugs must not become the connection's.

        The call is given up: nobody knows what the receiver has missed.
        """
        context = {"message": "The receiver of an upstream's reply failed", "exception": bug}
        asyncio.get_running_loop().call_exception_handler(context)
        self.abort()

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.connection = None
            if self.timer is not None:
                self.stop_timer()
            self.owner.forget(self)


class Connection(asyncio.Protocol):
    """
    Idle, or busy with one call.

    ``_since_s`` is the time of the last sign of life, ``_silence_s`` how long there may be none
    after it. The timer goes off at their sum or before, never after.
    """

    __slots__ = (
        "_call",
        "_has_begun",
        "_is_early",
        "_is_reused",
        "_is_told",
        "_is_writing",
        "_loop",
        "_owner",
        "_paused_s",
        "_reply",
        "_silence_s",
        "_since_s",
        "_timer",
        "_timer_s",
        "_transport",
        "_unsent_bytes",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._call: HttpCall | None = None
        self._reply = ReplyReader(owner.heads, max_header_bytes=owner.max_header_bytes)
        self._is_reused = False  # a call before this one was answered
        self._has_begun = False  # a byte of the reply has come
        self._is_early = False  # it came before the whole request was written
        self._is_told = False  # the receiver has the head
        self._is_writing = False  # part of the request is still on this side
        self._unsent_bytes = 0  # of it, when the timer last looked
        self._paused_s: float | None = None  # since when
        self._since_s = 0.0
        self._silence_s = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    # -- for the pool

    def start(self, call: HttpCall) -> bool:
        """
        Send the request of *call*; its receiver is told from the loop, never from in here.

        Return False if the connection is closed, as far as that is known; nothing is done then.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        self._call, call.connection = call, self
        request = call.request
        self._reply.begin(request.method, request.max_body_bytes)
        self._has_begun = self._is_told = False
        body, timeouts = request.body, request.timeouts
        if len(body) <= _ONE_WRITE_BYTES:
            transport.write(call.head + body)
        else:
            transport.write(call.head)
            transport.write(body)
        silence_s = timeouts.idle_s if self._is_writing else timeouts.first_byte_s
        self._since_s = since_s = self._loop.time()
        self._silence_s = silence_s
        if since_s + silence_s < self._timer_s:  # mostly it goes off in time already
            self._set_timer()
        return True

    def fail(self, error: UpstreamError) -> None:
        """Close now; if there is a call, it fails with *error*."""
        if self._call is not None:
            self._fail(self._call, error)
        else:
            self.cut()

    def cut(self) -> None:
        """Close now and tell no receiver; idempotent."""
        self._detach()
        self._reply.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_s = None, math.inf
        if self._transport is not None:
            self._transport.abort()
        self._owner.drop(self)

    # -- for the call

    def pause(self) -> None:
        if self._transport is not None and self._paused_s is None:
            self._paused_s = self._loop.time()
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused_s is not None:
            now_s = self._loop.time()
            self._since_s = min(now_s, self._since_s + now_s - self._paused_s)
            self._paused_s = None
            self._transport.resume_reading()
            self._set_timer()

    # -- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        # So that we are told when a write leaves something behind, and when that has gone, too.
        # (Not 0: with TLS, asyncio would take the empty buffer for one that has reached it.)
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._owner.open(self)

    def data_received(self, data: bytes) -> None:
        call, reply = self._call, self._reply
        if call is None:
            self.cut()  # nobody asked: it would be taken for the reply to the next request
            return
        self._since_s = self._loop.time()
        body = reply.feed(data)
        is_done = reply.is_done
        if is_done:
            call.is_complete = True
        if not self._is_told:
            self._take_head(call, reply)
        if body and self._call is call:
            try:
                call.receiver.on_data(body)
            except Exception as bug:
                call.blame(bug)
        if is_done and self._call is call:
            self._finish(call, reply)

    def eof_received(self) -> None:
        call, reply = self._call, self._reply
        if call is None:
            self.cut()
        elif self._has_begun:
            reply.feed_eof()
            self._finish(call, reply)
        else:
            self._fail_unanswered(call, "end of file")

    def connection_lost(self, exc: Exception | None) -> None:
        call = self._call
        if call is not None and self._has_begun:
            message = "The connection to the model's server broke in the middle of its reply."
            self._fail(call, UpstreamProtocolError(message, log_detail=str(exc or "")))
        elif call is not None:
            self._fail_unanswered(call, str(exc or "closed"))
        self.cut()
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self._is_writing = True
        self._unsent_bytes = self._get_unsent_bytes()

    def resume_writing(self) -> None:
        self._is_writing = False
        if self._call is not None and not self._has_begun:
            self._watch(self._call.request.timeouts.first_byte_s)

    # --

    def _take_head(self, call: HttpCall, reply: ReplyReader) -> None:
        if not self._has_begun:
            self._has_begun, self._is_early = True, self._is_writing
            if not reply.is_done:  # else there will be no silence, and the call is over soon
                call.head = b""  # it is not sent again
                self._silence_s = idle_s = call.request.timeouts.idle_s
                if self._since_s + idle_s < self._timer_s:
                    self._set_timer()
        head = reply.head
        if head is not None:
            self._is_told = True
            try:
                call.receiver.on_head(head.status, head.headers)
            except Exception as bug:
                call.blame(bug)

    def _finish(self, call: HttpCall, reply: ReplyReader) -> None:
        head = reply.head
        if reply.is_reusable and not (self._is_early or self._is_writing):
            self._call = call.connection = None
            if self._paused_s is not None:
                self._detach()
            self._is_reused = True
            # First, so that the receiver's next call can have it.
            idle_s = self._owner.release(self, None if head is None else head.keep_alive_s)
            if idle_s:
                self._silence_s = idle_s
                if self._since_s + idle_s < self._timer_s:
                    self._set_timer()
        elif reply.error is not None:
            self._fail(call, reply.error)
            return
        else:
            self.cut()
        call.is_over = True
        try:
            call.receiver.on_end()
        except Exception as bug:
            call.blame(bug)

    def _fail(self, call: HttpCall, error: UpstreamError) -> None:
        self.cut()
        call.fail(error)

    def _fail_unanswered(self, call: HttpCall, log_detail: str) -> None:
        if self._is_reused:
            # The server had given the idle connection up when the request was on its way to it.
            self._detach()
            self._owner.send_again(call)
            self.cut()
            return
        message = "The model's server closed the connection without an answer."
        self._fail(call, UpstreamUnavailable(message, log_detail=log_detail))

    def _detach(self) -> None:
        """Let go of the call."""
        if self._call is not None:
            self._call.connection = None
            self._call = None
        if self._paused_s is not None and self._transport is not None:
            self._paused_s = None
            self._transport.resume_reading()

    # -- silence

    def _watch(self, silence_s: float) -> None:
        self._since_s, self._silence_s = self._loop.time(), silence_s
        self._set_timer()

    def _set_timer(self) -> None:
        """Have the timer go off in time."""
        due_s = self._since_s + self._silence_s
        if due_s < self._timer_s and self._paused_s is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_s = due_s
            self._timer = self._loop.call_at(due_s, self._check_silence)

    def _check_silence(self) -> None:
        self._timer, self._timer_s = None, math.inf
        if self._paused_s is not None:
            return  # resuming sets the timer
        now_s = self._loop.time()
        if self._is_writing and self._unsent_bytes != (unsent_bytes := self._get_unsent_bytes()):
            self._unsent_bytes, self._since_s = unsent_bytes, now_s
        if now_s + _SLACK_S < self._since_s + self._silence_s:
            self._set_timer()
        elif self._call is None:
            self.cut()
        else:
            self._fail(self._call, UpstreamTimeout(self._describe_silence()))

    def _describe_silence(self) -> str:
        if self._has_begun:
            return f"The model's server sent nothing for {self._silence_s:g} s in mid-reply."
        if self._is_writing:
            return f"The model's server took nothing of the request for {self._silence_s:g} s."
        return f"The model's server did not begin to answer within {self._silence_s:g} s."

    def _get_unsent_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()
