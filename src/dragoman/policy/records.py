"""What is written down for ever: one record per request, and one entry per admin action."""

import datetime as dt
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct


class UsageFacts(Struct, frozen=True, array_like=True, gc=False):
    """
    What many requests of one day have in common: whose they were, and how they went.

    Fields stand in the order of the store's columns, and as such in the spool: new ones go to the
    end.

    Attributes:
        session_id: As the client sent it; so are *agent_id*, *client* and *client_version*.
        model: The alias that was asked for.
        upstream_model: What served it; empty: nothing did.
        attempts: Calls of upstreams.
        adjustments: Field and action of each, as ``top_k dropped``.
        repairs: How many of each kind.
    """

    key_id: str
    key_name: str = ""
    workspace_id: str | None = None
    session_id: str = ""
    agent_id: str = ""
    client: str = ""
    client_version: str = ""
    model: str = ""
    upstream: str = ""
    upstream_model: str = ""
    is_stream: bool = False
    attempts: int = 0
    stop_reason: str = ""
    status: int = 0
    error_type: str = ""
    adjustments: tuple[str, ...] = ()
    repairs: dict[str, int] = {}


class UsageRecord(Struct, frozen=True, array_like=True, gc=False):
    """
    What one request of a known caller was, cost and led to. Never content.

    Fields stand in the order of the store's columns, and as such in the spool: new ones go to the
    end. Each request makes one, so that it is quick to make, to encode and to store.

    Attributes:
        id: The request id; a record that comes twice counts once.
        started_ms: Since 1970.
        facts: What it has in common with others, as ``encode_facts`` writes it: once for all.
        input_tokens: Fresh ones, without those of the cache.
        reasoning_tokens: Part of *output_tokens*.
        cost_micros: Millionths of a US dollar; None: no price is known.
        first_content_ms: From the request's arrival to the first content; None: there was none.
    """

    id: str
    started_ms: int
    facts: Raw
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int | None = None
    first_content_ms: int | None = None
    duration_ms: int = 0


_encode_facts: Final = msgspec.json.Encoder().encode
decode_facts: Final = msgspec.json.Decoder(UsageFacts).decode


def encode_facts(facts: UsageFacts) -> Raw:
    """Return *facts* as JSON; the same facts are always the same bytes."""
    return Raw(_encode_facts(facts))


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One action of an administrator, by whatever way; never a key."""

    id: str
    at: dt.datetime
    actor: str  # the admin key's id and name, or cli:USER
    action: str  # key.create, key.revoke, workspace.change, ...
    subject: str  # id of what it was done to
    details: dict[str, Any] = {}  # the fields that were given or changed


Dimension = Literal[
    "key",
    "workspace",
    "model",
    "upstream",
    "served",  # the model's name at the upstream
    "session",
    "client",
    "day",
    "hour",
    "minute",
]


# The groups in their own order, or those first that have the most of something.
UsageSort = Literal["group", "cost", "tokens", "requests"]


class UsageQuery(Struct, frozen=True, kw_only=True):
    """
    Which records to add up, and by what.

    Of days whose records were added up already there is no session any more, and no time of day:
    all of such a day counts as its first moment.

    Attributes:
        since: Of when they started, inclusive.
        until: The same, exclusive.
        group_by: One row for each combination of these; none: one row in all.
        sort: Of rows with the same sum, those come first whose group does.
        limit: Rows at most, in that order.
        offset: Rows of that order that are left out before the first one.
    """

    since: dt.datetime
    until: dt.datetime
    group_by: tuple[Dimension, ...] = ()
    key_ids: tuple[str, ...] = ()  # none of these: whatever it is
    workspace_ids: tuple[str | None, ...] = ()
    models: tuple[str, ...] = ()
    sort: UsageSort = "group"
    limit: int = 10_000
    offset: int = 0


class UsageRow(Struct, frozen=True, kw_only=True):
    """The sum of a group of records; *group* has a value for each dimension that was asked for."""

    group: dict[str, str]
    requests: int = 0
    errors: int = 0
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int = 0
    unpriced: int = 0  # requests with tokens without a known price: the cost is more than it says


class SpentQuery(Struct, frozen=True, kw_only=True):
    """
    Whose use of budgets is asked for.

    Attributes:
        since: The first moment of a day in UTC.
        until: The same, exclusive.
    """

    scope: Literal["key", "workspace"]
    owners: tuple[str, ...]  # ids of these
    since: dt.datetime
    until: dt.datetime


class Spent(Struct, frozen=True, kw_only=True):
    """What was used of budgets; tokens of all kinds together."""

    tokens: int = 0
    cost_micros: int = 0
