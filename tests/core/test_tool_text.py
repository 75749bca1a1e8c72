"""Calls in text become calls, everything else stays what it was, wherever the text is cut."""

import itertools
import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.dialects.profile import DialectProfile, ToolGrammar
from dragoman.core.input_schemas import ToolSchemas
from dragoman.core.tool_grammars.families import GRAMMARS
from dragoman.core.tool_text import ToolTextCutter
from support.text_calls import (
    ALL_GRAMMARS,
    SCHEMAS,
    TOOLS,
    WRITERS,
    calls_of,
    cut_text,
    said,
    text_of,
)

CORPUS = Path(__file__).parent / "tool_text_corpus"
DOCUMENTS = sorted(path.name for path in CORPUS.iterdir() if path.name != "README.md")
WEATHER = ("get_weather", {"city": "Turin"})
FILES = ("list_files", {})
WRITE = (
    "write_file",
    {"path": "a b.py", "content": "if a < b:\n  print('<x>')\n", "append": True, "tags": ["é"]},
)


def test_a_profile_can_name_every_grammar() -> None:
    assert set(get_args(ToolGrammar)) == set(GRAMMARS)
    assert DialectProfile().tool_text == ALL_GRAMMARS


# -- each family


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("calls", [[WEATHER], [FILES], [WRITE, FILES, WEATHER]], ids=len)
def test_calls_of_each_family(family, calls) -> None:
    grammar, write = WRITERS[family]
    text = write(calls)
    assert said(cut_text([text], grammars=(grammar,))) == calls
    assert said(cut_text(["One moment.\n" + text + "\n\nDone."], grammars=(grammar,))) in (
        ["One moment.", *calls, "Done."],
        ["One moment.\n", *calls, "Done."],  # the template has no line break there
    )


@pytest.mark.parametrize("family", [family for family in WRITERS if family != "MiMo"])
def test_families_are_told_apart(family) -> None:
    grammar, write = WRITERS[family]
    found = calls_of(cut_text([write([WRITE, FILES])]))
    assert [call.grammar for call in found] == [grammar] * 2


def test_only_what_the_profile_names_is_found() -> None:
    for family, (grammar, write) in WRITERS.items():
        others = tuple(name for name in GRAMMARS if name != grammar)
        if family in ("MiMo", "Qwen3-Coder"):  # they differ by white space only
            others = tuple(name for name in others if name not in ("mimo", "qwen3_coder"))
        text = write([WRITE, FILES])
        assert cut_text([text], grammars=others) == [text]


