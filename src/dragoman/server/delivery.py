"""One request on its way through the targets of its route."""

from collections.abc import Sequence
from contextlib import suppress

from dragoman.core.errors import GatewayError
from dragoman.policy.retries import may_try_next
from dragoman.policy.routes import Target
from dragoman.server.ask_chat import ChatAsk
from dragoman.server.ask_native import ask_native
from dragoman.server.attempts import Attempts
from dragoman.server.transport.seams import ClientGone


async def deliver(attempts: Attempts, targets: Sequence[Target]) -> None:
    """
    Answer the request of *attempts* by the first target that can, and fill in its record.

    Raises:
        ClientGone: The client left.
        Exception: A bug of ours; the client has been told that there was one.
    """
    relay = attempts.relay
    try:
        await _try_each(attempts, targets)
        relay.end()
    except GatewayError as error:
        record = attempts.record
        record.error_type, record.error_detail = error.kind, error.log_detail or error.message
        relay.fail(error)
    except ClientGone:
        raise
    except Exception:
        with suppress(ClientGone):
            relay.fail(GatewayError("The gateway failed; its log says more."))
        raise
    finally:
        relay.close()
        attempts.fill_record()


async def _try_each(attempts: Attempts, targets: Sequence[Target]) -> None:
    """Ask one target after the other, as long as nothing of an answer has gone out."""
    for number, target in enumerate(targets, 1):
        try:
            await _ask(attempts, target)
        except GatewayError as error:
            if number == len(targets) or attempts.relay.has_content or not may_try_next(error):
                raise
            attempts.log_failure(error, "next upstream")
        else:
            return


async def _ask(attempts: Attempts, target: Target) -> None:
    deployment, record = target.deployment, attempts.record
    target = target.for_caller(record.caller)
    record.upstream, record.upstream_model = deployment.upstream, deployment.model
    if deployment.kind == "anthropic":
        await ask_native(attempts, target)
    else:
        await ChatAsk(attempts, target).run()
