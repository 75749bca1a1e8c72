"""Documents say what is true: links lead somewhere, examples load, every page and file is known."""

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from markdown.extensions.toc import slugify

from dragoman.config import load_config
from dragoman.core import repair_log
from dragoman.core.adjustments import Action, Adjustment
from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import GatewayError
from dragoman.core.usage import Usage
from dragoman.launch import LaunchModel, client_environment
from dragoman.policy.senders import Sender
from dragoman.presets import load_catalog
from dragoman.server.telemetry import EventLog, RequestRecord, Trace

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "dragoman"
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [*READMES, ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]

_LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} (.+?)(?: \{ *#([\w-]+) *\})?$", re.MULTILINE)
_NAME = re.compile(r"`([A-Z][A-Z0-9_]+)`")
_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|farm|home/\w+|Users/\w+)/")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def fences(page: Path, language: str) -> Iterator[str]:
    for found, code in _FENCE.findall(page.read_text(encoding="utf-8")):
        if found == language:
            yield code


def anchors(page: Path) -> set[str]:
    found = set()
    for title, own in _HEADING.findall(prose(page)):
        found.add(own or slugify(re.sub(r"[`*]|\]\([^)]*\)", "", title), "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_found = target.is_file() and ROOT in target.parents
        if not is_found or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_page_knows_somebodys_machine(page: Path) -> None:
    assert _MACHINE_PATH.findall(page.read_text(encoding="utf-8")) == []


_ADDRESSES = {
    "REDIS_URL": "redis://lab",
    "DATABASE_URL": "postgresql://db/d",
}  # what the variables of examples hold, if not a key


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_examples_of_the_configuration_load(page: Path, tmp_path: Path) -> None:
    variables = {name for p in load_catalog().presets.values() for name in p.key_variables}
    for number, example in enumerate(fences(page, "toml")):
        path = tmp_path / f"example-{number}.toml"
        path.write_text(example, encoding="utf-8")
        named = {*variables, *re.findall(r'"env:(\w+)"', example)}
        environ = {name: _ADDRESSES.get(name, f"a-key-for-{name}") for name in named}
        config = load_config(path, environ=environ)
        assert config.source == path


def test_the_examples_are_found() -> None:
    assert len([code for page in PAGES for code in fences(page, "toml")]) > 10
    assert len([link for page in PAGES for link in _LINK.findall(prose(page))]) > 50


def test_both_readmes_have_the_same_code() -> None:
    english, chinese = (
        [re.sub(r" *#.*$", "", code, flags=re.MULTILINE) for _, code in _FENCE.findall(text)]
        for text in (page.read_text(encoding="utf-8") for page in READMES)
    )
    assert [code.replace("你好", "Hello") for code in chinese] == english


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_make_knows_its_targets(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    assert set(named) <= targets


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = {page for entry in nav for page in _pages(entry)}
    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def _pages(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for value in entry.values():
            yield from _pages(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from _pages(value)


def errors(base: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield base
    for known in base.__subclasses__():
        yield from errors(known)


@pytest.mark.parametrize("error", sorted(errors(GatewayError), key=lambda e: e.__name__))
def test_every_error_is_documented(error: type[GatewayError]) -> None:
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert f"| {error.status} | `{error.kind}` |" in page


def test_every_field_of_the_log_is_documented() -> None:
    page = (DOCS / "reference" / "logs.md").read_text(encoding="utf-8")
    record = RequestRecord(
        "req_1",
        "POST",
        "/",
        first_content_s=1.0,
        usage=Usage(1, 1, 1, 1, 1, is_estimate=True),
        adjustments=(Adjustment("a", "dropped", "b"),),
        estimate_error_pct=1.5,
        repairs={"type": 1},
        side_role="title",
        hedge="first",
        joined="req_0",
        endpoint="lab/2",
        trace=Trace("4bf92f3577b34da6a3ce929d0e0e4736", is_sampled=True),
        sender=Sender("session", "agent", "client", "1.0"),
    )
    stream = io.StringIO()
    EventLog("json", stream).request(record, 1.0)
    fields = set(json.loads(stream.getvalue())) - {"time", "event"}
    assert {field for field in fields if f"`{field}`" not in page} == set()


def test_every_variable_for_claude_code_is_documented() -> None:
    page = (DOCS / "how-to" / "claude-code.md").read_text(encoding="utf-8")
    profile = DialectProfile(context_window=65_536, max_output_tokens=8192)
    model = LaunchModel(alias="m", profile=profile, roles={})
    variables = client_environment("http://127.0.0.1:1", "t", model=model)
    table = {
        name for row in page.splitlines() if row.startswith("|") for name in _NAME.findall(row)
    }
    assert table == set(variables)


def reasons_in_the_code() -> dict[str, list[str]]:
    """Constant parts of every reason that is given for an adjustment, by the reason."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in _reasons(function):
                    parts = _constants(node)
                    found[f"{path.name}: {ast.unparse(node)}"] = parts
    return found


def _reasons(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    """What is passed as the reason of an adjustment, looked up where it is a local name."""
    local: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            local.setdefault(node.targets[0].id, []).append(node.value)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and (reason := _reason(node)) is not None:
            yield from local.get(reason.id, []) if isinstance(reason, ast.Name) else [reason]


def _reason(call: ast.Call) -> ast.expr | None:
    """What follows an action: ``add(field, action, reason=...)``, ``_note(action, reason)``."""
    for number, argument in enumerate(call.args[:2]):
        if isinstance(argument, ast.Constant) and argument.value in get_args(Action):
            named = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
            return next(iter([*named, *call.args[number + 1 :]]), None)
    return None


def _constants(node: ast.expr) -> list[str]:
    values = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return [value.strip() for value in values if isinstance(value, str) and len(value) > 5]


def test_every_reason_of_an_adjustment_is_documented() -> None:
    page = (DOCS / "reference" / "adjustments.md").read_text(encoding="utf-8")
    reasons = reasons_in_the_code()
    assert len(reasons) > 50
    missing = {r: parts for r, parts in reasons.items() if not all(p in page for p in parts)}
    assert missing == {}
    assert [text for text in repair_log._REASONS.values() if text not in page] == []
    kinds = [
        *repair_log._REASONS,
        "name",
        "parallel",
        "finish",
        "lost_call",
        "think_tag",
        "again.answer",
        "again.call",
        "again.announced_call",
        "loop",
    ]
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []


def test_every_file_is_on_the_map() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    files = page.split("\n## Files\n")[1].split("\ntests/\n")[0]
    mapped = set(re.findall(r"(?<![\w.])[\w-]+\.(?:py|toml)\b", files))
    known = {path.name for path in PACKAGE.rglob("*.*") if path.suffix in {".py", ".toml"}}
    assert mapped == known - {"__init__.py", "local-models.toml"}
