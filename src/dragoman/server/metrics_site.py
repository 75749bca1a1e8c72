"""An address of its own for the metrics, which serves nothing else."""

import time
from typing import Final

from dragoman.core.errors import GatewayError, UnknownPath
from dragoman.policy.open_access import check_open_access
from dragoman.server.answers import answer, refuse
from dragoman.server.ids import new_request_id
from dragoman.server.metrics_page import PATH, MetricsPage
from dragoman.server.telemetry import EventLog, RequestRecord
from dragoman.server.transport.seams import Exchange, HeaderList

_METHODS: Final = ("GET", "HEAD")


class MetricsSite:
    """
    Answer scrapes.

    Args:
        page: What is shown. Without a token only programs of this machine see it.
        allowed_hosts: Further names that they may call it by.
        log: Told of what is refused.
    """

    def __init__(self, page: MetricsPage, *, allowed_hosts: tuple[str, ...], log: EventLog) -> None:
        self._page = page
        self._allowed_hosts = allowed_hosts
        self._log = log

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
        except GatewayError as error:
            refuse(exchange, error, record=record, headers=headers)
            self._log.request(record)

    async def _show(self, exchange: Exchange, record: RequestRecord, headers: HeaderList) -> None:
        if exchange.path.rstrip("/") != PATH or exchange.method not in _METHODS:
            raise UnknownPath(f"nothing but GET {PATH} is served here")
        if not self._page.has_token:
            check_open_access(
                exchange.method,
                host=exchange.headers.get(b"host"),
                origin=exchange.headers.get(b"origin"),
                content_type=None,
                allowed_hosts=self._allowed_hosts,
            )
        self._page.check(exchange.headers, is_open=True)
        accept = exchange.headers.get(b"accept", b"").decode("latin-1")
        kind, body = await self._page.render(accept)
        answer(exchange, 200, body, record=record, headers=headers, content_type=kind)
