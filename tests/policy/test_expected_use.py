"""Estimates before a request is made: bounded at first, then what experience says."""

import base64
import json

import pytest

from dragoman.core.usage import Usage
from dragoman.policy.expected_use import ExpectedUse, measure


class Asked:
    """A request as estimates see it."""

    def __init__(self, body: bytes, alias: str = "m") -> None:
        self.body = body
        self.alias = alias
        self.n_bytes = self.file_tokens = 0
        self.teaches = False


def ask(n_bytes: int, alias: str = "m") -> Asked:
    return Asked(b"x" * n_bytes, alias)


def counted(fresh: int, cached: int = 0, output: int = 10) -> Usage:
    return Usage(
        input_tokens=fresh,
        cache_read_input_tokens=cached,
        output_tokens=output,
        is_estimate=False,
    )


def test_before_anything_is_known_the_body_and_max_tokens_count() -> None:
    use = ExpectedUse()
    assert use.of(ask(1000), 50) == (300, 300, 50)
    assert use.of(ask(1000), 100_000) == (300, 300, 4096)
    assert use.of(ask(1000), None) == (300, 300, 4096)


def test_steady_use_is_known_after_eight_requests() -> None:
    use = ExpectedUse()
    for _ in range(7):
        use.observe(ask(1000), counted(250, output=120))
    assert use.of(ask(1000), 9999)[2] == 4096
    use.observe(ask(1000), counted(250, output=120))
    _, prompt, output = use.of(ask(2000), 9999)
    assert 500 <= prompt <= 625
    assert 120 <= output < 220
    assert use.of(ask(2000), 60)[2] == 60
    assert use.of(ask(1000, "other"), 50) == (300, 300, 50)


def test_what_the_cache_gives_is_no_fresh_input() -> None:
    use = ExpectedUse()
    for _ in range(60):
        use.observe(ask(1000), counted(10, cached=240))
    fresh, prompt, _ = use.of(ask(1000), 50)
    assert fresh < 30
    assert 250 <= prompt < 270


def test_spread_makes_estimates_higher() -> None:
    calm, wild = ExpectedUse(), ExpectedUse()
    for number in range(64):
        calm.observe(ask(1000), counted(100, output=100))
        wild.observe(ask(1000), counted(100, output=20 if number % 2 else 180))
    assert wild.of(ask(0), 9999)[2] > 1.8 * calm.of(ask(0), 9999)[2]


def test_files_are_not_text() -> None:
    data = base64.b64encode(bytes(60_000)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    request = json.dumps({"content": [{"type": "image", "source": source}] * 2}).encode()
    _, prompt, _ = ExpectedUse().of(Asked(request), 5)
    assert 3000 <= prompt < 3200


@pytest.mark.parametrize("before", [0, 1, 1000, 8000, 9000])
def test_a_file_is_found_wherever_it_is(before: int) -> None:
    data = base64.b64encode(bytes(9_000)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    text = "Say what you see. " * (before // 18)
    request = json.dumps({"content": [text, source, text]}).encode()
    asked = Asked(request)
    assert measure(asked) == len(request) - 12_000
    assert asked.file_tokens == 1500


def test_long_words_are_no_files() -> None:
    request = json.dumps({"content": ["a" * 20_000, "b" * 500]}).encode()
    asked = Asked(request)
    assert measure(asked) == len(request)
    assert asked.file_tokens == 0


def test_what_is_remembered_is_bounded() -> None:
    use = ExpectedUse()
    for number in range(10_050):
        use.observe(ask(1, f"m{number}"), counted(1))
    assert len(use._learnt) == 10_000


def test_few_of_many_requests_teach() -> None:
    use = ExpectedUse()
    taught = []
    for _ in range(64 + 80):
        asked = ask(1000)
        use.of(asked, 50)
        taught.append(asked.teaches)
        if asked.teaches:
            use.observe(asked, counted(250))
        assert not asked.teaches
    assert all(taught[:64])
    assert sum(taught[64:]) == 5
