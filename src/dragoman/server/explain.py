"""
What would become of a request: its route, every adjustment, the exact request to each upstream.

Nothing is sent to a model. What the request points at is read, as it would be: documents are part
of what an upstream gets. Thinking that is kept for clients is not looked up: it belongs to them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from dragoman.core.adjustments import Adjustment
from dragoman.core.errors import GatewayError, Overloaded
from dragoman.core.passthrough import adjust_for_native, rewrite_request
from dragoman.core.validate import parse_request
from dragoman.policy.access import Caller
from dragoman.policy.affinity import affinity_key
from dragoman.policy.choice import MAX_TRIED, not_limited, worth_a_try
from dragoman.policy.fallbacks import Fallbacks
from dragoman.policy.routes import Route, Target
from dragoman.policy.senders import Sender, read_sender, with_user_id
from dragoman.policy.side_traffic import read_side_role
from dragoman.server.services import Services
from dragoman.server.transport.seams import Headers, UpstreamRequest
from dragoman.server.upstream_requests import chat_request, native_headers, native_request
from dragoman.wire.anthropic import MessagesRequest

MASK: Final = "***"
_MAX_SHOWN_BYTES: Final = 64 * 2**20  # of all bodies together
_MAX_AT_ONCE: Final = 2
_RETRY_AFTER_S: Final = 1.0
_LIMITED: Final = "it is under a rate limit"
_ILL: Final = "it has failed of late, and a fallback is well"
_ANYBODY: Final = Caller(key_id="", key_name="")
# All other headers may hold a credential, or have come out of the configuration as a secret.
_SHOWN_HEADERS: Final = frozenset(
    {
        *("host", "user-agent", "accept", "accept-encoding", "content-type", "content-length"),
        *("anthropic-version", "anthropic-beta", "traceparent"),
    }
)


_Choice = tuple[Target, str]  # and why it would not be asked; empty: it would


class Describable(Protocol):
    """An upstream that can say what it would send."""

    def describe(self, request: UpstreamRequest) -> tuple[str, list[tuple[str, str]]]:
        """Return the URL and all headers of *request*, credentials included."""
        ...


class ShownRequest(Struct, frozen=True, kw_only=True):
    """What would be sent; the values of headers that may be secrets are masked."""

    method: str
    url: str
    headers: dict[str, str]
    body: msgspec.Raw | None  # None: too large beside the others


class ShownTarget(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One upstream that would be asked, in this order; those that would not come last.

    Attributes:
        skipped: Why it would not be asked; empty: it would.
        left_alone_for_s: It is under a rate limit for so long.
        is_ill: It has failed of late, or is under a rate limit.
        error: Why nothing could be sent to it, in the place of *request*.
    """

    upstream: str
    endpoint: str
    model: str
    kind: str
    dialect: str
    skipped: str = ""
    left_alone_for_s: float = 0.0
    is_ill: bool = False
    is_streamed: bool | None = None
    input_tokens_estimate: int | None = None
    adjustments: tuple[Adjustment, ...] = ()
    request: ShownRequest | None = None
    error: dict[str, str] | None = None


class Explanation(Struct, frozen=True, kw_only=True):
    """
    What would become of a request.

    Attributes:
        model: As it was sent.
        alias: The configured model that would answer.
        role: What the request was recognised to be for; empty: part of a conversation.
        model_adjustment: Why another model would answer than the one asked for.
        targets: In the order in which they would be asked; behind them, those that would not.
        fallbacks: Models that would answer if none of them did, or all are skipped.
    """

    model: str
    alias: str
    role: str
    model_adjustment: Adjustment | None
    balance: str
    targets: tuple[ShownTarget, ...]
    fallbacks: tuple[str, ...]


