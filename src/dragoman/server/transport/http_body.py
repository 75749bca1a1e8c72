"""The body of one request on its way in: framed, bounded, inflated, timed, waited for."""

import asyncio
from typing import Final

from dragoman.core.errors import InvalidRequest, RequestTimeout, RequestTooLarge
from dragoman.server.transport.framing import ChunkedFraming, LengthFraming
from dragoman.server.transport.inflate import Inflater

# The time for a body is looked at in quarters; one that brings less than this in a quarter of it
# is somebody holding a connection, not a slow line.
QUARTERS: Final = 4
_MIN_QUARTER_BYTES: Final = 1024
# Smaller pieces are merged: a body that comes in single bytes must not cost fifty times its size.
_SMALL_BYTES: Final = 4 * 2**10


class RequestBody:
    """
    One body. The connection feeds it, ``want`` says that it is wanted, ``wait`` waits for its end.

    Before it is wanted its bytes are only kept: the connection stops reading when they are many.
    After a failure, or when nobody will want it any more, they are dropped.

    Args:
        framing: Where it ends.
        content_encoding: Of its header field; empty: none.

    Attributes:
        is_over: It is complete, or its framing is broken and nothing has a meaning any more.
        n_received: Bytes without framing, before inflating.
        n_unwanted: Bytes that came while nobody was waiting for them.
    """

    __slots__ = (
        "_content_encoding",
        "_error",
        "_framing",
        "_inflater",
        "_is_dropped",
        "_is_wanted",
        "_mark",
        "_max_bytes",
        "_n_quarters",
        "_pieces",
        "_waiter",
        "is_over",
        "n_received",
        "n_unwanted",
    )

    def __init__(self, framing: LengthFraming | ChunkedFraming, content_encoding: bytes) -> None:
        self._framing = framing
        self._content_encoding = content_encoding
        self._pieces: list[bytes] = []  # joined at the end: a growing buffer costs far more
        self._inflater: Inflater | None = None
        self._max_bytes = self._n_quarters = self._mark = 0
        self.n_received = self.n_unwanted = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_dropped = self._is_wanted = self.is_over = False

    @property
    def n_left(self) -> int | None:
        """How many bytes are still to come; None: nobody knows."""
        return self._framing.n_left

    @property
    def has_trailers(self) -> bool:
        """Tell whether fields stood behind it, which nothing that we serve has a use for."""
        return self._framing.has_trailers

    def feed(self, data: bytes) -> bytes:
        """Take what was read from the connection; return what follows the body."""
        if self.is_over:  # broken: drop what comes until the client has its reply
            self.n_unwanted += len(data)
            return b""
        try:
            data, rest = self._framing.take(data)
        except InvalidRequest as error:
            self.is_over = True
            self.fail(error)
            return b""
        self.n_received += len(data)
        if self._is_dropped or not self._is_wanted:
            self.n_unwanted += len(data)
        if not self._is_dropped:
            self._keep(data)
        if self._framing.n_left == 0:
            self.is_over = True
            self._wake()
        return rest

    def want(self, max_bytes: int) -> None:
        """
        Begin to check and inflate, what has come and what will come.

        Raises:
            RequestTooLarge: It is known to be larger than *max_bytes*.
            InvalidRequest: Its coding is unknown.
        """
        if self._is_wanted:
            raise RuntimeError("the body of a request can be read once")
        self._is_wanted = True
        self.n_unwanted = 0
        self._max_bytes = max_bytes
        pieces, self._pieces = self._pieces, []
        try:
            if self._framing.length > max_bytes:
                raise body_too_large(max_bytes)
            if self._content_encoding:
                self._inflater = Inflater(self._content_encoding, max_bytes)
        except (RequestTooLarge, InvalidRequest) as error:
            self.fail(error)
        for piece in pieces:
            if not self._is_dropped:
                self._keep(piece)
        if self._error is not None:
            raise self._error

    async def wait(self) -> None:
        """Return when it has come, or whatever ``fail`` was called with has happened."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """
        Return all of it, and forget it.

        Raises:
            InvalidRequest: It is broken.
            RequestTooLarge: It is larger than was wanted.
            RequestTimeout: It came too slowly.
            ClientGone: It never came.
        """
        if self._error is not None:
            raise self._error
        pieces, self._pieces = self._pieces, []
        inflater, self._inflater = self._inflater, None
        return b"".join(pieces) if inflater is None else inflater.close()

    def fail(self, error: Exception) -> None:
        """Give up: the reader gets *error*, now or when there is one."""
        self._error = self._error or error
        self.drop()
        self._wake()

    def drop(self) -> None:
        """Forget what has come and will come."""
        self._is_dropped = True
        self._inflater = None
        self._pieces.clear()

    def end_quarter(self) -> None:
        """Fail if time is up: one quarter of it has passed since this was last called."""
        self._n_quarters += 1
        if self.n_received - self._mark < _MIN_QUARTER_BYTES or self._n_quarters >= QUARTERS:
            self.fail(RequestTimeout("The request body came too slowly."))
        self._mark = self.n_received

    def _keep(self, data: bytes) -> None:
        pieces = self._pieces
        if self._is_wanted and self.n_received > self._max_bytes:
            self.fail(body_too_large(self._max_bytes))
        elif self._inflater is not None:
            try:
                self._inflater.feed(data)
            except (RequestTooLarge, InvalidRequest) as error:
                self.fail(error)
        elif pieces and len(pieces[-1]) < _SMALL_BYTES:
            pieces[-1] += data
        else:
            pieces.append(data)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def body_too_large(max_bytes: int) -> RequestTooLarge:
    """Return the error for a body that is over *max_bytes* as it was sent."""
    return RequestTooLarge(f"The request body is larger than {max_bytes} bytes.")
