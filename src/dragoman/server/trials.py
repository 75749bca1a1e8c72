"""One upstream call as the health and the load of its target see it."""

from collections.abc import Callable
from typing import Final

from dragoman.core.errors import GatewayError
from dragoman.core.rate_headers import spent_for_s
from dragoman.policy.health import Health
from dragoman.policy.load import Load
from dragoman.policy.routes import Target
from dragoman.server.transport.seams import Headers

# Where limits are refilled all the time, nearly every reply is the last for some milliseconds.
_WORTH_TELLING_S: Final = 0.25


class Trial:
    """
    Tell health and load of a call, from its beginning to its end.

    Args:
        target: Whom it asks.
        health: Told whether it succeeds.
        load: Told how long it takes.
        clock: The event loop's time.
    """

    __slots__ = ("_clock", "_health", "_load", "_started_s", "_target")

    def __init__(
        self, target: Target, *, health: Health, load: Load, clock: Callable[[], float]
    ) -> None:
        self._target, self._health, self._load, self._clock = target, health, load, clock
        self._started_s = clock()
        load.begin(target.endpoint)
        if not health.is_clear:
            health.begin(target, self._started_s)

    def take_content(self) -> None:
        """Take note that the first content of a stream has come."""
        now_s = self._clock()
        self._load.observe(self._target.id, now_s - self._started_s, now_s)
        self._succeed(now_s)

    def succeed(self, headers: Headers) -> None:
        """Take note of a complete reply; its *headers* may say that it was the last for a while."""
        self._load.end(self._target.endpoint)
        now_s = self._clock()
        self._succeed(now_s)
        for_s = spent_for_s(headers)
        if for_s is not None and for_s >= _WORTH_TELLING_S:
            self._health.limit(self._target, for_s, now_s)

    def end(self, error: BaseException) -> None:
        """Take note of how it ended otherwise: failed, or given up."""
        self._load.end(self._target.endpoint)
        if isinstance(error, GatewayError):
            self._health.fail(self._target, error, self._clock())
        else:
            self._health.leave(self._target)

    def _succeed(self, now_s: float) -> None:
        if not self._health.is_clear:
            self._health.succeed(self._target, now_s)
