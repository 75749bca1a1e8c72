"""`dragoman db`: the store's version, and a copy of it, on both databases."""

import json
import sqlite3
import stat
from pathlib import Path

import pytest

from dragoman import cli
from dragoman.stores.backup import copy_sqlite
from dragoman.stores.versions import VERSIONS


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("DRAGOMAN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("DRAGOMAN_CONFIG", raising=False)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the store is, as people are shown it."""
    if request.param == "sqlite":
        return f"sqlite {tmp_path}/data/dragoman.db"
    url: str = request.getfixturevalue("postgres_url")
    monkeypatch.setenv("DRAGOMAN_STORE_URL", url)
    return "postgresql " + url.partition("@")[2]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.run(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_from_nothing_to_up_to_date(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "db", "status")
    assert code == 1
    assert out.splitlines()[0] == f"store    {store}"
    assert "empty: it has no tables yet" in out
    assert not (tmp_path / "data").exists()  # looking makes nothing
    assert run(capsys, "db", "upgrade")[:2] == (0, f"{store}: made, version {VERSIONS[-1]}\n")
    assert run(capsys, "db", "upgrade")[1].endswith(f"is up to date (version {VERSIONS[-1]})\n")
    code, out, _ = run(capsys, "db", "status", "--json")
    assert code == 0
    assert json.loads(out) == {
        "store": store,
        "version": VERSIONS[-1],
        "wanted": VERSIONS[-1],
        "state": "current",
    }
    code, out, _ = run(capsys, "db", "upgrade", "--json")
    assert json.loads(out)["before"] == VERSIONS[-1]


def age(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def test_a_newer_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "keys", "create", "ci")
    path = tmp_path / "data" / "dragoman.db"
    age(path)
    before = path.read_bytes()
    code, out, _ = run(capsys, "db", "status")
    assert (code, "newer: it is of a newer version than this program" in out) == (1, True)
    for command in (["db", "upgrade"], ["keys", "create", "x"], ["keys", "list"]):
        code, out, err = run(capsys, *command)
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert "has version 9999, this program knows none after" in err
        assert "install the newer Dragoman" in err
    code, out, err = run(capsys, "serve", "--demo", "--port", "0")
    assert (code, out) == (3, "")
    assert "has version 9999, this program knows none after" in err
    assert path.read_bytes() == before


def test_a_copy_of_a_file_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "keys", "create", "ci")
    writer = sqlite3.connect(tmp_path / "data" / "dragoman.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE api_keys SET name = 'not yet'")
    code, out, _ = run(capsys, "db", "backup", "copy.db")
    writer.execute("ROLLBACK")
    writer.close()
    size = Path("copy.db").stat().st_size
    assert (code, out) == (0, f"copy.db: {size:,} bytes\n")
    assert stat.S_IMODE(Path("copy.db").stat().st_mode) == 0o600
    copy = sqlite3.connect("copy.db")
    assert copy.execute("SELECT name FROM api_keys").fetchall() == [("ci",)]
    assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    copy.close()
    assert not list(Path().glob("*.part*"))


def test_a_copy_is_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "keys", "create", "ci")
    run(capsys, "db", "backup", "copy.db")
    monkeypatch.setenv("DRAGOMAN_STORE_URL", "sqlite:///copy.db")
    _, out, _ = run(capsys, "keys", "list", "--json")
    assert [key["name"] for key in json.loads(out)] == ["ci"]


def test_copies_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "db", "backup", "copy.db")
    assert (code, "there is no database at" in err) == (2, True)
    run(capsys, "db", "upgrade")
    Path("copy.db").write_text("something dear")
    code, _, err = run(capsys, "db", "backup", "copy.db")
    assert (code, "PATH: copy.db exists already" in err) == (2, True)
    assert Path("copy.db").read_text() == "something dear"
    code, _, err = run(capsys, "db", "backup", "no/folder/copy.db")
    assert (code, "PATH: no/folder/copy.db: No such file or directory" in err) == (2, True)
    for path in ("", "/"):
        code, _, err = run(capsys, "db", "backup", path)
        assert (code, f"PATH: '{path or '.'}' is no file" in err) == (2, True)
    Path("new.db.part").write_text("half of one")
    code, _, err = run(capsys, "db", "backup", "new.db")
    assert (code, "new.db.part exists: another backup is being made" in err) == (2, True)
    assert Path("new.db.part").read_text() == "half of one"


def test_a_copy_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    run(capsys, "db", "upgrade")
    monkeypatch.setattr("os.link", no_links)
    assert copy_sqlite(tmp_path / "data" / "dragoman.db", tmp_path / "copy.db") > 4096


def test_who_is_faster_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken(*_: object) -> None:
        raise FileExistsError(17, "File exists")

    run(capsys, "db", "upgrade")
    monkeypatch.setattr("os.link", taken)
    code, _, err = run(capsys, "db", "backup", "copy.db")
    assert (code, "File exists" in err) == (2, True)
    assert list(Path().glob("copy*")) == []


def test_postgresql_has_its_own_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAGOMAN_STORE_URL", "postgresql://ada:planted-password@db:5433/team")
    code, _, err = run(capsys, "db", "backup", "my copy.dump")
    assert code == 2
    command = "pg_dump --format=custom '--file=my copy.dump' --host=db --port=5433 --username=ada"
    assert f"{command} team" in err
    assert "planted" not in err


def test_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAGOMAN_STORE_URL", "postgresql://u:planted-password@127.0.0.1:1/d")
    monkeypatch.setenv("DRAGOMAN_STORE_TIMEOUT_S", "2")
    for command in (["db", "status"], ["db", "upgrade"], ["keys", "list"]):
        code, _, err = run(capsys, *command)
        assert (code, err.count("\n")) == (3, 1)
        assert "the store (postgresql 127.0.0.1:1/d) cannot be used: " in err
        assert "planted" not in err
