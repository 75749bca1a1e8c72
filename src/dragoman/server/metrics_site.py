"""An address of its own for the metrics, which serves nothing else."""

from typing import Final

from dragoman.core.errors import UnknownPath
from dragoman.policy.open_access import check_open_access
from dragoman.server.answers import answer
from dragoman.server.metrics_page import PATH, MetricsPage
from dragoman.server.telemetry import RequestRecord
from dragoman.server.transport.seams import Exchange, HeaderList

_METHODS: Final = ("GET", "HEAD")


class MetricsSite:
    """
    What is shown at that address; see ``SideSite``.

    Args:
        page: What is shown. Without a token only programs of this machine see it.
        allowed_hosts: Further names that they may call it by.
    """

    def __init__(self, page: MetricsPage, *, allowed_hosts: tuple[str, ...]) -> None:
        self._page = page
        self._allowed_hosts = allowed_hosts

    async def show(self, exchange: Exchange, record: RequestRecord, headers: HeaderList) -> None:
        """
        Answer one scrape.

        Raises:
            GatewayError: It is none, or not allowed.
        """
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
