"""
POST /v1/messages: the request path, top to bottom.

    read body -> parse -> find route -> reserve limits -> wait for a place
        -> for each target: plan, render, send, relay -> record, settle limits
"""

from collections.abc import Awaitable
from functools import partial
from typing import Never

from dragoman.core.errors import RequestError
from dragoman.core.validate import parse_request
from dragoman.policy.allowances import RuleSet
from dragoman.policy.routes import Route, Routes
from dragoman.policy.senders import with_user_id
from dragoman.policy.side_traffic import role_by_shape
from dragoman.server.asked import Asked
from dragoman.server.attempts import Attempts
from dragoman.server.delivery import deliver
from dragoman.server.head_facts import HeadFacts
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

    def serve(
        self,
        exchange: Exchange,
        record: RequestRecord,
        head: HeadFacts,
        *,
        headers: HeaderList,
        body: bytes | None = None,
    ) -> Awaitable[None]:
        """
        Read what is asked for, and find who may be asked; return the work of answering it.

        Args:
            exchange: The request.
            record: Of it.
            head: What its head says; forgotten before anybody is asked.
            headers: Stand in every reply to it.
            body: Of the request; None: to be read.

        Raises:
            GatewayError: Nothing has been sent; the caller answers.
            ClientGone: The client left.
        """
        services = self._services
        limits = services.limits
        try:
            if body is None:
                body = exchange.body_at_hand(limits.max_body_bytes)
                if body is None:
                    return self._serve_later(exchange, record, head, headers=headers)
            request = parse_request(
                body,
                max_messages=limits.max_messages,
                max_nesting=limits.max_nesting,
                memory=services.planner.memory,
            )
            record.model = request.model  # setting a field costs as much as ten looks at one
            if request.stream:
                record.is_stream = True
            if request.metadata is not None:
                record.sender = with_user_id(record.sender, request.metadata.user_id)
            role = head.role
            if head.has_shapes:
                role = role_by_shape(request) or role
            if role:
                record.side_role = role
            route = self._routes.choose(request.model, role=role, caller=record.caller)
        except RequestError as error:
            return self._refuse(error, record)
        record.alias = route.alias
        asked = Asked(body, request, route.alias, head.native_headers)
        if route.joins_resends:
            answer = partial(self._answer, asked=asked, route=route, headers=headers)
            return self.joins.serve(exchange, record, asked=asked, answer=answer)
        return self._answer(exchange, record, asked=asked, route=route, headers=headers)

    async def _serve_later(
        self, exchange: Exchange, record: RequestRecord, head: HeadFacts, *, headers: HeaderList
    ) -> None:
        """Do the same for a request whose body has not come yet, or must be inflated."""
        try:
            body = await exchange.read_body(self._services.limits.max_body_bytes)
        except RequestError as error:
            await self._refuse(error, record)
        work = self.serve(exchange, record, head, headers=headers, body=body)
        del body, head  # a reply may take minutes
        await work

    async def _refuse(self, error: RequestError, record: RequestRecord) -> Never:
        """Raise *error* with what is left of the caller's limits, of which nothing was taken."""
        error.headers = await self._services.admission.standing(record)
        raise error

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
        admitted = None
        if rules is not None:
            admitted = services.admission.take(rules, asked, target=route.targets[0])
            if admitted is None:
                return self._answer_later(
                    rules, exchange, record=record, asked=asked, route=route, headers=headers
                )
        attempts = Attempts(
            services, exchange, asked=asked, record=record, headers=headers, admitted=admitted
        )
        return deliver(attempts, route)

    async def _answer_later(
        self,
        rules: RuleSet,
        exchange: Exchange,
        *,
        record: RequestRecord,
        asked: Asked,
        route: Route,
        headers: HeaderList,
    ) -> None:
        """Do the same where something is near its limit, or others count."""
        services = self._services
        admitted = await services.admission.admit(rules, asked, record, target=route.targets[0])
        headers = (*headers, *admitted.headers)
        attempts = Attempts(
            services, exchange, asked=asked, record=record, headers=headers, admitted=admitted
        )
        await deliver(attempts, route)
