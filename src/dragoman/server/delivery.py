"""One request on its way through the targets of its route, and of stand-ins for it."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

from dragoman.core.errors import (
    GatewayError,
    GatewayStopping,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from dragoman.policy.affinity import affinity_key
from dragoman.policy.choice import MAX_TRIED, not_limited, worth_a_try
from dragoman.policy.fallbacks import Fallbacks
from dragoman.policy.health import Health
from dragoman.policy.hedges import HedgeRule
from dragoman.policy.retries import may_try_next
from dragoman.policy.routes import Route, Target
from dragoman.server.ask_target import ask_target, note_target
from dragoman.server.attempts import Attempts
from dragoman.server.hedged import Hedged
from dragoman.server.transport.seams import ClientGone
from dragoman.server.waiting import Place, is_full


async def deliver(attempts: Attempts, route: Route) -> None:
    """
    Answer the request of *attempts* by the first target that can, and fill in its record.

    Raises:
        ClientGone: The client left.
        CancelledError: The gateway stops; the client has been told.
        Exception: A bug of ours; the client has been told that there was one.
    """
    relay, services = attempts.relay, attempts.services
    line, is_stream = services.lines.own, relay.is_stream
    waiting = None if line.try_enter() else Place(line)
    if is_stream:
        services.metrics.open_streams += 1
    try:
        if waiting is not None:
            await waiting.wait(attempts)
        if route.is_alone and services.health.is_clear:
            await ask_target(attempts, route.targets[0], is_last=True)
        else:
            await _try_routes(attempts, route)
        relay.end()
    except GatewayError as error:
        record = attempts.record
        record.error_type, record.error_detail = error.kind, error.log_detail or error.message
        if not relay.has_content:  # then no other model has answered, either
            attempts.model_adjustment = None
        relay.fail(error)
    except ClientGone:
        raise
    except asyncio.CancelledError:
        with suppress(ClientGone):
            relay.fail(GatewayStopping())
        raise
    except Exception:
        with suppress(ClientGone):
            relay.fail(GatewayError("The gateway failed; its log says more."))
        raise
    finally:
        if is_stream:
            services.metrics.open_streams -= 1
        (waiting or line).leave()
        relay.close()
        attempts.fill_record()
        if attempts.admitted is not None:
            record = attempts.record
            services.admission.settle(
                attempts.admitted,
                attempts.asked,
                usage=record.usage,
                cost_micros=record.cost_micros,
            )


async def _try_routes(attempts: Attempts, route: Route) -> None:
    """Ask the route's targets, then those of its fallbacks."""
    fallbacks = Fallbacks(attempts.services.routes, route, attempts.record.caller)
    route = fallbacks.first(attempts.asked.request)
    while True:
        attempts.model_adjustment = fallbacks.adjustment
        attempts.has_longer = fallbacks.has_longer
        attempts.stand_in = route.alias if route.alias != attempts.asked.alias else ""
        try:
            await _try_each(attempts, route, fallbacks=fallbacks)
        except GatewayError as error:
            following = None if attempts.relay.has_content else fallbacks.after(error)
            if following is None:
                raise
            attempts.log_failure(error, f"model {following.alias}")
            route = following
        else:
            return


async def _try_each(attempts: Attempts, route: Route, *, fallbacks: Fallbacks) -> None:
    """Ask one target after the other, as long as nothing of an answer has gone out."""
    targets = [*_in_order(attempts, route, fallbacks=fallbacks)]
    n_targets = len(targets)
    delay_s = None if route.hedge is None else _hedge_after_s(attempts, route.hedge, targets)
    n_asked = 0
    while True:
        target = targets[n_asked]
        try:
            if delay_s is not None and not n_asked:
                n_asked = 2
                await Hedged(attempts, targets[:2], delay_s).run()
            else:
                n_asked += 1
                attempts.may_wait = not _has_equal(attempts, target, targets[n_asked:])
                await ask_target(attempts, target, is_last=n_asked == len(targets))
        except GatewayError as error:
            if is_full(error) and len(targets) == n_targets > 1:
                targets.append(target)  # its turn is waited for if no other one can answer
            if n_asked >= len(targets) or attempts.relay.has_content or not may_try_next(error):
                raise
            attempts.log_failure(error, "next upstream")
        else:
            return


def _hedge_after_s(attempts: Attempts, rule: HedgeRule, targets: Sequence[Target]) -> float | None:
    """Return after how long the second target is asked beside the first; None: it is not."""
    if len(targets) < 2:
        return None
    sink, now_s = attempts.stream_sink, attempts.relay.loop.time()
    is_begun = sink is not None and sink.is_started  # while it waited for its turn
    if is_begun or not attempts.services.health.may_ask(targets[1], now_s):
        return None
    return attempts.services.hedges.delay_s(rule, targets[0].id)


def _in_order(attempts: Attempts, route: Route, *, fallbacks: Fallbacks) -> Sequence[Target]:
    """
    Return the targets to ask, without those that are under a rate limit.

    Raises:
        UpstreamRateLimited: All of them are.
        UpstreamUnavailable: All are ill, and another model is well.
    """
    services = attempts.services
    targets: Sequence[Target] = route.targets
    now_s = attempts.relay.loop.time()
    if len(targets) > 1:
        targets = services.chooser.order(
            targets,
            balance=route.balance,
            affinity=lambda: affinity_key(
                attempts.asked.request, route.alias, attempts.record.sender
            ),
            now_s=now_s,
        )
    if not services.health.is_clear:
        note_target(attempts.record, targets[0])  # in case that none is asked
        targets = _not_limited(services.health, targets, now_s)
        targets = _worth_a_try(services.health, targets, fallbacks.targets_left(), now_s)
    return targets[:MAX_TRIED]


def _not_limited(health: Health, targets: Sequence[Target], now_s: float) -> Sequence[Target]:
    free = not_limited(health, targets, now_s)
    if not free:
        raise UpstreamRateLimited(
            "The model's provider limits the gateway's rate. Try again later.",
            retry_after_s=min(health.limited_for_s(target, now_s) for target in targets),
            log_detail="not asked: it has named a time before which it will not answer",
        )
    return free


def _worth_a_try(
    health: Health, targets: Sequence[Target], others: Iterable[Target], now_s: float
) -> Sequence[Target]:
    well = worth_a_try(health, targets, others, now_s)
    if not well:
        raise UpstreamUnavailable(
            "The model's server fails at the moment. Try again later.",
            log_detail="not asked: it is left alone, and another model may answer",
        )
    return well


def _has_equal(attempts: Attempts, target: Target, others: Sequence[Target]) -> bool:
    """Tell whether going on is better than waiting: an equal is well and has not been asked."""
    health, now_s = attempts.services.health, attempts.relay.loop.time()
    return any(
        other.priority == target.priority and health.may_ask(other, now_s) for other in others
    )
