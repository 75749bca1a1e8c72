"""The whole request path without a socket: a configuration, scripted upstreams, and requests."""

import asyncio
import io
import json
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import pytest

from dragoman.build_limits import build_lines, build_rules, with_fallback
from dragoman.core.dialects.profile import Vocabulary
from dragoman.core.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from dragoman.core.signatures import Signer
from dragoman.policy.calibration import Calibration
from dragoman.policy.choice import Chooser
from dragoman.policy.cross_origin import CrossOrigin
from dragoman.policy.expected_use import ExpectedUse
from dragoman.policy.health import Health
from dragoman.policy.hedges import Hedges
from dragoman.policy.keys import KeyRing
from dragoman.policy.learned import LearnedFacts
from dragoman.policy.limits import Limiter
from dragoman.policy.load import Load
from dragoman.policy.prices import Prices
from dragoman.policy.routes import Routes
from dragoman.policy.store import GetStore
from dragoman.policy.told import Told
from dragoman.server.admin_access import AdminAccess
from dragoman.server.admin_door import AdminDoor
from dragoman.server.admission import Admission
from dragoman.server.app import App
from dragoman.server.budget_seeds import BudgetSeeds
from dragoman.server.callers import Callers
from dragoman.server.count_tokens import CountTokens
from dragoman.server.documents import Documents
from dragoman.server.explain import Explainer
from dragoman.server.fetch import GuardedFetcher
from dragoman.server.key_cache import KeyCache
from dragoman.server.messages import Messages
from dragoman.server.meter import Meter
from dragoman.server.metrics import Metrics
from dragoman.server.metrics_page import MetricsPage
from dragoman.server.planner import Planner
from dragoman.server.readiness import Readiness
from dragoman.server.services import MessageLimits, Services
from dragoman.server.telemetry import EventLog
from dragoman.server.tokenizers import Count, LocalTokenizers
from dragoman.server.tracing import Tracing
from dragoman.server.vault import Vault
from dragoman.settings import (
    Config,
    ModelConfig,
    PriceConfig,
    RolesConfig,
    RoutingConfig,
    ServerConfig,
    UpstreamConfig,
)
from dragoman.stores.limiter_memory import MemoryLimiter
from support.fakes import FakeExchange, FakeUpstream, Step, data, end, head
from support.sse_grammar import AssembledMessage, check_error, check_message, check_stream

_T = TypeVar("_T")
KEY = "lab-credential-never-shown"
ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "Hi"}],
}
Script = Sequence[Step | float]
both_ways = pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])


