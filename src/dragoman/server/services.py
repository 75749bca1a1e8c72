"""What every request for a message needs, whichever way it goes."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from dragoman.core.signatures import Signer
from dragoman.policy.choice import Chooser
from dragoman.policy.health import Health
from dragoman.policy.hedges import Hedges
from dragoman.policy.learned import LearnedFacts
from dragoman.policy.load import Load
from dragoman.policy.prices import Prices
from dragoman.policy.routes import Routes
from dragoman.server.admission import Admission
from dragoman.server.line import Lines
from dragoman.server.metrics import Metrics
from dragoman.server.planner import Planner
from dragoman.server.telemetry import EventLog
from dragoman.server.transport.seams import Upstream
from dragoman.server.vault import Vault


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
        hedges: When a second one is asked beside the first.
        metrics: Told how many streams there are.
        admission: Holds limits and budgets.
        lines: Where requests wait for their turn.
        max_wait_s: How long they do.
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
    hedges: Hedges
    metrics: Metrics
    admission: Admission
    lines: Lines
    max_wait_s: float
