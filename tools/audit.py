"""
Look for known weaknesses in what is installed: `make audit`.

Ends with 1 if there is one. Where the database of weaknesses cannot be reached it says so, loudly,
and ends with 0: no network is no weakness. With --strict that is a failure, too.
"""

import argparse
import json
import subprocess
import sys
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="everything must be looked up")
    options = parser.parse_args()
    command = ["pip_audit", "--format", "json", "--local", "--skip-editable"]
    result = subprocess.run(
        [sys.executable, "-m", *command, "--progress-spinner", "off"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    try:
        packages = json.loads(result.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"!!!! not audited: {result.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return int(options.strict)
    lines, n_unknown = findings(packages)
    print("\n".join([*lines, f"{len(packages) - n_unknown} of {len(packages)} packages audited"]))
    if n_unknown:
        print(f"!!!! {n_unknown} packages could not be looked up", file=sys.stderr)
    return int(bool(lines) or (options.strict and n_unknown > 0))


def findings(packages: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Return a line for each weakness, and how many packages nothing is known of."""
    lines = [
        f"{package['name']} {package['version']}: {weakness['id']}"
        f" (mended in {', '.join(weakness['fix_versions']) or 'no version yet'})"
        for package in packages
        for weakness in package.get("vulns", ())
    ]
    return lines, sum("skip_reason" in package for package in packages)


if __name__ == "__main__":
    sys.exit(main())
