"""One target that speaks the Anthropic API itself: the request goes on, the reply comes through."""

from dragoman.core.passthrough import PassthroughTurn, adjust_for_native, rewrite_request
from dragoman.policy.routes import Target
from dragoman.server.attempts import Attempts
from dragoman.server.line import Stay
from dragoman.server.services import CallFrame
from dragoman.server.upstream_requests import native_request


async def ask_native(attempts: Attempts, target: Target, frame: CallFrame, *, stay: Stay) -> None:
    """
    Pass the request on, and relay the reply; then leave the place at *target*.

    Raises:
        GatewayError: The upstream failed, or an address in the request is forbidden.
        ClientGone: The client left.
    """
    try:
        await _ask(attempts, target, frame)
    finally:
        stay.leave()


async def _ask(attempts: Attempts, target: Target, frame: CallFrame) -> None:
    asked, services = attempts.asked, attempts.services
    await attempts.relay.wait(services.planner.check_urls(asked.request, target))
    attempts.adjustments = adjust_for_native(asked.request, is_trusted=target.trusted)
    context = frame.reply

    def new_turn() -> PassthroughTurn:
        sink = attempts.stream_sink
        return PassthroughTurn(
            model=asked.request.model,
            upstream_model=target.deployment.model,
            is_stream=asked.request.stream,
            request_id=attempts.record.request_id,
            reply=context,
            max_event_bytes=services.limits.max_event_bytes,
            skips_start=sink is not None and sink.is_started,
        )

    body = rewrite_request(
        asked.body, asked.request, model=target.deployment.model, is_trusted=target.trusted
    )
    request = native_request(body, asked.native_headers, frame.timeouts)
    del body  # the request's own can be emptied
    await attempts.until_answered(target, request, frame=frame, new_turn=new_turn)
