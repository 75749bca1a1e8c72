"""The header that tells clients what was adjusted."""

import pytest

from dragoman.core.adjustments import Adjustment, render_adjustments

CASES = {
    "one": (
        [Adjustment("top_k", "dropped", "the upstream does not know it")],
        b'top_k;action=dropped;reason="the upstream does not know it"',
    ),
    "two": (
        [Adjustment("a.0.b", "clamped", "x"), Adjustment("c", "emulated", "y")],
        b'a.0.b;action=clamped;reason="x", c;action=emulated;reason="y"',
    ),
    "a field that is no token": (
        [Adjustment("my field", "dropped", "x")],
        b'"my field";action=dropped;reason="x"',
    ),
    "quotes, other alphabets and line breaks": (
        [Adjustment("\u6e29\u5ea6", "dropped", 'a "b"\r\n\\')],
        b'"\\\\u6e29\\\\u5ea6";action=dropped;reason="a \\"b\\"\\\\x0d\\\\x0a\\\\"',
    ),
    "none": ([], b""),
}


@pytest.mark.parametrize(("adjustments", "value"), CASES.values(), ids=CASES)
def test_value(adjustments, value) -> None:
    assert render_adjustments(adjustments) == value


@pytest.mark.parametrize("length", [1, 40, 900, 1200, 5000])
def test_never_over_one_kilobyte(length) -> None:
    many = [Adjustment(f"field_{n}", "dropped", "r" * length) for n in range(60)]
    value = render_adjustments(many)
    assert len(value) <= 1024
    shown = value.count(b"action=")
    assert value.endswith(b"*;more=%d" % (60 - shown))
    assert value.isascii()
