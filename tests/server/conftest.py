import pytest


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause for milliseconds between attempts."""
    monkeypatch.setattr("dragoman.policy.retries._FIRST_DELAY_S", 0.001)