K2_ARGUMENTS = '<|tool_call_argument_begin|>{"city": "Turin"}<|tool_call_end|>'
QUIRKS = {
    "Qwen, outer tag missing": (
        "<function=get_weather>\n<parameter=city>\nTurin\n</parameter>\n</function>",
        [WEATHER],
    ),
    "Qwen, outer tag not opened": (
        "<function=get_weather>\n<parameter=city>\nTurin\n</parameter>\n</function>\n</tool_call>",
        [WEATHER],
    ),
    "Qwen, inner tag not closed": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nTurin\n</parameter>\n</tool_call>",
        [WEATHER],
    ),
    "Qwen, outer tag not closed, another call behind it": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nTurin\n</parameter>\n</function>\n"
        "<tool_call>\n<function=list_files>\n</function>\n</tool_call>",
        [WEATHER, FILES],
    ),
    "Qwen, parameters not closed": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nTurin\n<parameter=days>\n2\n"
        "</function>\n</tool_call>",
        [("get_weather", {"city": "Turin", "days": 2})],
    ),
    "Qwen, only the last parameter not closed, and no outer tag": (
        "<function=get_weather>\n<parameter=days>\n2\n</parameter>\n<parameter=city>\nTurin\n"
        "</function>\n",
        [("get_weather", {"days": 2, "city": "Turin"})],
    ),
    "Qwen, tags in a value": (
        "<tool_call>\n<function=write_file>\n<parameter=path>\na\n</parameter>\n"
        "<parameter=content>\nuse </parameter> and <parameter=x>, </function> and </tool_call>.\n"
        "</parameter>\n</function>\n</tool_call>",
        [
            (
                "write_file",
                {
                    "path": "a",
                    "content": "use </parameter> and <parameter=x>, </function> and </tool_call>.",
                },
            )
        ],
    ),
    "Qwen, a call as a value": (
        "<tool_call>\n<function=write_file>\n<parameter=path>\na\n</parameter>\n"
        "<parameter=content>\n<tool_call>\n<function=list_files>\n</function>\n</tool_call>\n"
        "</parameter>\n</function>\n</tool_call>",
        [
            (
                "write_file",
                {
                    "path": "a",
                    "content": "<tool_call>\n<function=list_files>\n</function>\n</tool_call>",
                },
            )
        ],
    ),
    "Qwen, values of all types": (
        "<tool_call>\n<function=write_file>\n<parameter=path>\n12\n</parameter>\n"
        "<parameter=content>\n\n\n</parameter>\n<parameter=append>\nTrue\n</parameter>\n"
        '<parameter=tags>\n["x", 1]\n</parameter>\n<parameter=mode>\nnull\n</parameter>\n'
        "</function>\n</tool_call>",
        [
            (
                "write_file",
                {"path": "12", "content": "\n", "append": True, "tags": ["x", "1"], "mode": None},
            )
        ],
    ),
    "Qwen, null for what may be left out, and for what may not": (
        "<tool_call>\n<function=write_file>\n<parameter=path>\na\n</parameter>\n"
        "<parameter=content>\nnull\n</parameter>\n<parameter=append>\nnull\n</parameter>\n"
        "</function>\n</tool_call>",
        [("write_file", {"path": "a", "content": "null"})],
    ),
    "Qwen, an unknown parameter": (
        "<tool_call>\n<function=list_files>\n<parameter=depth>\n3\n</parameter>\n"
        "<parameter=like>\n*.py\n</parameter>\n</function>\n</tool_call>",
        [("list_files", {"depth": 3, "like": "*.py"})],
    ),
    "DSML, the arguments as an object": (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n{"city": "Turin"}\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        [WEATHER],
    ),
    "DSML, without arguments": (
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="list_files"/>\n</｜DSML｜tool_calls>',
        [FILES],
    ),
    "DSML, wrapper missing": (
        '<｜DSML｜invoke name="list_files">\n</｜DSML｜invoke>\n<｜DSML｜invoke name="get_weather">'
        '<｜DSML｜parameter name="city" string="true">Turin</｜DSML｜parameter></｜DSML｜invoke>',
        [FILES, WEATHER],
    ),
    "DSML, a text that is marked as JSON": (
        '<｜DSML｜invoke name="get_weather"><｜DSML｜parameter name="city" string="false">Turin'
        "</｜DSML｜parameter></｜DSML｜invoke>",
        [WEATHER],
    ),
    "DSML, kind not said": (
        '<｜DSML｜invoke name="get_weather"><｜DSML｜parameter name="city">Turin'
        '</｜DSML｜parameter><｜DSML｜parameter name="days">2</｜DSML｜parameter></｜DSML｜invoke>',
        [("get_weather", {"city": "Turin", "days": 2})],
    ),
    "Hermes, arguments in a string": (
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Turin\\"}"}</tool_call>',
        [WEATHER],
    ),
    "Hermes, other words, other order": (
        '<tool_call>{"parameters": {"city": "Turin"}, "name": "get_weather"}</tool_call>',
        [WEATHER],
    ),
    "Hermes, no arguments": ('<tool_call>\n{"name": "list_files"}\n</tool_call>', [FILES]),
    "Hermes, a brace too few": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Turin"}\n</tool_call>',
        [WEATHER],
    ),
    "Hermes, a brace too many": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Turin"}}}\n</tool_call>',
        [WEATHER],
    ),
    "Hermes, not closed, another call behind it": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Turin"}}\n'
        '<tool_call>\n{"name": "list_files", "arguments": {}}\n</tool_call>',
        [WEATHER, FILES],
    ),
    "Hermes, as Python has it": (
        "<tool_call>\n{'name': 'get_weather', 'arguments': {'city': 'Turin'}}\n</tool_call>",
        [WEATHER],
    ),
    "Hermes, the tags in a string": (
        '<tool_call>{"name": "write_file", "arguments": {"path": "a", '
        '"content": "</tool_call> <tool_call>"}}</tool_call>',
        [("write_file", {"path": "a", "content": "</tool_call> <tool_call>"})],
    ),
    "Hermes, a number in quotes": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Turin", "days": "2"}}'
        "</tool_call>",
        [("get_weather", {"city": "Turin", "days": 2})],
    ),
    "Kimi, section missing": (
        f"<|tool_call_begin|>functions.get_weather:0{K2_ARGUMENTS}",
        [WEATHER],
    ),
    "Kimi, section not closed": (
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0{K2_ARGUMENTS}",
        [WEATHER],
    ),
    "Kimi, section not opened": (
        f"<|tool_call_begin|>functions.get_weather:0{K2_ARGUMENTS}<|tool_calls_section_end|>",
        [WEATHER],
    ),
    "Kimi, name without the word": (f"<|tool_call_begin|>get_weather:0{K2_ARGUMENTS}", [WEATHER]),
    "Kimi, a bare counter": (f"<|tool_call_begin|>12{K2_ARGUMENTS}", [WEATHER]),
    "Kimi, no arguments": (
        "<|tool_call_begin|>functions.list_files:0<|tool_call_argument_begin|><|tool_call_end|>",
        [FILES],
    ),
    "Kimi, white space everywhere": (
        "<|tool_calls_section_begin|>\n<|tool_call_begin|> functions.get_weather:0 "
        '<|tool_call_argument_begin|> {"city": "Turin"} \n<|tool_call_end|>\n'
        "<|tool_calls_section_end|>\n",
        [WEATHER],
    ),
    "Kimi K3, entities in names, none in values": (
        '<|open|>call tool="list_files" index="1"<|sep|>'
        '<|open|>argument key="a&amp;&quot;b" type="string"<|sep|>x &amp; y<|close|>argument<|sep|>'
        "<|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>",
        [("list_files", {'a&"b': "x &amp; y"})],
    ),
    "Kimi K3, in its channels": (
        "<|open|>response<|sep|>On it.<|close|>response<|sep|>"
        '<|open|>tools<|sep|><|open|>call tool="list_files"<|sep|><|close|>call<|sep|>'
        "<|close|>tools<|sep|>",
        ["On it.", FILES],
    ),
    "Hermes, brackets where a comma should be": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Turin"} <"x"> }</tool_call>',
        ['<tool_call>{"name": "get_weather", "arguments": {"city": "Turin"} <"x"> }</tool_call>'],
    ),
    "GLM, white space around the name": (
        "<tool_call>\nget_weather \n<arg_key>city</arg_key> <arg_value>Turin</arg_value>\n"
        "</tool_call>",
        [WEATHER],
    ),
    "GLM, a value of several lines with tags": (
        "<tool_call>write_file<arg_key>path</arg_key><arg_value>a</arg_value><arg_key>content"
        "</arg_key><arg_value>\n<arg_value>\n</arg_value> </arg_value></tool_call>",
        [("write_file", {"path": "a", "content": "\n<arg_value>\n</arg_value> "})],
    ),
    "DeepSeek V3, a fence in the arguments": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>write_file\n```json\n"
        '{"path": "a.md", "content": "```\\ncode\\n```"}\n```<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜>",
        [("write_file", {"path": "a.md", "content": "```\ncode\n```"})],
    ),
    "text between calls": (
        "<tool_call>list_files</tool_call>\nAnd then:\n\n<tool_call>list_files</tool_call>",
        [FILES, "And then:", FILES],
    ),
    "code before a call": (
        "Run `ls` or ```a``` first:\n```sh\nls\n```\n<tool_call>list_files</tool_call>",
        ["Run `ls` or ```a``` first:\n```sh\nls\n```", FILES],
    ),
    "a stray backtick on the line before": (
        "The ` key.\n<tool_call>list_files</tool_call>",
        ["The ` key.", FILES],
    ),
    "what looks like a call, then one": (
        "<tool_call>list_files or\n<tool_call>list_files</tool_call>\n",
        ["<tool_call>list_files or", FILES],
    ),
    "an incomplete call, then one": (
        "<tool_call>get_weather<arg_key>city</arg_key>\n<tool_call>list_files</tool_call>",
        ["<tool_call>get_weather<arg_key>city</arg_key>", FILES],
    ),
    "a call of an unknown tool in one section with a known one": (
        "<tool_call>list_files</tool_call><tool_call>rm</tool_call>",
        [FILES, "<tool_call>rm</tool_call>"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), QUIRKS.values(), ids=QUIRKS)
