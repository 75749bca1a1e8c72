"""How much of a budget was used before its counter began: added up from the usage records."""

import asyncio
import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final

from dragoman.core.errors import GatewayError, SharedStateUnavailable
from dragoman.policy.allowances import Rule, Scope, Span, span_of
from dragoman.policy.records import Spent, SpentQuery
from dragoman.policy.store import GetStore

_TIMEOUT_S: Final = 5.0  # the first request of a period waits for it; the store may have to open
# Owners that are asked for together: a question costs more than what one of them has used, but
# nobody should wait for long because of others who have used much.
_FIRST_TOGETHER: Final = 16
_MOST_TOGETHER: Final = 128
_QUICK_S: Final = 0.2  # after such a question the next one may be about more of them
_SLOW_S: Final = 1.0  # and after such a one about fewer

_Group = tuple[Scope, Span]  # whose budgets one question can be about
_Answer = asyncio.Future[int]


class BudgetSeeds:
    """
    Ask the store, once for each budget and period at a time. Belongs to one event loop.

    After a start, and at midnight, every caller has a budget of which nothing is known. So those
    who come while a question is on its way are asked for together by the next one.

    Args:
        get_store: Where the records are; None: nowhere, and every budget begins at 0.
    """

    def __init__(self, get_store: GetStore | None) -> None:
        self._get_store = get_store
        self._asking: dict[tuple[Rule, Span], _Answer] = {}
        self._due: dict[_Group, list[tuple[Rule, _Answer]]] = {}
        self._tasks: dict[_Group, asyncio.Task[None]] = {}

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
                return [await asyncio.shield(answer) for answer in asked]
        except (TimeoutError, GatewayError) as error:
            reason = error.log_detail if isinstance(error, GatewayError) else "the store is late"
            raise SharedStateUnavailable(f"budgets: {reason or error}") from None

    async def close(self) -> None:
        """Ask no more."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        for answer in [*self._asking.values()]:
            answer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, rule: Rule, get_store: GetStore, *, now_s: float) -> _Answer:
        """Return the answer to come; those who want the same one wait for the same."""
        span = span_of(rule.period, now_s)
        key, group = (rule, span), (rule.scope, span)
        answer = self._asking.get(key)
        if answer is None:
            loop = asyncio.get_running_loop()
            answer = self._asking[key] = loop.create_future()
            answer.add_done_callback(lambda done: self._forget(key, done))
            self._due.setdefault(group, []).append((rule, answer))
            if group not in self._tasks:
                self._tasks[group] = loop.create_task(self._answer(group, get_store))
        return answer

    def _forget(self, key: tuple[Rule, Span], answer: _Answer) -> None:
        self._asking.pop(key, None)
        if not answer.cancelled():
            answer.exception()  # whoever waited has seen it; nobody may have

    async def _answer(self, group: _Group, get_store: GetStore) -> None:
        """Ask until nobody of the group is left who has not been asked for."""
        loop, n_together = asyncio.get_running_loop(), _FIRST_TOGETHER
        try:
            while due := self._due.pop(group, []):
                now, later = due[:n_together], due[n_together:]
                if later:
                    self._due[group] = later
                began_s = loop.time()
                await _tell(now, group, get_store)
                n_together = _next_size(n_together, loop.time() - began_s)
        finally:
            del self._tasks[group]


def _next_size(n_together: int, took_s: float) -> int:
    """Return how many to ask for together after a question about *n_together*."""
    if took_s > _SLOW_S:
        return max(1, n_together // 2)
    return min(2 * n_together, _MOST_TOGETHER) if took_s < _QUICK_S else n_together


async def _tell(due: Sequence[tuple[Rule, _Answer]], group: _Group, get_store: GetStore) -> None:
    """Give everyone an answer, if it is why there is none."""
    try:
        sums = await _sums([rule.owner for rule, _ in due], group, get_store)
    except Exception as error:  # whatever it is, whoever waits must learn of it
        for _, answer in due:
            if not answer.done():
                answer.set_exception(error)
        return
    for rule, answer in due:
        if not answer.done():
            answer.set_result(_of_kind(rule, sums.get(rule.owner)))


async def _sums(owners: Iterable[str], group: _Group, get_store: GetStore) -> dict[str, Spent]:
    """Return what each of the owners has used, if anything."""
    scope, span = group
    query = SpentQuery(
        scope="key" if scope == "key" else "workspace",
        owners=tuple(dict.fromkeys(owners)),
        since=dt.datetime.fromtimestamp(span.starts_s, dt.UTC),
        until=dt.datetime.fromtimestamp(span.ends_s, dt.UTC),
    )
    store = await get_store()
    return await store.spent(query)


def _of_kind(rule: Rule, spent: Spent | None) -> int:
    if spent is None:
        return 0
    return spent.cost_micros if rule.kind == "cost_micros" else spent.tokens
