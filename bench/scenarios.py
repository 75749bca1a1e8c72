"""What is measured, and what it may cost beside nginx."""

from collections.abc import Callable
from dataclasses import dataclass

from bench import requests


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """
    One kind of traffic, sent through nginx and through the gateway.

    Attributes:
        unit: What the cost is of: ``request`` or ``event``.
        goal: How much of nginx's cost it shall be at most; None: only reported.
        limit: Above this the work is not done.
        n_gateway: Requests of one round.
        n_nginx: More of them, for they are cheap and clocks are coarse.
        stagger_us: Between the starts of two connections; paced streams are spread by it.
        pace_s: How long each stream has to take; None: as fast as it goes.
    """

    name: str
    title: str
    unit: str
    goal: float | None
    limit: float | None
    request: Callable[[], bytes]
    events: int
    connections: int
    n_gateway: int
    n_nginx: int
    stagger_us: int = 0
    pace_s: float | None = None

    @property
    def model(self) -> str:
        """The name that the upstream goes by."""
        found = self.request().partition(b'"model":"')[2]
        return found.partition(b'"')[0].decode()


def _paced(
    name: str, n: int, *, rate: int, seconds: float, goal: float | None, limit: float | None
) -> Scenario:
    interval_ms = round(1000 / rate)
    events = round(seconds * 1000 / interval_ms)
    model = f"paced-{events}-{interval_ms}"
    return Scenario(
        name=name,
        title=f"{n} streams at {rate} events/s",
        unit="event",
        goal=goal,
        limit=limit,
        request=lambda: requests.small(model, is_stream=True),
        events=events,
        connections=n,
        n_gateway=n,
        n_nginx=n,
        stagger_us=round(1_000_000 / n),
        pace_s=events * interval_ms / 1000,
    )


def scenarios(scale: float) -> list[Scenario]:
    """Return all of them; *scale* shortens the rounds."""

    def times(n: int) -> int:
        return max(16, round(n * scale))

    seconds = max(1.0, 5.0 * scale)
    return [
        Scenario(
            name="small",
            title="small whole reply",
            unit="request",
            goal=2.5,
            limit=4.0,
            request=lambda: requests.small("whole", is_stream=False),
            events=4,
            connections=16,
            n_gateway=times(6000),
            n_nginx=times(12000),
        ),
        Scenario(
            name="agent",
            title="120 kB request, 20 tools",
            unit="request",
            goal=4.0,
            limit=7.0,
            request=lambda: requests.large("whole", 120_000),
            events=4,
            connections=8,
            n_gateway=times(1000),
            n_nginx=times(4000),
        ),
        Scenario(
            name="large",
            title="2 MB request",
            unit="request",
            goal=6.0,
            limit=9.0,
            request=lambda: requests.large("whole", 2_000_000),
            events=4,
            connections=4,
            n_gateway=times(100),
            n_nginx=times(400),
        ),
        Scenario(
            name="burst",
            title="burst of 256 events",
            unit="event",
            goal=4.0,
            limit=8.0,
            request=lambda: requests.small("burst-256", is_stream=True),
            events=256,
            connections=8,
            n_gateway=times(1500),
            n_nginx=times(3000),
        ),
        Scenario(
            name="tools",
            title="tool arguments, checked",
            unit="event",
            goal=5.0,
            limit=8.0,
            request=lambda: requests.with_tool("tools-256"),
            events=256,
            connections=8,
            n_gateway=times(800),
            n_nginx=times(3000),
        ),
        Scenario(
            name="thinking",
            title="thinking",
            unit="event",
            goal=5.0,
            limit=8.0,
            request=lambda: requests.with_thinking("think-256"),
            events=256,
            connections=8,
            n_gateway=times(1000),
            n_nginx=times(3000),
        ),
        _paced("paced-100", 100, rate=50, seconds=seconds, goal=1.8, limit=2.5),
        _paced("paced-500", 500, rate=30, seconds=seconds, goal=1.5, limit=2.2),
        _paced("paced-500-50", 500, rate=50, seconds=seconds, goal=None, limit=None),
    ]