def test_quirks(text, expected) -> None:
    assert said(cut_text([text])) == expected
    assert said(cut_text(text)) == expected


def test_values_of_mimo_keep_their_line_breaks() -> None:
    text = (
        "<tool_call>\n<function=write_file>\n<parameter=path>a</parameter>\n"
        "<parameter=content>\nx &amp; y\n</parameter>\n</function>\n</tool_call>"
    )
    content = {"mimo": "\nx &amp; y\n", "qwen3_coder": "x &amp; y"}
    for grammar, expected in content.items():
        found = said(cut_text([text], grammars=(grammar,)))
        assert found == [("write_file", {"path": "a", "content": expected})]


def test_ids_of_kimi_are_kept() -> None:
    _, write = WRITERS["Kimi K2"]
    ids = [call.id for call in calls_of(cut_text([write([WEATHER, FILES])]))]
    assert ids == ["functions.get_weather:0", "functions.list_files:1"]
    assert calls_of(cut_text([f"<|tool_call_begin|>3{K2_ARGUMENTS}"]))[0].id == ""


def test_a_counter_that_fits_several_tools_names_none() -> None:
    names = ("ls", "dir")
    tools = ToolSchemas(
        frozenset(names),
        [{"function": {"name": n, "parameters": {"type": "object"}}} for n in names],
    )
    text = "<|tool_call_begin|>0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    assert cut_text([text], tools=tools) == [text]


