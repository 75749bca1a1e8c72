"""A bounded number of places, and a fair line of those who wait for one."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Final, Protocol

from dragoman.core.counted import counted
from dragoman.core.errors import GatewayStopping, Overloaded

_RETRY_AFTER_S: Final = 1.0


class Stay(Protocol):
    """A place that somebody has; whoever is handed it leaves it."""

    def leave(self) -> None:
        """Give it back."""


class Line:
    """
    Places for requests at work. Those who find none wait, and are served key by key in turn.

    Interactive requests come before background ones; within a key, who came first is first.
    Belongs to one event loop.

    Args:
        what: What is full, for the errors.
        places: At work at a time.
        max_waiting: In line; more are sent away.
        max_per_key: The same for each key.
        max_wait_s: Who has waited this long is sent away.

    Attributes:
        free: Places left. Who finds one counts it down, and gives it back by ``leave``.
        n_waiting: How many are in line.
        n_refused: How many were sent away so far.
    """

    def __init__(
        self, what: str, places: int, *, max_waiting: int, max_per_key: int, max_wait_s: float
    ) -> None:
        self._what = what
        self._places = places
        self._max_waiting = max_waiting
        self._max_per_key = max_per_key
        self._max_wait_s = max_wait_s
        self._interactive = _Turns()
        self._background = _Turns()
        self._is_closed = False
        self.free = places
        self.n_waiting = self.n_refused = 0

    @property
    def n_inside(self) -> int:
        """How many are at work."""
        return self._places - self.free

    def try_enter(self) -> bool:
        """Take a place if one is free; nobody waits then."""
        if not self.free:
            return False
        self.free -= 1
        return True

    async def enter(self, key: str, *, is_background: bool) -> None:
        """
        Wait for a place, and take it. Whoever enters leaves.

        Raises:
            Overloaded: The line is full, or the wait has been too long.
            GatewayStopping: There is no line any more.
        """
        if self.try_enter():
            return
        turns = self._background if is_background else self._interactive
        self._check_room(key)
        waiter = asyncio.get_running_loop().create_future()
        turns.add(key, waiter)
        self.n_waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave()  # the place came as it was too late
            turns.remove(key, waiter)
            self._count()
            if isinstance(error, TimeoutError):
                raise self._full(f"and no turn came within {self._max_wait_s:g} s") from None
            raise

    def leave(self) -> None:
        """Give the place back; who is next gets it."""
        if self.n_waiting:
            waiter = self._interactive.pop() or self._background.pop()
            self._count()
            if waiter is not None:
                waiter.set_result(None)
                return
        self.free += 1

    def close(self) -> None:
        """Send all away who wait, and let nobody wait from now on; who is at work goes on."""
        self._is_closed = True
        while (waiter := self._interactive.pop() or self._background.pop()) is not None:
            self.n_refused += 1
            waiter.set_exception(GatewayStopping())
        self._count()

    def _count(self) -> None:
        self.n_waiting = self._interactive.n + self._background.n

    def _check_room(self, key: str) -> None:
        if self._is_closed:
            self.n_refused += 1
            raise GatewayStopping
        if not self._places:
            self.n_refused += 1
            raise Overloaded(f"{self._what} takes no requests: its limit is 0", should_retry=False)
        if self.n_waiting >= self._max_waiting:
            raise self._full(f"with {self.n_waiting} more in line")
        n = self._interactive.of(key) + self._background.of(key)
        if n >= self._max_per_key:
            raise self._full(f"with {n} more of this key in line")

    def _full(self, reason: str) -> Overloaded:
        self.n_refused += 1
        return Overloaded(
            f"{self._what} is at work on {counted(self._places, 'request')}, {reason}; try again",
            retry_after_s=_RETRY_AFTER_S,
        )


class Lines:
    """
    The lines of a gateway: the one at its own door, and one for each endpoint of its upstreams.

    Args:
        own: For the gateway as a whole.
        endpoints: Of the upstreams, by name.
    """

    def __init__(self, own: Line, endpoints: Mapping[str, Line]) -> None:
        self.own = own
        self._endpoints = dict(endpoints)

    def of_endpoint(self, name: str) -> Line:
        """Return the line of an endpoint."""
        return self._endpoints[name]

    def all(self) -> list[tuple[str, Line]]:
        """Return all lines by their endpoints; that of the gateway itself has an empty name."""
        return [("", self.own), *self._endpoints.items()]

    def close(self) -> None:
        """Send all away who wait in any of them."""
        for _, line in self.all():
            line.close()


class _Turns:
    """Waiters of several keys; keys take turns."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.n = 0

    def of(self, key: str) -> int:
        return len(self._keys.get(key, ()))

    def add(self, key: str, waiter: asyncio.Future[None]) -> None:
        self._keys.setdefault(key, deque()).append(waiter)
        self.n += 1

    def remove(self, key: str, waiter: asyncio.Future[None]) -> None:
        """Take one out of the line who waits no more; does nothing if it was popped."""
        waiters = self._keys.get(key)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            self.n -= 1
            if not waiters:
                del self._keys[key]

    def pop(self) -> asyncio.Future[None] | None:
        """Return who is next, None: nobody waits."""
        while self._keys:
            key, waiters = self._keys.popitem(last=False)
            waiter = waiters.popleft()
            self.n -= 1
            if waiters:
                self._keys[key] = waiters  # behind the others
            if not waiter.done():
                return waiter
        return None
