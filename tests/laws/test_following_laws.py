"""A message that takes several replies, in whatever order they come: legal, ended, and bounded."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.app_case import ASK, DONE, calling, chunk, deliver, message_of, saying, usage
from support.fakes import data, end, head

GET = {"name": "get", "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
MOST_CALLS = 3  # the first, once more after an empty one, and after a server tool


def replying(*chunks: bytes) -> list[Any]:
    return [head(), data(b"".join(chunks) + chunk("stop") + usage(3, 2) + DONE), end()]


THOUGHT = chunk(reasoning_content="Hm.")
REPLIES = {
    "empty": replying(),
    "thinking": replying(THOUGHT),
    "text": saying("Hello"),
    "call": calling("get", '{"n": "1"}'),
    "thinking and call": [head(), data(THOUGHT), *calling("get", '{"n": 1}')[1:]],
    "search": calling("web_search", '{"query": "x"}', text="Well."),
    "call as text": replying(
        chunk(content='<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>')
    ),
}
ASKED = st.fixed_dictionaries(
    {
        "tool_choice": st.sampled_from([{"type": "auto"}, {"type": "any"}]),
        "thinking": st.sampled_from(
            [{"type": "disabled"}, {"type": "adaptive"}, {"type": "adaptive", "display": "omitted"}]
        ),
    }
)
PROFILES = st.fixed_dictionaries(
    {
        "forced_tools": st.sampled_from(["native", "hint"]),
        "echo_reasoning": st.sampled_from(["never", "always"]),
        "thinking": st.sampled_from(["unknown", "always"]),
    }
)


@given(
    st.lists(st.sampled_from(sorted(REPLIES)), min_size=MOST_CALLS, max_size=MOST_CALLS),
    ASKED,
    PROFILES,
    st.sampled_from(["always", "unsent", "never"]),
)
@settings(max_examples=150)
def test_one_message_comes_of_any_replies(
    names: list[str], asked: dict[str, Any], profile: dict[str, Any], when: str
) -> None:
    body = ASK | asked | {"tools": [GET, SEARCH]}
    found = []
    for is_stream in (True, False):
        exchange, case = deliver(
            [REPLIES[name] for name in names],
            body=body,
            is_stream=is_stream,
            profile=profile,
            options={"model": {"continue_empty": when}},
        )
        message = message_of(exchange)
        has_calls = bool(message.tool_uses)
        assert message.stop_reason == ("tool_use" if has_calls else "end_turn")
        assert case.record["stop_reason"] == message.stop_reason
        assert len(case.sent()) <= MOST_CALLS
        found.append(([(b["type"], b.get("text")) for b in message.content], len(case.sent())))
    streamed, whole = found
    if when != "unsent":  # where what a stream has shown decides whether it goes on
        assert streamed == whole
