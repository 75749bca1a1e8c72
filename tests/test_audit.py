"""What the audit of dependencies makes of what its tool says."""

import json
import subprocess
import sys
from typing import Any

import pytest
from tools import audit

GOOD = {"name": "a", "version": "1", "vulns": []}
WEAK = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "arguments", "code", "said"),
    [
        ([GOOD], [], 0, "1 of 1 packages audited"),
        ([GOOD, WEAK], [], 1, "b 2: PYSEC-1 (mended in 3)"),
        ([GOOD, UNKNOWN], [], 0, "!!!! 1 packages could not be looked up"),
        ([GOOD, UNKNOWN], ["--strict"], 1, "1 of 2 packages audited"),
        (None, [], 0, "!!!! not audited"),
        (None, ["--strict"], 1, "!!!! not audited"),
    ],
)
def test_the_verdict(
    monkeypatch, capsys, packages: Any, arguments: list[str], code: int, said: str
) -> None:
    out = "" if packages is None else json.dumps({"dependencies": packages})
    done = subprocess.CompletedProcess([], 0, out, "no network\n")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(sys, "argv", ["audit", *arguments])
    assert audit.main() == code
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
