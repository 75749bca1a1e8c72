"""Notices that hang in memory: the latest about each thing, while it holds, and not too many."""

import pytest

from dragoman.policy.sharing import Notice
from dragoman.stores import board_memory
from dragoman.stores.board_memory import MemoryBoard


def notice(key: str, body: bytes = b"x", *, ttl_s: float = 60, topic: str = "t") -> Notice:
    return Notice(topic=topic, key=key, body=body, ttl_s=ttl_s)


def hanging(board: MemoryBoard, now_s: float = 0) -> list[tuple[str, str, bytes, float]]:
    return [(each.topic, each.key, each.body, each.ttl_s) for each in board.all(now_s=now_s)]


def test_a_later_notice_takes_the_place_of_an_earlier_one() -> None:
    board = MemoryBoard()
    board.hang(notice("a", b"1"), now_s=0)
    board.hang(notice("b", b"2"), now_s=0)
    board.hang(notice("a", b"3", topic="u"), now_s=0)
    board.hang(notice("a", b"4"), now_s=10)
    assert hanging(board, 20) == [
        ("t", "b", b"2", 40),
        ("u", "a", b"3", 40),
        ("t", "a", b"4", 50),
    ]


def test_what_is_over_does_not_hang() -> None:
    board = MemoryBoard()
    board.hang(notice("short", ttl_s=5), now_s=0)
    board.hang(notice("long"), now_s=0)
    assert [each[1] for each in hanging(board, 5)] == ["long"]
    assert hanging(board, 60) == []


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_memory, "_MAX_NOTICES", 3)
    monkeypatch.setattr(board_memory, "_MAX_BYTES", 100)
    board = MemoryBoard()
    for key in "abcd":
        board.hang(notice(key), now_s=0)
    assert [each[1] for each in hanging(board)] == ["b", "c", "d"]
    board.hang(notice("e", bytes(99)), now_s=0)
    assert [each[1] for each in hanging(board)] == ["d", "e"]
    board.hang(notice("f", bytes(101)), now_s=0)  # more than there is room for at all
    assert hanging(board) == []
