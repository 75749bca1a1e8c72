"""What every request for a message needs, whichever way it goes."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, field, structs

from dragoman.core.signatures import Signer
from dragoman.core.turn_context import TurnContext
from dragoman.core.upstream_errors import ReplyContext
from dragoman.policy.allowances import RuleSet
from dragoman.policy.choice import Chooser
from dragoman.policy.health import Health
from dragoman.policy.hedges import Hedges
from dragoman.policy.learned import LearnedFacts
from dragoman.policy.load import Load
from dragoman.policy.prices import Prices, Rates
from dragoman.policy.routes import Routes, Target
from dragoman.server.admission import Admission
from dragoman.server.ids import new_nonce
from dragoman.server.line import Line, Lines
from dragoman.server.metrics import Metrics
from dragoman.server.planner import Planner
from dragoman.server.telemetry import EventLog
from dragoman.server.transport.seams import Timeouts, Upstream
from dragoman.server.vault import Vault

_MAX_FRAMES: Final = 10_000  # far over any configuration


class MessageLimits(Struct, frozen=True, kw_only=True):
    """Bounds and times of ``server.*`` that concern messages; seconds and bytes."""

    max_body_bytes: int
    max_messages: int
    max_nesting: int
    max_reply_bytes: int
    max_event_bytes: int
    early_start_s: float
    ping_interval_s: float


class CallFrame(Struct, frozen=True, kw_only=True):
    """
    What all calls of one target have in common, found out once.

    Attributes:
        target: Whom they ask.
        upstream: Where they go.
        line: Where they wait for their turn.
        rules: What holds for them where the target answers in its own name; None: nothing does.
        timeouts: How long they may take.
        price: What their tokens cost; None: nobody knows.
        reply: What must be known of a reply.
        whole: What a turn must know, where the client wants a whole reply.
        streamed: The same, where it wants a stream.
    """

    target: Target
    upstream: Upstream
    line: Line
    rules: RuleSet | None
    timeouts: Timeouts
    price: Rates | None
    reply: ReplyContext
    whole: TurnContext
    streamed: TurnContext


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
        frames: Those that ``frame_of`` has made, by the ids of their targets.
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
    frames: dict[int, CallFrame] = field(default_factory=dict)

    def frame_of(self, target: Target) -> CallFrame:
        """Return the frame of a *target* of the routes, as it stands there."""
        return self.frames.get(id(target)) or self._make_frame(target)

    def _make_frame(self, target: Target) -> CallFrame:
        deployment, limits = target.deployment, self.limits
        reply = ReplyContext(
            context_window=deployment.profile.context_window,
            max_reply_bytes=limits.max_reply_bytes,
            is_native=deployment.kind == "anthropic",
            secrets=self.secrets.get(deployment.upstream, ()),
        )
        streamed = TurnContext(
            signer=self.signer,
            nonce=new_nonce,
            reply=reply,
            max_event_bytes=limits.max_event_bytes,
            continues_empty=deployment.guards.continue_empty,
            continues_without_call=deployment.guards.ask_again_for_call,
        )
        whole = streamed
        if streamed.continues_empty == "unsent":  # of a whole reply nothing is sent before its end
            whole = structs.replace(streamed, continues_empty="always")
        frame = CallFrame(
            target=target,  # kept, so that no other one gets its id
            upstream=self.upstreams[target.endpoint],
            line=self.lines.of_endpoint(target.endpoint),
            rules=self.admission.rules.of_call(deployment.upstream, ""),
            timeouts=Timeouts(
                target.connect_timeout_s, target.first_byte_timeout_s, target.idle_timeout_s
            ),
            price=self.prices.find(deployment.model, upstream=deployment.upstream),
            reply=reply,
            whole=whole,
            streamed=streamed,
        )
        if len(self.frames) >= _MAX_FRAMES:
            self.frames.clear()
        self.frames[id(target)] = frame
        return frame
