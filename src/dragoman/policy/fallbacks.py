"""Which models may answer instead of the one that was asked for, and when."""

from collections.abc import Iterator
from typing import Final

from dragoman.core.adjustments import Adjustment
from dragoman.core.attachments import has_images
from dragoman.core.errors import GatewayError, PromptTooLong
from dragoman.policy.access import Caller
from dragoman.policy.retries import may_try_next
from dragoman.policy.routes import Route, Routes, Target, may_use
from dragoman.wire.anthropic import MessagesRequest

_MODEL: Final = "model"


class Fallbacks:
    """
    The routes that one request may take, one after the other; each at most once.

    A model that the caller may not use is left out.

    Args:
        routes: What aliases mean.
        asked: The route that the request was sent to.
        caller: Who sent it.

    Attributes:
        adjustment: Says that another model answers, and why; None: it is the one asked for.
    """

    def __init__(self, routes: Routes, asked: Route, caller: Caller) -> None:
        self.adjustment: Adjustment | None = None
        self._routes = routes
        self._asked = asked
        self._caller = caller
        self._left = list(asked.fallbacks)
        self._taken = {asked.alias}

    def first(self, request: MessagesRequest) -> Route:
        """Return where to begin: elsewhere if the model is blind to the request's images."""
        asked = self._asked
        if asked.image_fallback is None or asked.profile.sees_images or not has_images(request):
            return asked
        found = self._take(asked.image_fallback)
        if found is None:
            return asked
        reason = f"answered by {found.alias}, as {asked.alias} sees no images"
        self.adjustment = Adjustment(_MODEL, "emulated", reason)
        return found

    @property
    def has_longer(self) -> bool:
        """Tell whether another model is there for prompts that do not fit."""
        alias = self._asked.long_prompt_fallback
        return alias is not None and alias not in self._taken

    def targets_left(self) -> Iterator[Target]:
        """Yield who may still be asked for another model where no upstream answers for this one."""
        for alias in self._left:
            route = self._routes.resolve(alias)
            if alias not in self._taken and may_use(self._caller, route):
                yield from route.targets

    def after(self, error: GatewayError) -> Route | None:
        """Return where to go on after *error*, of all targets before; None: nowhere."""
        if isinstance(error, PromptTooLong):
            found = self._take(self._asked.long_prompt_fallback)
            why = "the prompt does not fit"
        else:
            found = self._next() if may_try_next(error) else None
            why = "no upstream answered for"
        if found is not None:
            reason = f"answered by {found.alias}, as {why} {self._asked.alias}"
            self.adjustment = Adjustment(_MODEL, "emulated", reason)
        return found

    def _next(self) -> Route | None:
        while self._left:
            if (found := self._take(self._left.pop(0))) is not None:
                return found
        return None

    def _take(self, alias: str | None) -> Route | None:
        if alias is None or alias in self._taken:
            return None
        self._taken.add(alias)
        route = self._routes.resolve(alias)
        return route if may_use(self._caller, route) else None
