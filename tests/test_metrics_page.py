"""docs/reference/metrics.md: every metric as it is, and nothing else."""

from pathlib import Path

from dragoman.server.metric_names import FAMILIES
from dragoman.server.metrics import MAX_SERIES

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "metrics.md"


def rows(heading: str) -> list[list[str]]:
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_metric_is_documented_as_it_is() -> None:
    documented = {row[0].strip("`"): row[1:] for row in rows("Names")}
    assert list(documented) == list(FAMILIES)
    for name, family in FAMILIES.items():
        kind, labels, meaning = documented[name]
        assert kind == family.kind
        assert labels == (", ".join(f"`{label}`" for label in family.labels) or "-")
        assert meaning.startswith(family.help)
        bounds = ", ".join(format(float(bound), "g") for bound in family.buckets)
        assert meaning.endswith(f"Buckets: {bounds}." if bounds else family.help)


def test_every_label_is_documented() -> None:
    labels = {label for family in FAMILIES.values() for label in family.labels}
    assert {row[0].strip("`") for row in rows("Labels")} == labels


def test_the_bounds_are_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"at most {MAX_SERIES:,} series" in text
    assert f"`upstream` {MAX_SERIES // 8}" in text