def test_a_leading_line_break_is_the_templates_where_the_family_writes_one() -> None:
    assert cut_text(["\n\nHi"], grammars=("glm",)) == ["\nHi"]
    assert cut_text(["\n\nHi"]) == ["\n\nHi"]


# -- what stays text

CALL = "<tool_call>list_files</tool_call>"
STAYS = {
    "prose behind it": f"Write {CALL} to list files.",
    "a full stop behind it": f"It answers with {CALL}.",
    "quotes around it": f'It answers "{CALL}"',
    "a fence": f"```\n{CALL}\n```\n",
    "a fence with a language": f"Like so:\n\n```xml\n{CALL}\n```\n",
    "a long fence": f"````\n```\n{CALL}\n```\n````",
    "a fence of tildes": f"~~~\n{CALL}\n~~~",
    "an indented fence": f"1. Like so:\n   ```\n   {CALL}\n   ```",
    "a fence that is not closed": f"```\n{CALL}\n",
    "a fence at the very start": f"```\n{CALL}",
    "a fence in a fence": f"```md\n```py\nx\n```\n{CALL}",
    "a code span": f"It answers `{CALL}`",
    "a code span of two": f"It answers ``{CALL}``",
    "a code span that is cut": f"It answers `{CALL}",
    "a quotation": f"> {CALL}\n",
    "a quotation in a quotation": f"> > {CALL}\n",
    "an unknown tool": "<tool_call>rm</tool_call>",
    "an unknown tool in JSON": '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>',
    "no tool at all": "<tool_call>\n{}\n</tool_call>",
    "an unknown tool in a section": (
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.rm:0{K2_ARGUMENTS}"
        "<|tool_calls_section_end|>"
    ),
    "a counter that fits nothing": (
        '<|tool_call_begin|>0<|tool_call_argument_begin|>{"x": 1}<|tool_call_end|>'
    ),
    "an odd id": (
        '<|tool_call_begin|>get_weather<|tool_call_argument_begin|>{"city": "x"}<|tool_call_end|>'
    ),
    "a name with something behind it": "<tool_call>list_files now</tool_call>",
    "two names": "<tool_call>list_files list_files</tool_call>",
    "no arguments in JSON": "<tool_call>\n[1]\n</tool_call>",
    "JSON that means nothing": '<tool_call>\n{"name": <get_weather>}\n</tool_call>',
    "words between the parameters": (
        "<function=get_weather>\n<parameter=city>\nTurin\n</parameter>\nand\n</function>"
    ),
    "tags that say something else": "<function=get_weather> is how Qwen calls it.\n",
    "the beginning of a marker": "a <tool_ca",
    "a marker alone": "<tool_call>",
    "comparisons": "if a <b and c<|d or <f",
    "tags of other kinds": "<table>\n<tr><td>1</td></tr>\n</table>\n<|im_start|>",
    "the end of a call alone": "</tool_call>\n</function>",
    "two calls and prose": f"{CALL}{CALL} are two calls.",
}


