"""``python -m fuzz``: look for bytes that break something."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from fuzz.runner import fuzz  # noqa: E402  # the path comes first
from fuzz.targets import TARGETS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="about how long (60)")
    parser.add_argument("--seed", type=int, default=1, help="which inputs: the same for a seed (1)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = asked.targets or list(TARGETS)
    return 1 if fuzz(names, seed=asked.seed, seconds=asked.seconds, said=print) else 0


if __name__ == "__main__":
    sys.exit(main())
