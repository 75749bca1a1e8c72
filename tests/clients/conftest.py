import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.claude_code import ClaudeCode, gateway_variables
from support.lab import Lab, checked, open_lab
from support.node import claude_binary

# Retries that are the client's own business are not hidden by ours.
NO_RETRIES = """
[models.no-retries]
upstream = "lab"
upstream_model = "deepseek-v3.1"
retries = 0
"""


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python SDK reads the environment of the tests, which is not the user's."""
    for name in list(os.environ):
        if name.startswith("ANTHROPIC_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_lab(tmp_path_factory.mktemp("lab"), more=NO_RETRIES) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    with checked(shared_lab) as lab:
        yield lab


@pytest.fixture
def claude(lab: Lab, tmp_path: Path) -> Callable[..., ClaudeCode]:
    """A user of Claude Code on the lab, and on a model of it."""
    binary = claude_binary()

    def new(model: str = "deepseek-v3.1") -> ClaudeCode:
        variables = gateway_variables(lab.url, model)
        return ClaudeCode([str(binary)], tmp_path / "user", env=variables)

    return new
