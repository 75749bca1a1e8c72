"""The order of blocks, event by event; what clients read of it is in test_turn.py."""

import itertools
from typing import Any

import pytest

from dragoman.core.block_writer import BlockWriter
from dragoman.core.errors import UpstreamProtocolError
from dragoman.core.signatures import Signer
from dragoman.core.usage import UsageMeter
from dragoman.wire.openai_chat import Function
from dragoman.wire.openai_chat import ToolCall as WireCall
from support.turns import make_plan

SIGNER = Signer(b"a secret of sixteen bytes or more")


class Recorder:
    """A sink that notes what it is told, in short words."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_started = self.has_content = self.is_ended = False

    def __getattr__(self, name: str) -> Any:
        def note(*said: Any, **_: Any) -> None:
            self.has_content = self.has_content or name.startswith("begin")
            words = [w.get("name", "") if isinstance(w, dict) else str(w) for w in said]
            if name != "start":
                self.events.append(" ".join([name, *words]))

        return note


class Case:
    """A writer on a recorder."""

    def __init__(self, **plan: Any) -> None:
        self.sink, self.meter, numbers = Recorder(), UsageMeter(7), itertools.count()
        self.writer = BlockWriter(
            make_plan(**plan),
            self.sink,
            meter=self.meter,
            signer=SIGNER,
            nonce=lambda: f"{next(numbers):011d}",
        )

    def call(self, index: int, name: str = "", arguments: str = "") -> "Case":
        function = Function(name=name or None, arguments=arguments)
        self.writer.add_call(WireCall(index=index, id=f"c{index}", function=function))
        return self

    def text(self, text: str) -> "Case":
        self.writer.add("text", text)
        return self

    def thinking(self, text: str) -> "Case":
        self.writer.add("thinking", text)
        return self

    def take(self) -> list[str]:
        events, self.sink.events = self.sink.events, []
        return [event[:30] for event in events]

    def end(self, *, is_cut: bool = False) -> list[str]:
        self.writer.end(is_cut=is_cut)
        return self.take()


def test_what_comes_is_shown_at_once_while_its_block_is_open() -> None:
    case = Case()
    assert case.thinking("Hm").take() == ["begin_thinking", "add_thinking Hm"]
    assert case.thinking(".").take() == ["add_thinking ."]
    first, *rest = case.text("Hi").take()
    assert first.startswith("sign drgm")
    assert rest == ["end_block", "begin_text", "add_text Hi"]
    assert case.end() == ["end_block"]


def test_a_call_waits_for_the_one_before_it() -> None:
    case = Case().call(0, "f", '{"a":')
    assert case.take() == ["begin_tool f", 'add_tool_json {"a":']
    assert case.call(1, "g", "{}").text("Then").take() == []
    assert case.call(0, "", "1}").take() == [
        *("add_tool_json 1}", "end_block", "begin_tool g", "add_tool_json {}", "end_block"),
        *("begin_text", "add_text Then"),
    ]
    assert case.end() == ["end_block"]


def test_a_call_begins_once_there_is_something_to_show() -> None:
    case = Case().call(0, "f")
    assert case.take() == []
    assert case.end() == ["begin_tool f", "add_tool_json {}", "end_block"]


def test_nothing_follows_a_call_that_was_cut() -> None:
    case = Case().call(0, "f", '{"a": "x').call(1, "g", "{}").text("Then")
    case.take()
    assert case.end(is_cut=True) == ["end_block"]
    assert case.writer.has_cut_call


@pytest.mark.parametrize(
    ("pieces", "events"),
    [
        (["\n"], ["begin_text", "add_text \n"]),
        (["\n", "Hi"], ["begin_text", "add_text \nHi", "end_block"]),
        (["Hi", "\n"], ["begin_text", "add_text Hi", "add_text \n", "end_block"]),
        ([], []),
    ],
)
def test_white_space_alone_makes_no_block_but_a_reply(pieces: list, events: list) -> None:
    case = Case()
    for piece in pieces:
        case.text(piece)
    assert case.end() == events


def test_white_space_before_a_call_is_left_out() -> None:
    case = Case().thinking("Hm.").text("\n\n").call(0, "f", "{}")
    events = case.end()
    assert not [event for event in events if "text" in event]
    assert events[-3:] == ["begin_tool f", "add_tool_json {}", "end_block"]


@pytest.mark.parametrize(("show", "n_signed"), [("full", 1), ("omitted", 1), ("none", 0)])
def test_thinking_is_shown_as_asked(show: str, n_signed: int) -> None:
    events = Case(show_thinking=show).thinking("Hm.").text("Hi").end()
    assert sum(event.startswith("sign") for event in events) == n_signed
    assert ("add_thinking Hm." in events) is (show == "full")


def test_the_second_of_calls_that_must_be_one_is_left_out() -> None:
    case = Case(single_tool_call=True).call(0, "f", "{}").call(1, "g", '{"a":1}').text("Hi")
    assert [event for event in case.end() if event.startswith("begin")] == [
        *("begin_tool f", "begin_text"),
    ]


def test_a_call_without_a_name_is_of_the_only_tool() -> None:
    assert Case(tool_names=frozenset({"f"})).call(0, "", "{}").end()[0] == "begin_tool f"
    with pytest.raises(UpstreamProtocolError, match="without a name"):
        Case().call(0, "", "{}").end()


def test_what_is_written_is_counted() -> None:
    case = Case().thinking("Hm.").text("Hello").call(0, "f", '{"a":1}')
    case.end()
    assert case.meter.written_chars == 3 + 5 + 7
