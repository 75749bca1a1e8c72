"""
POST /v1/messages: the request path, top to bottom.

    read body -> parse -> find route -> reserve limits -> wait for a place
        -> for each target: plan, render, send, relay -> record, settle limits
"""

from collections.abc import Awaitable
from functools import partial

from dragoman.core.errors import GatewayError
from dragoman.core.validate import parse_request
from dragoman.policy.allowances import RuleSet
from dragoman.policy.routes import Route, Routes
from dragoman.policy.senders import with_user_id
from dragoman.policy.side_traffic import role_by_shape
from dragoman.server.asked import Asked
from dragoman.server.attempts import Attempts
from dragoman.server.delivery import deliver
from dragoman.server.head_facts import HeadFacts, facts_of
from dragoman.server.joins import Joins
from dragoman.server.services import Services
from dragoman.server.telemetry import RequestRecord
from dragoman.server.transport.seams import Exchange, HeaderList


class Messages:
    """
    The endpoint.

    Args:
        routes: What a model name means.
        services: To serve requests with.

    Attributes:
        joins: Identical requests that share a reply.
    """

    def __init__(self, routes: Routes, services: Services) -> None:
        self._routes = routes
        self._services = services
        self.joins = Joins()

    async def serve(
        self, exchange: Exchange, record: RequestRecord, *, headers: HeaderList
    ) -> None:
        """
        Answer one request; *headers* stand in every reply to it.

        Raises:
            GatewayError: Nothing has been sent; the caller answers.
            ClientGone: The client left.
        """
        max_bytes = self._services.limits.max_body_bytes
        try:
            asked, route = self._read(
                await exchange.read_body(max_bytes), record, facts_of(exchange.headers)
            )
        except GatewayError as error:
            error.headers = (*error.headers, *await self._services.admission.standing(record))
            raise
        if route.joins_resends:
            answer = partial(self._answer, asked=asked, route=route, headers=headers)
            await self.joins.serve(exchange, record, asked=asked, answer=answer)
        else:
            await self._answer(exchange, record, asked=asked, route=route, headers=headers)

    def _answer(
        self,
        exchange: Exchange,
        record: RequestRecord,
        *,
        asked: Asked,
        route: Route,
        headers: HeaderList,
    ) -> Awaitable[None]:
        """Return the work of answering one request within its caller's limits."""
        services = self._services
        rules = services.admission.rules.of_request(record.caller, route.alias)
        if rules is not None:
            return self._answer_within(
                rules, exchange, record=record, asked=asked, route=route, headers=headers
            )
        attempts = Attempts(services, exchange, asked=asked, record=record, headers=headers)
        return deliver(attempts, route)

    async def _answer_within(
        self,
        rules: RuleSet,
        exchange: Exchange,
        *,
        record: RequestRecord,
        asked: Asked,
        route: Route,
        headers: HeaderList,
    ) -> None:
        services, admission = self._services, self._services.admission
        admitted = await admission.admit(rules, asked, record, target=route.targets[0])
        headers = (*headers, *admitted.headers)
        attempts = Attempts(services, exchange, asked=asked, record=record, headers=headers)
        try:
            await deliver(attempts, route)
        finally:
            usage, cost = attempts.counted_usage, record.cost_micros
            admission.settle(admitted, asked, usage=usage, cost_micros=cost)

    def _read(self, body: bytes, record: RequestRecord, head: HeadFacts) -> tuple[Asked, Route]:
        """Return what is asked for, and who may be asked; nobody but ``Asked`` holds it then."""
        limits, memory = self._services.limits, self._services.planner.memory
        request = parse_request(
            body,
            max_messages=limits.max_messages,
            max_nesting=limits.max_nesting,
            memory=memory,
        )
        record.model, record.is_stream = request.model, request.stream
        if request.metadata is not None:
            record.sender = with_user_id(record.sender, request.metadata.user_id)
        role = role_by_shape(request, program=head.sender.client) or head.role
        record.side_role = role
        route = self._routes.choose(request.model, role=role, caller=record.caller)
        record.alias = route.alias
        asked = Asked(
            body=body,
            request=request,
            alias=route.alias,
            native_headers=head.native_headers,
        )
        return asked, route
