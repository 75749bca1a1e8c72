"""The tables of the documentation, made of the last figures: measured ones, and what follows."""

import json
import math
from pathlib import Path
from typing import Any, Final

from bench.report import LATEST

_DOCS: Final = Path(__file__).parents[1] / "docs" / "explanation"
_STREAMS: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
_EVENTS_PER_S: Final = 30
_REPLY_S: Final = 30
_SHARE: Final = 0.7  # of a core that is used; the rest is for peaks
_VERDICTS: Final = {"goal": "goal reached", "ok": "within the limit", "MISSED": "**missed**"}
_STORE_PER_PROCESS: Final = 2.5  # a second: keys are looked at twice, records written half a time


def write_pages(path: Path = LATEST) -> None:
    """Put the figures into the pages."""
    for name, text in render_pages(json.loads(path.read_text(encoding="utf-8"))).items():
        (_DOCS / name).write_text(text, encoding="utf-8")


def render_pages(latest: dict[str, Any]) -> dict[str, str]:
    """Return the pages by name, with these figures between their marks."""
    made = {}
    for name, tables in (
        ("speed.md", {"figures": _figures(latest)}),
        ("scaling.md", {"costs": _costs(latest), "model": _model(latest)}),
    ):
        text = (_DOCS / name).read_text(encoding="utf-8")
        for mark, lines in tables.items():
            begin, end = f"<!-- {mark}: written by the bench -->\n", f"<!-- end of {mark} -->"
            head, _, rest = text.partition(begin)
            table = "\n".join(["", *lines, "", ""])
            text = head + begin + table + end + rest.partition(end)[2]
        made[name] = text
    return made


def _figures(latest: dict[str, Any]) -> list[str]:
    machine = latest["machine"]
    where = f"CPython {machine['python']}, {machine['cores']} cores of a virtual machine"
    return [
        f"Measured {latest['when']}, {where}, medians of {latest['rounds']} rounds.",
        "",
        *_head("", "gateway", "nginx", "ratio", "goal", "limit", ""),
        *map(_figure, latest["rows"]),
    ]


def _figure(row: dict[str, Any]) -> str:
    is_ratio = row["ratio"] is not None and row["ratio"] != row["gateway"]
    verdict = _VERDICTS.get(_verdict(row), "")
    return _line(
        row["title"],
        f"{_short(row['gateway'])} {row['unit']}",
        "" if row["nginx"] is None else _short(row["nginx"]),
        f"{row['ratio']:.2f} x" if is_ratio else "",
        "" if row["goal"] is None else f"{row['goal']:g}",
        "" if row["limit"] is None else f"{row['limit']:g}",
        "; ".join(filter(None, (verdict, row["note"]))),
    )


def _head(*cells: str) -> list[str]:
    return [_line(*cells), _line(*["---"] * len(cells))]


def _line(*cells: str) -> str:
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


def _verdict(row: dict[str, Any]) -> str:
    if row["ratio"] is None or row["goal"] is None:
        return ""
    if row["ratio"] <= row["goal"]:
        return "goal"
    return "ok" if row["ratio"] <= row["limit"] else "MISSED"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _costs(latest: dict[str, Any]) -> list[str]:
    cost = _by_name(latest)
    request = f"{cost['small']:.0f} us small, {cost['agent']:,.0f} us with 120 kB"
    event = "500 streams at 30 events/s in one process, the start of each included"
    stream = "1,000 silent streams, each asked for with 100 kB, which are gone by then"
    open_store = f"one process with its store open; {cost['idle']:.0f} without a store"
    return [
        *_head("figure", "value", "measured"),
        _line("`c_event`", f"{cost['paced-500']:.0f} us", event),
        _line("`c_request`", request, "whole replies; for a stream it is a little less"),
        _line("`m_stream`", f"{cost['silent']:.1f} KiB", stream),
        _line("`m_idle`", f"{cost['platform-idle']:.0f} MiB", open_store),
    ]


def _model(latest: dict[str, Any]) -> list[str]:
    cost = _by_name(latest)
    per_stream = (_EVENTS_PER_S * cost["paced-500"] + cost["agent"] / _REPLY_S) / 1e6 / _SHARE
    columns = ("limiter or Redis operations/s", "records/s", "store operations/s")
    lines = _head("streams", "cores", "processes", "memory", "sockets", *columns)
    for n in _STREAMS:
        requests = n / _REPLY_S
        processes = max(1, math.ceil(n * per_stream))
        gib = (processes * cost["platform-idle"] * 1024 + n * cost["silent"]) / 2**20
        cells = (
            *(f"{n:,}", f"{n * per_stream:,.1f}", f"{processes:,}", f"{gib:,.1f} GiB"),
            *(f"{2 * n:,}", f"{2 * requests:,.0f}", f"{requests:,.0f}"),
            f"{math.ceil(_STORE_PER_PROCESS * processes):,}",
        )
        lines.append(_line(*cells))
    carried = f"One process carries some {1 / per_stream:,.0f} of these streams."
    return [*lines, "", carried]


def _by_name(latest: dict[str, Any]) -> dict[str, float]:
    return {row["name"]: row["gateway"] for row in latest["rows"]}
