"""What refusals have taught about deployments, for as long as the process lives."""

from typing import Any, Final

import msgspec

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.plan import Deployment
from dragoman.policy.sharing import Board, Notice

_MAX_DEPLOYMENTS: Final = 10_000  # far over any configuration; OpenRouter's list has hundreds
_TOPIC: Final = "learned"
_SHOWN_S: Final = 3600.0  # to processes that start later; then they learn it by themselves
_FIELDS: Final = {field.name: field.type for field in msgspec.structs.fields(DialectProfile)}
_encode: Final = msgspec.json.Encoder().encode
_read_key: Final = msgspec.json.Decoder(tuple[str, str]).decode
_read_facts: Final = msgspec.json.Decoder(dict[str, Any]).decode


class LearnedFacts:
    """
    Facts by deployment, above those of its profile. Belongs to one event loop.

    A restart forgets them, but for what others have learnt of late: an upstream that has been
    mended is asked as before, and ``dragoman check --probe`` writes down what shall last.

    Args:
        board: Tells the other processes what one has learnt; None: there are none.

    Attributes:
        has_any: Something was learnt: mostly nothing is.
    """

    def __init__(self, board: Board | None = None) -> None:
        self._facts: dict[tuple[str, str], dict[str, Any]] = {}
        # What came of it last, so that plans find the same profile again.
        self._applied: dict[tuple[str, str], tuple[Deployment, Deployment]] = {}
        self.has_any = False
        self._board = board
        if board is not None:
            board.watch(_TOPIC, self._read)

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
        self._add(key, facts)
        if self._board is not None:
            body = _encode(self._facts[key])
            shown = Notice(topic=_TOPIC, key=_encode(key).decode(), body=body, ttl_s=_SHOWN_S)
            self._board.post(shown)

    def of(self, deployment: Deployment) -> dict[str, Any]:
        """Return what was learnt."""
        return dict(self._facts.get((deployment.upstream, deployment.model), {}))

    def _add(self, key: tuple[str, str], facts: dict[str, Any]) -> None:
        if key not in self._facts and len(self._facts) >= _MAX_DEPLOYMENTS:
            oldest = next(iter(self._facts))
            del self._facts[oldest]
            self._applied.pop(oldest, None)
        self._facts[key] = {**self._facts.get(key, {}), **facts}
        self.has_any = True
        self._applied.pop(key, None)

    def _read(self, notice: Notice) -> None:
        """Take what another process has learnt; a fact that this version does not know is none."""
        try:
            key, facts = _read_key(notice.key), _read_facts(notice.body)
            known = {
                name: msgspec.convert(value, _FIELDS[name])
                for name, value in facts.items()
                if name in _FIELDS
            }
        except msgspec.MsgspecError:
            return
        if known:
            self._add(key, known)
