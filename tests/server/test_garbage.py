"""Nothing of a request is left to the garbage collector: all of it goes with its last reference."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.app_case import ASK, AppCase, Script, calling, failing, refusing, run, saying
from support.app_case import GONE as UNREACHABLE
from support.plans import assistant, call, result, text, tool, user

pytestmark = pytest.mark.usefixtures("quick_retries")

AGENT: dict[str, Any] = {
    **ASK,
    "tools": [tool("get"), tool("put")],
    "messages": [
        user("Do it."),
        assistant(text("Yes."), call("toolu_1"), call("toolu_2", "put", q="x")),
        user(result("toolu_1"), result("toolu_2", [text("done")])),
    ],
}
CASES: dict[str, tuple[dict[str, Any], list[Script]]] = {
    "a short question": (ASK, [saying("Hello")]),
    "a conversation with tools": (AGENT, [saying("Done.")]),
    "a call": (AGENT, [calling("get", '{"q":"x"}', text="So:")]),
    "tagged thinking": (ASK, [saying("<think>Hm.</think>Yes.")]),
    "a second attempt": (ASK, [failing(UNREACHABLE), saying("Hello")]),
    "a refusal": (ASK, [refusing(400)]),
}


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Name the types of ours that only the collector finds."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += {
            type(each).__qualname__
            for each in gc.garbage
            if type(each).__module__.startswith("dragoman.")
        }
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("request_body", "script"), CASES.values(), ids=CASES)
def test_requests_leave_nothing_to_the_collector(
    request_body: dict[str, Any], script: list[Script], is_stream: bool
) -> None:
    async def main() -> list[str]:
        case = AppCase({"lab": [*script, *script]})
        body = {**request_body, "stream": is_stream}
        await case.ask(body)  # what is made once and kept
        with collecting() as found:
            exchange = await case.ask(body)
            assert exchange.is_ended
            del exchange
            case.upstreams["lab"].calls.clear()
            case.upstreams["lab"].requests.clear()
        await case.close()
        return found

    assert run(main()) == []


def test_the_collector_is_watched() -> None:
    """The check above can fail."""
    with collecting() as found:
        case = AppCase()
        case.app.me = case.app  # type: ignore[attr-defined]
        del case
    assert "App" in found
