import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from support.postgres import PostgresServer
from support.redis import RedisServer

# A busy machine is no failed test, and a failed test fails the same way again.
settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


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
