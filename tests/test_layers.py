"""The dependency rule of docs/architecture.md, read off every import."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "dragoman"

# Each layer and what it may import beside itself. The version in dragoman/__init__.py is for all.
MAY_IMPORT: dict[str, set[str]] = {
    "wire": set(),
    "core": {"wire"},
    "settings": {"wire", "core"},
    "policy": {"wire", "core", "settings"},
    "stores": {"wire", "core", "settings", "policy"},
    "server": {"wire", "core", "settings", "policy", "stores"},
    "machine": {"wire", "core", "settings"},
    "command": {"wire", "core", "settings", "policy", "stores", "server", "machine"},
}
# The modules beside the folders. All others are of the layer "command", which nobody may import.
TOP_LEVEL: dict[str, str] = {
    "settings": "settings",
    "limit_settings": "settings",
    "tables": "settings",
    "presets": "settings",
    "price_files": "settings",
    "store_urls": "settings",
    "config": "machine",
    "config_rules": "machine",
    "variables": "machine",
    "routing_rules": "machine",
    "downloads": "machine",
    "engine": "machine",
    "engine_child": "machine",
}
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "sched", "selectors", "threading"),
    *("http", "httptools", "requests", "socket", "socketserver", "ssl", "urllib.request"),
    *("logging", "os", "pathlib", "shutil", "signal", "subprocess", "sys", "tempfile"),
    *("datetime", "random", "secrets", "time", "uuid"),
    *("dbm", "redis", "sqlalchemy", "sqlite3", "uvloop"),
}
# Heavy or optional, and the only file or folder that may load each of them.
HEAVY = {
    "alembic": "stores",
    "huggingface_hub": "downloads.py",
    "cryptography": "stores/sealing.py",
    "redis": "stores/redis_link.py",
    "opentelemetry": "server/otel_export.py",
    "prometheus_client": "server/metrics_page.py",
    "pypdf": "server/pdf_worker.py",
    "sqlalchemy": "stores",
    "tiktoken": "server/tokenizers.py",
    "xllamacpp": "engine_child.py",
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that *path* imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (resolve(node.module or "", alias.name) for alias in node.names)


def resolve(module: str, name: str) -> str:
    """``from a import b`` may import the module ``a.b``."""
    full = f"{module}.{name}"
    return full if full in MODULES else module


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    if len(parts) == 1:
        return None
    return parts[1] if (PACKAGE / parts[1]).is_dir() else TOP_LEVEL.get(parts[1], "command")


def is_within(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


MODULES = {module_name(path) for path in SOURCES}
OWN = [path for path in SOURCES if path != PACKAGE / "__init__.py"]
IDS = [path.relative_to(PACKAGE).as_posix() for path in OWN]


@pytest.mark.parametrize("path", OWN, ids=IDS)
def test_a_module_imports_only_from_layers_below(path: Path) -> None:
    layer = layer_of(module_name(path))
    assert layer in MAY_IMPORT, f"{layer}: a folder that is no layer"
    allowed = MAY_IMPORT[layer] | {layer, None}
    found = {name: layer_of(name) for name in imports(path) if is_within(name, {"dragoman"})}
    assert {name: other for name, other in found.items() if other not in allowed} == {}


@pytest.mark.parametrize("folder", ["wire", "core"])
def test_the_pure_layers_have_no_world(folder: str) -> None:
    paths = sorted((PACKAGE / folder).rglob("*.py"))
    assert len(paths) > 2
    breaches = [
        (path.name, name) for path in paths for name in imports(path) if is_within(name, IMPURE)
    ]
    assert breaches == []


def test_imports_have_no_circles() -> None:
    graph = {
        module_name(path): {n for n in imports(path) if n in MODULES} - {module_name(path)}
        for path in SOURCES
    }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(("library", "place"), HEAVY.items(), ids=HEAVY)
def test_a_heavy_library_has_one_place(library: str, place: str) -> None:
    users = [path for path in SOURCES if any(is_within(n, {library}) for n in imports(path))]
    paths = [path.relative_to(PACKAGE).as_posix() for path in users]
    assert paths
    assert [path for path in paths if path != place and not path.startswith(f"{place}/")] == []


def test_a_start_loads_no_heavy_library() -> None:
    code = "import sys, dragoman.cli; print('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert [name for name in run.stdout.split() if is_within(name, set(HEAVY))] == []


def test_the_install_stays_small() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["dependencies"]) <= 12


def test_the_editor_shows_the_same_rule() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    banned = set(tools["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"])
    own = {name for name in banned if name.startswith("dragoman.")}
    assert banned - own <= IMPURE
    assert {name.removeprefix("dragoman.") for name in own} <= set(MAY_IMPORT) - {"wire", "core"}


def test_every_direct_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *(name for extra in extras for name in extra)]
    names = [re.split(r"[><=;\s\[]", requirement)[0] for requirement in needed]
    page = (ROOT / "docs" / "adr" / "0002-dependencies.md").read_text(encoding="utf-8")
    assert [name for name in names if f"| `{name}` |" not in page] == []
