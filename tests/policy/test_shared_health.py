"""An upstream that one process leaves alone, all leave alone, for as long as is left."""

from collections.abc import Mapping

import pytest
from msgspec import Struct, structs

from dragoman.core.errors import UpstreamRateLimited, UpstreamUnauthorized
from dragoman.policy.health import Health
from dragoman.policy.shared_health import share_health
from dragoman.policy.sharing import Notice
from dragoman.settings import RoutingConfig
from support.boards import FakeBoard


class Place(Struct, frozen=True):
    endpoint: str
    id: str


HERE = Place("lab/1", "lab/1 m")
NAMES = {"lab/1": "5f"}


def joined(now_s: float = 0.0, names: Mapping[str, str] = NAMES) -> tuple[Health, FakeBoard]:
    health, board = Health(RoutingConfig()), FakeBoard()
    share_health(health, board, names=names, clock=lambda: now_s)
    return health, board


def limited(for_s: float) -> UpstreamRateLimited:
    error = UpstreamRateLimited("no", retry_after_s=for_s)
    error.upstream_status = 429
    return error


def test_all_leave_it_alone_and_come_back_together() -> None:
    one, posting = joined()
    two, reading = joined(now_s=1000.0)
    one.fail(HERE, limited(30), 5.0)
    (notice,) = posting.posted
    assert (notice.key, notice.ttl_s) == ("5f m", 30.0)
    reading.show(notice)
    assert not two.may_ask(HERE, 1029.0)
    assert two.may_ask(HERE, 1030.0)
    assert reading.posted == []  # who is told does not tell
    one.succeed(HERE, 36.0)
    reading.show(posting.posted[-1])
    assert two.is_clear


def test_who_reads_it_later_waits_less() -> None:
    one, posting = joined()
    two, reading = joined(now_s=1000.0)
    one.fail(HERE, limited(30), 0.0)
    reading.show(structs.replace(posting.posted[0], ttl_s=10.0))
    assert not two.may_ask(HERE, 1009.0)
    assert two.may_ask(HERE, 1010.0)


def test_a_place_is_known_wherever_it_stands_in_the_list() -> None:
    one, posting = joined()
    two, reading = joined(names={"lab/1": "other", "lab/2": "5f"})
    one.fail(HERE, UpstreamUnauthorized("no"), 0.0)
    reading.show(posting.posted[0])
    assert two.may_ask(HERE, 1.0)
    assert not two.may_ask(Place("lab/2", "lab/2 m"), 1.0)


def test_another_address_or_key_is_not_left_alone_for_the_former() -> None:
    one, posting = joined()
    two, reading = joined(names={"lab/1": "other"})
    one.fail(HERE, UpstreamUnauthorized("no"), 0.0)
    reading.show(posting.posted[0])
    assert two.is_clear


@pytest.mark.parametrize("body", [b"[", b'{"subject":"x","cause":"of another version"}', b"{}"])
def test_what_is_not_understood_changes_nothing(body: bytes) -> None:
    health, board = joined()
    board.show(Notice(topic="health", key="x", body=body, ttl_s=9))
    assert health.is_clear
