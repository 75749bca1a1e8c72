"""One target, whichever API it speaks."""

from collections.abc import Awaitable, Coroutine
from typing import Any

from dragoman.policy.routes import Target
from dragoman.server.ask_chat import ChatAsk
from dragoman.server.ask_native import ask_native
from dragoman.server.attempts import Attempts
from dragoman.server.line import Stay
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
    record, services, deployment = attempts.record, attempts.services, target.deployment
    record.upstream, record.upstream_model = deployment.upstream, deployment.model
    record.endpoint = target.endpoint
    frame = services.frames.get(id(target)) or services.frame_of(target)
    if record.caller.workspace is not None:
        target = target.for_caller(record.caller)
    line, rules = frame.line, frame.rules
    if attempts.stand_in:
        rules = services.admission.rules.of_call(deployment.upstream, attempts.stand_in)
    stay: Stay = line
    if rules is None and line.free:
        line.free -= 1
    else:
        stay = UpstreamStay(attempts, target, line=line, rules=rules)
    if deployment.kind == "anthropic":
        work = ask_native(attempts, target, frame, stay=stay)
    else:
        work = ChatAsk(attempts, target, frame).run(stay)
    return work if stay is line else _in_turn(work, stay, may_wait=is_last)


async def _in_turn(work: Coroutine[Any, Any, None], stay: Stay, *, may_wait: bool) -> None:
    """Do *work*, which leaves *stay*, when it is its turn."""
    assert isinstance(stay, UpstreamStay)
    try:
        await stay.begin(may_wait=may_wait)
    except BaseException:
        work.close()
        stay.leave()
        raise
    await work


def note_target(record: RequestRecord, target: Target) -> None:
    """Write down who is asked."""
    record.upstream, record.upstream_model = target.deployment.upstream, target.deployment.model
    record.endpoint = target.endpoint
