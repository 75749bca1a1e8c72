"""The table, the file, and what has changed since the last one."""

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.measure import Row

LATEST: Final = Path(__file__).parent / "results" / "latest.json"
_HEADER: Final = ("what", "gateway", "nginx", "ratio", "goal", "limit", "", "last", "note")


def read_last() -> dict[str, float]:
    """Return the ratios of the last committed result."""
    if not LATEST.exists():
        return {}
    rows = json.loads(LATEST.read_text(encoding="utf-8"))["rows"]
    return {row["name"]: row["ratio"] for row in rows if row["ratio"] is not None}


def write(rows: Sequence[Row], *, when: str, rounds: int, path: Path = LATEST) -> None:
    """Write the figures with what they were measured on."""
    found = {
        "when": when,
        "rounds": rounds,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "rows": [_rounded(dataclasses.asdict(row)) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[Row], last: dict[str, float]) -> str:
    """Return the figures for people."""
    lines = [_HEADER, *(_cells(row, last) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, len(_HEADER) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row, last: dict[str, float]) -> tuple[str, ...]:
    is_ratio = row.ratio is not None and row.ratio != row.gateway
    before = last.get(row.name)
    return (
        row.title,
        f"{row.gateway:.3g} {row.unit}" if row.gateway < 1000 else f"{row.gateway:.0f} {row.unit}",
        "" if row.nginx is None else f"{row.nginx:.3g}" if row.nginx < 1000 else f"{row.nginx:.0f}",
        f"{row.ratio:.2f} x" if is_ratio else "",
        "" if row.goal is None else f"{row.goal:g}",
        "" if row.limit is None else f"{row.limit:g}",
        row.verdict,
        "" if before is None else f"{before:.2f}",
        row.note,
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
