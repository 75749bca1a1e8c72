"""
Two processes of one machine that ask and tell each other, over a pair of sockets.

On the wire: four bytes of length, then msgpack ``[number, name, body]``. Number 0 tells something
that nobody answers; a positive number asks; its negative answers, under an empty name, or under
``failed``. Both ends are ours and of one version, and nobody else can reach the pair.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Generic, TypeVar, cast

import msgspec
from msgspec import Struct

from dragoman.core.errors import SharedStateUnavailable

MAX_FRAME_BYTES: Final = 32 * 2**20  # the thinking that one request may recall is half of it
_MAX_UNSENT_BYTES: Final = 64 * 2**20
_MAX_ASKED: Final = 20_000  # at a time; twice the connections that a process takes
_FAILED: Final = "failed"

A = TypeVar("A", bound=Struct)
R = TypeVar("R", bound=Struct)
Answer = Callable[[bytes], Awaitable[bytes]]
Hear = Callable[[bytes], None]
Told = Callable[[BaseException], None]


class _Frame(Struct, array_like=True, gc=False):
    number: int
    name: str
    body: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Frame).decode


class Peer(asyncio.Protocol):
    """
    One end. Belongs to one event loop.

    Args:
        answers: Answer what is asked, by name.
        hears: Take what is told, by name.
        on_crash: Told of errors in either; the other end sees a failure.
        on_end: Called once, when the pair is closed.

    Attributes:
        n_lost: What was told and did not get through, for the other end does not read.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer],
        hears: Mapping[str, Hear],
        *,
        on_crash: Told,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._answers = answers
        self._hears = hears
        self._on_crash = on_crash
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._number = 0
        self.n_lost = 0

    @property
    def is_open(self) -> bool:
        """Whether the other end can be reached."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, name: str, body: bytes, *, timeout_s: float) -> bytes:
        """
        Return the answer.

        Raises:
            SharedStateUnavailable: The other end is gone, late, full or has failed.
        """
        if len(self._asked) >= _MAX_ASKED:
            raise SharedStateUnavailable(f"{name}: {_MAX_ASKED} questions wait for an answer")
        self._number += 1
        number = self._number
        if not self._send(_Frame(number, name, body)):
            raise SharedStateUnavailable(f"{name}: nobody takes the question")
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answered
        try:
            async with asyncio.timeout(timeout_s):
                return await answered
        except TimeoutError:
            raise SharedStateUnavailable(f"{name}: no answer within {timeout_s} s") from None
        finally:
            del self._asked[number]

    def tell(self, name: str, body: bytes) -> None:
        """Tell something, at once; it is lost if the other end is gone or does not read."""
        if not self._send(_Frame(0, name, body)):
            self.n_lost += 1

    def close(self) -> None:
        """Close the pair; what was told before still gets through."""
        if self._transport is not None:
            self._transport.close()

    # -- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= 4:
            end = start + 4 + int.from_bytes(buffer[start : start + 4], "big")
            if end - start > MAX_FRAME_BYTES:
                self._break(ValueError("a frame is too long"))
                return
            if len(buffer) < end:
                break
            self._take(bytes(buffer[start + 4 : end]))
            start = end
        del buffer[:start]

    def connection_lost(self, _: Exception | None) -> None:
        for answered in self._asked.values():
            if not answered.done():
                answered.set_exception(SharedStateUnavailable("the other process is gone"))
        for task in self._answering:
            task.cancel()
        self._on_end()

    # --

    def _send(self, frame: _Frame) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            return False
        raw = _encode(frame)
        if len(raw) + 4 > MAX_FRAME_BYTES:
            return False
        transport.write(len(raw).to_bytes(4, "big") + raw)
        return True

    def _take(self, raw: bytes) -> None:
        try:
            frame = _decode(raw)
        except msgspec.MsgspecError as error:
            self._break(error)
            return
        if frame.number > 0:
            task = asyncio.get_running_loop().create_task(self._answer(frame))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif frame.number < 0:
            self._take_answer(frame)
        else:
            self._hear(frame)

    async def _answer(self, frame: _Frame) -> None:
        try:
            if (answer_it := self._answers.get(frame.name)) is None:
                raise SharedStateUnavailable(f"{frame.name}: nobody answers that")
            body = await answer_it(frame.body)
        except SharedStateUnavailable as error:
            answer = _Frame(-frame.number, _FAILED, error.log_detail.encode())
        except Exception as error:  # a question must not end the process
            self._on_crash(error)
            answer = _Frame(-frame.number, _FAILED, type(error).__name__.encode())
        else:
            answer = _Frame(-frame.number, "", body)
        if not self._send(answer):
            self._send(_Frame(-frame.number, _FAILED, b"the answer is too long"))

    def _take_answer(self, frame: _Frame) -> None:
        answered = self._asked.get(-frame.number)
        if answered is None or answered.done():  # it came too late
            return
        if frame.name == _FAILED:
            answered.set_exception(SharedStateUnavailable(frame.body.decode(errors="replace")))
        else:
            answered.set_result(frame.body)

    def _hear(self, frame: _Frame) -> None:
        try:
            self._hears[frame.name](frame.body)
        except Exception as error:  # as above
            self._on_crash(error)

    def _break(self, error: Exception) -> None:
        """Give up: where a frame begins is not known any more."""
        self._on_crash(error)
        if self._transport is not None:
            self._transport.abort()


class Question(Generic[A, R]):
    """
    Something that can be asked of a peer, with the types of what goes there and back.

    Args:
        name: Of the question.
        asked: What goes there.
        answered: What comes back.
    """

    def __init__(self, name: str, asked: type[A], answered: type[R]) -> None:
        self.name = name
        self._decode_asked = msgspec.msgpack.Decoder(asked).decode
        self._decode_answered = msgspec.msgpack.Decoder(answered).decode

    async def ask(self, peer: Peer, question: A, *, timeout_s: float) -> R:
        """
        Ask the other end of *peer*.

        Raises:
            SharedStateUnavailable: As ``Peer.ask``.
        """
        body = await peer.ask(self.name, _encode(question), timeout_s=timeout_s)
        return self._decode_answered(body)

    def answered_by(self, answer: Callable[[A], Awaitable[R]]) -> Answer:
        """Return *answer* as a peer calls it."""

        async def call(body: bytes) -> bytes:
            return _encode(await answer(self._decode_asked(body)))

        return call


class News(Generic[A]):
    """
    Something that a peer can be told, with its type.

    Args:
        name: Of the news.
        told: What is told.
    """

    def __init__(self, name: str, told: type[A]) -> None:
        self.name = name
        self._decode = msgspec.msgpack.Decoder(told).decode

    def tell(self, peer: Peer, what: A) -> None:
        """Tell the other end of *peer*."""
        peer.tell(self.name, _encode(what))

    def heard_by(self, hear: Callable[[A], None]) -> Hear:
        """Return *hear* as a peer calls it."""

        def call(body: bytes) -> None:
            hear(self._decode(body))

        return call
