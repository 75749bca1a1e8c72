"""Find Node and the client packages, or say loudly that they are missing."""

import os
import shutil
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
MISSING = "real clients not run: no Node packages (make node-clients fetches them)"


def node_modules(*needed: str) -> Path:
    """
    Return the folder with the packages; skip the test without them.

    With ``DRAGOMAN_REQUIRE_CLIENTS=1`` the test fails instead.
    """
    default = _ROOT / ".cache" / "node" / "node_modules"
    folder = Path(os.environ.get("DRAGOMAN_NODE_MODULES", default)).resolve()
    if shutil.which("node") and all((folder / name).exists() for name in needed):
        return folder
    if os.environ.get("DRAGOMAN_REQUIRE_CLIENTS") == "1":
        pytest.fail(f"{MISSING}; looked for {', '.join(needed)} in {folder}")
    pytest.skip(MISSING)


def claude_binary() -> Path:
    """Return the ``claude`` command; skip the test without it."""
    return node_modules("@anthropic-ai/claude-code") / ".bin" / "claude"
