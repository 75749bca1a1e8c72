"""Repairs are added up over all replies of a message, in the header, the log and the record."""

from typing import Any

from support.app_case import ASK, DONE, both_ways, calling, chunk, deliver, message_of, usage
from support.fakes import data, end, head

TOOL = {
    "name": "get",
    "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
TYPE = "tool_use.input repaired: get: arguments had types that the schema does not allow"


def both_calls(*calls: tuple[str, str]) -> list[Any]:
    fragments = [
        {"index": n, "id": f"c{n}", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(calls)
    ]
    body = chunk(tool_calls=fragments) + chunk("tool_calls") + usage(3, 2) + DONE
    return [head(), data(body), end()]


def test_a_reply_without_repairs_has_none() -> None:
    _, case = deliver([calling("get", '{"n": 1}')], body=ASK | {"tools": [TOOL]})
    assert "repairs" not in case.record


@both_ways
def test_each_repair_counts(is_stream: bool) -> None:
    script = [both_calls(("get", '{"n": "1"}'), ("get", '{"n": "2"}'), ("get", "{'n': 3}"))]
    exchange, case = deliver(script, body=ASK | {"tools": [TOOL]}, is_stream=is_stream)
    assert [use["input"] for use in message_of(exchange).tool_uses] == [{"n": n} for n in (1, 2, 3)]
    assert case.record["repairs"] == {"type": 2, "syntax": 1}
    assert case.record["adjustments"].count(TYPE) == 1


@both_ways
def test_repairs_before_a_server_tool_are_not_forgotten(is_stream: bool) -> None:
    body = ASK | {"tools": [TOOL, SEARCH | {"max_uses": 1}]}
    script = [calling("web_search", "{'query': 'x'}"), calling("get", '{"n": "1"}')]
    exchange, case = deliver(script, body=body, is_stream=is_stream)
    assert message_of(exchange).stop_reason == "tool_use"
    assert case.record["repairs"] == {"syntax": 1, "type": 1}
    assert TYPE in case.record["adjustments"]
    assert any("web_search: arguments were not legal JSON" in a for a in case.record["adjustments"])
    if not is_stream:
        shown = exchange.reply_headers[b"x-dragoman-adjustments"]
        assert b"not legal JSON" in shown
        assert b"had types" in shown


def test_a_loop_is_counted() -> None:
    turns: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
    for n in range(5):
        use = {"type": "tool_use", "id": f"toolu_{n}", "name": "get", "input": {"n": 1}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": "2"}
        turns += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    body = ASK | {"tools": [TOOL], "messages": turns}
    for options in ({}, {"model": {"nudge_repeats": True}}):
        _, case = deliver([calling("get", '{"n": 1}')], body=body, options=options)
        assert case.record["repairs"] == {"loop": 1}
    _, case = deliver(
        [calling("get", '{"n": 1}')], body=body, options={"model": {"max_repeats": 0}}
    )
    assert "repairs" not in case.record
