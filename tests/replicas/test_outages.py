"""
A replica is killed, Redis restarted and PostgreSQL cut for twenty seconds, while 200 clients ask.

No client sees anything but an error that is worth another try, or a stream that broke off; and
every request that was answered is in the store afterwards, but for the last second of the replica
that was killed.
"""

import asyncio
import time

import pytest

from dragoman.limit_settings import BudgetConfig, Limits
from support.chat_script import say
from support.crowd import Crowd, Outcome
from support.fleet import Fleet

pytestmark = [pytest.mark.server, pytest.mark.slow]
_CLIENTS = 200
_PATIENCE_S = 60
_LAST_S = 1.0  # what a process that is killed may take along


async def at(began_s: float, second: float) -> None:
    """Wait until *second* of the load."""
    await asyncio.sleep(max(0.0, began_s + second - time.monotonic()))


async def outages(fleet: Fleet, crowd: Crowd) -> float:
    """Let all of it happen under load; return when the replica was killed."""
    stop = asyncio.Event()
    load = asyncio.create_task(crowd.work(_CLIENTS, until=stop))
    began_s = time.monotonic()
    await at(began_s, 3)
    await asyncio.to_thread(fleet.postgres.kill)
    await at(began_s, 6)
    killed_s = time.monotonic()
    await asyncio.to_thread(fleet.kill, 0)
    await at(began_s, 10)
    await asyncio.to_thread(fleet.redis.kill)
    await at(began_s, 14)
    await asyncio.to_thread(fleet.redis.start)
    await at(began_s, 23)
    await asyncio.to_thread(fleet.postgres.start)
    await at(began_s, 26)
    stop.set()
    await load
    return killed_s


def is_safe(outcome: Outcome, killed_s: float) -> bool:
    """Whether the record of an answered request must be in the store in the end."""
    return outcome.replica != 0 or outcome.ended_s < killed_s - _LAST_S


def until_recorded(fleet: Fleet, ids: set[str]) -> set[str]:
    """Return which of *ids* are still missing when no more come."""
    end_s = time.monotonic() + _PATIENCE_S
    while (missing := ids - fleet.recorded()) and time.monotonic() < end_s:
        time.sleep(0.25)
    return missing


def test_nobody_is_lost_in_outages(fleet: Fleet) -> None:
    # Limits that are asked for at each request, and that nobody comes near.
    limits = Limits(requests_per_minute=10**6, output_tokens_per_minute=10**9, concurrent=10**5)
    budgets = (BudgetConfig(period="month", tokens=10**12),)
    _, key = fleet.new_key("lives through it", limits=limits, budgets=budgets)
    # So slow that the replica that is killed is sure to be at work on some of them.
    fleet.upstream.script(say("Hello, all of you.", delay_s=0.4, times=-1))
    crowd = Crowd(fleet.ports, key=key, pause_s=2.0)
    killed_s = asyncio.run(outages(fleet, crowd))
    unbearable = [each for each in crowd.outcomes if not each.is_bearable]
    assert unbearable == [], crowd.counts()
    broken = {each.end for each in crowd.outcomes if each.replica == 0 and each.end != "complete"}
    assert "refused" in broken, crowd.counts()  # it was not there any more
    assert broken & {"cut", "reset"}, crowd.counts()  # and before that it was at work
    answered = [each for each in crowd.outcomes if each.end == "complete"]
    # The replicas that are left go on through all of it.
    late = [each for each in answered if each.began_s > killed_s and each.replica != 0]
    asked = [each for each in crowd.outcomes if each.began_s > killed_s and each.replica != 0]
    assert len(late) > 0.9 * len(asked), crowd.counts()
    fleet.restart(0)  # what it had written down is found
    ids = {each.request_id for each in answered if is_safe(each, killed_s)}
    assert until_recorded(fleet, ids) == set()
