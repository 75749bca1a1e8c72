"""One target that speaks chat completions: plan, send, and go on where one reply is not enough."""

import time
from collections.abc import Coroutine, Mapping
from functools import partial
from math import floor, inf
from typing import Any, Final

from msgspec import Struct, structs

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import GatewayError, UpstreamRejected
from dragoman.core.guards import CALL_NOW, LOST_CALL, NO_ANSWER
from dragoman.core.healing import Refusal, learn_from_refusal
from dragoman.core.holding_sink import HoldingSink
from dragoman.core.plan import Plan, plan_after_server_tools, plan_once_more, with_max_tokens
from dragoman.core.sinks import MessageSink, Sink
from dragoman.core.turn import ChatTurn
from dragoman.core.upstream_errors import OutputTooLong
from dragoman.core.usage import Usage
from dragoman.policy.routes import Target
from dragoman.server.attempts import Attempts
from dragoman.server.line import Stay
from dragoman.server.services import CallFrame
from dragoman.server.upstream_requests import chat_request
from dragoman.server.vault import VaultReader

_MIN_LIMIT: Final = 64  # tokens; a smaller number in an error is no limit of a model
_MAX_HEALED: Final = 3  # refusals of one request that are learnt from; each names one field
_NOTES: Final = {"answer": NO_ANSWER, "call": CALL_NOW, "announced call": LOST_CALL}


