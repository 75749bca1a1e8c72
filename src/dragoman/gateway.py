"""What `build.py` makes: everything that serves one configuration, and what outlives it."""

import asyncio
from collections.abc import Awaitable, Mapping

from msgspec import Struct

from dragoman.core.errors import GatewayError, UnknownPath
from dragoman.core.signatures import Signer
from dragoman.policy.calibration import Calibration
from dragoman.policy.expected_use import ExpectedUse
from dragoman.policy.health import Health
from dragoman.policy.load import Load
from dragoman.policy.routes import Routes
from dragoman.policy.told import Told
from dragoman.server.admin_door import AdminDoor
from dragoman.server.app import App
from dragoman.server.budget_seeds import BudgetSeeds
from dragoman.server.documents import Documents
from dragoman.server.explain import Explainer
from dragoman.server.fetch import GuardedFetcher
from dragoman.server.key_cache import KeyCache
from dragoman.server.line import Lines
from dragoman.server.meter import Meter
from dragoman.server.metrics import Metrics
from dragoman.server.metrics_page import MetricsPage
from dragoman.server.otel_export import OtelExport
from dragoman.server.readiness import Readiness
from dragoman.server.retention import Retention
from dragoman.server.telemetry import RequestRecord
from dragoman.server.tokenizers import LocalTokenizers
from dragoman.server.transport.http_upstream import HttpUpstream
from dragoman.server.transport.seams import Exchange, HeaderList
from dragoman.server.vault import Vault
from dragoman.settings import Config
from dragoman.sharing import Sharing
from dragoman.stores.limiter_fallback import FallbackLimiter
from dragoman.stores.opening import LazyStore


class Lasting(Struct, frozen=True, kw_only=True):
    """
    What a change of the configuration leaves as it is: made once, by the first gateway.

    Whatever holds state that clients would miss belongs here. What hangs on settings that a change
    takes over must not.
    """

    sharing: Sharing
    signer: Signer
    fetcher: GuardedFetcher
    documents: Documents
    calibration: Calibration
    tokenizers: LocalTokenizers
    vault: Vault
    load: Load
    metrics: Metrics
    metrics_page: MetricsPage
    spans: OtelExport | None  # None: nobody wants any
    store: LazyStore | None  # None: nothing is kept; nor are there stored keys and a meter
    has_budgets: bool  # of keys in the configuration: their first requests ask the store
    keys: KeyCache | None
    meter: Meter | None
    retention: Retention | None
    limiter: FallbackLimiter
    expected_use: ExpectedUse
    budget_seeds: BudgetSeeds
    told: Told

    def start(self) -> None:
        """Begin what goes on behind the requests."""
        if self.store is not None and self.has_budgets:
            self.store.open_soon()
        if self.keys is not None:
            self.keys.start()
        if self.meter is not None:
            self.meter.start()
        if self.retention is not None:
            self.retention.start()

    async def close(self) -> None:
        """End it; may be called again."""
        await self.documents.close()
        if self.meter is not None:  # first: a supervisor may have no patience for the others
            await self.meter.close()
        if self.spans is not None:
            await self.spans.close()
        if self.keys is not None:
            await self.keys.close()
        await self.budget_seeds.close()
        await self.limiter.close()
        if self.retention is not None:
            await self.retention.close()
        if self.store is not None:
            await self.store.close()


class Gateway:
    """
    Everything that serves one configuration. Immutable; another one makes another gateway.

    Args:
        config: What it was built from.
        routes: What model names mean.
        app: Answers requests.
        readiness: Whether it would.
        explainer: Says what would become of a request.
        lines: In which requests wait for their turn.
        upstreams: By the names of endpoints. Closed with it.
        health: Which of their targets are left alone; ``tell`` and ``apply`` join it to others.
        admin: The admin API, for an address of its own; None: there is nothing to administer.
        lasting: Closed with the last one.

    Attributes:
        handle: Answers one request.
    """

    def __init__(
        self,
        config: Config,
        *,
        routes: Routes,
        app: App,
        readiness: Readiness,
        explainer: Explainer,
        lines: Lines,
        upstreams: Mapping[str, HttpUpstream],
        health: Health,
        admin: AdminDoor | None,
        lasting: Lasting,
    ) -> None:
        self.config = config
        self.routes = routes
        self.upstreams = upstreams
        self.health = health
        self.lasting = lasting
        self.explainer = explainer
        self.lines = lines
        self._admin = admin
        self._app = app
        self.handle = app.handle
        self._readiness = readiness

    def refuse(self, error: GatewayError) -> tuple[HeaderList, bytes]:
        """Return headers and body for a request that the transport itself refuses."""
        return self._app.refuse(error)

    async def show_admin(
        self, exchange: Exchange, record: RequestRecord, headers: HeaderList
    ) -> None:
        """
        Answer an administrator at an address of its own.

        Raises:
            GatewayError: The caller answers.
        """
        if self._admin is None:
            raise UnknownPath("there is no store, and so nothing to administer: set store.url")
        await self._admin.serve(exchange, exchange.path, record=record, headers=headers)

    async def not_ready_reason(self) -> str:
        """Return why no request would be answered; empty: one would."""
        return await self._readiness.reason()

    async def wait_until_empty(self) -> None:
        """Wait until the last request is over; no new ones may come."""
        await self._app.wait_until_empty()

    async def close(self) -> None:
        """Abort what is under way and close all connections."""
        for upstream in self.upstreams.values():
            await upstream.close()
        await self.lasting.close()


class Switch:
    """
    Hand each request to the gateway in use; those under way stay with theirs.

    Args:
        gateway: The first one.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._former: list[Gateway] = []  # those that still have requests
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def config(self) -> Config:
        """Of the gateway in use."""
        return self.gateway.config

    @property
    def routes(self) -> Routes:
        """Of the gateway in use."""
        return self.gateway.routes

    def handle(self, exchange: Exchange) -> Awaitable[None]:
        """Answer one request."""
        return self.gateway.handle(exchange)

    def refuse(self, error: GatewayError) -> tuple[HeaderList, bytes]:
        """Return headers and body for a request that the transport itself refuses."""
        return self.gateway.refuse(error)

    async def show_admin(
        self, exchange: Exchange, record: RequestRecord, headers: HeaderList
    ) -> None:
        """
        Answer an administrator at an address of its own.

        Raises:
            GatewayError: The caller answers.
        """
        await self.gateway.show_admin(exchange, record, headers)

    def turn(self, successor: Gateway) -> None:
        """Serve with *successor* from the next request on."""
        former, self.gateway = self.gateway, successor
        self._former.append(former)
        task = asyncio.create_task(self._retire(former), name="a former gateway")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def send_away(self) -> None:
        """Tell requests that wait for their turn to go elsewhere; no others wait from now on."""
        for gateway in (*self._former, self.gateway):
            gateway.lines.close()

    async def close(self) -> None:
        """Close the gateway in use, and those that still have requests."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for gateway in (*self._former, self.gateway):
            await gateway.close()

    async def _retire(self, former: Gateway) -> None:
        """Wait for the last request of *former*, then close the upstreams that are its alone."""
        await former.wait_until_empty()
        self._former.remove(former)
        others = (*self._former, self.gateway)  # one before it may have streams that still run
        in_use = {id(upstream) for each in others for upstream in each.upstreams.values()}
        for upstream in former.upstreams.values():
            if id(upstream) not in in_use:
                await upstream.close()
