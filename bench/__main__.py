"""``python -m bench``: what the gateway costs, beside nginx in the same run."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from bench import pages, report  # noqa: E402  # the path comes first
from bench.lab import Lab  # noqa: E402
from bench.measure import (  # noqa: E402
    Row,
    measure_idle,
    measure_latency,
    measure_leak,
    measure_scenario,
    measure_silent,
    measure_start,
    measure_tls,
    measure_workers,
)
from bench.processes import CannotMeasure, missing_programs  # noqa: E402
from bench.scenarios import Scenario, scenarios  # noqa: E402
from bench.switched_on import measure_platform  # noqa: E402

_FULL_EVENTS = 1_000_000
_SHORT_EVENTS = 250_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds, for development")
    parser.add_argument("--full", action="store_true", help="a million events for the leak check")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (3)")
    parser.add_argument("--port-base", type=int, default=18600, help="first of six ports (18600)")
    parser.add_argument("--write", action="store_true", help="keep the figures as the latest ones")
    parser.add_argument("--strict", action="store_true", help="fail if a limit is missed")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these; default: all")
    asked = parser.parse_args()
    if missing := missing_programs():
        print("The bench needs what is missing here:", *missing, sep="\n  - ", file=sys.stderr)
        return 2
    try:
        rows = list(_run(asked))
    except CannotMeasure as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(report.table(rows, report.read_last()))
    if asked.write:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        report.write(rows, when=when, rounds=asked.rounds)
        pages.write_pages()
        print(f"Written to {report.LATEST.relative_to(ROOT)} and the pages about it.")
    return 1 if asked.strict and any(row.verdict == "MISSED" for row in rows) else 0


def _run(asked: argparse.Namespace) -> Iterator[Row]:
    scale = 0.15 if asked.quick else 1.0
    rounds = asked.rounds
    found = scenarios(scale)
    models = sorted({"whole", "burst-256", "silent", *(each.model for each in found)})
    n_events = _FULL_EVENTS if asked.full else round(_SHORT_EVENTS * scale)
    with Lab(models, port_base=asked.port_base) as lab:
        measures: dict[str, Callable[[], Row | Sequence[Row]]] = {
            "idle": lambda: measure_idle(lab),
            "start": lambda: measure_start(lab, rounds=rounds),
            **{each.name: _measure(lab, each, rounds) for each in found},
            "latency": lambda: measure_latency(lab, rounds=rounds, n=round(3000 * scale)),
            "silent": lambda: measure_silent(lab),
            "tls": lambda: measure_tls(lab, rounds=rounds, scale=scale),
            "workers": lambda: measure_workers(lab, rounds=rounds, scale=scale),
            "platform": lambda: measure_platform(lab, rounds=rounds, scale=scale),
            "leak": lambda: measure_leak(lab, n_events=n_events),
        }
        if unknown := set(asked.names) - set(measures):
            known = ", ".join(measures)
            raise CannotMeasure(f"no such figure: {', '.join(sorted(unknown))}; there are {known}")
        for name in asked.names or measures:
            print(f"... {name}", file=sys.stderr, flush=True)
            rows = measures[name]()
            yield from [rows] if isinstance(rows, Row) else rows


def _measure(lab: Lab, scenario: Scenario, rounds: int) -> Callable[[], Row]:
    return lambda: measure_scenario(lab, scenario, rounds=rounds)


if __name__ == "__main__":
    sys.exit(main())
