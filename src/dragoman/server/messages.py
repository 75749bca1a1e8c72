"""
POST /v1/messages: the request path, top to bottom.

    read body -> parse -> find route -> for each target: plan, render, send, relay -> record
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from dragoman.core.adjustments import Adjustment, render_adjustments
from dragoman.core.errors import GatewayError, UpstreamRejected
from dragoman.core.guards import CALL_NOW, NO_ANSWER
from dragoman.core.healing import Refusal, learn_from_refusal
from dragoman.core.holding_sink import HoldingSink
from dragoman.core.passthrough import PassthroughTurn, adjust_for_native, rewrite_request
from dragoman.core.plan import Plan, plan_after_server_tools, plan_once_more, with_max_tokens
from dragoman.core.signatures import Signer
from dragoman.core.sinks import MessageHead, MessageSink, Sink, SseSink
from dragoman.core.turn import ChatTurn, Turn, TurnContext
from dragoman.core.upstream_errors import OutputTooLong, ReplyContext
from dragoman.core.usage import Usage
from dragoman.core.validate import parse_request
from dragoman.policy.learned import LearnedFacts
from dragoman.policy.prices import Prices
from dragoman.policy.retries import MAX_WAIT_S, may_try_next, retry_delay_s
from dragoman.policy.routes import Routes, Target
from dragoman.server.ids import new_message_id, new_nonce
from dragoman.server.planner import Planner
from dragoman.server.relay import Relay
from dragoman.server.telemetry import EventLog, RequestRecord
from dragoman.server.transport.seams import (
    ClientGone,
    Exchange,
    HeaderList,
    Upstream,
    UpstreamRequest,
)
from dragoman.server.upstream_requests import chat_request, native_headers, native_request
from dragoman.server.vault import Vault, VaultReader
from dragoman.wire.anthropic import MessagesRequest

_MAX_HEALED: Final = 3  # refusals of one request that are learnt from; each names one field


class MessageLimits(Struct, frozen=True, kw_only=True):
    """Bounds and times of ``server.*`` that concern messages; seconds and bytes."""

    max_body_bytes: int
    max_messages: int
    max_nesting: int
    max_reply_bytes: int
    max_event_bytes: int
    early_start_s: float
    ping_interval_s: float


class Asked(Struct, frozen=True, kw_only=True):
    """One client's request: its bytes, decoded, and what native upstreams get beside them."""

    body: bytes
    request: MessagesRequest
    alias: str  # of the model, whatever name was sent
    native_headers: HeaderList


class Messages:
    """
    The endpoint.

    Args:
        routes: What a model name means.
        upstreams: By the names that targets use.
        secrets: Of each upstream; never shown, whatever the upstream says.
        planner: Plans requests.
        learned: Told what refusals teach; the planner reads it.
        vault: Keeps reasoning for clients that drop it.
        signer: Marks thinking blocks.
        limits: Bounds and times.
        log: Told of attempts that were followed by another.
        prices: For the cost of a reply.
    """

    def __init__(
        self,
        *,
        routes: Routes,
        upstreams: Mapping[str, Upstream],
        secrets: Mapping[str, Sequence[str]],
        planner: Planner,
        learned: LearnedFacts,
        vault: Vault,
        signer: Signer,
        limits: MessageLimits,
        log: EventLog,
        prices: Prices | None = None,
    ) -> None:
        self.routes = routes
        self.upstreams = upstreams
        self.secrets = secrets
        self.planner = planner
        self.learned = learned
        self.vault = vault
        self.signer = signer
        self.limits = limits
        self.log = log
        self.prices = prices or Prices()

    async def serve(
        self, exchange: Exchange, record: RequestRecord, *, headers: HeaderList
    ) -> None:
        """
        Answer one request; *headers* stand in every reply to it.

        Raises:
            GatewayError: Nothing has been sent; the caller answers.
            ClientGone: The client left.
        """
        limits = self.limits
        body = await exchange.read_body(limits.max_body_bytes)
        request = parse_request(
            body, max_messages=limits.max_messages, max_nesting=limits.max_nesting
        )
        record.model, record.is_stream = request.model, request.stream
        route = self.routes.resolve(request.model)
        asked = Asked(
            body=body,
            request=request,
            alias=route.alias,
            native_headers=native_headers(exchange),
        )
        delivery = _Delivery(self, exchange, asked=asked, record=record, headers=headers)
        await delivery.run(route.targets)


