"""
Pump one reply: one read, one write, and nothing per event.

A ``Relay`` belongs to one client's request and outlives the attempts on upstreams that serve it. It
is called by the transport; only ``wait``, ``sleep`` and what ``begin`` returns are awaited, one at
a time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct, field

from dragoman.core.errors import GatewayError, error_headers, render_error
from dragoman.core.turn_interface import Turn
from dragoman.core.upstream_errors import ReplyContext
from dragoman.server.transport.seams import (
    NO_HEADERS,
    ClientGone,
    Exchange,
    HeaderList,
    Headers,
    Upstream,
    UpstreamRequest,
)
from dragoman.server.upstream_attempt import Attempt

# Whole lines, for joining names and values costs more than all else about a head.
_SSE_LINES: Final = (
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\n"
)
_JSON_LINE: Final = b"content-type: application/json\r\n"
_JSON: Final = (b"content-type", b"application/json")
_T = TypeVar("_T")


class Shown(Protocol):
    """What the relay shows of a message that is being answered, or waits to be."""

    @property
    def has_content(self) -> bool:
        """Tell whether a content block has begun."""
        ...

    def start(self) -> bytes:
        """Return the message's start, if it can begin now."""
        ...

    def ping(self) -> bytes:
        """Return a sign of life."""
        ...

    def fail(self, error: GatewayError) -> bytes:
        """Return the error event that ends it."""
        ...


