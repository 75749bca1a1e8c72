"""What every request for a message needs, whichever way it goes."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from dragoman.core.signatures import Signer
from dragoman.policy.choice import Chooser
from dragoman.policy.health import Health
from dragoman.policy.learned import LearnedFacts
from dragoman.policy.load import Load
from dragoman.policy.prices import Prices
from dragoman.policy.routes import Routes
from dragoman.server.metrics import Metrics
from dragoman.server.planner import Planner
from dragoman.server.telemetry import EventLog
from dragoman.server.transport.seams import HeaderList, Upstream
from dragoman.server.vault import Vault
from dragoman.wire.anthropic import MessagesRequest


class MessageLimits(Struct, frozen=True, kw_only=True):
    """Bounds and times of ``server.*`` that concern messages; seconds and bytes."""

    max_body_bytes: int
    max_messages: int
    max_nesting: int
    max_reply_bytes: int
    max_event_bytes: int
    early_start_s: float
    ping_interval_s: float


class Services(Struct, frozen=True, kw_only=True):
    """
    The parts that requests are served with.

    Attributes:
        routes: What model names mean.
        upstreams: By the names of endpoints.
        secrets: Of each upstream; never shown, whatever the upstream says.
        planner: Plans requests.
        learned: Told what refusals teach; the planner reads it.
        vault: Keeps reasoning for clients that drop it.
        signer: Marks thinking blocks.
        limits: Bounds and times.
        log: Told of attempts that were followed by another.
        prices: For the cost of a reply.
        health: Which targets are left alone.
        load: How busy targets are.
        chooser: Puts the targets of a route in order.
        metrics: Told how many streams there are.
    """

    routes: Routes
    upstreams: Mapping[str, Upstream]
    secrets: Mapping[str, Sequence[str]]
    planner: Planner
    learned: LearnedFacts
    vault: Vault
    signer: Signer
    limits: MessageLimits
    log: EventLog
    prices: Prices
    health: Health
    load: Load
    chooser: Chooser
    metrics: Metrics


class Asked(Struct, frozen=True, kw_only=True):
    """One client's request: its bytes, decoded, and what native upstreams get beside them."""

    body: bytes
    request: MessagesRequest
    alias: str  # of the model, whatever name was sent
    native_headers: HeaderList
