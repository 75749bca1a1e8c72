"""Rounds: nginx and the gateway in turn, so that what else the machine does meets both."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench import requests
from bench.lab import Lab
from bench.processes import CannotMeasure, Program, held_streams
from bench.scenarios import Scenario

KIB: Final = 1024
MIB: Final = 2**20
_N_SILENT: Final = 1000
_N_FIRST: Final = 10
_SILENT_BYTES: Final = 100_000  # of the request for such a stream
_STAGGER_US: Final = 2000  # faster than it can read, and the requests that wait are measured
_N_SPREAD: Final = 256  # connections over two workers
_EVENTS_PER_LEAK_REQUEST: Final = 256
_SETTLE_S: Final = 1.0
_LATE: Final = 1.05  # of a stream's own duration: it has not kept its pace


@dataclass
class Row:
    """
    One line of the table.

    Attributes:
        ratio: What goal and limit are said of: a ratio, or a figure in *unit*.
        measured: All single values, for the file.
    """

    name: str
    title: str
    unit: str
    gateway: float
    nginx: float | None = None
    ratio: float | None = None
    goal: float | None = None
    limit: float | None = None
    note: str = ""
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """How it stands to goal and limit."""
        if self.ratio is None or self.goal is None or self.limit is None:
            return ""
        if self.ratio <= self.goal:
            return "goal"
        return "ok" if self.ratio <= self.limit else "MISSED"


def measure_scenario(lab: Lab, scenario: Scenario, *, rounds: int) -> Row:
    """Return the cost of one unit through both, medians of *rounds*."""
    costs: dict[str, list[float]] = {"nginx": [], "gateway": []}
    seen: dict[str, list[dict[str, Any]]] = {"nginx": [], "gateway": []}
    for _ in range(rounds):
        for target, found in costs.items():
            cost_us, saw = _round(lab, scenario, target)
            found.append(cost_us)
            seen[target].append(saw)
    ours, theirs = (statistics.median(costs[t]) for t in ("gateway", "nginx"))
    return Row(
        scenario.name,
        scenario.title,
        f"us/{scenario.unit}",
        gateway=ours,
        nginx=theirs,
        ratio=ours / theirs,
        goal=scenario.goal,
        limit=scenario.limit,
        note=_pace_note(scenario, seen),
        measured={"cpu_us": costs, "seen": seen},
    )


def _round(lab: Lab, scenario: Scenario, target: str) -> tuple[float, dict[str, Any]]:
    """Return microseconds of processor time for one unit, and what the client saw."""
    n = scenario.n_gateway if target == "gateway" else scenario.n_nginx
    program, request = lab.programs[target], scenario.request()
    traffic = {"connections": scenario.connections, "events": scenario.events}
    if scenario.pace_s is None:
        lab.load(lab.port_of(target), request, requests=4 * scenario.connections, **traffic)
    before_s = program.cpu_s()
    saw = lab.load(
        lab.port_of(target), request, requests=n, stagger_us=scenario.stagger_us, **traffic
    )
    used_s = program.cpu_s() - before_s
    units = n * (scenario.events if scenario.unit == "event" else 1)
    return used_s * 1e6 / units, saw


def _pace_note(scenario: Scenario, seen: dict[str, list[dict[str, Any]]]) -> str:
    """Say how late events were; cost and delay are read together."""
    if scenario.pace_s is None:
        return ""
    delays = {
        target: statistics.median(each["delay_us"]["p50"] for each in saw) / 1000
        for target, saw in seen.items()
    }
    slowest_s = max(each["span_us"]["max"] for each in seen["gateway"]) / 1e6
    kept = "pace kept" if slowest_s <= scenario.pace_s * _LATE else f"slowest {slowest_s:.2f} s"
    added = delays["gateway"] - delays["nginx"]
    return f"{kept}, delay {delays['gateway']:.2f} ms ({added:+.2f} to nginx)"


def measure_latency(lab: Lab, *, rounds: int, n: int) -> Row:
    """Return what each adds to the time of a request at one connection."""
    request = requests.small("whole", is_stream=False)
    medians: dict[str, list[float]] = {"direct": [], "nginx": [], "gateway": []}
    for _ in range(rounds):
        for target, found in medians.items():
            saw = lab.load(lab.port_of(target), request, connections=1, requests=n, events=4)
            found.append(saw["latency_us"]["p50"])
    direct, theirs, ours = (statistics.median(found) for found in medians.values())
    added, base = ours - direct, max(1.0, theirs - direct)
    return Row(
        "latency",
        "added latency, one connection",
        "us",
        gateway=added,
        nginx=base,
        ratio=added / base,
        goal=2.5,
        limit=4.0,
        note=f"{direct:.0f} us without either",
        measured={"p50_us": medians},
    )


def measure_silent(lab: Lab) -> Row:
    """Return the memory of one open stream of which only the first event has come."""
    program = lab.programs["gateway"]
    path = lab.request_file(requests.large("silent", _SILENT_BYTES, is_stream=True))
    command = [lab.gateway, path, _N_SILENT, _N_SILENT, 1, _STAGGER_US]
    with held_streams(command, core=lab.load_core):  # pools and arenas are there afterwards
        time.sleep(_SETTLE_S)
    time.sleep(_SETTLE_S)
    before = program.resident_bytes()
    with held_streams(command, core=lab.load_core):
        time.sleep(_SETTLE_S)
        warm = program.resident_bytes()
    fresh = lab.new_gateway(lab.pair)
    try:
        figures = _silent_of_fresh(lab, fresh, command)
    finally:
        fresh.stop()
    each = figures["each_kib"]
    return Row(
        "silent",
        f"{_N_SILENT} silent streams",
        "KiB each",
        gateway=each,
        ratio=each,
        goal=24.0,
        limit=24.0,
        note=f"a second thousand adds {(warm - before) / KIB / _N_SILENT:.1f}",
        measured=figures,
    )


def _silent_of_fresh(lab: Lab, program: Any, command: Sequence[object]) -> dict[str, float]:
    """Measure where no earlier peak has left memory behind that would be used again."""
    wait_until_answering(lab, lab.pair)
    path = command[1]
    with held_streams([lab.pair, path, _N_FIRST, _N_FIRST, 1, _STAGGER_US], core=lab.load_core):
        pass  # what the first of them load, and what one long request needs, is there once
    time.sleep(2 * _SETTLE_S)  # the first record of use brings the store's library in
    before = program.resident_bytes()
    with held_streams([lab.pair, *command[1:]], core=lab.load_core):
        time.sleep(_SETTLE_S)
        after = program.resident_bytes()
    return {"each_kib": (after - before) / KIB / _N_SILENT, "idle_mib": before / MIB}


def wait_until_answering(lab: Lab, port: int) -> None:
    """Wait until the gateway at *port* has answered a message."""
    until = time.monotonic() + 60.0
    while True:
        try:
            lab.answer_once(port)
        except OSError:
            if time.monotonic() > until:
                raise CannotMeasure("a second gateway does not answer") from None
            time.sleep(0.01)
        else:
            return


def measure_idle(lab: Lab) -> Row:
    """Return the memory of a gateway that has answered once."""
    fresh = lab.new_gateway(lab.pair)
    try:
        wait_until_answering(lab, lab.pair)
        time.sleep(2 * _SETTLE_S)
        idle = fresh.resident_bytes() / MIB
    finally:
        fresh.stop()
    return Row("idle", "idle memory", "MiB", gateway=idle, ratio=idle, goal=45.0, limit=60.0)


def measure_leak(lab: Lab, *, n_events: int) -> Row:
    """Return by how much memory grows from the middle to the end of many events."""
    request = requests.small("burst-256", is_stream=True)
    half = max(16, n_events // 2 // _EVENTS_PER_LEAK_REQUEST)
    program = lab.programs["gateway"]
    marks: list[float] = []
    for _ in range(2):
        lab.load(lab.gateway, request, connections=8, requests=half, events=256)
        marks.append(program.resident_bytes() / MIB)
    grown = marks[1] - marks[0]
    return Row(
        "leak",
        f"growth over {2 * half * _EVENTS_PER_LEAK_REQUEST:,} events",
        "MiB",
        gateway=grown,
        ratio=grown,
        goal=1.0,
        limit=2.0,
        measured={"resident_mib": marks},
    )


def measure_start(lab: Lab, *, rounds: int) -> Row:
    """Return the seconds from the start of the command to the first answered request."""
    times = [lab.first_answer_s() for _ in range(rounds)]
    middle = statistics.median(times)
    return Row(
        "start",
        "start to first answer",
        "s",
        gateway=middle,
        ratio=middle,
        goal=0.6,
        limit=1.0,
        measured={"seconds": times},
    )


def measure_tls(lab: Lab, *, rounds: int, scale: float) -> list[Row]:
    """Return what TLS to the upstream costs beside no TLS, both through the gateway."""
    return [
        _tls(lab, "tls-small", "TLS upstream, small whole reply", requests.small, rounds, scale),
        _tls(lab, "tls-burst", "TLS upstream, burst", requests.small, rounds, scale),
    ]


def _tls(
    lab: Lab,
    name: str,
    title: str,
    make: Callable[..., bytes],
    rounds: int,
    scale: float,
) -> Row:
    is_burst = name == "tls-burst"
    model, events, n = ("burst-256", 256, 600) if is_burst else ("whole", 4, 3000)
    n = max(64, round(n * scale))
    costs: dict[str, list[float]] = {"": [], "tls:": []}
    for _ in range(rounds):
        for prefix, found in costs.items():
            request = make(prefix + model, is_stream=is_burst)
            lab.load(lab.gateway, request, connections=8, requests=32, events=events)
            before_s = lab.programs["gateway"].cpu_s()
            lab.load(lab.gateway, request, connections=8, requests=n, events=events)
            used_s = lab.programs["gateway"].cpu_s() - before_s
            found.append(used_s * 1e6 / (n * (events if is_burst else 1)))
    plain, tls = (statistics.median(found) for found in costs.values())
    return Row(
        name,
        title,
        "us/event" if is_burst else "us/request",
        gateway=tls,
        nginx=None,
        ratio=tls / plain,
        goal=2.0,
        limit=2.0,
        note=f"beside {plain:.1f} without",
        measured={"cpu_us": costs},
    )


def measure_workers(lab: Lab, *, rounds: int, scale: float) -> list[Row]:
    """Return what two processes at one port cost beside one, and how connections are spread."""
    pair = lab.new_gateway(lab.pair, args=["--workers", "2"], is_pinned=False)
    try:
        wait_until_answering(lab, lab.pair)
        rows = [
            _workers(lab, pair, is_burst=is_burst, rounds=rounds, scale=scale)
            for is_burst in (False, True)
        ]
        rows += [_spread(row) for row in rows]
    finally:
        pair.stop()
    return rows


def _spread(row: Row) -> Row:
    """Return how much of the work the busier of two did; the other one shall do 35 % of it."""
    busier = 100 * (1 - min(row.measured["shares"]))
    return Row(
        f"{row.name}-spread",
        f"{row.title}: of the busier one",
        "%",
        gateway=busier,
        ratio=busier,
        goal=65.0,
        limit=65.0,
        note="the worst of all rounds",
    )


def _workers(lab: Lab, pair: Program, *, is_burst: bool, rounds: int, scale: float) -> Row:
    model, events, n = ("burst-256", 256, 1000) if is_burst else ("whole", 4, 5000)
    n = max(256, round(n * scale))
    request = requests.small(model, is_stream=is_burst)
    costs: dict[str, list[float]] = {"one": [], "two": []}
    shares: list[float] = []
    ways = {"one": (lab.programs["gateway"], lab.gateway), "two": (pair, lab.pair)}
    for _ in range(rounds):
        for name, (program, port) in ways.items():
            before = program.cpu_by_pid()
            lab.load(port, request, connections=_N_SPREAD, requests=n, events=events)
            used = {pid: s - before.get(pid, 0.0) for pid, s in program.cpu_by_pid().items()}
            costs[name].append(sum(used.values()) * 1e6 / (n * (events if is_burst else 1)))
            if name == "two":
                shares.append(sorted(used.values())[-2] / sum(used.values()))
    one, two = (statistics.median(found) for found in costs.values())
    return Row(
        "workers-burst" if is_burst else "workers-small",
        "two workers, burst" if is_burst else "two workers, small whole reply",
        "us/event" if is_burst else "us/request",
        gateway=two,
        ratio=two / one,
        goal=1.15,
        limit=1.15,
        note=f"beside {one:.3g} of one; the less busy one did {min(shares):.0%} of the work",
        measured={"cpu_us": costs, "shares": shares},
    )