class Relay(Struct, eq=False):  # made in C
    """
    Carry upstream replies to one client.

    Args:
        exchange: The client's request.
        is_stream: The client asked for a stream.
        request_id: Shown in errors.
        headers: Headers for the reply's head, asked for when it is sent.
        lines: Further ones, as whole lines.
        early_start_s: After this long without content a stream is begun all the same; 0: never.
        ping_interval_s: Silence after which a begun stream shows a sign of life.
    """

    exchange: Exchange
    is_stream: bool
    request_id: str
    headers: Callable[[], HeaderList]
    early_start_s: float
    ping_interval_s: float
    lines: bytes = b""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    status: int = 0
    first_content_s: float | None = None
    reply_headers: Headers = NO_HEADERS  # of the last reply of an upstream
    _turn: Shown | None = None  # of a stream
    _attempt: Attempt | None = None
    _waiter: asyncio.Future[None] | None = None
    _is_started: bool = False  # a whole reply ends as it starts
    _is_start_due: bool = False
    _is_ended: bool = False
    _is_handed_over: bool = False
    _is_paused: bool = False  # by a client that reads slowly
    _last_write_s: float = 0.0  # of a stream
    _early_timer: asyncio.TimerHandle | None = None
    _ping_timer: asyncio.TimerHandle | None = None
    _on_content: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if self.is_stream and self.early_start_s:
            self._early_timer = self.loop.call_later(self.early_start_s, self._start_early)
        self.exchange.watch(self)

    @property
    def has_content(self) -> bool:
        """
        Tell whether a content block has gone out: no other upstream may take over.

        Of a whole reply nothing has, until it is sent.
        """
        if self._is_handed_over:
            return True
        if not self.is_stream:
            return self._is_ended
        return self._turn is not None and self._turn.has_content

    def show(self, message: Shown) -> None:
        """Show *message* to the client as long as no upstream has been asked."""
        if self._turn is None:
            self._turn = message
            self._start_if_due()

    def stand_by(self, turn: Shown) -> None:
        """Let *turn* show signs of life while others work for the reply."""
        self._turn = turn
        self._start_if_due()

    def hand_over(self) -> bool:
        """Leave the reply to another relay from now on; tell whether it has a head already."""
        is_begun = self._is_started
        self._is_started = self._is_handed_over = True
        self.close()
        self._is_ended = True
        return is_begun

    async def wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        """
        Return what *work* returns.

        Raises:
            ClientGone: The client left meanwhile; *work* is cancelled.
        """
        if self.exchange.gone:
            work.close()
        self._check_present()
        task = self.loop.create_task(work)
        waiter = self._waiter = self.loop.create_future()
        task.add_done_callback(lambda _: self._wake(None))
        try:
            await waiter
        finally:
            self._waiter = None
            task.cancel()  # does nothing to one that is done
            await asyncio.wait([task])
        return task.result()

    def begin(
        self,
        upstream: Upstream,
        request: UpstreamRequest,
        *,
        turn: Turn,
        context: ReplyContext,
        on_content: Callable[[], None] | None = None,
    ) -> Awaitable[None]:
        """
        Send *request*; return what ends when its reply has gone through *turn* to the last byte.

        Whoever waits for that, and sees it raise, calls ``give_up``.

        Args:
            upstream: Where to.
            request: What.
            turn: Reads the reply.
            context: What must be known of the reply.
            on_content: Called once, when the first content of a stream goes out.

        Raises:
            GatewayError: The upstream failed; nothing has been said of it to the client.
            ClientGone: The client left; the upstream call is to be given up.
        """
        if self.exchange.gone:
            self._check_present()
        if self.is_stream:
            self._turn, self._on_content = turn, on_content
            if self._is_start_due:
                self._start_if_due()
        self._waiter = waiter = self.loop.create_future()
        attempt = self._attempt = Attempt(self, turn, context)
        attempt.call = upstream.send(request, attempt)
        if self._is_paused:
            attempt.pause()
        return waiter

    def give_up(self) -> bool:
        """Abort what was begun, if it goes on; tell whether the upstream was at work on it."""
        attempt, self._attempt = self._attempt, None
        self._waiter = None
        if attempt is None:
            return False
        attempt.leave()
        return attempt.is_taken_up

    async def sleep(self, delay_s: float) -> None:
        """
        Wait before the next attempt.

        Raises:
            ClientGone: The client left meanwhile.
        """
        self._check_present()
        self._waiter = self.loop.create_future()
        timer = self.loop.call_later(delay_s, self._wake, None)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def write(self, data: bytes) -> None:
        """Send bytes of the reply, its head before the first; all of one that is no stream."""
        exchange = self.exchange
        if exchange.gone:
            return
        if not self.is_stream:  # it comes whole
            exchange.reply_whole(200, self.headers(), data, _JSON_LINE + self.lines)
            self._is_ended, self.status = True, 200
            return
        if not self._is_started:
            self._start_reply()
        exchange.write(data)
        self._last_write_s = self.loop.time()

    def end(self) -> None:
        """
        End the reply after its last byte; ``close`` follows.

        Raises:
            ClientGone: Nobody is there who would see it.
        """
        if self.exchange.gone:
            self._check_present()
        if self._is_started and not self._is_ended:
            self._is_ended = True
            self.exchange.end_reply()

    def fail(self, error: GatewayError) -> None:
        """
        Tell the client of *error*: as a status while that is possible, else as an event; ``close``
        follows.

        Raises:
            ClientGone: Nobody is there to be told.
        """
        self._check_present()
        if self._is_ended:
            return
        if self._is_started:
            if self._turn is not None and (data := self._turn.fail(error)):
                self.exchange.write(data)
        else:
            send_error(
                self.exchange,
                error,
                request_id=self.request_id,
                extra=self.headers(),
                lines=self.lines,
            )
            self.status = error.status
            self._is_started = self._is_ended = True
        self.end()

    def close(self) -> None:
        """Stop all timers; the reply is over, or the client has left."""
        if self._ping_timer is not None or self._early_timer is not None:
            self._stop_timers()
        if not self._is_ended:  # else the exchange has done so by itself
            self.exchange.watch(None)
        # Whoever gave it has us, too. Without that circle all of a request goes at once, and the
        # next one finds its memory warm; left to the collector, it cost a tenth more.
        self.headers = tuple
        if self._on_content is not None:
            self._on_content = None

    def _stop_timers(self) -> None:
        for timer in (self._early_timer, self._ping_timer):
            if timer is not None:
                timer.cancel()
        self._early_timer = self._ping_timer = None

    def _check_present(self) -> None:
        if self.exchange.gone and not self._is_ended:
            raise ClientGone

    # -- told by the exchange

    def on_gone(self) -> None:
        self._wake(ClientGone())
        self.close()

    def on_pause(self) -> None:
        self._is_paused = True
        if self._attempt is not None:
            self._attempt.pause()

    def on_resume(self) -> None:
        self._is_paused = False
        if self._attempt is not None:
            self._attempt.resume()

    # -- told by the attempt

    def relay(self, data: bytes) -> None:
        """Send what the turn made of one read."""
        if self._is_started and self.is_stream and not self.exchange.gone:
            self.exchange.write(data)  # as ``write`` does, without its questions
            self._last_write_s = self.loop.time()
        else:
            self.write(data)
        if self.first_content_s is None and (
            self.has_content if self.is_stream else self._is_ended
        ):
            self.first_content_s = self.loop.time()
            if self.is_stream and self._on_content is not None:
                self._on_content()

    def finish(self, attempt: Attempt, error: Exception | None) -> None:
        """Take note that *attempt* is over."""
        if attempt is not self._attempt:
            return
        waiter = self._waiter
        if error is None:  # then all has come, or the connection needs nobody to see to the rest
            self._attempt = None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        else:
            self._wake(error)

    # -- timers

    def _wake(self, error: BaseException | None) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    def _start_reply(self) -> None:
        self.exchange.start_reply(200, self.headers(), _SSE_LINES + self.lines)
        self._is_started = True
        self.status = 200
        if self._early_timer is not None:
            self._early_timer.cancel()
            self._early_timer = None
        self._ping_timer = self.loop.call_later(self.ping_interval_s, self._ping_if_silent)

    def _start_early(self) -> None:
        self._early_timer = None
        self._is_start_due = True
        self._start_if_due()

    def _start_if_due(self) -> None:
        if not self._is_start_due or self._is_started or self._turn is None:
            return
        if data := self._turn.start():
            self.write(data)

    def _ping_if_silent(self) -> None:
        silent_s = self.loop.time() - self._last_write_s
        if silent_s >= self.ping_interval_s and self._turn is not None:
            if data := self._turn.ping():
                self.write(data)
            silent_s = 0.0
        wait_s = max(0.05, self.ping_interval_s - silent_s)
        self._ping_timer = self.loop.call_later(wait_s, self._ping_if_silent)


def send_error(
    exchange: Exchange,
    error: GatewayError,
    *,
    request_id: str,
    extra: HeaderList = (),
    lines: bytes = b"",
) -> None:
    """Answer with *error* in the API's shape; *extra* and *lines* are further headers."""
    body = error.passthrough_body or render_error(error, request_id)
    exchange.reply_whole(error.status, [_JSON, *error_headers(error), *extra], body, lines)
