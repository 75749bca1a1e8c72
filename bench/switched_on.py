"""
What a platform costs: store, keys, limits, budgets, usage and metrics, beside a bare gateway.

Both run at the same time, and get the same load in turn.
"""

import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import requests
from bench.lab import Lab
from bench.measure import MIB, Row, wait_until_answering
from bench.processes import Program

_SETTLE_S: Final = 3.0  # usage is handed to the store meanwhile: that is part of what it costs
_TURNS: Final = 3  # of a load in a round: one alone varies by more than what is looked for
_MAX_IDLE_MIB: Final = 90.0
_MAX_START_S: Final = 1.2
_MAX_RATIO: Final = 1.15
# Far over what the load makes, so that everything is counted and nothing refused.
_LIMITS: Final = """
requests_per_minute = 100000000
input_tokens_per_minute = 100000000000
output_tokens_per_minute = 100000000000
concurrent = 10000
"""
_BUDGETS: Final = """
[[keys.budgets]]
period = "day"
tokens = 1000000000000
[[keys.budgets]]
period = "month"
cost_usd = 1000000
"""
_METRICS: Final = '[metrics]\ntoken = "bench-metrics-token"\n'


@dataclass(frozen=True)
class _Load:
    """One kind of request, and how many of them a round has."""

    name: str
    request: bytes
    n: int
    events: int
    is_by_event: bool = False

    @property
    def units(self) -> int:
        """What a cost is shared out among."""
        return self.n * (self.events if self.is_by_event else 1)


def measure_platform(lab: Lab, *, rounds: int, scale: float) -> list[Row]:
    """Return what everything that a team needs adds to requests and events, and to a process."""
    configs = {
        "bare": _write(lab, "bare", _everything_off),
        "full": _write(lab, "platform", _everything_on),
    }
    loads = _loads(scale)
    costs: dict[str, dict[str, list[float]]] = {
        load.name: {"bare": [], "full": []} for load in loads
    }
    idle: list[float] = []
    for number in range(rounds):
        # Another pair in each round: the same program costs some percent more or less from one
        # start to the next, and that of one pair would pass for what the platform costs.
        with _pair(lab, configs) as programs:
            idle.append(programs["full"].resident_bytes() / MIB)
            for load in loads:
                for turn in range(_TURNS):
                    which = list(programs) if (number + turn) % 2 else list(reversed(programs))
                    for name in which:
                        costs[load.name][name].append(_cost_us(lab, programs[name], name, load))
                _scrape(_port(lab, "full"))
    rows = [_idle(statistics.median(idle)), *(_row(load, costs[load.name]) for load in loads)]
    return [*rows, _start(lab, configs["full"], rounds=rounds)]


def _loads(scale: float) -> list[_Load]:
    def n(whole: int) -> int:
        return max(32, round(whole * scale))

    small = requests.small("whole", is_stream=False)
    burst = requests.small("burst-256", is_stream=True)
    return [
        _Load("small", small, n=n(5000), events=4),
        _Load("agent", requests.large("whole", 120_000), n=n(800), events=4),
        _Load("burst", burst, n=n(1000), events=256, is_by_event=True),
    ]


@contextmanager
def _pair(lab: Lab, configs: Mapping[str, Path]) -> Iterator[dict[str, Program]]:
    """Run a gateway for each configuration."""
    programs: dict[str, Program] = {}
    try:
        for name, config in configs.items():
            programs[name] = lab.new_gateway(_port(lab, name), config=config)
        for name in configs:
            wait_until_answering(lab, _port(lab, name))
        time.sleep(_SETTLE_S)
        yield programs
    finally:
        for program in programs.values():
            program.stop()


def _port(lab: Lab, name: str) -> int:
    return lab.pair if name == "bare" else lab.third


def _cost_us(lab: Lab, program: Program, name: str, load: _Load) -> float:
    port = _port(lab, name)
    lab.load(port, load.request, connections=8, requests=32, events=load.events)
    before_s = program.cpu_s()
    lab.load(port, load.request, connections=8, requests=load.n, events=load.events)
    time.sleep(_SETTLE_S)
    return (program.cpu_s() - before_s) * 1e6 / load.units


def _row(load: _Load, costs: dict[str, list[float]]) -> Row:
    bare, full = statistics.median(costs["bare"]), statistics.median(costs["full"])
    # Of each turn by itself: how fast the machine is changes more slowly than that.
    pairs = zip(costs["full"], costs["bare"], strict=True)
    ratio = statistics.median(of_full / of_bare for of_full, of_bare in pairs)
    return Row(
        f"platform-{load.name}",
        f"all switched on, {load.name}",
        "us/event" if load.is_by_event else "us/request",
        gateway=full,
        ratio=ratio,
        goal=_MAX_RATIO,
        limit=_MAX_RATIO,
        note=f"beside {bare:.3g} bare",
        measured={"cpu_us": costs},
    )


def _idle(idle_mib: float) -> Row:
    return Row(
        "platform-idle",
        "idle memory, store open",
        "MiB",
        gateway=idle_mib,
        ratio=idle_mib,
        goal=_MAX_IDLE_MIB,
        limit=_MAX_IDLE_MIB,
    )


def _start(lab: Lab, config: Path, *, rounds: int) -> Row:
    times = [lab.first_answer_s(config=config) for _ in range(rounds)]
    middle = statistics.median(times)
    return Row(
        "platform-start",
        "start, all switched on",
        "s",
        gateway=middle,
        ratio=middle,
        goal=_MAX_START_S,
        limit=_MAX_START_S,
        measured={"seconds": times},
    )


def _scrape(port: int) -> None:
    """Look at the metrics, as somebody does every few seconds."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics",
        headers={"authorization": "Bearer bench-metrics-token"},
    )
    with urllib.request.urlopen(asked, timeout=30) as reply:
        reply.read()


def _write(lab: Lab, name: str, change: Callable[[str, Path], str]) -> Path:
    folder = lab.folder / name
    folder.mkdir()
    path = folder / "dragoman.toml"
    path.write_text(change(lab.config.read_text(encoding="utf-8"), folder), encoding="utf-8")
    return path


def _everything_off(text: str, folder: Path) -> str:
    return _moved(text, folder)


def _everything_on(text: str, folder: Path) -> str:
    key = f'key = "{requests.KEY}"\n'
    limited = _moved(text, folder).replace(key, f"{key}[keys.limits]{_LIMITS}{_BUDGETS}")
    return limited.replace('[store]\nurl = "none"\n', "") + f"\n{_METRICS}"


def _moved(text: str, folder: Path) -> str:
    return text.replace(f'data_dir = "{folder.parent}"', f'data_dir = "{folder}"')
