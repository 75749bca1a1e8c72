"""What a worker serves that starts later than the others."""

from pathlib import Path

import pytest
from msgspec import structs

from dragoman.config import Config, load_config
from dragoman.last_good import LastGood
from dragoman.tables import ConfigError

FIRST = """
[server]
port = 0
data_dir = "first"
shutdown_timeout_s = 3

[upstreams.lab]
base_url = "http://127.0.0.1:9/v1"

[models.m]
"""
SECOND = FIRST.replace('"first"', '"second"').replace("= 3", "= 120").replace(".m]", ".n]")


@pytest.fixture
def last_good(tmp_path: Path) -> LastGood:
    folder = tmp_path / "workers"
    folder.mkdir()
    return LastGood(folder=folder, environ={}, overrides={"server.port": 7001})


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dragoman.toml"
    path.write_text(text)
    return path


def start(last_good: LastGood, tmp_path: Path) -> tuple[Path, Config]:
    """Do what the process that looks after workers does at the start."""
    path = write(tmp_path, FIRST)
    config = load_config(path, environ={})
    last_good.keep_first(config)
    return path, config


def test_what_needs_a_restart_of_all_is_as_it_was_at_the_start(
    last_good: LastGood, tmp_path: Path
) -> None:
    path, _ = start(last_good, tmp_path)
    write(tmp_path, SECOND)
    config, problem = last_good.load(path)
    assert not problem
    assert config.server.data_dir == Path("first")
    assert list(config.models) == ["n"]
    assert config.server.shutdown_timeout_s == 120
    assert config.source == path


def test_so_it_is_where_the_file_is_broken_by_now(last_good: LastGood, tmp_path: Path) -> None:
    path, _ = start(last_good, tmp_path)
    last_good.keep(load_config(write(tmp_path, SECOND), environ={}))
    write(tmp_path, "[server]\nprot = 1\n")
    config, problem = last_good.load(path)
    assert "server.prot" in problem
    assert config.server.data_dir == Path("first")
    assert list(config.models) == ["n"]


def test_a_file_that_was_not_there_at_the_start_moves_nobody(
    last_good: LastGood, tmp_path: Path
) -> None:
    (tmp_path / "empty.toml").touch()
    none = structs.replace(load_config(tmp_path / "empty.toml", environ={}), source=None)
    last_good.keep_first(none)
    config, _ = last_good.load(write(tmp_path, SECOND))
    assert config.server.data_dir != Path("second")


def test_streams_have_the_time_that_is_served_now(last_good: LastGood, tmp_path: Path) -> None:
    _, first = start(last_good, tmp_path)
    assert last_good.served(first) is first
    last_good.keep(load_config(write(tmp_path, SECOND), environ={}))
    assert last_good.served(first).server.shutdown_timeout_s == 120


def test_without_any_copy_a_broken_file_is_an_error(last_good: LastGood, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.prot"):
        last_good.load(write(tmp_path, "[server]\nprot = 1\n"))
