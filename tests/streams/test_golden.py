"""The whole path of each family: request -> body sent -> stream that comes back -> events."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.family_upstream import FAMILIES, Past
from support.golden import FOLDER, VENDORS, Golden, all_cases
from support.sse_grammar import check_stream
from support.turns import cut

CASES = all_cases()
EMPTY_PAST = Past()
MODELS = {family.model for family in FAMILIES.values()}
STRICT = [case for case in CASES if case.plan().deployment.model in MODELS]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@every_case
def test_the_body_sent(case: Golden) -> None:
    assert case.body() == case.path("upstream.json").read_text(encoding="utf-8")


@every_case
def test_the_events(case: Golden) -> None:
    expected = case.path("expected.sse").read_bytes()
    assert case.events() == expected
    check_stream(expected)


@every_case
def test_the_events_however_the_body_is_cut(case: Golden) -> None:
    body = case.path("upstream.sse").read_bytes()
    assert case.events(body[n : n + 1] for n in range(len(body))) == case.events()


@given(st.sampled_from(CASES), st.lists(st.integers(0, 10_000), max_size=30))
def test_the_events_in_random_cuts(case: Golden, places: list[int]) -> None:
    body = case.path("upstream.sse").read_bytes()
    assert case.events(cut(body, places)) == case.events()


@pytest.mark.parametrize("case", STRICT, ids=[case.name for case in STRICT])
def test_no_vendor_refuses_the_body(case: Golden) -> None:
    body = json.loads(case.path("upstream.json").read_text(encoding="utf-8"))
    laws = FAMILIES[case.name.partition("/")[0]].laws
    said = {law.name: next(law.broken(body, EMPTY_PAST), None) for law in laws}
    assert {name: why for name, why in said.items() if why} == {}


def test_each_vendor_is_asked() -> None:
    assert {case.name.partition("/")[0] for case in STRICT} == set(VENDORS)


def test_each_family_has_cases_and_each_case_its_provenance() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+/[\w-]+)` \| `([\w-]+)` \|", page, re.MULTILINE)
    assert sorted(name for name, _ in rows) == [case.name for case in CASES]
    assert {case.name.partition("/")[0] for case in CASES} == set(VENDORS)
    for name, sample in rows:
        answer = Golden(name).path("upstream.sse").read_bytes()
        assert answer == (FOLDER / "dialects" / f"{sample}.sse").read_bytes(), name
