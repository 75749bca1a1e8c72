"""What once broke something breaks nothing now; and a short run of the fuzzer, always the same."""

import itertools
from pathlib import Path

import pytest
from fuzz import runner
from fuzz.mutate import mutate_json
from fuzz.runner import fault_of, fuzz, inputs_of, shrink
from fuzz.seeds import CORPUS, corpus_of, seeds_of
from fuzz.targets import TARGETS, run_measured

KEPT = [(name, path) for name in TARGETS for path in corpus_of(name)]
IDS = [f"{name}/{path.name}" for name, path in KEPT]
RUNS = 500  # inputs of the short run, for each target


def test_every_target_keeps_something() -> None:
    assert {name for name, _ in KEPT} == set(TARGETS)
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(TARGETS)


@pytest.mark.parametrize(("name", "path"), KEPT, ids=IDS)
def test_kept_inputs(name: str, path: Path) -> None:
    run_measured(TARGETS[name], path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_the_others_are_made_from(name: str) -> None:
    for data in seeds_of(name)[:: max(1, len(seeds_of(name)) // 30)]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run(name: str) -> None:
    for number, data in enumerate(itertools.islice(inputs_of(name, 1), RUNS)):
        (TARGETS[name] if number % 10 else lambda d: run_measured(TARGETS[name], d))(data)


# -- the fuzzer itself can fail


def test_a_seed_decides_everything() -> None:
    first, again = (list(itertools.islice(inputs_of("request", 7), 20)) for _ in range(2))
    other = list(itertools.islice(inputs_of("request", 8), 20))
    assert first == again
    assert first != other


def test_a_fault_is_found_kept_and_shrunk(monkeypatch, tmp_path: Path) -> None:
    def breaks_on_a_comment(data: bytes) -> None:
        assert b"\n: x" not in data, "a comment"

    monkeypatch.setitem(TARGETS, "events", breaks_on_a_comment)
    monkeypatch.setattr(runner, "CORPUS", tmp_path)
    said: list[str] = []
    assert fuzz(["events"], seed=1, seconds=20, said=said.append, max_runs=3000) == 1
    (kept,) = (tmp_path / "events").iterdir()
    assert kept.read_bytes() == b"\n: x"
    assert "AssertionError at test_fuzz_corpus.py" in said[0]


def test_shrinking_keeps_the_same_fault(monkeypatch) -> None:
    def breaks_in_two_ways(data: bytes) -> None:
        if b"ab" in data:
            raise KeyError(data)
        raise ValueError(data)

    monkeypatch.setitem(TARGETS, "events", breaks_in_two_ways)
    fault = fault_of("events", b"xxxxabxxxx")
    assert fault is not None
    assert shrink("events", b"xxxxabxxxx", fault) == b"ab"


def test_more_memory_than_the_input_is_worth_is_a_fault() -> None:
    def eats(data: bytes) -> None:
        assert bytes(64 * 2**20) is not data

    with pytest.raises(AssertionError, match="bytes of memory"):
        run_measured(eats, b"x")


def test_mutations_reach_what_json_cannot_say() -> None:
    seed = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
    made = {mutate_json(seed, runner.Random(n)) for n in range(2000)}
    joined = b"".join(made)
    for piece in (b"1e999", b"\xff", b'"a":1,"a":2', b"\\ud800", b"NaN", b"[[[[", b"9" * 5000):
        assert piece in joined
    assert len(made) > 400
