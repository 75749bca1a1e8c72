"""Each state of a thing is news once, for one process or for all."""

import pytest

from dragoman.policy import told
from dragoman.policy.sharing import Notice
from dragoman.policy.told import Told
from support.boards import FakeBoard


def test_a_state_is_news_once() -> None:
    one = Told()
    assert one.is_news("budget", "nearly used up")
    assert not one.is_news("budget", "nearly used up")
    assert one.is_news("other", "nearly used up")
    assert one.is_news("budget", "used up")
    assert not one.is_news("budget", "used up")


def test_what_another_process_has_told_is_no_news() -> None:
    board = FakeBoard()
    one, other = Told(board), FakeBoard()
    second = Told(other)
    assert one.is_news("lab m", "no price")
    (notice,) = board.posted
    other.show(notice)
    assert not second.is_news("lab m", "no price")
    assert other.posted == []
    assert second.is_news("lab m", "used up")


def test_a_notice_that_makes_no_sense_does_no_harm() -> None:
    board = FakeBoard()
    one = Told(board)
    board.show(Notice(topic="told", key="a", body=b"\xff" * 10_000, ttl_s=1.0))
    assert one.is_news("a", "used up")


def test_what_is_known_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "_MAX_KNOWN", 2)
    one = Told()
    assert [one.is_news(what, "s") for what in "abcb"] == [True, True, True, False]
    assert one.is_news("a", "s")  # forgotten, as the oldest
