"""How a worker reaches the process that holds what workers share (``owner``)."""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from msgspec import Struct

from dragoman.core.errors import SharedStateUnavailable
from dragoman.policy.sharing import Notice
from dragoman.stores.peer import Hear, News, Peer, Question, Told

_TIMEOUT_S: Final = 1.0  # it answers within milliseconds, unless the machine has no time for it
_LATE_IN_A_ROW: Final = 3  # then nothing is asked for a while: no request waits for one that hangs
_LEFT_ALONE_S: Final = 1.0
A = TypeVar("A", bound=Struct)
R = TypeVar("R", bound=Struct)


class Put(Struct, array_like=True):
    """Keep a blob under some keys."""

    keys: Sequence[bytes]
    blob: bytes


class Get(Struct, array_like=True):
    """Return what is kept under some keys."""

    keys: Sequence[bytes]


class Found(Struct, array_like=True):
    """What there was."""

    blobs: dict[bytes, bytes]


class Nothing(Struct, array_like=True):
    """There is nothing to say."""


class Hanging(Struct, array_like=True):
    """Notices that hang now."""

    notices: Sequence[Notice]


PUT: Final = News("shelf.put", Put)
GET: Final = Question("shelf.get", Get, Found)
POST: Final = News("board.post", Notice)
POSTED: Final = News("board.posted", Notice)
HANGING: Final = Question("board.hanging", Nothing, Hanging)


class OwnerLink:
    """
    A worker's way to the owner; its shelf and its board. Belongs to one event loop.

    Args:
        on_crash: Told of bugs.
    """

    def __init__(self, *, on_crash: Told) -> None:
        self._readers: dict[str, Callable[[Notice], None]] = {}
        hears: Mapping[str, Hear] = {POSTED.name: POSTED.heard_by(self._read)}
        self._peer = Peer({}, hears, on_crash=on_crash)
        self._late = 0
        self._again_s = 0.0

    @property
    def n_lost(self) -> int:
        """What was put or posted and did not get through."""
        return self._peer.n_lost

    async def open(self, end: socket.socket) -> None:
        """Take over *end*."""
        await attach(self._peer, end)

    async def read_board(self) -> None:
        """Read what hangs on the board."""
        with suppress(SharedStateUnavailable):  # it is read later than it could be
            hanging = await self.ask(HANGING, Nothing())
            for notice in hanging.notices:
                self._read(notice)

    async def ask(self, question: Question[A, R], what: A) -> R:
        """
        Return the owner's answer.

        Raises:
            SharedStateUnavailable: There is none.
        """
        if time.monotonic() < self._again_s:
            raise SharedStateUnavailable(f"{question.name}: the owner was late before")
        try:
            answer = await question.ask(self._peer, what, timeout_s=_TIMEOUT_S)
        except SharedStateUnavailable:
            self._late += 1
            if self._late >= _LATE_IN_A_ROW:
                self._again_s = time.monotonic() + _LEFT_ALONE_S
            raise
        self._late = 0
        return answer

    def tell(self, news: News[A], what: A) -> None:
        """Tell the owner."""
        news.tell(self._peer, what)

    def close(self) -> None:
        """Close the pair."""
        self._peer.close()

    # -- ``Shelf``

    def put(self, keys: Sequence[bytes], blob: bytes) -> None:
        """Keep *blob* under each key, soon."""
        self.tell(PUT, Put(keys, blob))

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """
        Return what there is, by its key.

        Raises:
            SharedStateUnavailable: The owner cannot be reached.
        """
        found = await self.ask(GET, Get(keys))
        return found.blobs

    # -- ``Board``

    def post(self, notice: Notice) -> None:
        """Show *notice* to the others, soon."""
        self.tell(POST, notice)

    def watch(self, topic: str, read: Callable[[Notice], None]) -> None:
        """Have *read* called with what the others post."""
        self._readers[topic] = read

    def _read(self, notice: Notice) -> None:
        if (read := self._readers.get(notice.topic)) is not None:
            read(notice)


async def attach(peer: Peer, end: socket.socket) -> None:
    """Have *peer* speak over *end*."""
    end.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: peer, sock=end)
