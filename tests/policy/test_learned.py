"""Facts that refusals teach, above those of a profile; what one process learns, all know."""

import pytest

from dragoman.core.dialects.profile import GENERIC
from dragoman.core.plan import Deployment
from dragoman.policy.learned import LearnedFacts
from dragoman.policy.sharing import Notice
from support.boards import FakeBoard

LAB = Deployment(upstream="lab", model="m", profile=GENERIC)
FACTS = {"schema_refused": ("pattern",), "temperature_max": None, "max_output_tokens": 100}


def test_what_was_learnt_is_applied() -> None:
    learned = LearnedFacts()
    assert learned.apply(LAB) is LAB
    learned.add(LAB, {"max_stop_sequences": 4})
    learned.add(LAB, {"sends_user": False})
    profile = learned.apply(LAB).profile
    assert (profile.max_stop_sequences, profile.sends_user) == (4, False)
    assert learned.of(LAB) == {"max_stop_sequences": 4, "sends_user": False}
    assert (
        learned.apply(Deployment(upstream="lab", model="other", profile=GENERIC)).profile is GENERIC
    )


def test_the_same_profile_comes_out_until_more_is_learnt() -> None:
    learned = LearnedFacts()
    learned.add(LAB, {"max_stop_sequences": 4})
    before = learned.apply(LAB)
    assert learned.apply(LAB) is before
    same_name = Deployment(upstream="lab", model="m", profile=GENERIC)
    assert learned.apply(same_name) is not before
    learned.add(LAB, {"max_stop_sequences": 2})
    assert learned.apply(LAB).profile.max_stop_sequences == 2


def test_what_one_learns_the_others_apply() -> None:
    one, two = FakeBoard(), FakeBoard()
    learning, reading = LearnedFacts(one), LearnedFacts(two)
    learning.add(LAB, {"schema_refused": ("pattern",)})
    learning.add(LAB, {"temperature_max": None, "max_output_tokens": 100})
    assert [notice.ttl_s for notice in one.posted] == [3600.0, 3600.0]
    assert len({notice.key for notice in one.posted}) == 1
    two.show(one.posted[-1])  # the last one says all
    assert reading.of(LAB) == FACTS == learning.of(LAB)
    assert reading.apply(LAB) == learning.apply(LAB)
    assert two.posted == []


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ('["lab","m"]', b'{"max_output_tokens":"many"}'),
        ('["lab","m"]', b'{"of_another_version":1}'),
        ('["lab","m"]', b"["),
        ('"lab"', b'{"max_output_tokens":5}'),
    ],
)
def test_what_is_not_understood_changes_nothing(key: str, body: bytes) -> None:
    board = FakeBoard()
    facts = LearnedFacts(board)
    board.show(Notice(topic="learned", key=key, body=body, ttl_s=1))
    assert facts.of(LAB) == {}
    assert facts.apply(LAB) is LAB
