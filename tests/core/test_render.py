"""The bytes of a plan."""

import json

from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.render import render
from support.conversations import PROFILES, conversations
from support.plans import plan, tool, user


def test_the_parts_that_prefix_caches_live_on_come_first() -> None:
    made = plan(system="Be nice.", tools=[tool("get")], stop_sequences=["#"], temperature=1)
    assert list(json.loads(render(made))) == [
        *("model", "messages", "tools", "max_tokens", "temperature", "stream", "stream_options"),
    ]


def test_text_is_written_as_it_is() -> None:
    written = render(plan(messages=[user('中文 🙂 "\\\n\u2028\x00')]))
    assert written.isascii() is False
    assert '"content":"中文 🙂 \\"\\\\\\n\u2028\\u0000"'.encode() in written


@given(conversations(), st.sampled_from(PROFILES))
def test_the_bytes_say_what_the_plan_says(request: dict, profile) -> None:
    made = plan(profile, **request)
    assert json.loads(render(made)) == made.body
    assert render(made) == render(made)
