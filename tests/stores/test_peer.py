"""Two ends that ask and tell each other: any cut, any order, and whatever goes wrong."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import Struct

from dragoman.core.errors import SharedStateUnavailable
from dragoman.stores import peer as peer_module
from dragoman.stores.peer import News, Peer, Question


class Number(Struct):
    n: int


DOUBLE: Question[Number, Number] = Question("double", Number, Number)
NOTE: News[Number] = News("note", Number)


class Ends:
    """A pair of peers; *right* doubles numbers and notes them."""

    def __init__(self, answer: Callable[[Number], Awaitable[Number]] | None = None) -> None:
        self.noted: list[int] = []
        self.crashes: list[BaseException] = []
        self.ended: list[str] = []
        self.left = Peer({}, {}, on_crash=self.crashes.append, on_end=self.end_of("left"))
        self.right = Peer(
            {DOUBLE.name: DOUBLE.answered_by(answer or self.double)},
            {NOTE.name: NOTE.heard_by(lambda number: self.noted.append(100 // number.n))},
            on_crash=self.crashes.append,
            on_end=self.end_of("right"),
        )

    def end_of(self, which: str) -> Callable[[], None]:
        return lambda: self.ended.append(which)

    async def double(self, number: Number) -> Number:
        await asyncio.sleep(0.002 * (number.n % 3))  # so that answers overtake each other
        return Number(2 * number.n)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        for end, sock in zip((self.left, self.right), socket.socketpair(), strict=True):
            sock.setblocking(False)
            await loop.create_unix_connection(lambda end=end: end, sock=sock)  # type: ignore[misc]

    async def ask(self, n: int, **options: Any) -> int:
        answer = await DOUBLE.ask(self.left, Number(n), **{"timeout_s": 30, **options})
        return answer.n

    async def close(self) -> None:
        self.left.close()
        while len(self.ended) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_answers_come_to_who_asked() -> None:
    async def main() -> None:
        ends = Ends()
        await ends.open()
        assert await asyncio.gather(*map(ends.ask, range(500))) == [2 * n for n in range(500)]
        NOTE.tell(ends.left, Number(5))
        assert await ends.ask(0) == 0
        assert (ends.noted, ends.crashes) == ([20], [])
        await ends.close()
        assert sorted(ends.ended) == ["left", "right"]

    asyncio.run(main())


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 100])
def test_frames_may_be_cut_anywhere(step: int) -> None:
    async def main() -> None:
        ends = Ends()
        sent = bytearray()

        class Wire(asyncio.Transport):
            def write(self, data: Any) -> None:
                sent.extend(data)

            def is_closing(self) -> bool:
                return False

            def get_write_buffer_size(self) -> int:
                return 0

        ends.left.connection_made(Wire())
        for n in (1, 2, 4, 5, 10):
            NOTE.tell(ends.left, Number(n))
        for start in range(0, len(sent), step):
            ends.right.data_received(bytes(sent[start : start + step]))
        assert ends.noted == [100, 50, 25, 20, 10]

    asyncio.run(main())


def test_bugs_are_told_and_end_nothing() -> None:
    async def broken(number: Number) -> Number:
        if number.n == 1:
            raise ValueError("a bug")
        if number.n == 2:
            raise SharedStateUnavailable("something else is away")
        return number

    async def main() -> None:
        ends = Ends(broken)
        await ends.open()
        NOTE.tell(ends.left, Number(0))
        for n, reason in ((1, "ValueError"), (2, "something else is away")):
            with pytest.raises(SharedStateUnavailable) as raised:
                await ends.ask(n)
            assert raised.value.log_detail == reason
        assert await ends.ask(7) == 7
        assert [type(each) for each in ends.crashes] == [ZeroDivisionError, ValueError]
        with pytest.raises(SharedStateUnavailable):
            await ends.left.ask("unknown", b"", timeout_s=5)
        await ends.close()

    asyncio.run(main())


def test_who_waits_is_told_of_the_end() -> None:
    never = asyncio.Event()

    async def silent(number: Number) -> Number:
        await never.wait()
        return number

    async def main() -> None:
        ends = Ends(silent)
        await ends.open()
        with pytest.raises(SharedStateUnavailable) as late:
            await ends.ask(1, timeout_s=0.02)
        assert late.value.log_detail == "double: no answer within 0.02 s"
        asking = asyncio.ensure_future(ends.ask(1))
        await asyncio.sleep(0.01)
        ends.right.close()
        with pytest.raises(SharedStateUnavailable):
            await asking
        assert not ends.left.is_open
        with pytest.raises(SharedStateUnavailable):
            await ends.ask(1)
        NOTE.tell(ends.left, Number(1))
        assert ends.left.n_lost == 1

    asyncio.run(main())


def test_a_frame_that_is_too_long_is_not_sent_and_not_taken() -> None:
    async def main() -> None:
        ends = Ends()
        await ends.open()
        ends.left.tell(NOTE.name, bytes(peer_module.MAX_FRAME_BYTES))
        assert ends.left.n_lost == 1
        with pytest.raises(SharedStateUnavailable):
            await ends.left.ask(DOUBLE.name, bytes(peer_module.MAX_FRAME_BYTES), timeout_s=5)
        assert await ends.ask(4) == 8
        ends.right.data_received(b"\xff\xff\xff\xff")
        await ends.close()
        assert [str(each) for each in ends.crashes] == ["a frame is too long"]

    asyncio.run(main())


def test_what_is_no_frame_ends_the_pair() -> None:
    async def main() -> None:
        ends = Ends()
        await ends.open()
        ends.right.data_received(b"\0\0\0\2\xc1\xc1")
        await ends.close()
        assert len(ends.crashes) == 1

    asyncio.run(main())


def test_who_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "_MAX_UNSENT_BYTES", 2**20)

    async def main() -> None:
        left, other = socket.socketpair()
        left.setblocking(False)
        peer = Peer({}, {}, on_crash=lambda _: None)
        await asyncio.get_running_loop().create_unix_connection(lambda: peer, sock=left)
        for _ in range(40):
            peer.tell("x", bytes(2**17))
        assert 20 <= peer.n_lost < 40
        peer.close()
        other.close()
        await asyncio.sleep(0.01)

    asyncio.run(main())