class ChatAsk(Struct, eq=False):  # made in C
    """
    Ask one target.

    Args:
        attempts: Makes the calls.
        target: Whom to ask.
        frame: Of its calls.
    """

    attempts: Attempts
    target: Target
    frame: CallFrame
    _reader: VaultReader | None = None  # of the plan in use
    _has_asked_again: bool = False  # after the first reply to it
    _whole: MessageSink | None = None  # of the message, whichever turn writes to it; not streamed

    async def run(self, stay: Stay) -> None:
        """
        Send the request, and relay what comes until the message is complete; then leave *stay*.

        Raises:
            GatewayError: The upstream failed, or the request cannot be translated.
            ClientGone: The client left.
        """
        attempts, target, frame, n_healed = self.attempts, self.target, self.frame, 0
        try:
            planner, request = attempts.services.planner, attempts.asked.request
            plan = planner.plan_at_once(request, target, recall=self._recall)
            if plan is None or self._reader is not None:
                plan = await self._complete(plan)
            attempts.adjustments = plan.adjustments
            if plan.is_looping:
                attempts.repairs.notice("loop")
            if attempts.record.calls:  # somebody else was asked before
                attempts.begin_anew()
            if attempts.has_longer:
                attempts.check_length(plan)
            while True:
                try:
                    turn = await attempts.until_answered(
                        target,
                        chat_request(plan, frame.timeouts),
                        frame=frame,
                        new_turn=partial(self._first_turn, plan),
                    )
                    usage, last = turn.usage, plan
                    self._compare_estimate(usage, plan)
                    while turn.stop_reason is None:  # at most twice: once for each of the two
                        go_on = self._ask_once_more if turn.lacks else self._tell_of_server_tools
                        last, turn = await go_on(last, turn)
                except UpstreamRejected as error:
                    n_healed += 1
                    if n_healed > _MAX_HEALED or attempts.relay.has_content:
                        raise
                    if (healed := await self._heal(plan, error)) is None:
                        raise
                    plan = healed
                    attempts.adjustments = plan.adjustments
                    attempts.begin_anew()
                    self._has_asked_again = False
                else:
                    attempts.final_usage = usage if last is plan else None
                    if turn.teaches:
                        self._learn(turn, last)
                    return
        finally:
            stay.leave()

    async def _complete(self, plan: Plan | None) -> Plan:
        """Return the plan with all that must be waited for; *plan* is of ``plan_at_once``."""
        relay = self.attempts.relay
        if plan is None:
            plan = await relay.wait(self._plan_later())
        # Only where the upstream wants reasoning that neither the client nor this process has.
        if self._reader is not None and (missing := self._reader.missing):
            fetching = self.attempts.services.vault.fetch(missing, now_s=time.monotonic())
            if await relay.wait(fetching):
                self._reader = None
                plan = await relay.wait(self._plan_later())
        return plan

    def _plan_later(self) -> Coroutine[Any, Any, Plan]:
        request = self.attempts.asked.request
        return self.attempts.services.planner.plan(request, self.target, recall=self._recall)

    def _recall(self, call_id: str, name: str, arguments: str) -> str | None:
        """Return the reasoning that led to a call, or None; most requests ask for none."""
        if self._reader is None:
            self._reader = VaultReader(
                self.attempts.services.vault,
                owner=self.attempts.record.caller.owner,
                model=self.attempts.asked.alias,
                now_s=time.monotonic(),
            )
        return self._reader(call_id, name, arguments)

    async def _heal(self, plan: Plan, error: UpstreamRejected) -> Plan | None:
        """Return a plan that the upstream may take after this refusal; None: there is none."""
        if isinstance(error, OutputTooLong):
            fitting = error.fitting_max_tokens
            if fitting >= plan.body[plan.deployment.profile.max_tokens_field]:
                return None
            self.attempts.log_failure(error, "fewer tokens")
            self._learn_limits(plan.deployment.profile, error.limits)
            return with_max_tokens(plan, fitting)
        if error.refusal is None:
            return None
        text, param = error.refusal
        refusal = Refusal(text=text, param=param)
        facts = learn_from_refusal(plan.deployment.profile, plan.body, refusal)
        if not facts:
            return None
        self.attempts.services.learned.add(self.target.deployment, facts)
        shown = ", ".join(f"{name} = {value!r}" for name, value in facts.items())
        self.attempts.log_failure(error, f"learnt {shown}")
        self._reader = None
        planner, request = self.attempts.services.planner, self.attempts.asked.request
        plan_again = planner.plan_at_once(request, self.target, recall=self._recall)
        return await self._complete(plan_again)

    def _learn_limits(self, profile: DialectProfile, limits: Mapping[str, int]) -> None:
        """Remember limits that are narrower than those that were known."""
        narrower = {
            name: value
            for name, value in limits.items()
            if value >= _MIN_LIMIT and value < (getattr(profile, name) or inf)
        }
        if narrower:
            self.attempts.services.learned.add(self.target.deployment, narrower)

    def _learn(self, turn: ChatTurn, plan: Plan) -> None:
        """Keep what later requests will need of a message that is complete."""
        if turn.written_calls:
            self._keep_reasoning(turn, plan)
        if turn.learnt:
            self.attempts.services.learned.add(self.target.deployment, dict(turn.learnt))

    def _first_turn(self, plan: Plan) -> ChatTurn:
        """Return a turn that begins the message, unless a stream has begun already."""
        attempts, frame = self.attempts, self.frame
        sink: Sink | None = attempts.stream_sink
        context = frame.streamed
        if sink is None:
            context = frame.whole
            sink = self._whole = MessageSink(attempts.head())
        if plan.forced_by_hint and context.continues_without_call:
            sink = HoldingSink(sink)
        return ChatTurn(plan, sink, context=context)

    async def _tell_of_server_tools(self, plan: Plan, turn: ChatTurn) -> tuple[Plan, ChatTurn]:
        """Go on after a reply that has called server tools; they are not called again."""
        attempts, target, frame = self.attempts, self.target, self.frame
        attempts.repairs.go_on(turn)
        plan = plan_after_server_tools(
            plan, turn.written_text, turn.server_calls, thinking=turn.taken_thinking
        )
        following = self._following_turn(plan, turn.usage)
        request = chat_request(plan, frame.timeouts)
        await attempts.once(target, request, turn=following, frame=frame)
        return plan, following

    async def _ask_once_more(self, plan: Plan, turn: ChatTurn) -> tuple[Plan, ChatTurn]:
        """Go on after a reply that lacks its answer or its call; return what comes of it."""
        attempts, target, frame = self.attempts, self.target, self.frame
        what = turn.lacks
        self._has_asked_again = True
        attempts.repairs.ask_again(turn, what)
        again = plan_once_more(plan, turn.written_text, _NOTES[what], thinking=turn.taken_thinking)
        second = self._following_turn(again, turn.usage)
        request = chat_request(again, frame.timeouts)
        try:
            await attempts.once(target, request, turn=second, frame=frame)
        except GatewayError as error:
            if second.has_written:
                raise
            # The first reply is no answer, but it is one that the client can be told of.
            attempts.log_failure(error, "the reply as it was")
            attempts.end_with(turn)
            return plan, turn
        return again, second

    def _compare_estimate(self, usage: Usage, plan: Plan) -> None:
        counted = usage.prompt_tokens
        if usage.is_estimate or not counted:
            return
        record, services = self.attempts.record, self.attempts.services
        error = plan.input_tokens_estimate / counted - 1
        record.estimate_error_pct = floor(1000 * error + 0.5) / 10
        services.planner.calibration.observe(
            plan.deployment, estimated=plan.uncalibrated_tokens, counted=counted
        )

    def _keep_reasoning(self, turn: ChatTurn, plan: Plan) -> None:
        """Keep what the client may drop and the upstream will want back with the calls."""
        calls, thinking = turn.written_calls, turn.taken_thinking
        if thinking and plan.deployment.profile.echo_reasoning != "never":
            self.attempts.services.vault.keep(
                thinking,
                owner=self.attempts.record.caller.owner,
                model=self.attempts.asked.alias,
                calls=[(call.id, call.name, call.arguments) for call in calls],
                now_s=time.monotonic(),
            )

    def _following_turn(self, plan: Plan, before: Usage) -> ChatTurn:
        """Return a turn that goes on with the message, after replies that took *before*."""
        sink, frame = self.attempts.stream_sink or self._whole, self.frame
        assert sink is not None, "the first turn has made one"
        context = frame.whole if sink is self._whole else frame.streamed
        when = "never" if self._has_asked_again else context.continues_empty
        context = structs.replace(context, usage_before=before, continues_empty=when)
        return ChatTurn(plan, sink, context=context)
