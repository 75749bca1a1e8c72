"""What refusals have taught about deployments, for as long as the process lives."""

from typing import Any, Final

import msgspec

from dragoman.core.plan import Deployment

_MAX_DEPLOYMENTS: Final = 10_000  # far over any configuration; OpenRouter's list has hundreds


class LearnedFacts:
    """
    Facts by deployment, above those of its profile. Belongs to one event loop.

    A restart forgets them: an upstream that has been mended is asked as before, and
    ``dragoman check --probe`` writes down what shall last.
    """

    def __init__(self) -> None:
        self._facts: dict[tuple[str, str], dict[str, Any]] = {}

    def apply(self, deployment: Deployment) -> Deployment:
        """Return *deployment* with what was learnt of it."""
        facts = self._facts.get((deployment.upstream, deployment.model))
        if not facts:
            return deployment
        profile = msgspec.structs.replace(deployment.profile, **facts)
        return msgspec.structs.replace(deployment, profile=profile)

    def add(self, deployment: Deployment, facts: dict[str, Any]) -> None:
        """Remember *facts*, names and values of ``DialectProfile``."""
        key = (deployment.upstream, deployment.model)
        if key not in self._facts and len(self._facts) >= _MAX_DEPLOYMENTS:
            self._facts.pop(next(iter(self._facts)))
        self._facts[key] = {**self._facts.get(key, {}), **facts}

    def of(self, deployment: Deployment) -> dict[str, Any]:
        """Return what was learnt."""
        return dict(self._facts.get((deployment.upstream, deployment.model), {}))
