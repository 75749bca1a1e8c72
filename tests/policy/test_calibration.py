"""Calibration: a slow median within sane bounds, by deployment, forgotten with the process."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.dialects.profile import GENERIC
from dragoman.core.plan import Deployment
from dragoman.policy import calibration
from dragoman.policy.calibration import Calibration

LAB = Deployment(upstream="lab", model="m", profile=GENERIC)
OTHER = Deployment(upstream="lab", model="n", profile=GENERIC)


def taught(*ratios: float, deployment: Deployment = LAB) -> Calibration:
    made = Calibration()
    for ratio in ratios:
        made.observe(deployment, estimated=1000, counted=round(1000 * ratio))
    return made


def test_a_few_counts_are_not_believed() -> None:
    assert taught(*[1.3] * 7).ratio(LAB) == 1.0
    assert taught(*[1.3] * 8).ratio(LAB) == 1.3
    assert taught(*[1.3] * 8).ratio(OTHER) == 1.0


def test_outliers_change_nothing() -> None:
    assert taught(*[1.1] * 8, 90, 0.001, 90).ratio(LAB) == 1.1


@pytest.mark.parametrize(("seen", "used"), [(30, 2.0), (0.01, 0.5), (1.9, 1.9)])
def test_the_ratio_stays_sane(seen: float, used: float) -> None:
    assert taught(*[seen] * 20).ratio(LAB) == used


def test_what_is_long_ago_is_forgotten() -> None:
    assert taught(*[1.5] * 64, *[1.1] * 40).ratio(LAB) == 1.1


@pytest.mark.parametrize(("estimated", "counted"), [(0, 500), (199, 500), (1000, 0)])
def test_what_cannot_be_compared_is_not(estimated: int, counted: int) -> None:
    made = Calibration()
    for _ in range(20):
        made.observe(LAB, estimated=estimated, counted=counted)
    assert made.ratio(LAB) == 1.0


def test_deployments_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(calibration, "_MAX_DEPLOYMENTS", 1)
    made = taught(*[1.3] * 8)
    made.observe(OTHER, estimated=1000, counted=1200)
    assert made.ratio(LAB) == 1.0
    assert len(made._observed) == 1


@given(st.lists(st.integers(600, 1900), min_size=8, max_size=200))
def test_it_is_the_median_of_the_last_ones(counts: list[int]) -> None:
    made = taught(*(count / 1000 for count in counts))
    assert made.ratio(LAB) == median(count / 1000 for count in counts[-64:])
