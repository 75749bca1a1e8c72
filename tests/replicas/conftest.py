"""One fleet for all tests of a process: its start takes longer than most of them."""

from collections.abc import Iterator

import pytest

from support.fleet import Fleet

LOCAL_SHARE_PCT = 10
METRICS_TOKEN = "a-token-for-metrics"
_MORE = f"""
[metrics]
token = "{METRICS_TOKEN}"

[limits]
local_share_pct = {LOCAL_SHARE_PCT}

[models.m.profile]
echo_reasoning = "tool_turns"
thinking = "always"
"""


@pytest.fixture(scope="session")
def fleet_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), more=_MORE) as fleet:
        yield fleet


@pytest.fixture
def fleet(fleet_of_three: Fleet) -> Iterator[Fleet]:
    """Three gateways, all of them up, and nothing odd in their logs afterwards."""
    fleet_of_three.mend()
    yield fleet_of_three
    fleet_of_three.check_logs()
