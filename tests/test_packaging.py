"""What is shipped: all that the package needs at run time, and nothing else."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "dragoman"
NEEDED = {
    "dragoman/data/tiny-chat-f16.gguf",
    "dragoman/data/local-models.toml",
    "dragoman/presets.toml",
    "dragoman/py.typed",
    "dragoman/engine_child.py",
    "dragoman/server/pdf_worker.py",
}
UNWANTED = {"tests", "fixtures", "streams", "docs", "tools", "fuzz", "__pycache__", ".ci", ".venv"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def wheel(folder: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def sources() -> set[str]:
    return {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}


def test_the_wheel_holds_the_package_and_its_data(built: Path) -> None:
    with wheel(built) as archive:
        names = set(archive.namelist())
    assert NEEDED | sources() <= names
    assert {PurePosixPath(name).parts[0] for name in names} == {
        "dragoman",
        next(name for name in names if name.endswith("METADATA")).split("/")[0],
    }


def test_the_sources_can_be_built_again(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {
            PurePosixPath(name).relative_to(PurePosixPath(name).parts[0]).as_posix()
            for name in archive.getnames()
        }
    assert {f"src/{name}" for name in NEEDED | sources()} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE"} <= names


def test_no_tests_or_recordings_are_shipped(built: Path) -> None:
    with wheel(built) as archive, tarfile.open(next(built.glob("*.tar.gz"))) as more:
        names = [*archive.namelist(), *more.getnames()]
    assert [name for name in names if UNWANTED & set(PurePosixPath(name).parts)] == []
    assert [name for name in names if name.endswith((".sse", ".pyc"))] == []


def test_the_wheel_works_from_where_it_lies(built: Path, tmp_path: Path) -> None:
    with wheel(built) as archive:
        archive.extractall(tmp_path)
    code = """
from dragoman import __file__
from dragoman.downloads import load_local_models
from dragoman.engine import check_model_file, demo_model
from dragoman.presets import load_catalog

assert load_catalog().presets and load_local_models()
check_model_file(demo_model().path)
print(__file__)
"""
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert Path(run.stdout.strip()).is_relative_to(tmp_path)


def test_the_license_goes_with_it(built: Path) -> None:
    with wheel(built) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert {name.rsplit("/", 1)[-1] for name in names if "/licenses/" in name} == {
        "LICENSE",
        "NOTICE",
    }


def test_what_judges_the_code_is_pinned() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "dependency-groups"
    ]
    pins = [pin for group in groups.values() for pin in group if isinstance(pin, str)]
    assert len(pins) > 10
    assert [pin for pin in pins if "==" not in pin] == []
