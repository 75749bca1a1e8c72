"""Limits and budgets on the command line: flags over what was there, and for people to read."""

from msgspec import UNSET, UnsetType, structs

from dragoman.core.counted import counted
from dragoman.limit_settings import Budget, BudgetConfig, Limits


def merged_limits(now: Limits, given: Limits, *, starts_anew: bool) -> Limits | UnsetType:
    """Return the limits *now* with those that were *given*; UNSET: nothing changes."""
    if not starts_anew and given == Limits():
        return UNSET
    fields = {name: n for name, n in structs.asdict(given).items() if n is not None}
    return structs.replace(Limits() if starts_anew else now, **fields)


def merged_budgets(
    now: tuple[Budget, ...], given: tuple[BudgetConfig, ...], *, starts_anew: bool
) -> tuple[BudgetConfig, ...] | UnsetType:
    """Return the budgets *now* with those *given*, which count for their period."""
    if not starts_anew and not given:
        return UNSET
    periods = {budget.period for budget in given}
    kept = () if starts_anew else tuple(b for b in now if b.period not in periods)
    return (*(_config_of(budget) for budget in kept), *given)


def _config_of(budget: Budget) -> BudgetConfig:
    cost = None if budget.cost_micros is None else budget.cost_micros / 1_000_000
    return BudgetConfig(
        period=budget.period, cost_usd=cost, tokens=budget.tokens, warn_at_pct=budget.warn_at_pct
    )


def shown_limits(limits: Limits) -> str:
    """Return limits on one line."""
    minutes = {
        "request": limits.requests_per_minute,
        "input token": limits.input_tokens_per_minute,
        "output token": limits.output_tokens_per_minute,
    }
    parts = [f"{counted(n, what)} a minute" for what, n in minutes.items() if n is not None]
    if limits.concurrent is not None:
        parts.append(f"{limits.concurrent:,} at once")
    return ", ".join(parts) or "none of its own"


def shown_budgets(budgets: tuple[Budget, ...]) -> str:
    """Return budgets on one line."""
    parts = []
    for budget in budgets:
        if budget.cost_micros is not None:
            parts.append(f"${budget.cost_micros / 1_000_000:,.2f} a {budget.period}")
        if budget.tokens is not None:
            parts.append(f"{counted(budget.tokens, 'token')} a {budget.period}")
    return ", ".join(parts) or "none of its own"
