"""Path -> endpoint, error -> answer, and one log line for each request."""

import asyncio
import re
import time
from collections.abc import Awaitable, Collection
from typing import Final, Protocol

import msgspec

from dragoman import __version__
from dragoman.core.counted import counted
from dragoman.core.errors import (
    GatewayError,
    GatewayStopping,
    Overloaded,
    UnknownPath,
    error_headers,
    render_error,
)
from dragoman.policy.access import NOBODY
from dragoman.policy.cross_origin import CrossOrigin
from dragoman.policy.keys import ANYBODY
from dragoman.policy.open_access import check_open_access
from dragoman.policy.routes import Routes
from dragoman.server.admin_access import AdminAccess
from dragoman.server.admin_door import AdminDoor, is_admin_path
from dragoman.server.answers import CLIENT_GONE, answer, refuse
from dragoman.server.callers import Callers
from dragoman.server.count_tokens import CountTokens
from dragoman.server.head_facts import HeadFacts, facts_of
from dragoman.server.ids import new_request_id
from dragoman.server.line import Line
from dragoman.server.messages import Messages
from dragoman.server.meter import Meter
from dragoman.server.metrics import Metrics
from dragoman.server.metrics_page import PATH, MetricsPage
from dragoman.server.models import list_models, show_model
from dragoman.server.readiness import Readiness
from dragoman.server.telemetry import EventLog, RequestRecord
from dragoman.server.tracing import Tracing
from dragoman.server.transport.seams import ClientGone, Exchange, HeaderList

_encode: Final = msgspec.json.Encoder().encode
_JSON: Final = (b"content-type", b"application/json")
_MODELS: Final = "/v1/models"
_MESSAGES: Final = "/v1/messages"
_POSTED: Final = frozenset({_MESSAGES, f"{_MESSAGES}/count_tokens"})
_SHOWN: Final = frozenset({"/healthz", "/readyz", "/api/hello", "/"})  # without a key
# What base URLs ending in a slash or in /v1 put before the paths that begin with /v1, and others.
_BASE: Final = re.compile(r"^/+(?:(?:v1/+)*(?=v1/)|(?<=//))")
_BELOW_V1: Final = frozenset({"/v1", *(f"/v1{path}" for path in _SHOWN)})
_QUIET: Final = frozenset(
    {"/healthz", "/readyz", "/metrics"}
)  # asked every second: logged only if they fail
_RETRY_AFTER_S: Final = 1.0
_ENDPOINTS: Final = (
    "POST /v1/messages, POST /v1/messages/count_tokens, GET /v1/models, GET /v1/models/{id}, "
    "GET /healthz, GET /readyz, GET /metrics"
)
VERSION_HEADER: Final = (b"x-dragoman-version", __version__.encode())


class _Serve(Protocol):
    """Answers what was posted; the head is forgotten before anybody is asked."""

    def __call__(
        self, exchange: Exchange, record: RequestRecord, head: HeadFacts, *, headers: HeaderList
    ) -> Awaitable[None]: ...


