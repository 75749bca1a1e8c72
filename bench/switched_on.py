"""
What a platform costs: store, keys, limits, budgets, usage and metrics, beside a bare gateway.

Both run at the same time, and get the same load in turn.
"""

import statistics
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import requests
from bench.lab import Lab
from bench.measure import MIB, Row, wait_until_answering
from bench.processes import Program

_SETTLE_S: Final = 3.0  # usage is handed to the store meanwhile, which loads its libraries
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


def measure_platform(lab: Lab, *, rounds: int, scale: float) -> list[Row]:
    """Return what everything that a team needs adds to requests and events, and to a process."""
    with_all = _write(lab, "platform", _everything_on)
    bare = lab.new_gateway(lab.pair, config=_write(lab, "bare", _everything_off))
    full = lab.new_gateway(lab.third, config=with_all)
    try:
        for port in (lab.pair, lab.third):
            wait_until_answering(lab, port)
        time.sleep(_SETTLE_S)
        rows = [_idle(full)]
        for name, make, events in (
            ("small", lambda: requests.small("whole", is_stream=False), 4),
            ("agent", lambda: requests.large("whole", 120_000), 4),
            ("burst", lambda: requests.small("burst-256", is_stream=True), 256),
        ):
            n = max(32, round({"small": 5000, "agent": 800, "burst": 1000}[name] * scale))
            rows.append(
                _cost(lab, {"bare": bare, "full": full}, name, make(), events=events, n=n,
                      rounds=rounds)
            )  # fmt: skip
    finally:
        bare.stop()
        full.stop()
    return [*rows, _start(lab, with_all, rounds=rounds)]


def _cost(
    lab: Lab,
    programs: dict[str, Program],
    name: str,
    request: bytes,
    *,
    events: int,
    n: int,
    rounds: int,
) -> Row:
    ports = {"bare": lab.pair, "full": lab.third}
    units = n * (events if name == "burst" else 1)
    costs: dict[str, list[float]] = {"bare": [], "full": []}
    for _ in range(rounds):
        for which, program in programs.items():
            lab.load(ports[which], request, connections=8, requests=32, events=events)
            before_s = program.cpu_s()
            lab.load(ports[which], request, connections=8, requests=n, events=events)
            costs[which].append((program.cpu_s() - before_s) * 1e6 / units)
        _scrape(lab.third)
    bare, full = (statistics.median(found) for found in costs.values())
    return Row(
        f"platform-{name}",
        f"all switched on, {name}",
        "us/event" if name == "burst" else "us/request",
        gateway=full,
        ratio=full / bare,
        goal=_MAX_RATIO,
        limit=_MAX_RATIO,
        note=f"beside {bare:.3g} bare",
        measured={"cpu_us": costs},
    )


def _idle(program: Program) -> Row:
    idle = program.resident_bytes() / MIB
    return Row(
        "platform-idle",
        "idle memory, store open",
        "MiB",
        gateway=idle,
        ratio=idle,
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
