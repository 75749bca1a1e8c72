"""
Golden cases: a client's request, the body sent upstream, its stream, and the client's events.

``<family>/<case>.request.json`` and ``.upstream.sse`` are written by hand; the other two files are
what the gateway makes of them. ``python -m support.golden`` writes them anew, for review.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dragoman.core.dialects.registry import find_profile
from dragoman.core.plan import Deployment, Plan, make_plan
from dragoman.core.render import render
from support.plans import parse
from support.turns import SIGNER, run

FOLDER = Path(__file__).parents[1] / "streams"
# Whose server answers; a family is asked at its vendor's, but for these cases.
VENDORS = {
    "deepseek": "deepseek",
    "qwen": "dashscope",
    "kimi": "moonshot",
    "glm": "zai",
    "mimo": "mimo",
}
ENGINES = {
    "deepseek/parser-off-v31": "sglang",
    "deepseek/thinking-without-open-tag": "vllm",
    "qwen/inline-think": "vllm",
    "qwen/parser-off": "vllm",
    "kimi/calls-in-reasoning": "sglang",
    "kimi/parser-off-k3": "vllm",
    "glm/parser-off": "vllm",
    "mimo/parser-off": "sglang",
}


@dataclass(frozen=True)
class Golden:
    """One case."""

    name: str  # family/case

    @property
    def platform(self) -> str:
        """Whose server it is."""
        return ENGINES.get(self.name) or VENDORS[self.name.partition("/")[0]]

    def path(self, suffix: str) -> Path:
        """Return the case's file with *suffix*."""
        return FOLDER / f"{self.name}.{suffix}"

    def plan(self) -> Plan:
        """Return what is decided about the request."""
        request = parse(self.path("request.json").read_bytes())
        profile = find_profile(request.model, platform=self.platform)
        deployment = Deployment(upstream="lab", model=request.model, profile=profile)
        return make_plan(request, deployment, signer=SIGNER)

    def body(self) -> str:
        """Return the body that is sent, for people to read."""
        sent = json.loads(render(self.plan()))
        return json.dumps(sent, indent=2, ensure_ascii=False) + "\n"

    def events(self, slices: Iterable[bytes] | None = None) -> bytes:
        """Return what the client gets; *slices* are those of the upstream's body."""
        return run(slices or [self.path("upstream.sse").read_bytes()], self.plan()).body


def all_cases() -> list[Golden]:
    """Return all cases, sorted."""
    found = FOLDER.glob("*/*.request.json")
    return [
        Golden(f"{path.parent.name}/{path.name.removesuffix('.request.json')}")
        for path in sorted(found)
    ]


def main() -> None:
    """Write what comes of every case."""
    for case in all_cases():
        case.path("upstream.json").write_text(case.body(), encoding="utf-8")
        case.path("expected.sse").write_bytes(case.events())


if __name__ == "__main__":
    main()
