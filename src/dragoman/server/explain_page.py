"""GET and POST /admin/v1/explain: the explanation over HTTP, for administrators."""

from typing import Final

import msgspec

from dragoman.server.admin_access import AdminAccess
from dragoman.server.answers import answer
from dragoman.server.explain import Explainer
from dragoman.server.telemetry import RequestRecord
from dragoman.server.transport.seams import Exchange, HeaderList

EXPLAIN: Final = "/admin/v1/explain"
_encode: Final = msgspec.json.Encoder().encode


class ExplainPage:
    """
    The endpoint. The body is that of a request for a message; a GET may have one, too.

    Args:
        explainer: Explains.
        access: Knows administrators.
        max_body_bytes: Of a request.
    """

    def __init__(self, explainer: Explainer, access: AdminAccess, *, max_body_bytes: int) -> None:
        self._explainer = explainer
        self._access = access
        self._max_body_bytes = max_body_bytes

    async def serve(
        self, exchange: Exchange, record: RequestRecord, *, headers: HeaderList
    ) -> None:
        """
        Answer one request; *headers* stand in every reply to it.

        Raises:
            AuthenticationFailed: No admin key was sent.
            GatewayError: The request would be refused; the message says why.
            ClientGone: The client left.
        """
        await self._access.check(exchange.headers)
        body = await exchange.read_body(self._max_body_bytes)
        said = await self._explainer.explain(body, exchange.headers)
        record.model = said.model
        answer(exchange, 200, _encode(said), record=record, headers=headers)
