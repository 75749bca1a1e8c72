"""
What the workers of one machine share, in the process that looks after them, and how they reach it.

The owner makes a pair of sockets for each worker and hands one end over when it starts it: there is
no address that anybody else could use. It lives exactly as long as its workers do, for they end
with it. A worker that ends takes nothing along but its own connection.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from dragoman.core.errors import SharedStateUnavailable
from dragoman.policy.sharing import Notice
from dragoman.stores.board_memory import MemoryBoard
from dragoman.stores.peer import Hear, News, Peer, Question, Told
from dragoman.stores.shelf_memory import MemoryShelf, ShelfLimits

_TIMEOUT_S: Final = 1.0  # it answers within milliseconds, unless the machine has no time for it
_MAX_BLOBS_BYTES: Final = 16 * 2**20  # of one answer


class _Put(Struct, array_like=True):
    keys: Sequence[bytes]
    blob: bytes


class _Get(Struct, array_like=True):
    keys: Sequence[bytes]


class _Found(Struct, array_like=True):
    blobs: dict[bytes, bytes]


class _Nothing(Struct, array_like=True):
    pass


class _Hanging(Struct, array_like=True):
    notices: Sequence[Notice]


_PUT: Final = News("shelf.put", _Put)
_GET: Final = Question("shelf.get", _Get, _Found)
_POST: Final = News("board.post", Notice)
_POSTED: Final = News("board.posted", Notice)
_HANGING: Final = Question("board.hanging", _Nothing, _Hanging)


class Owner:
    """
    Holds what workers share. Belongs to the event loop of the process that looks after them.

    Args:
        on_crash: Told of bugs; a question of a worker must not end this process.
    """

    def __init__(self, *, on_crash: Told) -> None:
        self._on_crash = on_crash
        self._shelf = MemoryShelf(ShelfLimits())
        self._board = MemoryBoard()
        self._peers: list[Peer] = []

    async def connect(self) -> socket.socket:
        """Return the end of a new pair for one worker; to be closed here once it has it."""
        ours, theirs = socket.socketpair()
        seat = _Seat(self)
        await _attach(seat.peer, ours)
        self._peers.append(seat.peer)
        return theirs

    def close(self) -> None:
        """Close all pairs."""
        for peer in self._peers:
            peer.close()

    # -- called by seats

    @property
    def on_crash(self) -> Told:
        """Told of bugs."""
        return self._on_crash

    def leave(self, peer: Peer) -> None:
        """Forget a worker that has ended."""
        self._peers.remove(peer)

    def put(self, put: _Put) -> None:
        """Keep a blob for all."""
        self._shelf.put(put.keys, put.blob, now_s=time.monotonic())

    async def get(self, get: _Get) -> _Found:
        """Return blobs; the latest calls first, if there is too much."""
        blobs: dict[bytes, bytes] = {}
        left = _MAX_BLOBS_BYTES
        for key in reversed(get.keys):
            blob = self._shelf.get(key, now_s=time.monotonic())
            if blob is not None:
                left -= len(blob)
                if left < 0:
                    break
                blobs[key] = blob
        return _Found(blobs)

    def post(self, notice: Notice, by: Peer) -> None:
        """Hang a notice, and show it to all others."""
        self._board.hang(notice, now_s=time.monotonic())
        for peer in self._peers:
            if peer is not by:
                _POSTED.tell(peer, notice)

    async def hanging(self, _: _Nothing) -> _Hanging:
        """Return all notices that hang."""
        return _Hanging(self._board.all(now_s=time.monotonic()))


class _Seat:
    """The owner's end of one pair: what its worker may ask and tell."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.peer = Peer(
            {
                _GET.name: _GET.answered_by(owner.get),
                _HANGING.name: _HANGING.answered_by(owner.hanging),
            },
            {
                _PUT.name: _PUT.heard_by(owner.put),
                _POST.name: _POST.heard_by(self._post),
            },
            on_crash=owner.on_crash,
            on_end=self._end,
        )

    def _post(self, notice: Notice) -> None:
        self._owner.post(notice, self.peer)

    def _end(self) -> None:
        self._owner.leave(self.peer)


class OwnerLink:
    """
    A worker's way to the owner; its shelf and its board. Belongs to one event loop.

    Args:
        on_crash: Told of bugs.
    """

    def __init__(self, *, on_crash: Told) -> None:
        self._readers: dict[str, Callable[[Notice], None]] = {}
        hears: Mapping[str, Hear] = {_POSTED.name: _POSTED.heard_by(self._read)}
        self._peer = Peer({}, hears, on_crash=on_crash)

    @property
    def n_lost(self) -> int:
        """What was put or posted and did not get through."""
        return self._peer.n_lost

    async def open(self, end: socket.socket) -> None:
        """Take over *end*."""
        await _attach(self._peer, end)

    async def read_board(self) -> None:
        """Read what hangs on the board."""
        with suppress(SharedStateUnavailable):  # it is read later than it could be
            hanging = await _HANGING.ask(self._peer, _Nothing(), timeout_s=_TIMEOUT_S)
            for notice in hanging.notices:
                self._read(notice)

    def close(self) -> None:
        """Close the pair."""
        self._peer.close()

    # -- ``Shelf``

    def put(self, keys: Sequence[bytes], blob: bytes) -> None:
        """Keep *blob* under each key, soon."""
        _PUT.tell(self._peer, _Put(keys, blob))

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """
        Return what there is, by its key.

        Raises:
            SharedStateUnavailable: The owner cannot be reached.
        """
        found = await _GET.ask(self._peer, _Get(keys), timeout_s=_TIMEOUT_S)
        return found.blobs

    # -- ``Board``

    def post(self, notice: Notice) -> None:
        """Show *notice* to the others, soon."""
        _POST.tell(self._peer, notice)

    def watch(self, topic: str, read: Callable[[Notice], None]) -> None:
        """Have *read* called with what the others post."""
        self._readers[topic] = read

    def _read(self, notice: Notice) -> None:
        if (read := self._readers.get(notice.topic)) is not None:
            read(notice)


async def _attach(peer: Peer, end: socket.socket) -> None:
    end.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: peer, sock=end)