class Explainer:
    """
    Explain requests.

    Args:
        services: Those that requests are served with.
        upstreams: By the names of endpoints.
    """

    def __init__(self, services: Services, upstreams: Mapping[str, Describable]) -> None:
        self._services = services
        self._upstreams = upstreams
        self._n_working = 0

    async def explain(self, body: bytes, headers: Headers) -> Explanation:
        """
        Return what would become of a request for a message.

        Args:
            body: Of the request.
            headers: Of the request; they tell programs and conversations apart.

        Raises:
            GatewayError: The request would be refused before any upstream is chosen.
            Overloaded: Others are being explained; each may be as large as a request.
        """
        if self._n_working >= _MAX_AT_ONCE:
            raise Overloaded("other requests are being explained", retry_after_s=_RETRY_AFTER_S)
        self._n_working += 1
        try:
            return await self._explain(body, headers)
        finally:
            self._n_working -= 1

    async def _explain(self, body: bytes, headers: Headers) -> Explanation:
        limits = self._services.limits
        request = parse_request(
            body, max_messages=limits.max_messages, max_nesting=limits.max_nesting
        )
        user_id = request.metadata.user_id if request.metadata is not None else None
        sender = with_user_id(read_sender(headers), user_id)
        role = read_side_role(request, headers, program=sender.client)
        asked = self._services.routes.choose(request.model, role=role, caller=_ANYBODY)
        fallbacks = Fallbacks(self._services.routes, asked, _ANYBODY)
        route = fallbacks.first(request)
        choice = self._choice(self._in_order(route, request, sender), fallbacks)
        return Explanation(
            model=request.model,
            alias=route.alias,
            role=role,
            model_adjustment=fallbacks.adjustment,
            balance=route.balance,
            targets=await self._show_all(choice, body, request=request, headers=headers),
            fallbacks=route.fallbacks,
        )

    def _in_order(self, route: Route, request: MessagesRequest, sender: Sender) -> Sequence[Target]:
        if len(route.targets) == 1:
            return route.targets
        return self._services.chooser.order(
            route.targets,
            balance=route.balance,
            affinity=lambda: affinity_key(request, route.alias, sender),
            now_s=asyncio.get_running_loop().time(),
        )

    def _choice(self, targets: Sequence[Target], fallbacks: Fallbacks) -> list[_Choice]:
        """Return who would be asked, in order, then who would not, and why."""
        health, now_s = self._services.health, asyncio.get_running_loop().time()
        free = not_limited(health, targets, now_s)
        worth = worth_a_try(health, free, fallbacks.targets_left(), now_s)
        ill = {target.id for target in free} - {target.id for target in worth}
        limited = {target.id for target in targets} - {target.id for target in free}
        skipped = [(target, _ILL) for target in free if target.id in ill]
        skipped += [(target, _LIMITED) for target in targets if target.id in limited]
        return [*((target, "") for target in worth), *skipped][:MAX_TRIED]

    async def _show_all(
        self,
        choice: Sequence[_Choice],
        body: bytes,
        *,
        request: MessagesRequest,
        headers: Headers,
    ) -> tuple[ShownTarget, ...]:
        shown: list[ShownTarget] = []
        left = _MAX_SHOWN_BYTES
        for target, skipped in choice:
            try:
                part = await self._show(target, body, request=request, headers=headers)
            except GatewayError as error:
                said = {"type": error.kind, "message": error.message}
                part = msgspec.structs.replace(self._base(target), error=said)
            if part.request is not None and part.request.body is not None:
                left -= len(bytes(part.request.body))
                if left < 0:
                    cut = msgspec.structs.replace(part.request, body=None)
                    part = msgspec.structs.replace(part, request=cut)
            shown.append(msgspec.structs.replace(part, skipped=skipped))
        return tuple(shown)

    async def _show(
        self, target: Target, body: bytes, *, request: MessagesRequest, headers: Headers
    ) -> ShownTarget:
        base, planner = self._base(target), self._services.planner
        timeouts = self._services.frame_of(target).timeouts
        if target.deployment.kind == "anthropic":
            await planner.check_urls(request, target)
            sent = rewrite_request(
                body, request, model=target.deployment.model, is_trusted=target.trusted
            )
            return msgspec.structs.replace(
                base,
                is_streamed=request.stream,
                adjustments=adjust_for_native(request, is_trusted=target.trusted),
                request=self._request(
                    target, native_request(sent, native_headers(headers), timeouts)
                ),
            )
        plan = planner.plan_at_once(request, target) or await planner.plan(request, target)
        return msgspec.structs.replace(
            base,
            is_streamed=bool(plan.body.get("stream")),
            input_tokens_estimate=plan.input_tokens_estimate,
            adjustments=plan.adjustments,
            request=self._request(target, chat_request(plan, timeouts)),
        )

    def _base(self, target: Target) -> ShownTarget:
        deployment, health = target.deployment, self._services.health
        now_s = asyncio.get_running_loop().time()
        return ShownTarget(
            upstream=deployment.upstream,
            endpoint=target.endpoint,
            model=deployment.model,
            kind=deployment.kind,
            dialect=deployment.profile.name,
            left_alone_for_s=round(health.limited_for_s(target, now_s), 1),
            is_ill=not health.may_ask(target, now_s),
        )

    def _request(self, target: Target, request: UpstreamRequest) -> ShownRequest:
        url, headers = self._upstreams[target.endpoint].describe(request)
        shown = {name: value if name.lower() in _SHOWN_HEADERS else MASK for name, value in headers}
        return ShownRequest(
            method=request.method, url=url, headers=shown, body=msgspec.Raw(request.body)
        )