@pytest.mark.parametrize("text", STAYS.values(), ids=STAYS)
def test_what_only_looks_like_a_call_stays_text(text) -> None:
    assert cut_text([text]) == [text]
    assert cut_text(text) == [text]


# -- the end of the reply

QWEN_OPEN = "<tool_call>\n<function=get_weather>\n<parameter=city>\nTur"
ENDS = {
    # text, input where the model was done, arguments where it was cut off
    "Qwen, in a value": (QWEN_OPEN, None, '{"city":"Tur'),
    "Qwen, in the marker behind it": (f"{QWEN_OPEN}in\n</para", None, '{"city":"Turin\\n'),
    "Qwen, behind a value": (
        f"{QWEN_OPEN}in\n</parameter>\n",
        {"city": "Turin"},
        '{"city":"Turin"',
    ),
    "Qwen, before a value": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nx\n</parameter>\n<parameter=days>\n2",
        None,
        '{"city":"x"',
    ),
    "Qwen, before anything": ("<tool_call>\n<function=get_weather>", None, "{"),
    "Qwen, no parameter needed": ("<tool_call>\n<function=list_files>\n", {}, "{"),
    "Qwen, outer tag missing at the end": (
        f"{QWEN_OPEN}in\n</parameter>\n</function>\n",
        {"city": "Turin"},
        '{"city":"Turin"}',
    ),
    "Hermes, whole but for the end": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Turin"}}',
        {"city": "Turin"},
        '{"city":"Turin"}',
    ),
    "Hermes, a brace missing": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Turin"}',
        {"city": "Turin"},
        '{"city": "Turin"',
    ),
    "Hermes, braces missing": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Turin"',
        {"city": "Turin"},
        '{"city": "Turin',
    ),
    "Hermes, required arguments missing": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"days": 2',
        None,
        '{"days": ',
    ),
    "Hermes, in a string": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Tur',
        None,
        '{"city": "Tur',
    ),
    "Hermes, before the arguments": ('<tool_call>\n{"name": "get_weather", ', None, "{"),
    "Kimi, in a string": (
        '<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Tur',
        None,
        '{"city": "Tur',
    ),
    "Kimi, a quote missing before the end": (
        '<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Turin}'
        "<|tool_call_end|><|tool_calls_section_end|>",
        {"city": "Turin"},
        '{"city":"Turin"}',
    ),
    "DSML, in a value": (
        '<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Tur',
        None,
        '{"city":"Tur',
    ),
    "DSML, in JSON": (
        '<｜DSML｜invoke name="get_weather">\n{"city": "Tur',
        None,
        '{"city": "Tur',
    ),
    "Kimi K3, in a value": (
        '<|open|>call tool="get_weather"<|sep|><|open|>argument key="city" type="string"<|sep|>Tur',
        None,
        '{"city":"Tur',
    ),
    "GLM, in a value": (
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Tur",
        None,
        '{"city":"Tur',
    ),
}