class AppCase:
    """
    An app with one model ``m`` on *upstreams*, tried in that order.

    Must be made and used inside one event loop; ``run`` does both.

    Args:
        scripts: For each upstream, by name; ``native...`` is an Anthropic upstream, and one with a
            number (``lab/2``) an endpoint of it.
        profile: Overrides facts about the model.
        options: Further settings of upstreams, by name; of ``m`` as ``model``.
        models: Settings of models by name, instead of ``m``.
        roles: Names of roles and their models.
        routing: Settings of ``[routing]``.
        keys: Client keys.
        stored_keys: Those of a store.
        names: What the upstreams' hosts in URLs resolve to.
        prices: Of models; every upstream is DeepSeek's.
        tokenizers: What loads local tokenizers; none are installed otherwise.
        metrics_token: What scrapes must send; None: they come from this machine.
        meter: Writes down what requests were.
        settings: Further fields of the configuration. Without ``server`` nobody waits in line.
        limiter: Counts; one of its own otherwise.
        get_store: Where budgets find what was used before, and admin keys are looked up.
        tracing: Takes spans; by default nobody does.
        clock: Seconds since 1970, for limits and budgets.
        limits: Overrides of the messages' limits.
    """

    def __init__(
        self,
        scripts: Mapping[str, Sequence[Script]] | None = None,
        *,
        profile: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        roles: Mapping[str, str] | None = None,
        routing: Mapping[str, Any] | None = None,
        keys: Sequence[tuple[str, str]] = (),
        stored_keys: KeyCache | None = None,
        names: Mapping[str, str] | None = None,
        max_concurrent: int = 100,
        settings: Mapping[str, Any] | None = None,
        limiter: Limiter | None = None,
        get_store: GetStore | None = None,
        tracing: Tracing | None = None,
        clock: Callable[[], float] = time.time,
        prices: Sequence[PriceConfig] = (),
        tokenizers: Mapping[Vocabulary, Callable[[], Count | None]] | None = None,
        metrics_token: str | None = None,
        meter: Meter | None = None,
        **limits: Any,
    ) -> None:
        scripts = {"lab": ()} if scripts is None else scripts
        self.upstreams = {name: FakeUpstream(*calls) for name, calls in scripts.items()}
        self.config = _config(scripts, profile or {}, options=options or {})
        self.config = msgspec.structs.replace(
            self.config,
            models={n: ModelConfig(**m) for n, m in (models or {}).items()} or self.config.models,
            roles=RolesConfig(**(roles or {})),
            routing=RoutingConfig(**(routing or {})),
        )
        server = ServerConfig(max_concurrent_requests=max_concurrent, max_waiting_requests=0)
        configured = {"server": server, **(settings or {})}
        self.config = msgspec.structs.replace(self.config, **configured)
        keys = [*keys, *((key.name, key.key.reveal()) for key in self.config.keys)]
        self.log_text = io.StringIO()
        self._names = {"public.example": "93.184.216.34", **(names or {})}
        self.documents = Documents(fetcher := GuardedFetcher(resolve=self._resolve))
        routes = Routes(self.config)
        signer = Signer(b"a secret of sixteen bytes or more")
        self._learned = learned = LearnedFacts()
        planner = Planner(
            self.documents, fetcher, signer, learned=learned, calibration=Calibration()
        )
        log = EventLog("json", self.log_text)
        self.metrics = Metrics()
        self.health = Health(self.config.routing)
        self.load = Load()
        bounds, server = _limits(limits), self.config.server
        self.limiter = limiter or MemoryLimiter()
        self.lines = build_lines(self.config)
        pricing = Prices(prices, dict.fromkeys(scripts, "deepseek"))
        self.seeds = BudgetSeeds(get_store)
        self.admission = Admission(
            build_rules(self.config),
            with_fallback(self.config, self.limiter, log=log),
            expected=ExpectedUse(),
            prices=pricing,
            seeds=self.seeds,
            log=log,
            told=Told(),
            contact=self.config.limits.contact,
            clock=clock,
        )
        self.services = services = Services(
            routes=routes,
            upstreams=self.upstreams,
            secrets=dict.fromkeys(scripts, (KEY,)),
            planner=planner,
            learned=learned,
            vault=Vault(),
            signer=signer,
            limits=bounds,
            log=log,
            health=self.health,
            load=self.load,
            chooser=Chooser(self.health, self.load, draw=random.random),
            prices=pricing,
            hedges=Hedges(self.load),
            metrics=self.metrics,
            admission=self.admission,
            lines=self.lines,
            max_wait_s=server.max_wait_s,
        )
        self.messages = Messages(routes, services)
        self.app = App(
            callers=Callers(KeyRing(keys), stored_keys),
            allowed_hosts=("gateway.lab",),
            messages=self.messages,
            count_tokens=CountTokens(
                routes=routes,
                upstreams=self.upstreams,
                planner=planner,
                tokenizers=LocalTokenizers(tokenizers or {}),
                health=self.health,
                max_body_bytes=bounds.max_body_bytes,
                max_messages=bounds.max_messages,
                max_nesting=bounds.max_nesting,
            ),
            routes=routes,
            readiness=Readiness(routes, self.upstreams, engine_ready=None),
            cross_origin=CrossOrigin(["https://app.example"]),
            max_inside=server.max_concurrent_requests + server.max_waiting_requests,
            line=self.lines.own,
            log=log,
            metrics=self.metrics,
            metrics_page=MetricsPage(self.metrics.samples, token=metrics_token),
            tracing=tracing or Tracing(),
            admins=(admins := AdminAccess(get_store)),
            admin=None
            if get_store is None
            else AdminDoor(
                self.config,
                routes,
                get_store=get_store,
                access=admins,
                explainer=Explainer(services, self.upstreams),
                organization_id="org_lab",
                log=log,
            ),
            meter=meter,
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        """Everything logged so far."""
        return [json.loads(line) for line in self.log_text.getvalue().splitlines()]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines about requests."""
        return [event for event in self.events if event["event"] == "request"]

    @property
    def record(self) -> dict[str, Any]:
        """The one line about the one request."""
        (record,) = self.records
        return record

    def sent(self, upstream: str = "lab") -> list[dict[str, Any]]:
        """The bodies that *upstream* got."""
        return [json.loads(request.body) for request in self.upstreams[upstream].requests]

    def learnt(self) -> dict[str, Any]:
        """What refusals have taught about the first upstream's model."""
        target = Routes(self.config).resolve("m").targets[0]
        return self._learned.of(target.deployment)

    async def ask(self, body: Any = None, /, **request: Any) -> FakeExchange:
        """Answer one request."""
        exchange = exchange_of(body, **request)
        async with asyncio.timeout(20):
            await self.app.handle(exchange)
        return exchange

    async def close(self) -> None:
        """End what a case may have started."""
        self.admission.close()
        await self.seeds.close()
        await self.documents.close()

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        return [self._names[host]] if host in self._names else []


def exchange_of(body: Any = None, /, **request: Any) -> FakeExchange:
    """Return a request with this body, bytes or JSON; without one, ``ASK``."""
    if not isinstance(body, bytes):
        body = json.dumps(ASK if body is None else body).encode()
    return FakeExchange(body, **request)


def run(case: Coroutine[Any, Any, _T]) -> _T:
    """Run one case; nothing of it is left running."""

    async def main() -> _T:
        result = await case
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        assert not rest, f"still running: {rest}"
        return result

    return asyncio.run(main())


def message_of(exchange: FakeExchange) -> AssembledMessage:
    """Return the message in a reply, streamed or whole, checked as the strictest client would."""
    assert exchange.is_ended, "the reply has not ended"
    assert not exchange.is_aborted
    assert exchange.status == 200, exchange.reply
    if exchange.reply_headers[b"content-type"].startswith(b"text/event-stream"):
        return check_stream(exchange.reply)
    assert int(exchange.reply_headers[b"content-length"]) == len(exchange.reply)
    return check_message(exchange.reply)


def error_of(exchange: FakeExchange) -> dict[str, Any]:
    """Return the error of a reply, checked for the API's shape."""
    assert exchange.is_ended, "the reply has not ended"
    assert exchange.status >= 400, exchange.reply
    assert exchange.reply_headers[b"content-type"] == b"application/json"
    assert int(exchange.reply_headers[b"content-length"]) == len(exchange.reply)
    return check_error(exchange.reply)


def deliver(
    scripts: Mapping[str, Sequence[Script]] | Sequence[Script],
    /,
    *,
    body: Mapping[str, Any] | None = None,
    is_stream: bool = True,
    headers: dict[bytes, bytes] | None = None,
    **case: Any,
) -> tuple[FakeExchange, AppCase]:
    """Return the reply to one request, and the case."""
    named = scripts if isinstance(scripts, Mapping) else {"lab": scripts}

    async def main() -> tuple[FakeExchange, AppCase]:
        made = AppCase(named, **case)
        exchange = await made.ask({**(body or ASK), "stream": is_stream}, headers=headers)
        await made.close()
        return exchange, made

    return run(main())


def error_in(exchange: FakeExchange) -> dict[str, Any]:
    """Return the error that a begun stream ended with."""
    assert exchange.status == 200
    assert exchange.is_ended
    error = check_stream(exchange.reply).error
    assert error is not None
    return error


# -- scripts of upstreams

GONE = UpstreamUnavailable("The model's server could not be reached.")
RESET = UpstreamUnavailable("The model's server broke the connection.")
LATE = UpstreamTimeout("The model's server was silent for too long.")
WHOLE = json.dumps(
    {
        "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
)
HTML = "<!doctype html><title>502</title>"


def chunk(finish: str | None = None, /, **delta: Any) -> bytes:
    """Return one event of a chat-completions stream."""
    payload = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: %b\n\n" % json.dumps(payload).encode()


def usage(prompt: int, output: int) -> bytes:
    """Return the event that counts."""
    counts = {"prompt_tokens": prompt, "completion_tokens": output}
    return b"data: %b\n\n" % json.dumps({"choices": [], "usage": counts}).encode()


DONE = b"data: [DONE]\n\n"


def saying(text: str, *, prompt: int = 3, output: int = 2) -> Script:
    """Answer with *text*, streamed."""
    return [
        head(),
        data(chunk(content=text)),
        data(chunk("stop")),
        data(usage(prompt, output) + DONE),
        end(),
    ]


def calling(name: str, arguments: str, *, text: str = "") -> Script:
    """Answer with a tool call."""
    call = {"index": 0, "id": "c0", "function": {"name": name, "arguments": arguments}}
    body = chunk(content=text) if text else b""
    body += chunk(tool_calls=[call]) + chunk("tool_calls") + usage(10, 5) + DONE
    return [head(), data(body), end()]


def replying(status: int, body: bytes | str = b"", /, **headers: str) -> Script:
    """Answer with a whole body, JSON unless *headers* say otherwise."""
    raw = body.encode() if isinstance(body, str) else body
    return [head(status, **{"content_type": "application/json", **headers}), data(raw), end()]


def refusing(status: int, message: str = "no", /, **headers: str) -> Script:
    """Answer with an error in the form that OpenAI gives it."""
    return replying(status, json.dumps({"error": {"message": message}}), **headers)


def failing(error: UpstreamError) -> Script:
    """Fail before any reply."""
    return [lambda receiver: receiver.on_error(error)]


NATIVE_MESSAGE = {
    "id": "msg_theirs",
    "type": "message",
    "role": "assistant",
    "model": "real-m",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


NATIVE_START = {"type": "message_start", "message": {**NATIVE_MESSAGE, "content": []}}
NATIVE_BEGUN = data(f"event: message_start\ndata: {json.dumps(NATIVE_START)}\n\n".encode())


def native_saying(is_stream: bool) -> Script:
    if not is_stream:
        return replying(200, json.dumps(NATIVE_MESSAGE))
    start = {**NATIVE_MESSAGE, "content": [], "stop_reason": None}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    events = [
        {"type": "message_start", "message": start},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Hello"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    lines = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events]
    return [head(), *map(data, lines), end()]


def _config(
    names: Mapping[str, Any], profile: Mapping[str, Any], *, options: Mapping[str, Any]
) -> Config:
    upstreams = {
        name: _upstream(name, sorted(n for n in names if n.startswith(f"{name}/")), options)
        for name in dict.fromkeys(name.partition("/")[0] for name in names)
    }
    model = ModelConfig(
        upstream=tuple(upstreams),
        upstream_model="real-m",
        profile=dict(profile),
        **options.get("model", {}),
    )
    return Config(upstreams=upstreams, models={"m": model})


def _upstream(
    name: str, endpoints: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> UpstreamConfig:
    own = options.get(name, {})
    urls = tuple(f"http://{n.replace('/', '-')}/v1" for n in endpoints)
    return UpstreamConfig(
        base_url="http://lab/v1",
        base_urls=() if "api_keys" in own else urls,
        kind="anthropic" if name.startswith("native") else "openai",
        **own,
    )


def _limits(changes: Mapping[str, Any]) -> MessageLimits:
    plain: dict[str, Any] = {
        "max_body_bytes": 32 * 2**20,
        "max_messages": 100_000,
        "max_nesting": 200,
        "max_reply_bytes": 2**20,
        "max_event_bytes": 2**18,
        "early_start_s": 0.0,
        "ping_interval_s": 60.0,
    }
    return MessageLimits(**(plain | changes))
