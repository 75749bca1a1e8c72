"""
The upstream calls that one request leads to: made, made again, written down.

What is asked, and what a reply means for the next step, is in ``ask_chat`` and ``ask_native``;
which upstream comes after which, in ``delivery``.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from msgspec import structs

from dragoman.core.adjustments import Adjustment, render_adjustments
from dragoman.core.errors import GatewayError, PromptTooLong
from dragoman.core.plan import Plan
from dragoman.core.sinks import MessageHead, SseSink
from dragoman.core.turn import ChatTurn
from dragoman.core.turn_interface import Turn
from dragoman.core.usage import Usage
from dragoman.policy.prices import cost_micros
from dragoman.policy.retries import MAX_WAIT_S, retry_delay_s
from dragoman.policy.routes import Target
from dragoman.server.admission import Admitted, Taken
from dragoman.server.asked import Asked
from dragoman.server.ids import new_message_id, new_span_id
from dragoman.server.relay import Relay
from dragoman.server.reply_repairs import ReplyRepairs
from dragoman.server.services import CallFrame, Services
from dragoman.server.telemetry import RequestRecord, UpstreamCall
from dragoman.server.tracing import parent_headers
from dragoman.server.transport.seams import Exchange, HeaderList, UpstreamRequest
from dragoman.server.trials import begin_trial, end_badly, end_well, take_content

_SURELY_OVER: Final = 1.05  # of the window; half of all estimates are closer than that
_Turn = TypeVar("_Turn", bound=Turn)


class Attempts:
    """
    One request's calls, its relay, and what its record will say.

    Args:
        services: To serve it with.
        exchange: The client's request.
        asked: What it says.
        record: Filled in on the way.
        headers: Stand in every reply to it.
        admitted: What it has taken of its limits, if there are any.

    Attributes:
        adjustments: Of the plan in use.
        stream_sink: Whatever is tried, a stream is one message with one start; None: not a stream.
        model_adjustment: Says that another model answers than was asked for.
        answered_by: Others that have answered instead, and filled the record in.
        stand_in: That model's alias; empty: it is the one that was asked for.
        has_longer: Another model answers prompts that do not fit.
        final_usage: Tokens of a message that one reply has completed; None: the turn knows.
        may_wait: Whether the same target may be asked again, after a pause; set before each.
    """

    # Mostly as they stand here:
    may_wait = True
    _wait_left_s = MAX_WAIT_S
    _is_left_at_work = False  # somebody has cut the request, and its upstream had taken it up

    def __init__(
        self,
        services: Services,
        exchange: Exchange,
        *,
        asked: Asked,
        record: RequestRecord,
        headers: HeaderList,
        admitted: Admitted | Taken | None = None,
    ) -> None:
        self.services = services
        self.exchange = exchange
        self.asked = asked
        self.record = record
        self.adjustments: tuple[Adjustment, ...] = ()
        self.model_adjustment: Adjustment | None = None
        self.stand_in = ""
        self.has_longer = False
        self.answered_by: Attempts | None = None
        self.admitted = admitted
        self._base_headers = headers
        self._turn: Turn | None = None
        self.final_usage: Usage | None = None
        self._chat_turn: ChatTurn | None = None  # the same, where it is one
        self._repairs: ReplyRepairs | None = None
        self._frame: CallFrame | None = None  # of the call that was made last
        self._message_id = new_message_id()
        is_stream = asked.request.stream
        self.stream_sink: SseSink | None = SseSink(self.head()) if is_stream else None
        limits = services.limits
        self.relay = Relay(
            exchange,
            is_stream,
            record.request_id,
            self._headers,
            limits.early_start_s,
            limits.ping_interval_s,
            b"" if admitted is None else admitted.lines,
        )

    async def until_answered(
        self,
        target: Target,
        request: UpstreamRequest,
        *,
        frame: CallFrame,
        new_turn: Callable[[], _Turn],
        retries: int | None = None,
    ) -> _Turn:
        """
        Make one call, and again while that may help; return the turn that succeeded.

        Args:
            target: Whom to ask.
            request: What to send.
            frame: Of its calls.
            new_turn: Makes the turn through which the reply goes to the client.
            retries: How often at most; None: as the target says.
        """
        relay, services, failed = self.relay, self.services, 0
        self._frame = frame
        own_headers = request.headers
        while True:
            self._turn = turn = new_turn()
            self._chat_turn = turn if isinstance(turn, ChatTurn) else None
            if self._repairs is not None:
                self._repairs.current = self._chat_turn
            call, on_content = begin_trial(services, target, self.record), None
            if (trace := self.record.trace) is not None and trace.goes_on:
                call.span_id = new_span_id()
                request.headers = [*own_headers, *parent_headers(trace, call.span_id)]
            if relay.is_stream:
                on_content = partial(self._take_content, target, call, request=request)
            try:
                await relay.begin(
                    frame.upstream,
                    request,
                    turn=turn,
                    context=frame.reply,
                    on_content=on_content,
                )
            except BaseException as error:
                is_taken_up = relay.give_up()
                end_badly(services, target, call, error=error)
                if not isinstance(error, GatewayError):
                    self._is_left_at_work = is_taken_up
                    raise
                failed += 1
                is_last = failed > (target.retries if retries is None else retries)
                delay_s = None if is_last else self._delay_s(error, failed)
                if delay_s is None:
                    raise
                self.log_failure(error, f"again in {delay_s:.2f} s")
            else:
                end_well(services, target, call, headers=relay.reply_headers)
                return turn
            self._wait_left_s -= delay_s
            await relay.sleep(delay_s)

    async def once(
        self, target: Target, request: UpstreamRequest, *, turn: Turn, frame: CallFrame
    ) -> None:
        """Make one call; its reply goes through *turn* to the client."""
        await self.until_answered(target, request, frame=frame, new_turn=lambda: turn, retries=0)

    def end_with(self, turn: ChatTurn) -> None:
        """End the reply with what an earlier turn holds."""
        self._turn = self._chat_turn = self.repairs.current = turn
        self.relay.relay(turn.end_as_it_is())

    @property
    def counted_usage(self) -> Usage | None:
        """
        Tokens that were used; None: no upstream has answered, so that nothing was.

        One that was at work when somebody cut the request has read its prompt, and bills that.
        """
        if self.answered_by is not None:
            return self.answered_by.counted_usage
        turn = self._turn
        if turn is None:
            return None
        usage = turn.usage
        is_used = turn.has_content or not usage.is_estimate or self._is_left_at_work
        return usage if is_used else None

    def head(self) -> MessageHead:
        """Return how the client's message begins."""
        return MessageHead(self._message_id, self.record.model, self.record.request_id)

    def check_length(self, plan: Plan) -> None:
        """
        Do nothing unless the prompt is surely too long, and another model takes longer ones.

        Some engines cut what is too long instead of refusing it.

        Raises:
            PromptTooLong: Nobody has been asked.
        """
        window, tokens = plan.deployment.profile.context_window, plan.input_tokens_estimate
        if self.has_longer and window is not None and tokens > _SURELY_OVER * window:
            raise PromptTooLong(tokens, window, log_detail="not asked: by our own estimate")

    def log_failure(self, error: GatewayError, then: str) -> None:
        """Log an attempt that is not the last word; *then* says what comes next."""
        self.services.log.event(
            "attempt_failed",
            request_id=self.record.request_id,
            upstream=self.record.upstream,
            endpoint=self.record.endpoint,
            error=error.kind,
            detail=error.log_detail or error.message,
            then=then,
        )

    def beside(self, exchange: Exchange) -> "Attempts":
        """Return attempts for the same request that write to *exchange*, with their own record."""
        limits = structs.replace(self.services.limits, early_start_s=0.0)
        made = Attempts(
            structs.replace(self.services, limits=limits),
            exchange,
            asked=self.asked,
            record=structs.replace(self.record, attempts=0),
            headers=self._base_headers,
            admitted=self.admitted,
        )
        made.model_adjustment, made.may_wait = self.model_adjustment, False
        made.has_longer = self.has_longer
        made.stand_in = self.stand_in
        return made

    def follow(self, other: "Attempts") -> None:
        """Count what came of *other*, made beside these, though it has not answered."""
        self._turn, self._frame = other._turn, other._frame
        self._is_left_at_work = other._is_left_at_work

    def cost_so_far_micros(self) -> int:
        """Estimate what a call costs that was given up: its prompt, and what came of a reply."""
        turn, price = self._turn, None if self._frame is None else self._frame.price
        return 0 if turn is None or price is None else cost_micros(turn.usage, price)

    def fill_record(self) -> None:
        """Write down how it ended."""
        if self.answered_by is not None:
            return
        record, relay, turn = self.record, self.relay, self._turn
        record.status, record.first_content_s = relay.status, relay.first_content_s
        if relay.is_stream or not relay.status:  # else its head has asked for it, at the very end
            self._add_up()
        if turn is None:
            return
        record.stop_reason, usage = turn.stop_reason or "", self.final_usage or turn.usage
        # As for ``counted_usage``: our estimate of a prompt that nobody has read is none.
        if not usage.is_estimate or turn.has_content or self._is_left_at_work:
            record.usage = usage
            if self._frame is not None and (price := self._frame.price) is not None:
                record.cost_micros = cost_micros(usage, price)

    @property
    def repairs(self) -> ReplyRepairs:
        """What has come back, where that is more than one reply; made when it is asked for."""
        if self._repairs is None:
            self._repairs = ReplyRepairs(self._chat_turn)
        return self._repairs

    def begin_anew(self) -> None:
        """Forget what has come back: the first reply to a plan is asked for now."""
        self._chat_turn = None
        if self._repairs is not None:
            self._repairs.begin()

    def _take_content(
        self, target: Target, call: UpstreamCall, *, request: UpstreamRequest
    ) -> None:
        """
        Take note that the first content of a stream has come.

        The request is let go: nobody else can be asked, and the reply may take long.
        """
        take_content(self.services, target, call)
        self.asked.forget_prompt()
        request.body = b""

    def _delay_s(self, error: GatewayError, failed: int) -> float | None:
        """Return after how long the call is made again; None: it is not."""
        if not self.may_wait or self.relay.has_content:
            return None
        jitter = random.random()  # noqa: S311 - spreads load, hides nothing
        delay_s = retry_delay_s(error, failed, jitter=jitter)
        return delay_s if delay_s is not None and delay_s <= self._wait_left_s else None

    def _add_up(self) -> tuple[Adjustment, ...]:
        """Write down what became of the request and had to be put right in replies; return it."""
        record, chat = self.record, self._chat_turn
        said = self.adjustments
        if self._repairs is not None:
            said, record.repairs = (*said, *self._repairs.adjustments), self._repairs.counts
        elif chat is not None and chat.has_repairs:
            said, record.repairs = (*said, *chat.repairs), {**chat.repair_counts}
        elif record.repairs:  # of a reply that another one has taken the place of
            record.repairs = {}
        if self.model_adjustment is not None:
            said = (self.model_adjustment, *said)
        if said or record.adjustments:
            record.adjustments = said
        return said

    def _headers(self) -> HeaderList:
        adjustments = self._add_up()
        if not adjustments:
            return self._base_headers
        value = render_adjustments(adjustments)
        return [*self._base_headers, (b"x-dragoman-adjustments", value)]