@pytest.mark.parametrize(("text", "given_input", "cut"), ENDS.values(), ids=ENDS)
def test_a_call_at_the_end(text, given_input, cut) -> None:
    before = "One moment.\n"
    for slices in ([before + text], list(before + text)):
        ended = cut_text(slices)
        if given_input is None:
            assert ended == [before + text]
        else:
            assert [c.arguments for c in calls_of(ended)] == [
                json.dumps(given_input, separators=(",", ":"))
            ]
            assert not calls_of(ended)[0].is_cut
        stopped = cut_text(slices, is_cut=True)
        assert text_of(stopped).strip() == before.strip()
        (call,) = calls_of(stopped)
        assert call.is_cut == (cut != '{"city":"Turin"}')
        assert call.arguments == cut


def test_a_cut_call_of_an_unknown_tool_stays_text() -> None:
    for text in ('<tool_call>\n{"name": "rm", "arguments": {"x": "', "<function=rm>\n<parameter=x"):
        assert cut_text([text], is_cut=True) == [text]


def test_a_call_behind_one_that_the_end_left_broken() -> None:
    broken = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Turin}\n</tool_call>\n'
    found = said(cut_text([broken + '<tool_call>\n{"name": "list_files"}\n</tool_call>']))
    assert found[-1] == FILES


# -- thinking

THINKING = {
    "at the end": (f"Let me look.\n{CALL}", ["Let me look.", FILES]),
    "with space behind it": (f"Let me look.\n{CALL}\n \n", ["Let me look.", FILES]),
    "two at the end": (f"Look.\n{CALL}\n\n{CALL}", ["Look.", FILES, FILES]),
    "with much space behind it": (f"Look.\n{CALL}{' ' * 100}", ["Look.", FILES]),
    "with too much space behind it": (f"{CALL}{' ' * 5000}", [f"{CALL}{' ' * 5000}"]),
    "a draft": (f"I could say\n{CALL}\nbut why?", [f"I could say\n{CALL}\nbut why?"]),
    "a draft, then a call": (f"Not\n{CALL}\nbut\n{CALL}", [f"Not\n{CALL}\nbut", FILES]),
    "in code": (f"`{CALL}`", [f"`{CALL}`"]),
}


@pytest.mark.parametrize(("text", "expected"), THINKING.values(), ids=THINKING)
def test_calls_in_thinking(text, expected) -> None:
    assert said(cut_text([text], is_thinking=True)) == expected
    assert said(cut_text(text, is_thinking=True)) == expected


def test_a_draft_is_released_by_what_follows() -> None:
    cutter = ToolTextCutter(ALL_GRAMMARS, TOOLS, is_thinking=True)
    shown = cutter.feed(f"Look.\n{CALL}")
    assert (shown, cutter.has_calls, cutter.is_holding) == (["Look."], True, True)
    assert cutter.release() == [f"\n{CALL}"]
    assert (cutter.has_calls, cutter.is_holding) == (False, False)
    assert cutter.feed("More.") == ["More."]


# -- laws

ARGUMENTS = st.fixed_dictionaries(
    {
        "path": st.sampled_from(["a", "b c/d.py", "é", "x" * 60]),
        "content": st.text(st.sampled_from('ab \n"\\<>/`{}[]=é🙂｜'), max_size=30).filter(
            lambda t: t.strip() not in ("null", "None")
        ),
    },
    optional={
        "append": st.booleans(),
        "tags": st.lists(st.sampled_from(["x", "</y>", '"'])),
        "mode": st.integers(-9, 9),
    },
)
CALLS = st.lists(
    st.tuples(st.just("write_file"), ARGUMENTS) | st.just(FILES) | st.just(WEATHER),
    min_size=1,
    max_size=3,
)
PROSE = st.lists(
    st.sampled_from(
        ["Hello", " there", "\n", "\n\n", ". ", "a < b", "é", "`x`", "<b>", "```\nx\n```\n"]
    ),
    max_size=6,
).map("".join)


def without_breaks(text: str, *, at_end: bool) -> set[str]:
    """*text*, and what is left of it without one or two line breaks."""
    stripped = {text}
    for _ in range(2):
        stripped |= {t.removesuffix("\n") if at_end else t.removeprefix("\n") for t in stripped}
    return stripped


