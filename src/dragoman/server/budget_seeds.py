"""How much of a budget was used before its counter began: added up from the usage records."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Final

from dragoman.core.errors import GatewayError, SharedStateUnavailable
from dragoman.policy.allowances import Rule, span_of
from dragoman.policy.records import UsageQuery
from dragoman.policy.store import GetStore

_TIMEOUT_S: Final = 5.0  # the first request of a period waits for it; the store may have to open


class BudgetSeeds:
    """
    Ask the store, once for each budget and period at a time. Belongs to one event loop.

    Args:
        get_store: Where the records are; None: nowhere, and every budget begins at 0.
    """

    def __init__(self, get_store: GetStore | None) -> None:
        self._get_store = get_store
        self._asking: dict[tuple[Rule, str], asyncio.Task[int]] = {}

    async def used(self, rules: Sequence[Rule], *, now_s: float) -> list[int]:
        """
        Return what was used of each budget in the period of *now_s*.

        Raises:
            SharedStateUnavailable: The store cannot say in time.
        """
        if self._get_store is None:
            return [0] * len(rules)
        asked = [self._ask(rule, self._get_store, now_s=now_s) for rule in rules]
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return [await asyncio.shield(task) for task in asked]
        except (TimeoutError, GatewayError) as error:
            reason = error.log_detail if isinstance(error, GatewayError) else "the store is late"
            raise SharedStateUnavailable(f"budgets: {reason or error}") from None

    async def close(self) -> None:
        """Ask no more."""
        tasks = [*self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, rule: Rule, get_store: GetStore, *, now_s: float) -> asyncio.Task[int]:
        """Return the answer to come; those who want the same one wait for the same."""
        key = rule, span_of(rule.period, now_s).label
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(_sum(rule, get_store, now_s))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def _forget(self, key: tuple[Rule, str], task: asyncio.Task[int]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has seen it; nobody may have


async def _sum(rule: Rule, get_store: GetStore, now_s: float) -> int:
    span = span_of(rule.period, now_s)
    query = UsageQuery(
        since=dt.datetime.fromtimestamp(span.starts_s, dt.UTC),
        until=dt.datetime.fromtimestamp(span.ends_s, dt.UTC),
        key_ids=(rule.owner,) if rule.scope == "key" else (),
        workspace_ids=(rule.owner,) if rule.scope == "workspace" else (),
    )
    store = await get_store()
    rows = await store.usage(query)
    if rule.kind == "cost_micros":
        return sum(row.cost_micros for row in rows)
    return sum(
        row.input_tokens
        + row.cache_read_input_tokens
        + row.cache_creation_input_tokens
        + row.output_tokens
        for row in rows
    )
