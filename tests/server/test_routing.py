"""Where a request goes: roles of side calls, choice, fallbacks; the whole path without sockets."""

from support.app_case import ASK, AppCase, message_of, run, saying

CLAUDE_CODE = {b"user-agent": b"claude-cli/2.1.330 (external, cli)"}
TITLE = {
    "type": "json_schema",
    "schema": {"type": "object", "properties": {"title": {"type": "string"}}},
}


def test_a_side_call_goes_to_the_model_of_its_role() -> None:
    async def case() -> AppCase:
        made = AppCase(
            {"lab": [saying("talk")], "small": [saying("A title")]},
            models={"m": {"upstream": ("lab",)}, "s": {"upstream": ("small",)}},
            roles={"background": "s"},
        )
        body = {**ASK, "output_config": {"format": TITLE}}
        titled = await made.ask({**body, "stream": True}, headers=CLAUDE_CODE)
        assert message_of(titled).text == "A title"
        assert message_of(titled).model == "m"
        assert message_of(await made.ask({**body, "stream": True})).text == "talk"
        await made.close()
        return made

    side, other = run(case()).records
    assert (side["side_role"], side["model"], side["upstream"]) == ("title", "m", "small")
    assert "side_role" not in other
    assert other["upstream"] == "lab"
