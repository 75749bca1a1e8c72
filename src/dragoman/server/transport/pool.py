"""Connections of one upstream: idle ones to use again, a bound on all, calls that wait in line."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from dragoman.core.errors import UpstreamError, UpstreamOverloaded, UpstreamUnavailable
from dragoman.server.transport.connection import Connection, HttpCall
from dragoman.server.transport.dial import Dialer
from dragoman.server.transport.plain_head import PlainHeads
from dragoman.server.transport.seams import Receiver, UpstreamRequest

_IDLE_S: Final = 30.0
_MAX_IDLE: Final = 256
# A server's promise ends when it sent its reply, a little before we knew.
_KEEP_ALIVE_MARGIN_S: Final = 1.0
_CLOSE_S: Final = 5.0  # aborted sockets are gone within one turn of the loop


class Pool:
    """
    Gives each call a connection. Calls and connections report back to it (see ``Owner``).

    A connection holds its slot from before it is opened until it is cut, so that no more than
    *max_connections* can come to be; whatever frees a slot passes it on to the call at the head
    of the line.
    """

    def __init__(
        self,
        dialer: Dialer,
        render: Callable[[UpstreamRequest], bytes],
        *,
        max_connections: int,
        max_header_bytes: int,
    ) -> None:
        self._dialer = dialer
        self._render = render  # of heads
        self._max_connections = max_connections
        self.max_header_bytes = max_header_bytes
        self.heads = PlainHeads()
        self._waiting: OrderedDict[HttpCall, None] = OrderedDict()
        self._dials: dict[HttpCall, tuple[asyncio.Task[None], Connection]] = {}
        self._connections: set[Connection] = set()  # all that have a slot
        self._idle: dict[Connection, None] = {}  # in order of use: the last is taken first
        self._max_idle = _MAX_IDLE
        self._sockets: set[Connection] = set()  # open, even if cut
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_lost: asyncio.Future[None] | None = None
        self._is_closed = False

    @property
    def n_connections(self) -> int:
        return len(self._connections)

    @property
    def n_idle(self) -> int:
        return len(self._idle)

    @property
    def n_calls(self) -> int:
        return len(self._connections) - len(self._idle) + len(self._waiting)

    def send(self, request: UpstreamRequest, receiver: Receiver) -> HttpCall:
        """Start a call; see ``Upstream``."""
        call = HttpCall(self, request, self._render(request), receiver)
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if connection.start(call):
                return call
            connection.cut()
        if self._is_closed:
            asyncio.get_running_loop().call_soon(call.fail, _shutting_down())
            return call
        self._line_up(call)
        self._serve()
        return call

    async def close(self) -> None:
        """Fail all calls, close all connections, and wait until their sockets are gone."""
        self._is_closed, self._max_idle = True, 0
        self._idle.clear()
        for call in [*self._waiting, *self._dials]:
            call.fail(_shutting_down())
        for connection in list(self._connections):
            connection.fail(_shutting_down())
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._sockets:
            self._all_lost = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_lost], timeout=_CLOSE_S)

    # -- told by connections and calls

    def open(self, connection: Connection) -> None:
        self._sockets.add(connection)

    def lost(self, connection: Connection) -> None:
        self._sockets.discard(connection)
        if self._all_lost is not None and not self._sockets and not self._all_lost.done():
            self._all_lost.set_result(None)

    def release(self, connection: Connection, promised_s: int | None) -> float:
        idle_s = _IDLE_S if promised_s is None else min(_IDLE_S, promised_s - _KEEP_ALIVE_MARGIN_S)
        if self._waiting:
            if self._start(connection, next(iter(self._waiting))):
                self._waiting.popitem(last=False)
            else:
                connection.cut()
        elif idle_s <= 0 or len(self._idle) >= self._max_idle:
            connection.cut()
        else:
            self._idle[connection] = None
            return idle_s
        return 0.0

    def drop(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._connections.discard(connection)
        self._serve()

    def send_again(self, call: HttpCall) -> None:
        self._line_up(call)
        self._waiting.move_to_end(call, last=False)

    def forget(self, call: HttpCall) -> None:
        self._waiting.pop(call, None)
        if (dial := self._dials.pop(call, None)) is not None:
            task, connection = dial
            task.cancel()
            connection.cut()

    # --

    def _start(self, connection: Connection, call: HttpCall) -> bool:
        """Send a call that has waited for *connection*; return False if that is closed."""
        if not connection.start(call):
            return False
        call.stop_timer()
        if call.is_paused:
            connection.pause()
        return True

    def _line_up(self, call: HttpCall) -> None:
        self._waiting[call] = None
        connect_s = call.request.timeouts.connect_s
        loop = asyncio.get_running_loop()
        call.timer = loop.call_later(connect_s, self._end_waiting, call)

    def _serve(self) -> None:
        """Open connections for those who wait, as far as there are slots."""
        while self._waiting and len(self._connections) < self._max_connections:
            call, _ = self._waiting.popitem(last=False)
            connection = Connection(self)
            self._connections.add(connection)
            task = asyncio.get_running_loop().create_task(self._connect(call, connection))
            self._dials[call] = task, connection
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, call: HttpCall, connection: Connection) -> None:
        error: UpstreamError | None = None
        try:
            await self._dialer.open(connection)
        except asyncio.CancelledError:
            self.lost(connection)  # uvloop closes such a socket without telling the protocol
            raise
        except UpstreamError as failure:
            error = failure
        except Exception as bug:  # the slot must not be lost with it
            message = "The model's server could not be reached."
            error = UpstreamUnavailable(message, log_detail=repr(bug))
            asyncio.get_running_loop().call_exception_handler(
                {"message": "Opening a connection to an upstream failed", "exception": bug}
            )
        del self._dials[call]
        if error is None:
            if self._start(connection, call):
                return
            error = UpstreamUnavailable("The model's server closed the connection at once.")
        connection.cut()
        call.fail(error)

    def _end_waiting(self, call: HttpCall) -> None:
        limit = f"within {call.request.timeouts.connect_s:g} s"
        if call in self._waiting:
            message = f"No connection to the model's server became free {limit}. Try again."
            call.fail(UpstreamOverloaded(message))
        else:
            call.fail(UpstreamUnavailable(f"The model's server could not be reached {limit}."))


def _shutting_down() -> UpstreamUnavailable:
    return UpstreamUnavailable("The gateway is shutting down.")
