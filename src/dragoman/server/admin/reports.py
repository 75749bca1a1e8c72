"""
Usage and cost as Anthropic's Admin API reports them, from the gateway's own records.

Sources: Anthropic Admin API, "Usage and Cost API", "Claude Code Analytics API". What this gateway
cannot know (tiers, regions, accepted edits) is null or 0 there, and said in the documentation.
"""

import datetime as dt
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct, structs

from dragoman.core.errors import InvalidRequest
from dragoman.policy.records import Dimension, UsageQuery, UsageRow
from dragoman.policy.registry import DEFAULT_WORKSPACE_ID
from dragoman.policy.store import GetStore
from dragoman.server.admin.operations import Ask, Operation, Parameter
from dragoman.server.admin.pages import not_ours, offset_of, page_token, text_of_page

_MAX_ROWS: Final = 20_000  # of one page of a report


class _Span(Struct, frozen=True):
    """A width of buckets: its length, how many a page has, and how many at most."""

    dimension: Dimension
    length: dt.timedelta
    usual: int
    most: int


_SPANS: Final[Mapping[str, _Span]] = {
    "1d": _Span("day", dt.timedelta(days=1), 7, 31),
    "1h": _Span("hour", dt.timedelta(hours=1), 24, 168),
    "1m": _Span("minute", dt.timedelta(minutes=1), 60, 1440),
}
# How the API calls what records are grouped by.
_DIMENSIONS: Final[Mapping[str, Dimension]] = {
    "api_key_id": "key",
    "workspace_id": "workspace",
    "model": "model",
}
# What may be asked for, too, but is the same of all records here.
_UNKNOWN: Final = ("service_tier", "context_window", "inference_geo", "speed", "account_id")
_EDITING: Final = ("edit_tool", "multi_edit_tool", "write_tool", "notebook_edit_tool")
_RANGE: Final = (
    Parameter("starting_at", "The first moment, RFC 3339.", is_needed=True),
    Parameter("ending_at", "The moment after the last one; now, if not given."),
    Parameter("bucket_width", "1d, 1h or 1m."),
    Parameter("limit", "Buckets of a page."),
    Parameter("page", "next_page of the page before."),
)


