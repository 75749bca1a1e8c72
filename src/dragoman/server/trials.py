"""One upstream call, from its beginning to its end: its line in the record, health and load."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from dragoman.core.errors import GatewayError
from dragoman.core.rate_headers import spent_for_s
from dragoman.policy.routes import Target
from dragoman.server.asked import Asked
from dragoman.server.services import Services
from dragoman.server.telemetry import UpstreamCall
from dragoman.server.transport.seams import ClientGone, Headers, UpstreamRequest

# Where limits are refilled all the time, nearly every reply is the last for some milliseconds.
_WORTH_TELLING_S: Final = 0.25


class Trial(Struct, eq=False):  # made in C
    """
    Tell health and load of a call, and write down how it went.

    Args:
        services: Their health is told whether it succeeds, their load how long it takes.
        target: Whom it asks.
        request: What is sent.
        asked: What that was made of.
        call: Where it is written down.
        clock: The event loop's time.
    """

    services: Services
    target: Target
    request: UpstreamRequest
    asked: Asked
    call: UpstreamCall
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        services = self.services
        services.load.begin(self.target.endpoint)
        if not services.health.is_clear:
            services.health.begin(self.target, self.clock())

    def take_content(self) -> None:
        """
        Take note that the first content of a stream has come.

        The request is let go: nobody else can be asked, and the reply may take long.
        """
        now_s = self.clock()
        self.services.load.observe(self.target.id, time.monotonic() - self.call.started_s, now_s)
        if not self.services.health.is_clear:
            self.services.health.succeed(self.target, now_s)
        self.asked.forget_prompt()
        self.request.body = b""

    def succeed(self, headers: Headers) -> None:
        """Take note of a complete reply; its *headers* may say that it was the last for a while."""
        health, target = self.services.health, self.target
        self.call.ended_s = time.monotonic()
        self.services.load.end(target.endpoint)
        if not health.is_clear:
            health.succeed(target, self.clock())
        for_s = spent_for_s(headers)
        if for_s is not None and for_s >= _WORTH_TELLING_S:
            health.limit(target, for_s, self.clock())

    def end(self, error: BaseException) -> None:
        """Take note of how it ended otherwise: failed, or given up."""
        self.call.ended_s = time.monotonic()
        self.call.outcome = _outcome_of(error)
        self.services.load.end(self.target.endpoint)
        if isinstance(error, GatewayError):
            self.services.health.fail(self.target, error, self.clock())
        else:
            self.services.health.leave(self.target)


def _outcome_of(error: BaseException) -> str:
    """Return in one word how a call has ended that has not answered."""
    if isinstance(error, GatewayError):
        return error.kind
    if isinstance(error, ClientGone):
        return "client_gone"
    return "stopped" if isinstance(error, asyncio.CancelledError) else "api_error"
