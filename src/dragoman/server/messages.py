"""
POST /v1/messages: the request path, top to bottom.

    read body -> parse -> find route -> for each target: plan, render, send, relay -> record
"""

from dragoman.core.validate import parse_request
from dragoman.policy.routes import Routes
from dragoman.policy.senders import with_user_id
from dragoman.policy.side_traffic import read_side_role
from dragoman.server.attempts import Attempts
from dragoman.server.delivery import deliver
from dragoman.server.services import Asked, Services
from dragoman.server.telemetry import RequestRecord
from dragoman.server.transport.seams import Exchange, HeaderList
from dragoman.server.upstream_requests import native_headers


class Messages:
    """
    The endpoint.

    Args:
        routes: What a model name means.
        services: To serve requests with.
    """

    def __init__(self, routes: Routes, services: Services) -> None:
        self._routes = routes
        self._services = services

    async def serve(
        self, exchange: Exchange, record: RequestRecord, *, headers: HeaderList
    ) -> None:
        """
        Answer one request; *headers* stand in every reply to it.

        Raises:
            GatewayError: Nothing has been sent; the caller answers.
            ClientGone: The client left.
        """
        limits, memory = self._services.limits, self._services.planner.memory
        body = await exchange.read_body(limits.max_body_bytes)
        request = parse_request(
            body,
            max_messages=limits.max_messages,
            max_nesting=limits.max_nesting,
            memory=memory,
        )
        record.model, record.is_stream = request.model, request.stream
        if request.metadata is not None:
            record.sender = with_user_id(record.sender, request.metadata.user_id)
        record.side_role = role = read_side_role(
            request, exchange.headers, program=record.sender.client
        )
        route = self._routes.choose(request.model, role=role, caller=record.caller)
        record.alias = route.alias
        asked = Asked(
            body=body,
            request=request,
            alias=route.alias,
            native_headers=native_headers(exchange),
        )
        attempts = Attempts(self._services, exchange, asked=asked, record=record, headers=headers)
        metrics = self._services.metrics
        metrics.open_streams += request.stream
        try:
            await deliver(attempts, route)
        finally:
            metrics.open_streams -= request.stream
