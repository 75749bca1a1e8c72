"""
What the workers of one machine share, in the process that looks after them.

The owner makes a pair of sockets for each worker and hands one end over when it starts it: there is
no address that anybody else could use. It lives exactly as long as its workers do, for they end
with it. A worker that ends takes nothing along but its own connection.
"""

import socket
import time
from typing import Final

from dragoman.policy.sharing import Notice
from dragoman.stores.board_memory import MemoryBoard
from dragoman.stores.limiter_memory import MemoryLimiter
from dragoman.stores.limiter_owner import LimiterSeat
from dragoman.stores.owner_link import (
    GET,
    HANGING,
    POST,
    POSTED,
    PUT,
    Found,
    Get,
    Hanging,
    Nothing,
    Put,
    attach,
)
from dragoman.stores.peer import Peer, Told
from dragoman.stores.shelf_memory import MemoryShelf, ShelfLimits

_MAX_BLOBS_BYTES: Final = 16 * 2**20  # of one answer


class Owner:
    """
    Holds what workers share. Belongs to the event loop of the process that looks after them.

    Args:
        on_crash: Told of bugs; a question of a worker must not end this process.

    Attributes:
        limiter: Counts for all of them.
    """

    def __init__(self, *, on_crash: Told) -> None:
        self._on_crash = on_crash
        self._shelf = MemoryShelf(ShelfLimits())
        self._board = MemoryBoard()
        self.limiter = MemoryLimiter()
        self._peers: list[Peer] = []

    async def connect(self) -> socket.socket:
        """Return the end of a new pair for one worker; to be closed here once it has it."""
        ours, theirs = socket.socketpair()
        seat = _Seat(self)
        await attach(seat.peer, ours)
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

    def put(self, put: Put) -> None:
        """Keep a blob for all."""
        self._shelf.put(put.keys, put.blob, now_s=time.monotonic())

    async def get(self, get: Get) -> Found:
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
        return Found(blobs)

    def post(self, notice: Notice, by: Peer) -> None:
        """Hang a notice, and show it to all others."""
        self._board.hang(notice, now_s=time.monotonic())
        for peer in self._peers:
            if peer is not by:
                POSTED.tell(peer, notice)

    async def hanging(self, _: Nothing) -> Hanging:
        """Return all notices that hang."""
        return Hanging(self._board.all(now_s=time.monotonic()))


class _Seat:
    """The owner's end of one pair: what its worker may ask and tell."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._limiter = LimiterSeat(owner.limiter)
        self.peer = Peer(
            {
                **self._limiter.answers,
                GET.name: GET.answered_by(owner.get),
                HANGING.name: HANGING.answered_by(owner.hanging),
            },
            {
                **self._limiter.hears,
                PUT.name: PUT.heard_by(owner.put),
                POST.name: POST.heard_by(self._post),
            },
            on_crash=owner.on_crash,
            on_end=self._end,
        )

    def _post(self, notice: Notice) -> None:
        self._owner.post(notice, self.peer)

    def _end(self) -> None:
        self._limiter.leave()
        self._owner.leave(self.peer)
