"""An address of its own for one part of the gateway: metrics, or the admin API."""

import time
from collections.abc import Awaitable, Callable

from dragoman.core.errors import GatewayError
from dragoman.server.answers import CLIENT_GONE, refuse
from dragoman.server.ids import new_request_id
from dragoman.server.telemetry import EventLog, RequestRecord
from dragoman.server.transport.seams import ClientGone, Exchange, HeaderList

Show = Callable[[Exchange, RequestRecord, HeaderList], Awaitable[None]]


class SideSite:
    """
    Answer requests with one part alone.

    Args:
        show: Answers a request, or raises a GatewayError.
        log: Told of every request that *is_worth_a_line*.
        is_worth_a_line: Whether a request that is over is logged.
    """

    def __init__(
        self, show: Show, *, log: EventLog, is_worth_a_line: Callable[[RequestRecord], bool]
    ) -> None:
        self._show = show
        self._log = log
        self._is_worth_a_line = is_worth_a_line

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        record = RequestRecord(
            request_id=new_request_id(),
            method=exchange.method,
            path=exchange.path,
            peer=exchange.peer,
            started_s=time.monotonic(),
        )
        headers: HeaderList = [(b"request-id", record.request_id.encode())]
        try:
            await self._show(exchange, record, headers)
        except ClientGone:
            record.status, record.error_type = CLIENT_GONE, "client_gone"
        except GatewayError as error:
            refuse(exchange, error, record=record, headers=headers)
        finally:
            if self._is_worth_a_line(record):
                self._log.request(record, time.monotonic())
