"""One target, whichever API it speaks."""

from dragoman.policy.routes import Target
from dragoman.server.ask_chat import ChatAsk
from dragoman.server.ask_native import ask_native
from dragoman.server.attempts import Attempts
from dragoman.server.line import Line
from dragoman.server.telemetry import RequestRecord
from dragoman.server.waiting import UpstreamStay


async def ask_target(attempts: Attempts, target: Target, *, is_last: bool) -> None:
    """
    Ask *target* within its limits, and relay what comes until the message is complete.

    Where there is another one (*is_last* is false), nobody waits for this one's turn.

    Raises:
        GatewayError: It failed, or the request cannot be sent there.
        ClientGone: The client left.
    """
    record, services = attempts.record, attempts.services
    note_target(record, target)
    if record.caller.workspace is not None:
        target = target.for_caller(record.caller)
    deployment, line = target.deployment, services.lines.of_endpoint(target.endpoint)
    rules = services.admission.rules.of_call(deployment.upstream, attempts.stand_in)
    stay: Line | UpstreamStay = line
    if rules is not None or not line.try_enter():
        stay = UpstreamStay(attempts, target, line=line, rules=rules)
    try:
        if isinstance(stay, UpstreamStay):
            await stay.begin(may_wait=is_last)
        if deployment.kind == "anthropic":
            await ask_native(attempts, target)
        else:
            await ChatAsk(attempts, target).run()
    finally:
        stay.leave()


def note_target(record: RequestRecord, target: Target) -> None:
    """Write down who is asked."""
    record.upstream, record.upstream_model = target.deployment.upstream, target.deployment.model
    record.endpoint = target.endpoint
