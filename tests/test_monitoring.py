"""Dashboard and alerts: their queries are legal, and name only what is really shown."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from tools.make_dashboard import FILE, dashboard

from dragoman.server.metric_names import FAMILIES

ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PAGE = ROOT / "docs" / "how-to" / "monitoring.md"
_SCRAPED = {"instance", "job", "le"}  # labels that Prometheus adds, and that of buckets
_LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def rules() -> list[dict[str, Any]]:
    return yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]


def plain(query: str) -> str:
    """The query as Prometheus gets it from Grafana."""
    return re.sub(r"\$\w+", "all", query.replace("$__rate_interval", "5m"))


def selectors(query: str) -> list[Any]:
    found: list[Any] = []

    def walk(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
            child = getattr(node, name, None)
            if child is not None:
                walk(child)
        for child in getattr(node, "args", ()) or ():
            walk(child)

    walk(promql_parser.parse(plain(query)))
    return found


def family_of(name: str) -> str:
    for suffix in ("_bucket", "_count", "_sum"):
        base = name.removesuffix(suffix)
        if base != name and base in FAMILIES and FAMILIES[base].buckets:
            return base
    return name


QUERIES = dict(queries())


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_queries_are_legal_and_name_what_there_is(query: str) -> None:
    found = selectors(query)
    assert found
    for selector in found:
        if selector.name == "up":  # Prometheus' own
            continue
        name = family_of(selector.name)
        assert name in FAMILIES
        is_bucket = selector.name.endswith("_bucket")
        assert bool(FAMILIES[name].buckets) == (name != selector.name)
        known = {*FAMILIES[name].labels, *_SCRAPED}
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= known
        assert "histogram_quantile" in query or not is_bucket
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query))))
    labels = {
        label
        for selector in found
        if selector.name != "up"
        for label in FAMILIES[family_of(selector.name)].labels
    }
    assert grouped <= labels | _SCRAPED


def test_the_parser_notices_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum by (a (rate(x[5m]))")
    (selector,) = selectors('sum by (a) (rate(x_total{b=~"$c"}[$__rate_interval])) * 3600')
    assert (selector.name, [m.name for m in selector.matchers.matchers]) == ("x_total", ["b"])


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        family_of(selector.name)
        for panel in panels()
        for target in panel["targets"]
        for selector in selectors(target["expr"])
    }
    # When it was loaded says nothing beside how often.
    assert set(FAMILIES) - shown == {"dragoman_config_loaded_timestamp_seconds"}


def test_legends_name_labels_that_are_there() -> None:
    for panel in panels():
        for target in panel["targets"]:
            grouped = " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))
            assert set(_LEGEND.findall(target["legendFormat"])) <= set(re.findall(r"\w+", grouped))


def test_the_file_is_what_the_script_writes() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == dashboard()
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_every_alert_is_documented_and_says_what_has_happened() -> None:
    page = PAGE.read_text(encoding="utf-8")
    names = [rule["alert"] for rule in rules()]
    assert re.findall(r"^\| `(Dragoman\w+)`", page, re.MULTILINE) == names
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize(
    "args", [("check", "rules", ALERTS.name), ("test", "rules", "tests/alerts.yml")]
)
def test_promtool_agrees(args: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("!!!! no promtool on the PATH: the alerts' own tests were not run")
    done = subprocess.run(
        [promtool, *args], cwd=ALERTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_rules_beside_the_alerts_are_rules() -> None:
    """Prometheus is given ``*.yml`` of that folder; one other file would keep it from starting."""
    assert [path.name for path in ALERTS.parent.glob("*.yml")] == [ALERTS.name]
