"""Hypothesis strategies for conversations: legal ones, and any that can be parsed."""

from typing import Any

from hypothesis import strategies as st

from dragoman.core.dialects.profile import GENERIC, DialectProfile
from support.plans import assistant, call, result, text, tool, user

PROFILES = (
    GENERIC,
    DialectProfile(name="blunt", has_tools=False, response_format="none", temperature_max=None),
    DialectProfile(
        name="thinker",
        sees_images=True,
        thinking="toggle",
        thinking_switch="thinking_type",
        echo_reasoning="always",
        reasoning_placeholder=" ",
        mid_system="native",
        prefill="prefix",
    ),
    DialectProfile(
        name="engine",
        echo_reasoning="tool_turns",
        reasoning_field="reasoning",
        forced_tools="json_schema",
        prefill="continue_final_message",
        reports_stop=True,
    ),
)
_PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgoAAAA"}
_PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK"}
words = st.integers(0, 10**6).map(lambda n: f"w_{n}")
ids = st.sampled_from(["a", "b", "c", "functions.get:0", "", "toolu_12345678901-rcall_0"])
strings = st.one_of(words, st.sampled_from(["", " ", "中文", "\n", "<tag>"]))

inner_blocks = st.one_of(
    strings.map(text),
    st.just({"type": "image", "source": _PNG}),
    st.just({"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}}),
    st.just({"type": "document", "source": _PDF, "title": 'a "b"', "context": "c"}),
    st.just({"type": "tool_reference", "tool_name": "get"}),
    st.just({"type": "browser_state", "tabs": []}),
    words.map(lambda w: {"type": "document", "source": {"type": "text", "data": w}}),
    words.map(lambda w: {"type": "search_result", "source": w, "title": w, "content": [text(w)]}),
    st.just({"type": "strange", "text": "x"}),
)
documents = st.lists(inner_blocks, max_size=3).map(
    lambda blocks: {"type": "document", "source": {"type": "content", "content": blocks}}
)
results = st.one_of(
    st.builds(
        result, ids, st.one_of(strings, st.lists(inner_blocks, max_size=3)), is_error=st.booleans()
    ),
    st.builds(
        lambda i, code: {
            "type": "web_search_tool_result",
            "tool_use_id": i,
            "content": {"type": "web_search_tool_result_error", "error_code": code},
        },
        ids,
        st.sampled_from(["unavailable", "max_uses_exceeded"]),
    ),
    st.builds(
        lambda i, w: {
            "type": "web_search_tool_result",
            "tool_use_id": i,
            "content": [{"type": "web_search_result", "title": w, "url": "https://a.example"}],
        },
        ids,
        words,
    ),
    st.builds(lambda i: {"type": "mcp_tool_result", "tool_use_id": i}, ids),
)
calls = st.one_of(
    st.builds(call, ids, st.sampled_from(["get", "put", "x" * 100, "un known"]), q=strings),
    st.builds(
        lambda i: {"type": "server_tool_use", "id": i, "name": "web_search", "input": {}}, ids
    ),
    st.builds(
        lambda i: {"type": "mcp_tool_use", "id": i, "name": "x", "server_name": "s", "input": {}},
        ids,
    ),
)
thoughts = st.one_of(
    st.builds(
        lambda t, s: {"type": "thinking", "thinking": t, "signature": s},
        strings,
        st.sampled_from(["", "foreign", "drgm"]),
    ),
    st.just({"type": "redacted_thinking", "data": "x"}),
)
odd_blocks = st.sampled_from(
    [
        {"type": "container_upload", "file_id": "f"},
        {"type": "compaction", "content": None},
        {"type": "compaction", "content": "A summary."},
        {"type": "fallback", "to": {}},
        {"type": "mcp_tool_listing", "mcp_server_name": "s", "tools": []},
        {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "put"}},
        {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "get"}},
    ]
)
blocks = st.one_of(strings.map(text), inner_blocks, documents, results, calls, thoughts, odd_blocks)
any_messages = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant", "user", "assistant", "system"]),
        st.one_of(strings, st.lists(blocks, max_size=5)),
    ),
    min_size=1,
    max_size=8,
)
_TOOLS: list[dict[str, Any]] = [
    tool("get"),
    tool("put", defer_loading=True, strict=True),
    tool("x" * 100, input_examples=[{"q": "a"}]),
    {"type": "web_search_20250305", "name": "web_search"},
    {"type": "computer_toolset_20260801"},
    {"type": "tool_search_tool_bm25", "name": "tool_search_tool_bm25"},
    {"type": "bash_20250124", "name": "bash"},
    {"type": "mcp_toolset", "mcp_server_name": "s"},
    {"type": "future_20300101", "name": "future"},
]
_CHOICES = [{"type": "auto"}, {"type": "any"}, {"type": "none"}]


def conversations() -> st.SearchStrategy[dict[str, Any]]:
    """Return fields of requests whose history may break every rule that can be repaired."""
    return st.fixed_dictionaries(
        {"messages": any_messages},
        optional={
            "tools": st.lists(st.sampled_from(_TOOLS), unique_by=id),
            "tool_choice": st.sampled_from(_CHOICES),
            "system": st.one_of(strings, st.lists(strings.map(text), max_size=2)),
            "thinking": st.sampled_from([{"type": "adaptive"}, {"type": "disabled"}]),
            "temperature": st.floats(0, 2),
        },
    )


@st.composite
def legal_conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return the messages of a conversation that Anthropic's API would take; the user is last."""
    messages = [user(text(draw(words)))]
    for turn in range(draw(st.integers(0, 4))):
        n_calls = draw(st.integers(0, 3))
        made = [call(f"t{turn}-{n}", "get", q=draw(words)) for n in range(n_calls)]
        thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
        first = [thought] if draw(st.booleans()) else []
        messages.append(assistant(*first, text(draw(words)), *made))
        answers = [result(c["id"], draw(words)) for c in made]
        answers = draw(st.permutations(answers))
        more = [text(draw(words))] if draw(st.booleans()) or not answers else []
        messages.append(user(*answers, *more))
    return messages
