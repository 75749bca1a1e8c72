"""The line: bounded, fair between keys, interactive first, and no place is ever lost."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import GatewayStopping, Overloaded
from dragoman.server.line import Line


def line(places: int = 1, **changes: Any) -> Line:
    plain = {"max_waiting": 100, "max_per_key": 100, "max_wait_s": 10.0}
    return Line("the gateway", places, **{**plain, **changes})


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def order_of(requests: Sequence[tuple[str, bool]]) -> list[int]:
    """Return the order in which requests, in line behind one at work, get their turns."""
    one, order = line(), []
    assert one.try_enter()

    async def work(number: int, key: str, is_background: bool) -> None:
        await one.enter(key, is_background=is_background)
        order.append(number)
        one.leave()

    tasks = []
    for number, (key, is_background) in enumerate(requests):
        tasks.append(asyncio.create_task(work(number, key, is_background)))
        await settle()
    one.leave()
    await asyncio.gather(*tasks)
    assert (one.n_inside, one.n_waiting) == (0, 0)
    return order


def test_keys_take_turns() -> None:
    greedy, shy = ("a", False), ("b", False)
    assert asyncio.run(order_of([greedy, greedy, greedy, shy, shy])) == [0, 3, 1, 4, 2]


def test_within_a_key_who_came_first_is_first() -> None:
    assert asyncio.run(order_of([("a", False)] * 5)) == [0, 1, 2, 3, 4]


def test_background_requests_come_last() -> None:
    requests = [("a", True), ("b", True), ("a", False), ("a", True), ("b", False)]
    assert asyncio.run(order_of(requests)) == [2, 4, 0, 1, 3]


def test_who_finds_a_place_does_not_wait() -> None:
    one = line(2)
    assert one.try_enter()
    assert one.try_enter()
    assert not one.try_enter()
    one.leave()
    assert one.try_enter()


def test_a_full_line_sends_away() -> None:
    async def main() -> None:
        one = line(max_waiting=2)
        assert one.try_enter()
        tasks = [asyncio.create_task(one.enter(key, is_background=False)) for key in "ab"]
        await settle()
        with pytest.raises(
            Overloaded, match=r"at work on 1 request, with 2 more in line"
        ) as caught:
            await one.enter("c", is_background=False)
        assert caught.value.retry_after_s == 1.0
        assert one.n_refused == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert one.n_waiting == 0

    asyncio.run(main())


def test_one_key_cannot_fill_the_line() -> None:
    async def main() -> None:
        one = line(max_per_key=1)
        assert one.try_enter()
        waiting = asyncio.create_task(one.enter("a", is_background=True))
        await settle()
        with pytest.raises(Overloaded, match="with 1 more of this key in line"):
            await one.enter("a", is_background=False)
        other = asyncio.create_task(one.enter("b", is_background=False))
        await settle()
        assert one.n_waiting == 2
        one.leave()
        await other
        one.leave()
        await waiting

    asyncio.run(main())


def test_nobody_waits_for_ever() -> None:
    async def main() -> None:
        one = line(max_wait_s=0.01)
        assert one.try_enter()
        with pytest.raises(Overloaded, match=r"no turn came within 0\.01 s"):
            await one.enter("a", is_background=False)
        assert (one.n_waiting, one.n_inside) == (0, 1)
        one.leave()
        assert one.n_inside == 0

    asyncio.run(main())


def test_a_line_where_nobody_may_wait() -> None:
    async def main() -> None:
        one = line(max_waiting=0)
        assert one.try_enter()
        with pytest.raises(Overloaded, match="with 0 more in line"):
            await one.enter("a", is_background=False)

    asyncio.run(main())


def test_where_there_are_no_places_nobody_waits() -> None:
    async def main() -> None:
        one = line(0)
        assert not one.try_enter()
        with pytest.raises(Overloaded, match="takes no requests: its limit is 0") as caught:
            await one.enter("a", is_background=False)
        assert (caught.value.should_retry, caught.value.retry_after_s) == (False, None)

    asyncio.run(main())


def test_a_place_given_to_one_who_has_just_left_goes_on() -> None:
    async def main() -> None:
        one = line()
        assert one.try_enter()
        leaving = asyncio.create_task(one.enter("a", is_background=False))
        staying = asyncio.create_task(one.enter("b", is_background=False))
        await settle()
        one.leave()  # it is the turn of the first one, who does not know it yet
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert leaving.cancelled()
        async with asyncio.timeout(5):
            await staying
        assert (one.n_inside, one.n_waiting) == (1, 0)

    asyncio.run(main())


def test_a_closed_line_sends_away_who_waits_and_lets_others_work() -> None:
    async def main() -> None:
        one = line(2)
        assert one.try_enter()
        assert one.try_enter()
        waiting = [asyncio.create_task(one.enter(key, is_background=key == "b")) for key in "aab"]
        await settle()
        one.close()
        with pytest.raises(GatewayStopping, match="the gateway is stopping") as caught:
            await one.enter("c", is_background=False)
        assert (caught.value.status, caught.value.retry_after_s) == (529, 1.0)
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [GatewayStopping] * 3
        assert (one.n_inside, one.n_waiting, one.n_refused) == (2, 0, 4)
        one.leave()
        await one.enter("c", is_background=False)  # nobody has to wait for it
        assert one.n_inside == 2

    asyncio.run(main())


def test_one_who_leaves_as_the_line_closes_had_no_place() -> None:
    async def main() -> None:
        one = line()
        assert one.try_enter()
        leaving = asyncio.create_task(one.enter("a", is_background=False))
        await settle()
        one.close()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert one.n_inside == 1

    asyncio.run(main())


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from(["come", "leave", "cancel"])),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(1, 3))
def test_whatever_happens_places_add_up(steps: list[tuple[str, bool, str]], places: int) -> None:
    async def main() -> None:
        one = line(places, max_waiting=8, max_per_key=4)
        waiting: list[asyncio.Task[None]] = []
        inside: list[asyncio.Task[None]] = []
        for key, is_background, what in steps:
            if what == "come":
                waiting.append(asyncio.create_task(one.enter(key, is_background=is_background)))
            elif what == "leave" and inside:
                inside.pop()
                one.leave()
            elif what == "cancel" and waiting:
                waiting.pop(0).cancel()
            await settle()
            await settle()
            inside += [t for t in waiting if t.done() and not t.cancelled() and not t.exception()]
            waiting = [t for t in waiting if not t.done()]
            assert one.n_inside == len(inside) <= places
            assert one.n_waiting == len(waiting)
            assert not waiting or len(inside) == places, "somebody waits though a place is free"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(main())
