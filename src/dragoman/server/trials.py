"""One upstream call, from its beginning to its end: its line in the record, health and load."""

import asyncio
import time
from typing import Final

from dragoman.core.errors import GatewayError
from dragoman.core.rate_headers import spent_for_s
from dragoman.policy.native_limits import native_spent_for_s
from dragoman.policy.routes import Target
from dragoman.server.services import Services
from dragoman.server.telemetry import RequestRecord, UpstreamCall
from dragoman.server.transport.seams import ClientGone, Headers

# Where limits are refilled all the time, nearly every reply is the last for some milliseconds.
_WORTH_TELLING_S: Final = 0.25


def begin_trial(services: Services, target: Target, record: RequestRecord) -> UpstreamCall:
    """Count a call of *target*, and write it down; ``end_well`` or ``end_badly`` follows."""
    deployment = target.deployment
    call = UpstreamCall(deployment.upstream, deployment.model, time.monotonic())
    record.attempts += 1
    record.calls.append(call)
    services.load.busy[target.endpoint] += 1
    if not services.health.is_clear:
        services.health.begin(target, _now_s())
    return call


def take_content(services: Services, target: Target, call: UpstreamCall) -> None:
    """Take note that the first content of a stream has come."""
    now_s = _now_s()
    services.load.observe(target.id, time.monotonic() - call.started_s, now_s)
    if not services.health.is_clear:
        services.health.succeed(target, now_s)


def end_well(services: Services, target: Target, call: UpstreamCall, *, headers: Headers) -> None:
    """Take note of a complete reply; its *headers* may say that it was the last for a while."""
    health = services.health
    call.ended_s = time.monotonic()
    services.load.busy[target.endpoint] -= 1
    if not health.is_clear:
        health.succeed(target, _now_s())
    is_native = target.deployment.kind == "anthropic"
    for_s = native_spent_for_s(headers) if is_native else spent_for_s(headers)
    if for_s is not None and for_s >= _WORTH_TELLING_S:
        health.limit(target, for_s, _now_s())


def end_badly(
    services: Services, target: Target, call: UpstreamCall, *, error: BaseException
) -> None:
    """Take note of how it ended otherwise: failed, or given up."""
    call.ended_s = time.monotonic()
    call.outcome = _outcome_of(error)
    services.load.busy[target.endpoint] -= 1
    if isinstance(error, GatewayError):
        services.health.fail(target, error, _now_s())
    else:
        services.health.leave(target)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _outcome_of(error: BaseException) -> str:
    """Return in one word how a call has ended that has not answered."""
    if isinstance(error, GatewayError):
        return error.kind
    if isinstance(error, ClientGone):
        return "client_gone"
    return "stopped" if isinstance(error, asyncio.CancelledError) else "api_error"
