"""Whatever clients and upstreams say: a usage record of it can be stored, and added up."""

import asyncio
import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.adjustments import Adjustment
from dragoman.core.usage import Usage
from dragoman.policy.access import Caller
from dragoman.policy.records import UsageQuery, UsageRecord
from dragoman.policy.senders import read_sender, with_user_id
from dragoman.server.telemetry import RequestRecord
from dragoman.server.usage_records import RecordMaker
from dragoman.settings import StoreConfig
from dragoman.store_urls import StoreUrl
from dragoman.stores.sql import SqlStore, open_sql_store
from support.stores import NOW

TEXTS = st.text(max_size=400)
COUNTS = st.sampled_from([0, 1, 2**40, 2**43])
ALL = UsageQuery(
    since=NOW - dt.timedelta(days=1),
    until=NOW + dt.timedelta(seconds=1),
    group_by=("model", "session"),
)


@st.composite
def records(draw: st.DrawFn) -> UsageRecord:
    names = (b"user-agent", b"x-claude-code-session-id", b"x-claude-code-agent-id")
    headers = {name: draw(st.binary(max_size=300)) for name in names}
    action = draw(st.sampled_from(["dropped", "clamped"]))
    ended = RequestRecord(
        f"req_{draw(st.integers(0, 10**9))}",
        "POST",
        "/v1/messages",
        caller=Caller(key_id="config:ada", key_name=draw(TEXTS)),
        sender=with_user_id(read_sender(headers), draw(TEXTS)),
        model=draw(TEXTS),
        stop_reason=draw(TEXTS),
        error_type=draw(TEXTS),
        usage=Usage(*(draw(COUNTS) for _ in range(5)), is_estimate=False),
        cost_micros=draw(st.sampled_from([None, 0, 2**80])),
        adjustments=(Adjustment(draw(TEXTS), action, draw(TEXTS)),),
        repairs={"type": draw(COUNTS)},
    )
    now_s = draw(st.floats(0, 80_000))
    return RecordMaker().make(ended, clock_s=NOW.timestamp() - now_s, now_s=now_s)


def test_anything_can_be_stored(url: StoreUrl) -> None:
    known: set[tuple[object, ...]] = set()

    async def counted(store: SqlStore, batch: list[UsageRecord]) -> int:
        await store.add_usage(batch)
        return sum(row.requests for row in await store.usage(ALL))

    with asyncio.Runner() as runner:
        store = runner.run(open_sql_store(url, StoreConfig()))

        @settings(max_examples=30, deadline=None)
        @given(st.lists(records(), min_size=1, max_size=20, unique_by=lambda record: record.id))
        def check(batch: list[UsageRecord]) -> None:
            known.update((r.id, r.started_ms, bytes(r.facts)) for r in batch)
            assert runner.run(counted(store, batch)) == len(known)

        check()
        runner.run(store.close())
