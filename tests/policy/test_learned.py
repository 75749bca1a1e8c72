"""Facts that refusals teach, above those of a profile."""

from dragoman.core.dialects.profile import GENERIC
from dragoman.core.plan import Deployment
from dragoman.policy.learned import LearnedFacts

LAB = Deployment(upstream="lab", model="m", profile=GENERIC)


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
