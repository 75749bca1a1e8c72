"""Notices that hang for a while; the oldest go first."""

from collections import OrderedDict
from typing import Final

from msgspec import structs

from dragoman.policy.sharing import Notice

_MAX_NOTICES: Final = 10_000
_MAX_BYTES: Final = 8 * 2**20


class MemoryBoard:
    """What hangs now. Belongs to one event loop; times are of a clock that never goes back."""

    def __init__(self) -> None:
        self._notices: OrderedDict[tuple[str, str], tuple[float, Notice]] = OrderedDict()
        self._n_bytes = 0

    def hang(self, notice: Notice, *, now_s: float) -> None:
        """Hang *notice* in the place of an earlier one about the same."""
        self._take_off((notice.topic, notice.key))
        self._notices[notice.topic, notice.key] = (now_s + notice.ttl_s, notice)
        self._n_bytes += len(notice.body)
        while len(self._notices) > _MAX_NOTICES or self._n_bytes > _MAX_BYTES:
            self._take_off(next(iter(self._notices)))

    def all(self, *, now_s: float) -> tuple[Notice, ...]:
        """Return what hangs, each with the time that is left for it."""
        over = [about for about, (until_s, _) in self._notices.items() if until_s <= now_s]
        for about in over:
            self._take_off(about)
        return tuple(
            structs.replace(notice, ttl_s=until_s - now_s)
            for until_s, notice in self._notices.values()
        )

    def _take_off(self, about: tuple[str, str]) -> None:
        if (gone := self._notices.pop(about, None)) is not None:
            self._n_bytes -= len(gone[1].body)