def is_mere_text(text: str) -> bool:
    """Tell whether no call may follow this on the next line: it leaves code open."""
    return bool(calls_of(cut_text([f"{text}\n{CALL}"])))


BEFORE = PROSE.map("So: ".__add__).filter(is_mere_text)


@given(st.sampled_from(sorted(WRITERS)), CALLS, BEFORE, PROSE, st.data())
@settings(max_examples=150, deadline=None)
def test_calls_are_found_and_the_text_around_them_stays(family, calls, before, after, data) -> None:
    grammar, write = WRITERS[family]
    text = f"{before}\n{write(calls)}\n{after}"
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    edges = [0, *sorted(places), len(text)]
    found = cut_text([text[a:b] for a, b in itertools.pairwise(edges)], grammars=(grammar,))
    assert [c for c in said(found) if not isinstance(c, str)] == calls
    first, last = (piece if isinstance(piece, str) else "" for piece in (found[0], found[-1]))
    assert first in without_breaks(f"{before}\n", at_end=True)
    assert last in without_breaks(f"\n{after}", at_end=False)


TOKENS = st.sampled_from(
    [
        *("<", "<tool_call>", "</tool_call>", "<function=write_file>", "</function>", "\\n"),
        *("<parameter=path>", "<parameter=content>", "</parameter>", "get_weather", "zzz"),
        *("\n", "\n\n", " ", "`", "``", "```", "~~~", "~", "> ", "{", "}", '"', "\\", "word"),
        *('{"city": "Turin"}', '{"name": "get_weather", "arguments": {"city": "x"}}'),
        *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "city", "list_files"),
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
        *("functions.get_weather:0", "7", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
        *(
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>",
            "function",
            "<｜tool▁sep｜>",
            "```json",
        ),
        *(
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
            "<｜DSML｜function_calls>",
            "<｜DSML｜ calls>",
        ),
        *('<｜DSML｜invoke name="get_weather">', '<｜DSML｜invoke name="list_files"/>'),
        *('<｜DSML｜parameter name="city" string="true">', "</｜DSML｜parameter>"),
        *("</｜DSML｜invoke>", "</｜DSML｜function_calls>", "<|open|>tools<|sep|>"),
        *('<|open|>call tool="get_weather" index="1"<|sep|>', "<|close|>argument<|sep|>"),
        *('<|open|>argument key="city" type="string"<|sep|>', "<|close|>call<|sep|>"),
        *("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>tools<|sep|>"),
        *('<invoke name="get_weather">', '<parameter name="city">', "</invoke>"),
    ]
)
WRITTEN = st.builds(
    lambda family, calls: WRITERS[family][1](calls),
    st.sampled_from(sorted(WRITERS)),
    st.lists(st.sampled_from([WEATHER, FILES, WRITE, ("zzz", {"a": 1})]), min_size=1, max_size=2),
)
MESSES = st.lists(TOKENS | WRITTEN, max_size=12).map("".join)


