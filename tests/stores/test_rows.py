"""What lies in the tables is read whatever has written it: one odd row must not hide the others."""

import datetime as dt

from dragoman.limit_settings import Budget, Limits
from dragoman.policy.access import VirtualKey
from dragoman.stores.rows import RowCodec, from_ms
from support.stores import new_key

KEYS = RowCodec(VirtualKey)


def test_a_key_as_it_was() -> None:
    key = new_key(
        limits=Limits(concurrent=2),
        budgets=(Budget(period="day", tokens=5),),
        allowed_models=("glm-*",),
        expires_at=dt.datetime(2027, 1, 2, 3, 4, 5, 678_000, tzinfo=dt.UTC),
    )
    assert KEYS.decode(KEYS.encode(key)) == key


def test_limits_that_a_newer_gateway_knows_are_left_out() -> None:
    row = {**KEYS.encode(new_key()), "limits": '{"concurrent":2,"images_per_minute":3}'}
    assert KEYS.decode(row).limits == Limits(concurrent=2)


def test_a_time_behind_the_calendar_is_its_end() -> None:
    last = from_ms(2**60)
    assert last is not None
    assert (last.year, last.tzinfo) == (9999, dt.UTC)
