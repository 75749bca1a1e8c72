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
        # What came of it last, so that plans find the same profile again.
        self._applied: dict[tuple[str, str], tuple[Deployment, Deployment]] = {}

    def apply(self, deployment: Deployment) -> Deployment:
        """Return *deployment* with what was learnt of it."""
        key = (deployment.upstream, deployment.model)
        facts = self._facts.get(key)
        if not facts:
            return deployment
        before, applied = self._applied.get(key, (None, None))
        if applied is None or before is not deployment:
            profile = msgspec.structs.replace(deployment.profile, **facts)
            applied = msgspec.structs.replace(deployment, profile=profile)
            self._applied[key] = deployment, applied
        return applied

    def add(self, deployment: Deployment, facts: dict[str, Any]) -> None:
        """Remember *facts*, names and values of ``DialectProfile``."""
        key = (deployment.upstream, deployment.model)
        if key not in self._facts and len(self._facts) >= _MAX_DEPLOYMENTS:
            oldest = next(iter(self._facts))
            del self._facts[oldest]
            self._applied.pop(oldest, None)
        self._facts[key] = {**self._facts.get(key, {}), **facts}
        self._applied.pop(key, None)

    def of(self, deployment: Deployment) -> dict[str, Any]:
        """Return what was learnt."""
        return dict(self._facts.get((deployment.upstream, deployment.model), {}))
