"""Without a reasoning parser the first reply shows how thinking ends; later ones know it."""

from typing import Any

import pytest

from support.app_case import ASK, DONE, AppCase, both_ways, chunk, message_of, run, usage
from support.fakes import data, end, head

ON = ASK | {"thinking": {"type": "adaptive"}}
SWITCHED = {"thinking": "toggle", "thinking_switch": "template_thinking"}
OPEN = {"thinking": "always", "think_tag_open_at_start": True}


def writing(*pieces: str, finish: str = "stop") -> list[Any]:
    body = b"".join(chunk(content=piece) for piece in pieces) + chunk(finish) + usage(3, 2) + DONE
    return [head(), data(body), end()]


THOUGHT = writing("Hm", ".\n", "</think>", "\n\n", "Hello")


def replies(
    *scripts: list[Any], profile: dict[str, Any], body: dict[str, Any] = ON, is_stream: bool = True
) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """Return thinking and text of one reply after the other, and the log's lines about them."""

    async def main() -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
        case = AppCase({"lab": scripts}, profile=profile)
        said = []
        for _ in scripts:
            message = message_of(await case.ask(body | {"stream": is_stream}))
            said.append((message.thinking, message.text))
        await case.close()
        return said, case.records

    return run(main())


@both_ways
@pytest.mark.parametrize("profile", [{"thinking": "always"}, SWITCHED], ids=["always", "toggle"])
def test_the_first_reply_teaches_how_the_next_begins(
    profile: dict[str, Any], is_stream: bool
) -> None:
    said, records = replies(THOUGHT, THOUGHT, profile=profile, is_stream=is_stream)
    assert said == [("", "Hm.\n</think>\n\nHello"), ("Hm.", "Hello")]
    assert [record.get("repairs") for record in records] == [{"think_tag": 1}, None]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_tag_teaches_however_it_is_cut(size: int) -> None:
    text = "Hm.\n</think>\n\nHello"
    pieces = writing(*(text[at : at + size] for at in range(0, len(text), size)))
    said, records = replies(pieces, pieces, profile=SWITCHED)
    assert said == [("", text), ("Hm.", "Hello")]
    assert [record.get("repairs") for record in records] == [{"think_tag": 1}, None]


def test_a_tag_that_opens_in_pieces_is_text_about_tags() -> None:
    _, records = replies(writing(*"So: <think>\na\n</think>\n"), profile={"thinking": "always"})
    assert "repairs" not in records[0]


def test_where_thinking_is_off_an_answer_begins_the_text() -> None:
    off = ASK | {"thinking": {"type": "disabled"}}
    said, _ = replies(
        writing("Hello"), profile=SWITCHED | {"think_tag_open_at_start": True}, body=off
    )
    assert said == [("", "Hello")]


@both_ways
def test_a_wrong_guess_loses_nothing_and_is_corrected(is_stream: bool) -> None:
    said, records = replies(writing("Hello"), writing("Hello"), profile=OPEN, is_stream=is_stream)
    assert said == [("Hello", "Hello"), ("", "Hello")]
    assert [record.get("repairs") for record in records] == [{"think_tag": 1}, None]


def test_thinking_that_a_limit_has_cut_is_no_answer() -> None:
    said, records = replies(writing("Hm", finish="length"), profile=OPEN)
    assert said == [("Hm", "")]
    assert "repairs" not in records[0]


@pytest.mark.parametrize(
    "text",
    [
        "Close it with `</think>`.",
        "a </think> b",
        "x</think>",
        "<think>a</think>b",
        "Like this:\n```\n<think>\na\n</think>\n```",
    ],
)
def test_text_about_tags_teaches_nothing(text: str) -> None:
    _, records = replies(writing(text), profile={"thinking": "always"})
    assert "repairs" not in records[0]


def test_nor_does_a_tag_of_a_server_that_sends_thinking_apart() -> None:
    body = chunk(reasoning_content="Hm.") + chunk(content="</think>") + chunk("stop") + DONE
    said, records = replies([head(), data(body), end()], profile={"thinking": "always"})
    assert said == [("Hm.", "</think>")]
    assert "repairs" not in records[0]


def test_a_prefill_that_is_continued_begins_no_thinking() -> None:
    messages = [*ASK["messages"], {"role": "assistant", "content": "Hel"}]
    said, _ = replies(
        writing("lo"), profile=OPEN | {"prefill": "native"}, body=ON | {"messages": messages}
    )
    assert said == [("", "lo")]
