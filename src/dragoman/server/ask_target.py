"""One target, whichever API it speaks."""

from collections.abc import Awaitable

from dragoman.policy.routes import Target
from dragoman.server.ask_chat import ChatAsk
from dragoman.server.ask_native import ask_native
from dragoman.server.attempts import Attempts
from dragoman.server.line import Stay
from dragoman.server.services import CallFrame
from dragoman.server.telemetry import RequestRecord
from dragoman.server.waiting import UpstreamStay


def ask_target(attempts: Attempts, target: Target, *, is_last: bool) -> Awaitable[None]:
    """
    Return the work of asking *target* within its limits, and of relaying the message that comes.

    Where there is another one (*is_last* is false), nobody waits for this one's turn. The work must
    be begun at once: its place at the target may be taken already.

    Raises:
        GatewayError: It failed, or the request cannot be sent there.
        ClientGone: The client left.
    """
    record, services = attempts.record, attempts.services
    note_target(record, target)
    frame = services.frame_of(target)
    if record.caller.workspace is not None:
        target = target.for_caller(record.caller)
    line, rules = frame.line, frame.rules
    if attempts.stand_in:
        rules = services.admission.rules.of_call(target.deployment.upstream, attempts.stand_in)
    if rules is None and line.try_enter():
        return _ask(attempts, target, frame, stay=line)
    stay = UpstreamStay(attempts, target, line=line, rules=rules)
    return _ask_in_turn(attempts, target, frame, stay=stay, may_wait=is_last)


async def _ask_in_turn(
    attempts: Attempts, target: Target, frame: CallFrame, *, stay: UpstreamStay, may_wait: bool
) -> None:
    try:
        await stay.begin(may_wait=may_wait)
    except BaseException:
        stay.leave()
        raise
    await _ask(attempts, target, frame, stay=stay)


def _ask(attempts: Attempts, target: Target, frame: CallFrame, *, stay: Stay) -> Awaitable[None]:
    if target.deployment.kind == "anthropic":
        return ask_native(attempts, target, frame, stay=stay)
    return ChatAsk(attempts, target, frame).run(stay)


def note_target(record: RequestRecord, target: Target) -> None:
    """Write down who is asked."""
    record.upstream, record.upstream_model = target.deployment.upstream, target.deployment.model
    record.endpoint = target.endpoint