class App:
    """
    Answer every request.

    Args:
        callers: Who may call.
        allowed_hosts: Further names for a gateway without keys.
        messages: An endpoint.
        count_tokens: An endpoint.
        routes: What the models' endpoints show.
        readiness: What ``/readyz`` says.
        cross_origin: Which web pages may read answers.
        max_inside: Messages and counts at work or in line; more are told to come back.
        line: Where counts wait for their turn; messages do so themselves.
        log: One line per request.
        metrics: Told of every request.
        metrics_page: What ``/metrics`` shows; None: nothing is there.
        admins: May see the metrics, too.
        tracing: Told where each request begins and ends.
        admin: The admin API; None: it is not here.
        meter: Writes down requests for messages; None: nobody does.
    """

    def __init__(
        self,
        *,
        callers: Callers,
        allowed_hosts: Collection[str],
        messages: Messages,
        count_tokens: CountTokens,
        routes: Routes,
        readiness: Readiness,
        cross_origin: CrossOrigin,
        max_inside: int,
        line: Line,
        log: EventLog,
        metrics: Metrics,
        metrics_page: MetricsPage | None,
        meter: Meter | None,
        admins: AdminAccess,
        tracing: Tracing,
        admin: AdminDoor | None = None,
    ) -> None:
        self._callers = callers
        self._allowed_hosts = allowed_hosts
        self._n_open = 0
        self._emptied: asyncio.Event | None = None
        self._posted: dict[str, _Serve] = {
            _MESSAGES: messages.serve,
            f"{_MESSAGES}/count_tokens": self._count,
        }
        self._count_tokens = count_tokens
        self._routes = routes
        self._readiness = readiness
        self._cross_origin = cross_origin
        self._max_inside = max_inside
        self._line = line
        self._log = log
        self._metrics = metrics
        self._metrics_page = metrics_page
        self._meter = meter
        self._admins = admins
        self._tracing = tracing
        self._admin = admin

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request; nothing is raised."""
        method, path, request_id = exchange.method, exchange.path, new_request_id()
        path = path if path in _POSTED else _normal_path(path)  # nearly all are
        record = RequestRecord(request_id, method, path, exchange.peer, started_s=time.monotonic())
        headers: HeaderList = ((b"request-id", request_id.encode()), VERSION_HEADER)
        origin = exchange.headers.get(b"origin")
        headers = headers if origin is None else (*headers, *self._cross_origin.headers(origin))
        metrics, n_inside = self._metrics, 0
        serve = self._posted.get(path) if method == "POST" else None
        self._n_open += 1
        try:
            if serve is not None:
                head: HeadFacts = exchange.headers.facts or facts_of(exchange.headers)
                if not self._recognise(exchange, head, record=record):
                    await self._look_up(exchange, record)
                if metrics.open_requests >= self._max_inside:
                    raise _too_many(metrics.open_requests)
                metrics.open_requests += 1
                n_inside = 1
                work = serve(exchange, record, head, headers=headers)
                del head  # keys stand in it, and a reply may take minutes
                await work
            else:
                await self._dispatch(exchange, path, record=record, headers=headers)
        except Exception as error:
            self._tell(exchange, error, record=record, headers=headers)
        except asyncio.CancelledError:
            if not record.status:  # else a reply has begun, and whoever began it has ended it
                refuse(exchange, GatewayStopping(), record=record, headers=headers)
            record.error_type = "stopped"
            raise
        finally:
            metrics.open_requests -= n_inside
            self._n_open -= 1
            if self._emptied is not None and not self._n_open:
                self._emptied.set()
            if path not in _QUIET or record.status != 200:
                now_s = time.monotonic()
                self._log.request(record, now_s)
                metrics.observe(record, now_s)
                if record.trace is not None:
                    self._tracing.end(record, now_s)
                if self._meter is not None and path == _MESSAGES and record.caller is not NOBODY:
                    self._meter.note(record, now_s)

    async def wait_until_empty(self) -> None:
        """Wait until the last request is over; no new ones may come."""
        if self._n_open:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    async def _dispatch(
        self, exchange: Exchange, path: str, *, record: RequestRecord, headers: HeaderList
    ) -> None:
        method = exchange.method
        if method == "OPTIONS" and (allowed := self._preflight(exchange)):
            answer(exchange, 200, b"", record=record, headers=[*headers, *allowed])
        elif self._admin is not None and is_admin_path(path):
            await self._admin.serve(exchange, path, record=record, headers=headers)
        elif method not in ("GET", "HEAD"):
            raise _unknown(method, path)
        elif path == _MODELS:
            await self._let_in(exchange, record)
            body = list_models(self._routes, exchange.query, caller=record.caller)
            answer(exchange, 200, body, record=record, headers=headers)
        elif path.startswith(f"{_MODELS}/"):
            await self._let_in(exchange, record)
            name = path.removeprefix(f"{_MODELS}/")
            body = show_model(self._routes, name, caller=record.caller)
            answer(exchange, 200, body, record=record, headers=headers)
        elif path in _SHOWN:
            self._check_place(exchange)
            status, body = await self._show(path)
            answer(exchange, status, body, record=record, headers=headers)
        elif path == PATH and self._metrics_page is not None:
            await self._show_metrics(exchange, self._metrics_page, record=record, headers=headers)
        else:
            raise _unknown(method, path)

    async def _let_in(self, exchange: Exchange, record: RequestRecord) -> None:
        """Find out who calls, or say why he may not."""
        if not self._recognise(exchange, facts_of(exchange.headers), record=record):
            await self._look_up(exchange, record)

    def _recognise(self, exchange: Exchange, head: HeadFacts, *, record: RequestRecord) -> bool:
        """Write down what *head* says, and who calls; tell whether that is known already."""
        record.sender = head.sender
        if head.is_traced or self._tracing.is_on:
            record.trace = self._tracing.begin(exchange.headers)
        caller = self._callers.recognise(head)
        if caller is None:
            return False
        if caller is ANYBODY:
            self._check_place(exchange)
        record.caller = caller
        return True

    async def _look_up(self, exchange: Exchange, record: RequestRecord) -> None:
        """Ask the store who calls."""
        sent = exchange.headers
        keys = sent.get(b"x-api-key"), sent.get(b"authorization")
        caller = await self._callers.look_up(*keys)
        if caller is ANYBODY:
            self._check_place(exchange)
        record.caller = caller

    def _preflight(self, exchange: Exchange) -> HeaderList:
        """Return what a browser that asks beforehand is told; nothing: its page is not known."""
        sent = exchange.headers
        if b"access-control-request-method" not in sent:
            return ()
        return self._cross_origin.preflight(sent.get(b"origin"))

    def _check_place(self, exchange: Exchange) -> None:
        """Without keys, answer nobody but the programs of this machine."""
        if self._callers.may_be_open:
            sent = exchange.headers
            check_open_access(
                exchange.method,
                host=sent.get(b"host"),
                origin=sent.get(b"origin"),
                content_type=sent.get(b"content-type"),
                allowed_hosts=self._allowed_hosts,
            )

    async def _count(
        self, exchange: Exchange, record: RequestRecord, head: HeadFacts, *, headers: HeaderList
    ) -> None:
        """Count when it is its turn; what the head says is forgotten until then."""
        del head
        if not self._line.try_enter():
            await self._line.enter(record.caller.key_id, is_background=record.is_background)
        try:
            await self._count_tokens.serve(exchange, record, headers=headers)
        finally:
            self._line.leave()

    async def _show_metrics(
        self,
        exchange: Exchange,
        page: MetricsPage,
        *,
        record: RequestRecord,
        headers: HeaderList,
    ) -> None:
        if not page.has_token:
            self._check_place(exchange)
        if not await self._admins.knows(exchange.headers):
            is_open = page.has_token or await self._callers.is_open()
            page.check(exchange.headers, is_open=is_open)
        accept = exchange.headers.get(b"accept", b"").decode("latin-1")
        kind, body = await page.render(accept)
        answer(exchange, 200, body, record=record, headers=headers, content_type=kind)

    async def _show(self, path: str) -> tuple[int, bytes]:
        """Return what may be seen without a key."""
        if path == "/healthz":
            return 200, _encode({"status": "ok"})
        if path == "/readyz":
            reason = self._callers.why_nobody or await self._readiness.reason()
            if reason:
                return 503, _encode({"status": "unavailable", "reason": reason})
            return 200, _encode({"status": "ready"})
        if path == "/api/hello":
            return 200, b""
        return 200, _encode({"name": "dragoman", "version": __version__})

    def refuse(self, error: GatewayError) -> tuple[HeaderList, bytes]:
        """Return headers and body for a request that the transport itself refuses."""
        request_id = new_request_id()
        self._log.event(
            "refused",
            request_id=request_id,
            status=error.status,
            error=error.kind,
            detail=error.log_detail or error.message,
        )
        headers = [
            _JSON,
            *error_headers(error),
            (b"request-id", request_id.encode()),
            VERSION_HEADER,
        ]
        return headers, render_error(error, request_id)

    def _tell(
        self,
        exchange: Exchange,
        error: Exception,
        *,
        record: RequestRecord,
        headers: HeaderList,
    ) -> None:
        """Tell client and record how a request has failed."""
        if isinstance(error, ClientGone):
            record.status = record.status or CLIENT_GONE
            record.error_type = "client_gone"
        elif isinstance(error, GatewayError):
            refuse(exchange, error, record=record, headers=headers)
        else:
            self._crash(exchange, error, record=record, headers=headers)

    def _crash(
        self,
        exchange: Exchange,
        error: Exception,
        *,
        record: RequestRecord,
        headers: HeaderList,
    ) -> None:
        self._log.crash(error, request_id=record.request_id)
        if not record.status:  # else a reply has begun, and whoever began it has ended it
            ours = GatewayError(
                "The gateway failed on this request. This is a bug of Dragoman; its log says more."
            )
            refuse(exchange, ours, record=record, headers=headers)
        record.error_type, record.error_detail = "api_error", type(error).__name__


def _normal_path(path: str) -> str:
    """Return the path as if the base URL had neither a slash nor ``/v1`` at its end."""
    path = _BASE.sub("/", f"{path}/", count=1).rstrip("/") or "/"
    return path.removeprefix("/v1") or "/" if path in _BELOW_V1 else path


def _too_many(n_inside: int) -> Overloaded:
    return Overloaded(
        f"{counted(n_inside, 'request')} at work or in line; try again",
        retry_after_s=_RETRY_AFTER_S,
    )


def _unknown(method: str, path: str) -> UnknownPath:
    shown = ascii(f"{method[:20]} {path[:100]}")[1:-1]
    near = f"/v1{path}"
    if near in _POSTED or near == _MODELS:
        hint = f"it is at {near}: the client wants a base URL that ends in /v1"
    else:
        hint = f"this gateway serves {_ENDPOINTS}"
    return UnknownPath(f"nothing is served at {shown}; {hint}")
