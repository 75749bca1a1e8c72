"""Would a request be answered now? Asked often, by whoever balances load; looked up rarely."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from dragoman.core.errors import GatewayError
from dragoman.policy.routes import Route, Routes
from dragoman.server.transport.ask import ask
from dragoman.server.transport.seams import Timeouts, Upstream, UpstreamRequest

_MAX_SHOWN: Final = 8  # endpoints in a reason
_PATIENCE_S: Final = 0.5  # with the model's own upstreams, before its fallbacks are asked, too
_KEPT_S: Final = 5.0  # an answer is good for so long: probes may come every second
_TIMEOUTS: Final = Timeouts(connect_s=2.0, first_byte_s=3.0, idle_s=3.0)
_MAX_REPLY_BYTES: Final = 16 * 2**20  # OpenRouter's list of models has megabytes
_MODELS: Final = {"openai": "/models", "anthropic": "/v1/models"}
_REFUSED: Final = frozenset({401, 402, 403})  # with this key no request will be answered, either


class Readiness:
    """
    Find out whether the default model's upstreams can be reached, or those of its fallbacks.

    Args:
        routes: The default model is the one that an unknown claude name becomes.
        upstreams: By the names of endpoints.
        engine_ready: Whether the embedded engine serves; None: there is none.
    """

    def __init__(
        self,
        routes: Routes,
        upstreams: Mapping[str, Upstream],
        *,
        engine_ready: Callable[[], bool] | None,
    ) -> None:
        self._routes = routes
        self._upstreams = upstreams
        self._engine_ready = engine_ready
        self._asked_at_s = -_KEPT_S
        self._reason = ""
        self._lock = asyncio.Lock()

    async def reason(self) -> str:
        """Return why no request would be answered; empty: one would."""
        if not self._routes:
            return "no model is configured"
        route = self._routes.resolve("claude")
        if self._engine_ready is not None and route.upstreams == ("engine",):
            return "" if self._engine_ready() else "the embedded engine does not answer"
        async with self._lock:
            loop = asyncio.get_running_loop()
            if loop.time() - self._asked_at_s >= _KEPT_S:
                self._reason = await self._ask_in_turn(route)
                self._asked_at_s = loop.time()
        return self._reason

    async def _ask_in_turn(self, route: Route) -> str:
        """Return what is wrong with the model itself; empty: it answers, or a fallback does."""
        others = (self._ask_all(alias, after_s=_PATIENCE_S) for alias in route.fallbacks)
        reasons = await _reasons_of(self._ask_all(route.alias, after_s=0.0), *others)
        return reasons[0] if reasons else ""

    async def _ask_all(self, alias: str, *, after_s: float) -> str:
        await asyncio.sleep(after_s)
        targets = self._routes.resolve(alias).targets
        reasons = await _reasons_of(*(self._ask(t.endpoint, t.deployment.kind) for t in targets))
        if not reasons:
            return ""
        more = f", and {len(reasons) - _MAX_SHOWN} more" if len(reasons) > _MAX_SHOWN else ""
        return f"no upstream of {alias} would answer: {', '.join(reasons[:_MAX_SHOWN])}{more}"

    async def _ask(self, name: str, kind: str) -> str:
        """Return what is wrong with an upstream; empty: it answers."""
        request = UpstreamRequest(
            method="GET",
            path=_MODELS[kind],
            timeouts=_TIMEOUTS,
            max_body_bytes=_MAX_REPLY_BYTES,
        )
        try:
            answer = await ask(self._upstreams[name], request)
        except GatewayError:
            return f"{name} cannot be reached"
        if answer.status in _REFUSED:
            return f"{name} refuses its key"
        return f"{name} fails" if answer.status >= 500 else ""


async def _reasons_of(*asked: Coroutine[Any, Any, str]) -> list[str]:
    """Return why nobody who is *asked* would answer, in order; empty as soon as one would."""
    tasks = [asyncio.create_task(each) for each in asked]
    try:
        for answered in asyncio.as_completed(tasks):
            if not await answered:
                return []
        return [task.result() for task in tasks]
    finally:  # who is silent holds nobody up
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
