import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# A busy machine is no failed test, and a failed test fails the same way again.
settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where real clients and the engine are required, a test with them may not be skipped."""
    report = yield
    needs = [name for name in ("client", "engine") if item.get_closest_marker(name)]
    if report.skipped and needs and os.environ.get("DRAGOMAN_REQUIRE_CLIENTS") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, but required here ({needs[0]}): {report.longrepr}"
    return report