class _Delivery:
    """One request on its way through the targets of its route."""

    def __init__(
        self,
        endpoint: Messages,
        exchange: Exchange,
        *,
        asked: Asked,
        record: RequestRecord,
        headers: HeaderList,
    ) -> None:
        self._endpoint = endpoint
        self._asked = asked
        self._record = record
        self._base_headers = headers
        self._adjustments: tuple[Adjustment, ...] = ()
        self._turn: Turn | None = None
        self._wait_left_s = MAX_WAIT_S
        self._message_id = new_message_id()
        is_stream = asked.request.stream
        # Whatever is tried, a stream is one message with one start.
        self._stream_sink: SseSink | None = SseSink(self._head()) if is_stream else None
        self._relay = Relay(
            exchange,
            is_stream=is_stream,
            request_id=record.request_id,
            headers=self._headers,
            early_start_s=endpoint.limits.early_start_s,
            ping_interval_s=endpoint.limits.ping_interval_s,
        )

    async def run(self, targets: Sequence[Target]) -> None:
        try:
            await self._deliver(targets)
            self._relay.end()
        except GatewayError as error:
            self._note(error)
            self._relay.fail(error)
        except ClientGone:
            raise
        except Exception:
            with suppress(ClientGone):
                self._relay.fail(GatewayError("The gateway failed; its log says more."))
            raise
        finally:
            self._relay.close()
            self._fill_record()

    async def _deliver(self, targets: Sequence[Target]) -> None:
        """Ask one target after the other, as long as nothing of an answer has gone out."""
        for number, target in enumerate(targets, 1):
            try:
                await self._ask(target)
            except GatewayError as error:
                if number == len(targets) or self._relay.has_content or not may_try_next(error):
                    raise
                self._log_failure(error, "next upstream")
            else:
                return

    async def _ask(self, target: Target) -> None:
        deployment = target.deployment
        self._record.upstream, self._record.upstream_model = deployment.upstream, deployment.model
        if deployment.kind == "anthropic":
            await self._ask_native(target)
        else:
            await self._ask_chat(target)

    # -- translated

    async def _ask_chat(self, target: Target) -> None:
        plan = await self._plan(target)
        for _ in range(_MAX_HEALED):
            try:
                await self._ask_with(plan, target)
            except UpstreamRejected as error:
                healed = None if self._relay.has_content else await self._heal(plan, target, error)
                if healed is None:
                    raise
                plan = healed
            else:
                return
        await self._ask_with(plan, target)

    async def _plan(self, target: Target) -> Plan:
        reader = VaultReader(
            self._endpoint.vault,
            owner=self._record.key_name,
            model=self._asked.alias,
            now_s=time.monotonic(),
        )
        planner, request = self._endpoint.planner, self._asked.request
        plan = planner.plan_at_once(request, target, recall=reader)
        if plan is None:
            plan = await self._relay.wait(planner.plan(request, target, recall=reader))
        self._adjustments = plan.adjustments
        return plan

    async def _heal(self, plan: Plan, target: Target, error: UpstreamRejected) -> Plan | None:
        """Return a plan that the upstream may take after this refusal; None: there is none."""
        if isinstance(error, OutputTooLong):
            fitting = error.fitting_max_tokens
            if fitting >= plan.body[plan.deployment.profile.max_tokens_field]:
                return None
            self._log_failure(error, "fewer tokens")
            plan = with_max_tokens(plan, fitting)
            self._adjustments = plan.adjustments
            return plan
        if error.refusal is None:
            return None
        text, param = error.refusal
        refusal = Refusal(text=text, param=param)
        facts = learn_from_refusal(plan.deployment.profile, plan.body, refusal)
        if not facts:
            return None
        self._endpoint.learned.add(target.deployment, facts)
        shown = ", ".join(f"{name} = {value!r}" for name, value in facts.items())
        self._log_failure(error, f"learnt {shown}")
        return await self._plan(target)

    async def _ask_with(self, plan: Plan, target: Target) -> None:
        """Send the plan; where the model calls server tools, go on after telling it of them."""
        context = self._reply_context(target, plan)
        holds = plan.forced_by_hint and plan.deployment.guards.ask_again_for_call
        sinks: list[Sink] = []

        def first_turn() -> ChatTurn:
            sinks[:] = [self._stream_sink or MessageSink(self._head())]
            sink = HoldingSink(sinks[0]) if holds else sinks[0]
            return self._chat_turn(plan, sink, reply=context)

        turn = await self._attempts(
            target, chat_request(plan, target), context=context, new_turn=first_turn
        )
        self._compare_estimate(turn.usage, plan)
        while isinstance(turn, ChatTurn) and turn.server_calls and turn.stop_reason is None:
            plan = plan_after_server_tools(
                plan, turn.written_text, turn.server_calls, thinking=turn.taken_thinking
            )
            turn = self._chat_turn(plan, sinks[0], reply=context, before=turn.usage)
            await self._attempt(target, chat_request(plan, target), turn=turn, context=context)
        if isinstance(turn, ChatTurn) and turn.lacks:
            turn = await self._ask_once_more(plan, target, turn, sink=sinks[0])
        if isinstance(turn, ChatTurn):
            self._keep_reasoning(turn, plan)

    async def _ask_once_more(
        self, plan: Plan, target: Target, turn: ChatTurn, *, sink: Sink
    ) -> ChatTurn:
        """Go on after a reply that lacks its answer or its call; return the turn that ends it."""
        what = turn.lacks
        note = NO_ANSWER if what == "answer" else CALL_NOW
        reason = f"the reply held no {what}: the model was asked once more"
        self._adjustments = (*self._adjustments, Adjustment("reply", "repaired", reason))
        again = plan_once_more(plan, turn.written_text, note, thinking=turn.taken_thinking)
        context = self._reply_context(target, again)
        second = self._chat_turn(again, sink, reply=context, before=turn.usage, is_last=True)
        try:
            request = chat_request(again, target)
            await self._attempt(target, request, turn=second, context=context)
        except GatewayError as error:
            if second.has_written:
                raise
            # The first reply is no answer, but it is one that the client can be told of.
            self._log_failure(error, "the reply as it was")
            self._turn = turn
            self._relay.relay(turn.end_as_it_is())
            return turn
        return second

    def _compare_estimate(self, usage: Usage, plan: Plan) -> None:
        counted = usage.prompt_tokens
        if usage.is_estimate or not counted:
            return
        error = plan.input_tokens_estimate / counted - 1
        self._record.estimate_error_pct = round(100 * error, 1)
        self._endpoint.planner.observe(plan, counted)

    def _keep_reasoning(self, turn: ChatTurn, plan: Plan) -> None:
        """Keep what the client may drop and the upstream will want back."""
        calls, thinking = turn.written_calls, turn.taken_thinking
        if calls and thinking and plan.deployment.profile.echo_reasoning != "never":
            self._endpoint.vault.keep(
                thinking,
                owner=self._record.key_name,
                model=self._asked.alias,
                calls=[(call.id, call.name, call.arguments) for call in calls],
                now_s=time.monotonic(),
            )

    def _chat_turn(
        self,
        plan: Plan,
        sink: Sink,
        *,
        reply: ReplyContext,
        before: Usage | None = None,
        is_last: bool = False,
    ) -> ChatTurn:
        when = plan.deployment.guards.continue_empty
        if when == "unsent" and self._stream_sink is None:
            when = "always"  # of a whole reply nothing is sent before its end
        context = TurnContext(
            signer=self._endpoint.signer,
            nonce=new_nonce,
            reply=reply,
            max_event_bytes=self._endpoint.limits.max_event_bytes,
            usage_before=before,
            continues_empty="never" if is_last else when,
        )
        return ChatTurn(plan, sink, context=context)

    # -- passed through

    async def _ask_native(self, target: Target) -> None:
        request, deployment = self._asked.request, target.deployment
        await self._relay.wait(self._endpoint.planner.check_urls(request, target))
        self._adjustments = adjust_for_native(request, is_trusted=target.trusted)
        body = rewrite_request(
            self._asked.body, request, model=deployment.model, is_trusted=target.trusted
        )
        context = self._reply_context(target, None)
        native = native_request(body, self._asked.native_headers, target)
        await self._attempts(
            target, native, context=context, new_turn=lambda: self._native_turn(target, context)
        )

    def _native_turn(self, target: Target, context: ReplyContext) -> PassthroughTurn:
        sink = self._stream_sink
        return PassthroughTurn(
            model=self._asked.request.model,
            upstream_model=target.deployment.model,
            is_stream=self._asked.request.stream,
            request_id=self._record.request_id,
            reply=context,
            max_event_bytes=self._endpoint.limits.max_event_bytes,
            skips_start=sink is not None and sink.is_started,
        )

    # -- either

    async def _attempts(
        self,
        target: Target,
        request: UpstreamRequest,
        *,
        context: ReplyContext,
        new_turn: Callable[[], Turn],
    ) -> Turn:
        """Make one call, and again while that may help; return the turn that succeeded."""
        failed = 0
        while True:
            turn = new_turn()
            try:
                await self._attempt(target, request, turn=turn, context=context)
            except GatewayError as error:
                failed += 1
                delay_s = self._delay_s(error, target, failed)
                if delay_s is None:
                    raise
                self._log_failure(error, f"again in {delay_s:.2f} s")
            else:
                return turn
            self._wait_left_s -= delay_s
            await self._relay.sleep(delay_s)

    async def _attempt(
        self, target: Target, request: UpstreamRequest, *, turn: Turn, context: ReplyContext
    ) -> None:
        self._turn = turn
        self._record.attempts += 1
        upstream = self._endpoint.upstreams[target.deployment.upstream]
        await self._relay.attempt(upstream, request, turn=turn, context=context)

    def _delay_s(self, error: GatewayError, target: Target, failed: int) -> float | None:
        if self._relay.has_content or failed > target.retries:
            return None
        jitter = random.random()  # noqa: S311 - spreads load, hides nothing
        delay_s = retry_delay_s(error, failed, jitter=jitter)
        return delay_s if delay_s is not None and delay_s <= self._wait_left_s else None

    def _reply_context(self, target: Target, plan: Plan | None) -> ReplyContext:
        deployment = target.deployment
        return ReplyContext(
            prompt_tokens_estimate=plan.input_tokens_estimate if plan else 0,
            context_window=deployment.profile.context_window,
            max_reply_bytes=self._endpoint.limits.max_reply_bytes,
            is_native=plan is None,
            secrets=self._endpoint.secrets.get(deployment.upstream, ()),
        )

    def _head(self) -> MessageHead:
        return MessageHead(
            message_id=self._message_id,
            model=self._asked.request.model,
            request_id=self._record.request_id,
        )

    def _headers(self) -> HeaderList:
        adjustments = (*self._adjustments, *self._repairs())
        if not adjustments:
            return self._base_headers
        value = render_adjustments(adjustments)
        return [*self._base_headers, (b"x-dragoman-adjustments", value)]

    def _repairs(self) -> Sequence[Adjustment]:
        """Return what was put right in the reply so far; of a stream the head knows little."""
        return self._turn.repairs if isinstance(self._turn, ChatTurn) else ()

    # -- for the log

    def _note(self, error: GatewayError) -> None:
        self._record.error_type = error.kind
        self._record.error_detail = error.log_detail or error.message

    def _log_failure(self, error: GatewayError, then: str) -> None:
        self._endpoint.log.event(
            "attempt_failed",
            request_id=self._record.request_id,
            upstream=self._record.upstream,
            error=error.kind,
            detail=error.log_detail or error.message,
            then=then,
        )

    def _fill_record(self) -> None:
        record, turn = self._record, self._turn
        record.status = self._relay.status
        record.first_content_s = self._relay.first_content_s
        record.adjustments = (*self._adjustments, *self._repairs())
        if turn is not None:
            record.usage, record.stop_reason = turn.usage, turn.stop_reason or ""
        if turn is not None and (turn.has_content or not turn.usage.is_estimate):
            record.cost_micros = self._endpoint.prices.cost_micros(
                turn.usage, model=record.upstream_model, upstream=record.upstream
            )