class Reports:
    """
    The three reports.

    Args:
        get_store: Opens the store.
        key_name: Returns the name of a key by its id, or the id.
        organization_id: As ``/v1/organizations/me`` says.
    """

    def __init__(
        self,
        get_store: GetStore,
        *,
        key_name: Callable[[str], Awaitable[str]],
        organization_id: str,
    ) -> None:
        self._get_store = get_store
        self._key_name = key_name
        self._organization_id = organization_id

    def operations(self) -> list[Operation]:
        """Return what is served."""
        base = "/v1/organizations"
        groups = Parameter("group_by", "A dimension; may come several times.", is_list=True)
        return [
            Operation(
                method="GET",
                path=f"{base}/usage_report/messages",
                role="read",
                about="Tokens by time, as Anthropic's Usage API reports them.",
                run=self.messages,
                parameters=(
                    *_RANGE,
                    groups,
                    Parameter("models", "Only these.", is_list=True),
                    Parameter("api_key_ids", "Only these.", is_list=True),
                    Parameter("workspace_ids", "Only these.", is_list=True),
                ),
            ),
            Operation(
                method="GET",
                path=f"{base}/cost_report",
                role="read",
                about="Cost by day in cents, as Anthropic's Cost API reports it.",
                run=self.cost,
                parameters=(*_RANGE, groups),
            ),
            Operation(
                method="GET",
                path=f"{base}/usage_report/claude_code",
                role="read",
                about="One day of Claude Code by key, as Anthropic's analytics report it.",
                run=self.claude_code,
                parameters=(
                    Parameter("starting_at", "The day, as 2026-11-25.", is_needed=True),
                    Parameter("limit", "Entries of a page."),
                    Parameter("page", "next_page of the page before."),
                ),
            ),
        ]

    async def messages(self, ask: Ask) -> dict[str, Any]:
        """Return buckets of tokens."""
        named = _grouping(ask, (*_DIMENSIONS, *_UNKNOWN))
        page = _TimePage(ask)
        query = structs.replace(
            page.query(group_by=[_DIMENSIONS[name] for name in named if name in _DIMENSIONS]),
            key_ids=tuple(ask.query.get("api_key_ids", ())),
            models=tuple(ask.query.get("models", ())),
            workspace_ids=tuple(map(_inner_id, ask.query.get("workspace_ids", ()))),
        )
        rows = page.fitting(await self._sum(query))
        return page.filled(rows, lambda row: _tokens(row, named))

    async def cost(self, ask: Ask) -> dict[str, Any]:
        """Return buckets of cost."""
        named = _grouping(ask, ("workspace_id", "description"))
        page = _TimePage(ask, widths=("1d",))
        by: list[Dimension] = ["workspace"] if "workspace_id" in named else []
        if "description" in named:
            by.append("model")
        rows = page.fitting(await self._sum(page.query(group_by=by)))
        return page.filled(rows, lambda row: _cost(row, named))

    async def claude_code(self, ask: Ask) -> dict[str, Any]:
        """Return what each key did with Claude Code on one day."""
        start = ask.moment("starting_at")
        if start is None:
            raise InvalidRequest("starting_at", "Field required")
        day = start.replace(hour=0, minute=0, second=0, microsecond=0)
        query = UsageQuery(since=day, until=day + _SPANS["1d"].length, group_by=("key", "client"))
        keys = sorted({row.group["key"] for row in await self._of_claude_code(query)})
        begin, size = offset_of(ask), ask.page_size()
        shown = tuple(keys[begin : begin + size])
        by_key: dict[str, list[UsageRow]] = {key_id: [] for key_id in shown}
        by: tuple[Dimension, ...] = ("key", "client", "model", "session")
        if shown:  # without keys it would ask for all
            query = structs.replace(query, group_by=by, key_ids=shown)
            for row in await self._of_claude_code(query):
                by_key[row.group["key"]].append(row)
        data = [await self._activity(day, key_id, by_key[key_id]) for key_id in shown]
        has_more = begin + size < len(keys)
        return {
            "data": data,
            "has_more": has_more,
            "next_page": page_token(str(begin + size)) if has_more else None,
        }

    async def _activity(
        self, day: dt.datetime, key_id: str, rows: Sequence[UsageRow]
    ) -> dict[str, Any]:
        by_model: dict[str, list[UsageRow]] = {}
        for row in rows:
            by_model.setdefault(row.group["model"], []).append(row)
        nothing = {"accepted": 0, "rejected": 0}
        return {
            "date": _rfc3339(day),
            "actor": {"type": "api_actor", "api_key_name": await self._key_name(key_id)},
            "organization_id": self._organization_id,
            "customer_type": "api",
            "terminal_type": "unknown",
            "core_metrics": {
                "num_sessions": len({row.group["session"] for row in rows} - {""}),
                "lines_of_code": {"added": 0, "removed": 0},
                "commits_by_claude_code": 0,
                "pull_requests_by_claude_code": 0,
            },
            "tool_actions": dict.fromkeys(_EDITING, nothing),
            "model_breakdown": [_breakdown(model, by_model[model]) for model in sorted(by_model)],
        }

    async def _of_claude_code(self, query: UsageQuery) -> list[UsageRow]:
        rows = await self._sum(query)
        if len(rows) > _MAX_ROWS:
            reason = f"the page would be made of over {_MAX_ROWS} rows; ask for fewer entries"
            raise InvalidRequest("limit", reason)
        return [row for row in rows if row.group["client"].startswith("claude-c")]  # -cli, -code

    async def _sum(self, query: UsageQuery) -> list[UsageRow]:
        """Return at most one row more than there should be."""
        store = await self._get_store()
        return await store.usage(structs.replace(query, limit=_MAX_ROWS + 1))


