"""Limits and budgets as they are written down: in the configuration, on keys and workspaces."""

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

Amount = Annotated[int, Meta(ge=0, le=2**53)]
Percent = Annotated[int, Meta(ge=1, le=100)]


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """
    How much at a time. None: no limit here; those of others still hold.

    A name that is not known is an error wherever limits are read: a slip of the keyboard would be
    no limit at all.
    """

    requests_per_minute: Amount | None = None
    input_tokens_per_minute: Amount | None = None
    output_tokens_per_minute: Amount | None = None
    concurrent: Amount | None = None  # requests at work, streams among them


class Budget(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much in a calendar day or month (UTC). At least one of the amounts is given."""

    period: Literal["day", "month"]
    cost_micros: Amount | None = None  # millionths of a US dollar
    tokens: Amount | None = None  # of prompts and replies together, cached ones too
    warn_at_pct: Percent = 80


class BudgetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget as people write it: in dollars."""

    period: Literal["day", "month"]
    cost_usd: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    tokens: Amount | None = None
    warn_at_pct: Percent = 80

    def budget(self) -> Budget:
        """Return it in millionths of a dollar."""
        cost = None if self.cost_usd is None else round(self.cost_usd * 1_000_000)
        return Budget(
            period=self.period, cost_micros=cost, tokens=self.tokens, warn_at_pct=self.warn_at_pct
        )


def budget_problems(budgets: Collection[BudgetConfig]) -> Iterator[tuple[int, str, str]]:
    """Yield what is wrong with budgets: the place of one, its field or nothing, and why."""
    seen: set[tuple[str, str]] = set()
    for index, budget in enumerate(budgets):
        amounts = {"cost_usd": budget.cost_usd, "tokens": budget.tokens}
        given = [name for name, amount in amounts.items() if amount is not None]
        if not given:
            yield index, "", "needs cost_usd or tokens"
        if budget.cost_usd and not budget.budget().cost_micros:
            yield index, "cost_usd", "is less than a millionth of a dollar; 0 allows nothing"
        for name in given:
            if (budget.period, name) in seen:
                yield index, name, f"given twice for a {budget.period}"
            seen.add((budget.period, name))


class LimitsConfig(Struct, frozen=True, kw_only=True):
    """
    What holds for everybody who has no limits of his own, and what happens without counters.

    Attributes:
        key: For each key, field by field where the key itself says nothing.
        workspace: The same for each workspace.
        contact: Whom people are told to ask when their budget is used up.
        when_unreachable: Where the shared counters cannot be reached: go on with those of this
            process, or refuse.
        local_share_pct: How much of each limit and budget this process then gives out alone.
    """

    key: Limits = Limits()
    workspace: Limits = Limits()
    contact: str = "whoever runs this gateway"
    when_unreachable: Literal["open", "closed"] = "open"
    local_share_pct: Percent = 25
