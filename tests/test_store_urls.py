"""Where the store is: what can be written, and what is said of the rest."""

from pathlib import Path

import pytest

from dragoman.config import examine_config, load_config
from dragoman.settings import Secret
from dragoman.store_urls import StoreUrl, read_store_url

FOLDER = Path("data")


def read(text: str) -> StoreUrl | None:
    return read_store_url(Secret(text), FOLDER)


def test_files() -> None:
    assert read_store_url(None, FOLDER) == StoreUrl(path=Path("data/dragoman.db"))
    assert read("sqlite:///a/b%20c.db") == StoreUrl(path=Path("a/b c.db"))
    assert read("sqlite:////var/lib/b.db") == StoreUrl(path=Path("/var/lib/b.db"))
    assert read(" none ") is None
    assert str(read("sqlite:////b.db")) == "sqlite /b.db"


def test_addresses() -> None:
    found = read("postgres://ada:p%40ss%2F@db.example:5433/team?sslmode=require")
    assert found is not None
    at = found.address
    assert at is not None
    assert (at.user, at.password, at.host, at.port, at.database) == (
        "ada",
        "p@ss/",
        "db.example",
        5433,
        "team",
    )
    assert at.ssl_mode == "require"
    assert str(found) == "postgresql db.example:5433/team"
    assert "p@ss" not in repr(found)


def test_a_socket_and_a_pooler() -> None:
    found = read("postgresql:///team?host=/run/postgresql&statement_cache_size=0")
    assert found is not None
    at = found.address
    assert at is not None
    assert (at.user, at.password, at.host, at.port) == (None, None, "/run/postgresql", 5432)
    assert at.statement_cache_size == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown form; use sqlite:///FILE, postgresql:"),
        ("mysql://h/planted-d", "unknown form"),
        ("/var/lib/planted.db", "unknown form"),
        ("sqlite:planted.db", "sqlite needs a file"),
        ("sqlite:///", "sqlite needs a file"),
        ("postgresql://planted-host", "needs a host and a database"),
        ("postgresql:///planted", "needs a host and a database"),
        ("postgresql://h/planted/e", "needs a host and a database"),
        ("postgresql://u:planted@h:port/d", "cannot be read"),
        ("postgresql://u:planted@[h/d", "cannot be read"),
        ("postgresql://u:planted@h/d?sslmode=yes", "sslmode: expected one of disable, "),
        ("postgresql://u:planted@h/d?statement_cache_size=-1", "statement_cache_size: expected"),
        ("postgresql://u:planted@h/d?planted=1", "unknown parameter; known: host, sslmode"),
        ("postgresql://u:planted@h/d?sslrootcert=planted", "goes with sslmode=verify-ca or"),
    ],
)
def test_what_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read(text)
    assert "planted" not in str(raised.value)


def test_in_a_file_and_in_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[store]\nurl = "env:DATABASE"\ntimeout_s = 3\n')
    environ = {"DATABASE": "postgresql://u:planted@h/d", "DRAGOMAN_STORE_POOL_SIZE": "9"}
    config = load_config(path, environ=environ)
    assert config.store.url is not None
    assert (config.store.url.reveal(), config.store.timeout_s) == (environ["DATABASE"], 3)
    assert config.store.pool_size == 9
    problems = examine_config(
        path, environ={"DATABASE": "postgresql://u:planted@h", "DRAGOMAN_STORE_ULR": "x"}
    ).problems
    assert any(line.startswith("store.url: postgresql needs a host") for line in problems)
    assert any("DRAGOMAN_STORE_ULR" in line for line in problems)
    assert "planted" not in str(problems)


@pytest.mark.parametrize(
    ("store", "is_refused"),
    [
        ("", True),
        ('[store]\nurl = "none"\n', True),
        ('[store]\nurl = "postgresql://h/d"\n', False),
        ('[store]\nurl = "sqlite:///there.db"\n', False),
        ('[store]\nurl = "sqlite:///not-there.db"\n', True),
    ],
)
def test_other_machines_are_answered_where_there_may_be_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, is_refused: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.db").touch()
    path = tmp_path / "a.toml"
    path.write_text(f'[server]\nhost = "0.0.0.0"\ndata_dir = "{tmp_path}"\n{store}')
    problems = examine_config(path, environ={}).problems
    assert any("`dragoman keys create`" in line for line in problems) is is_refused