class _TimePage:
    """The buckets of one page: from where to where, and what follows."""

    def __init__(self, ask: Ask, *, widths: Sequence[str] = tuple(_SPANS)) -> None:
        span = self._span = _SPANS[ask.choice("bucket_width", widths, "1d")]
        start, end = ask.moment("starting_at"), ask.moment("ending_at")
        if start is None:
            raise InvalidRequest("starting_at", "Field required")
        if end is not None and end <= start:
            raise InvalidRequest("ending_at", "must be after starting_at")
        end = min(end or ask.now, ask.now)
        self._start = _floor(_position(ask) or start, span.length)
        n = ask.number("limit", default=span.usual, most=span.most)
        self._has_more = n * span.length < end - self._start
        self._end = self._start + n * span.length if self._has_more else max(end, self._start)

    def query(self, *, group_by: Sequence[Dimension]) -> UsageQuery:
        """Return what the records of the page are asked for with."""
        return UsageQuery(
            since=self._start,
            until=self._end,
            group_by=(self._span.dimension, *group_by),
        )

    def fitting(self, rows: list[UsageRow]) -> list[UsageRow]:
        """
        Return rows, which are in the order of time; of too many those that fill whole buckets.

        The page ends before the first bucket that is not whole, with which the next one begins.

        Raises:
            InvalidRequest: There is no whole bucket.
        """
        if len(rows) <= _MAX_ROWS:
            return rows
        self._end, self._has_more = self._time_of(rows[-1]), True
        if self._end <= self._start:
            reason = f"a bucket would have over {_MAX_ROWS} rows; ask for fewer groups"
            raise InvalidRequest("group_by", f"{reason}, or for some models, keys or workspaces")
        return [row for row in rows if self._time_of(row) < self._end]

    def _time_of(self, row: UsageRow) -> dt.datetime:
        return _in_utc(dt.datetime.fromisoformat(row.group[self._span.dimension]))

    def filled(
        self, rows: Iterable[UsageRow], show: Callable[[UsageRow], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return the page: every bucket, those without records too."""
        results: dict[dt.datetime, list[dict[str, Any]]] = {}
        for row in rows:
            results.setdefault(self._time_of(row), []).append(show(row))
        data, at = [], self._start
        while at < self._end:
            end = at + self._span.length
            found = results.get(at, [])
            data.append({"starting_at": _rfc3339(at), "ending_at": _rfc3339(end), "results": found})
            at = end
        token = page_token(_rfc3339(self._end)) if self._has_more else None
        return {"data": data, "has_more": self._has_more, "next_page": token}


def _grouping(ask: Ask, known: Sequence[str]) -> tuple[str, ...]:
    named = tuple(dict.fromkeys(ask.query.get("group_by", ())))
    for name in named:
        if name not in known:
            raise InvalidRequest("group_by", f"must be one of {', '.join(known)}")
    return named


def _tokens(row: UsageRow, named: Sequence[str]) -> dict[str, Any]:
    group = row.group
    return {
        "uncached_input_tokens": row.input_tokens,
        "cache_creation": {
            "ephemeral_1h_input_tokens": 0,
            "ephemeral_5m_input_tokens": row.cache_creation_input_tokens,
        },
        "cache_read_input_tokens": row.cache_read_input_tokens,
        "output_tokens": row.output_tokens,
        "server_tool_use": {"web_search_requests": 0},
        "api_key_id": group["key"] if "api_key_id" in named else None,
        "workspace_id": _outer_id(group["workspace"]) if "workspace_id" in named else None,
        "model": group["model"] if "model" in named else None,
        **dict.fromkeys(_UNKNOWN),
    }


def _cost(row: UsageRow, named: Sequence[str]) -> dict[str, Any]:
    is_described = "description" in named
    model = row.group["model"] if is_described else None
    return {
        "currency": "USD",
        "amount": _cents(row.cost_micros),
        "workspace_id": _outer_id(row.group["workspace"]) if "workspace_id" in named else None,
        "description": f"{model} Usage" if is_described else None,
        "cost_type": "tokens" if is_described else None,
        "model": model,
        "token_type": None,
        "context_window": None,
        "service_tier": None,
        "inference_geo": None,
    }


def _breakdown(model: str, rows: Sequence[UsageRow]) -> dict[str, Any]:
    return {
        "model": model,
        "tokens": {
            "input": sum(row.input_tokens for row in rows),
            "output": sum(row.output_tokens for row in rows),
            "cache_read": sum(row.cache_read_input_tokens for row in rows),
            "cache_creation": sum(row.cache_creation_input_tokens for row in rows),
        },
        # Whole cents, where the cost report has fractions.
        "estimated_cost": {
            "currency": "USD",
            "amount": round(sum(row.cost_micros for row in rows) / 10_000),
        },
    }


def _cents(micros: int) -> str:
    """Return millionths of a dollar in cents, as a decimal number without an exponent."""
    return format((Decimal(micros) / 10_000).normalize(), "f")


def _outer_id(workspace_id: str) -> str | None:
    return workspace_id or None


def _inner_id(workspace_id: str) -> str | None:
    return None if workspace_id in ("", DEFAULT_WORKSPACE_ID) else workspace_id


def _floor(at: dt.datetime, length: dt.timedelta) -> dt.datetime:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return at - (at - epoch) % length


def _in_utc(at: dt.datetime) -> dt.datetime:
    return at.replace(tzinfo=dt.UTC) if at.tzinfo is None else at.astimezone(dt.UTC)


def _rfc3339(at: dt.datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _position(ask: Ask) -> dt.datetime | None:
    text = text_of_page(ask)
    try:
        return _in_utc(dt.datetime.fromisoformat(text)) if text else None
    except (ValueError, OverflowError):
        raise not_ours() from None
