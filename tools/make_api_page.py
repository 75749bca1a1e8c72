"""Write docs/reference/api.md from api_status.toml: ``python tools/make_api_page.py``."""

from collections import Counter
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

ROOT: Final = Path(__file__).parents[1]
DATA: Final = Path(__file__).with_name("api_status.toml")
PAGE: Final = ROOT / "docs" / "reference" / "api.md"

Ours = Literal["honoured", "emulated", "accepted", "dropped", "refused", "sent", "never"]
Seed = Literal["supported", "ignored", "not supported", "not mentioned"]
_HEAD: Final = """\
<!-- Written by tools/make_api_page.py from tools/api_status.toml: change it there. -->

# The Anthropic API, item by item

What a client may send and expect, and what becomes of it, beside the public table of Kingsoft's
KSPMAS platform (of 2026-04-16). Every row about requests is a test: a request that holds the item
is planned, and the status is held against what comes of it.

**Translated** are upstreams of `kind = "openai"`, which speak chat completions; **pass-through**
are those of `kind = "anthropic"`.

| Status | Meaning |
| --- | --- |
| honoured | the model gets it, or the reply shows it, as asked |
| emulated | the model gets it, or the reply shows it, in another way |
| accepted | nothing has to be done for it |
| dropped | not done; the reply's header `x-dragoman-adjustments` and the log say so |
| refused | an error that names it: 400, or 404 for an endpoint |
| sent, never | whether replies hold it |

*A, else B* means A where the upstream has what it takes, as its [profile](configuration.md) says,
and B elsewhere.
"""


class Row(Struct, forbid_unknown_fields=True, kw_only=True):
    """One item; the head of the data explains the fields."""

    item: str
    ours: Ours
    note: str
    seed: Seed = "not mentioned"
    poor: Ours | None = None
    native: str | None = None
    probe: str = "{}"
    user: str | None = None
    assistant: str | None = None
    result: str | None = None
    tool: str | None = None
    without: str = "{}"
    shows: str = ""
    hides: str = ""
    says: str = ""
    plan: dict[str, object] = {}
    on: dict[str, object] = {}
    poor_shows: str = ""
    poor_hides: str = ""
    poor_says: str = ""
    poor_plan: dict[str, object] = {}
    poor_on: dict[str, object] = {}
    proof: str = ""


class Table(Struct, forbid_unknown_fields=True, kw_only=True):
    """One table of the page; *native* is for rows that say nothing of pass-through upstreams."""

    title: str
    kind: Literal["header", "endpoint", "request", "reply"]
    native: str
    intro: str
    rows: list[Row]


def read_tables() -> dict[str, Table]:
    """Return the tables by their names, in the order of the page."""
    return msgspec.toml.decode(DATA.read_bytes(), type=dict[str, Table])


def render_page(tables: dict[str, Table]) -> str:
    """Return the page."""
    sections = [_HEAD, _summary(tables), *(_section(table) for table in tables.values())]
    return "\n".join(sections)


def _summary(tables: dict[str, Table]) -> str:
    rows = [row for table in tables.values() if table.kind == "request" for row in table.rows]
    ours = Counter(row.ours for row in rows)
    named = [row for row in rows if row.seed != "not mentioned"]
    better = sum(row.seed != "supported" and row.ours in ("honoured", "emulated") for row in named)
    counts = ", ".join(f"{ours[s]} {s}" for s in ("honoured", "emulated", "accepted", "dropped"))
    return (
        f"Of the {len(rows)} items of a request below, {counts} and {ours['refused']} are refused. "
        f"KSPMAS names\n{len(named)} of them; {better} that it ignores or does not support are "
        "honoured or emulated here.\n"
    )


def _section(table: Table) -> str:
    lines = [
        f"## {table.title}\n",
        f"{table.intro.strip()}\n",
        "| Item | KSPMAS | Translated | Pass-through | Note |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in table.rows:
        ours = row.ours if row.poor is None else f"{row.ours}, else {row.poor}"
        native = row.native if row.native is not None else table.native
        cells = (_code(row.item), row.seed, ours, native, row.note)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _code(item: str) -> str:
    """Return *item* as code, unless it is in words."""
    return item if item.startswith("any other") else f"`{item}`"


if __name__ == "__main__":
    PAGE.write_text(render_page(read_tables()), encoding="utf-8")