@given(MESSES, st.lists(st.integers(0, 2000), max_size=8), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_cuts_never_matter(text, places, is_thinking, is_cut) -> None:
    kinds = {"is_thinking": is_thinking, "is_cut": is_cut}
    whole = cut_text([text], **kinds)
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    assert cut_text([text[a:b] for a, b in itertools.pairwise(edges)], **kinds) == whole
    assert cut_text(text, **kinds) == whole
    assert all(call.name in SCHEMAS for call in calls_of(whole))
    if not calls_of(whole) and "response" not in text:
        assert text_of(whole) == text


@given(MESSES)
@settings(max_examples=100, deadline=None)
def test_without_a_declared_tool_all_is_text(text) -> None:
    tools = ToolSchemas(frozenset({"other"}), ())
    said_text = text.replace("<|open|>response<|sep|>", "").replace("<|close|>response<|sep|>", "")
    for is_cut in (False, True):
        pieces = cut_text([text], tools=tools, is_cut=is_cut)
        assert not calls_of(pieces)
        assert text_of(pieces) in (text, said_text) or "response" in text


# -- ordinary text


def test_the_corpus_has_what_it_should() -> None:
    assert len(DOCUMENTS) >= 20
    texts = [(CORPUS / name).read_text(encoding="utf-8") for name in DOCUMENTS]
    assert sum(any(name in text for name in SCHEMAS) for text in texts) >= 3
    markers = ("<tool_call>", "<function=", "<｜DSML｜", "<|tool_call_begin|>", "<｜tool▁sep｜>")
    assert all(any(marker in text for text in texts) for marker in (*markers, "<|open|>"))


@pytest.mark.parametrize("grammars", [ALL_GRAMMARS, ("mimo", *ALL_GRAMMARS)], ids=["all", "mimo"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_ordinary_text_passes_unchanged(name, grammars) -> None:
    text = (CORPUS / name).read_text(encoding="utf-8")
    for is_cut in (False, True):
        assert cut_text([text], grammars=grammars, is_cut=is_cut) == [text]
    for size in (1, 3, 7, 40):
        slices = [text[at : at + size] for at in range(0, len(text), size)]
        assert cut_text(slices, grammars=grammars) == [text]
        assert text_of(cut_text(slices, grammars=grammars, is_thinking=True)) == text


# -- bounds


def test_little_is_held_back() -> None:
    cutter = ToolTextCutter(ALL_GRAMMARS, TOOLS)
    assert cutter.feed("Hello") == ["Hello"]
    assert not cutter.is_alert
    assert cutter.feed(" there.\n\n\n") == [" there.\n"]
    assert cutter.is_alert
    assert cutter.feed("More <tool") == ["\n\nMore "]
    assert cutter.feed("box>") == ["<toolbox>"]
    assert not cutter.is_alert
    assert cutter.feed("\n" + " " * 61) == ["\n" + " " * 61]


def test_a_call_over_the_limit_is_text(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.core.tool_text._MAX_CALL_CHARS", 100)
    text = f"<tool_call>get_weather<arg_key>city</arg_key><arg_value>{'x' * 200}"
    cutter = ToolTextCutter(ALL_GRAMMARS, TOOLS)
    shown = [piece for at in range(0, len(text), 9) for piece in cutter.feed(text[at : at + 9])]
    assert "".join(shown) == text[: len("".join(shown))]
    assert len("".join(shown)) > 100
    assert text_of(
        [*shown, *cutter.feed("</arg_value></tool_call>"), *cutter.close(is_cut=False)]
    ) == (text + "</arg_value></tool_call>")


def test_looking_for_calls_ends_where_none_are(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.core.tool_text._MAX_WASTED_CHARS", 1000)
    cutter = ToolTextCutter(ALL_GRAMMARS, TOOLS)
    odd = f"{CALL} is how.\n"
    out = [piece for _ in range(5) for piece in cutter.feed(odd)]
    assert not cutter.is_alert
    out += cutter.feed(f"\n{CALL}")
    assert text_of(out + cutter.close(is_cut=False)) == odd * 5 + f"\n{CALL}"
    assert not calls_of(out)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 20_000,
        "<tool_call>list_files</tool_call> x\n" * 6_000,
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>" * 4_000,
        "<function=get_weather>\n<parameter=city>" + "</parameter>x" * 20_000,
        "<function=get_weather>\n<parameter=city>" + "</function>x" * 20_000,
        '<tool_call>{"name": "get_weather", ' + "<" * 200_000,
        '<tool_call>{"name": "' + "</tool_call>" * 20_000,
        '<tool_call>{"name": "get_weather", "arguments": "' + "\\" * 200_000,
        "`" * 200_000,
        "\n" * 200_000,
        " " * 200_000 + "<",
        "<｜DSML｜invoke" * 20_000,
    ],
    ids=range(12),
)
def test_cost_does_not_explode(text) -> None:
    """A quadratic reader would take minutes for each of these."""
    cutter = ToolTextCutter(ALL_GRAMMARS, TOOLS)
    out = [piece for at in range(0, len(text), 50) for piece in cutter.feed(text[at : at + 50])]
    out += cutter.close(is_cut=False)
    assert text_of(out) == text
