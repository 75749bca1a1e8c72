import os
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

from support.postgres import PostgresServer
from support.redis import RedisServer

# A busy machine is no failed test, and a failed test fails the same way again.
settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")

# What the tests themselves are told by their surroundings; all else of ours is unset for them.
_FOR_TESTS = ("DRAGOMAN_NODE_MODULES", "DRAGOMAN_REQUIRE_CLIENTS", "DRAGOMAN_SERVERS")
_FOLDERS = {
    "HOME": "",
    "XDG_CACHE_HOME": ".cache",
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
}


def pytest_configure(config: pytest.Config) -> None:
    """Give tests a home of their own: what the user keeps there, or exports, changes no result."""
    home = TemporaryDirectory(prefix="dragoman-home-", ignore_cleanup_errors=True)
    config.add_cleanup(home.cleanup)
    for name, folder in _FOLDERS.items():
        os.environ[name] = str(Path(home.name, folder))
    for name in tuple(os.environ):
        if name.startswith(("DRAGOMAN_", "ANTHROPIC_", "CLAUDE_")) and name not in _FOR_TESTS:
            del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where what is real is required, a test with it may not be skipped."""
    report = yield
    needs = [name for name in ("client", "engine", "server") if item.get_closest_marker(name)]
    if report.skipped and needs and os.environ.get("DRAGOMAN_REQUIRE_CLIENTS") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, but required here ({needs[0]}): {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests of this process; those that cut one start their own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """URL of an empty database of a real PostgreSQL."""
    return postgres.new_database()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """A Redis for all tests of this process; those that cut one start their own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """URL of an empty real Redis."""
    shared_redis.empty()
    return shared_redis.url
