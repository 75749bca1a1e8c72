"""
The grammars.

Sources, read 2026-11-22 to 2026-11-25: model dialects, section 4.3; the chat templates' forms as
sglang 0.5.23 and vllm 0.33.0 parse them. DeepSeek's markers have fullwidth bars (U+FF5C) and lower
blocks (U+2581).
"""

from typing import Final

from dragoman.core.tool_grammars.grammar import Grammar

_TOOL_CALL: Final = ("<tool_call>", "</tool_call>")

# V3 of 2024-12 and 0324, R1: the word "function", and the arguments in a fence.
DEEPSEEK_V3: Final = Grammar(
    name="deepseek_v3",
    sections=(("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),),
    call_open=("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}{s}```{lang}{s}",),
    followed_by=("{",),
    call_close=("```{s}<｜tool▁call▁end｜>", "<｜tool▁call▁end｜>"),
    arguments="json",
)
DEEPSEEK_V31: Final = Grammar(
    name="deepseek_v31",
    sections=DEEPSEEK_V3.sections,
    call_open=("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",),
    call_close=("<｜tool▁call▁end｜>",),
    arguments="json",
)
# V3.2 names the wrapper function_calls, V4 tool_calls, V4.1 calls with a space behind the mark.
DEEPSEEK_DSML: Final = Grammar(
    name="deepseek_dsml",
    sections=tuple(
        (f"<｜DSML｜{{blank}}{wrapper}>", f"</｜DSML｜{{blank}}{wrapper}>")
        for wrapper in ("function_calls", "tool_calls", "calls")
    ),
    call_open=('<｜DSML｜{blank}invoke{s}name="{name}"{s}>',),
    call_whole=('<｜DSML｜{blank}invoke{s}name="{name}"{s}/>',),
    call_close=("</｜DSML｜{blank}invoke>",),
    arguments="parameters",
    parameter_open=(
        '<｜DSML｜{blank}parameter{s}name="{attribute}"{s}string="{kind}"{s}>',
        '<｜DSML｜{blank}parameter{s}name="{attribute}"{s}>',
    ),
    parameter_close=("</｜DSML｜parameter>", "</｜DSML｜ parameter>"),
    verbatim_kind="true",
    may_be_object=True,
    line_breaks_before=2,
)
# The same without marks, which V3.2 sometimes leaves out; other models write it from memory.
INVOKE: Final = Grammar(
    name="invoke",
    sections=(("<function_calls>", "</function_calls>"),),
    call_open=('<invoke{s}name="{name}"{s}>',),
    call_whole=('<invoke{s}name="{name}"{s}/>',),
    call_close=("</invoke>",),
    arguments="parameters",
    parameter_open=(
        '<parameter{s}name="{attribute}"{s}string="{kind}"{s}>',
        '<parameter{s}name="{attribute}"{s}>',
    ),
    parameter_close=("</parameter>",),
    verbatim_kind="true",
    may_be_object=True,
    line_breaks_before=2,
)
QWEN3_CODER: Final = Grammar(
    name="qwen3_coder",
    sections=(_TOOL_CALL,),
    call_open=("<function={name}>",),
    call_close=("</function>",),
    arguments="parameters",
    parameter_open=("<parameter={key}>",),
    parameter_close=("</parameter>",),
    may_be_unclosed=True,
    strips_line_breaks=True,
    line_breaks_before=2,
)
# The same tags with values tight against them. The engines disagree about entities in values; they
# stay as they are, because code is full of what looks like one.
MIMO: Final = Grammar(
    name="mimo",
    sections=QWEN3_CODER.sections,
    call_open=QWEN3_CODER.call_open,
    call_close=QWEN3_CODER.call_close,
    arguments="parameters",
    parameter_open=QWEN3_CODER.parameter_open,
    parameter_close=QWEN3_CODER.parameter_close,
    may_be_unclosed=True,
    line_breaks_before=2,
)
HERMES: Final = Grammar(
    name="hermes",
    call_open=("<tool_call>{s}",),
    followed_by=("{",),
    call_close=("</tool_call>",),
    arguments="call_json",
    line_breaks_before=2,
)
# GLM 4.5 and 4.6 write line breaks between the parts, later ones do not.
GLM: Final = Grammar(
    name="glm",
    call_open=("<tool_call>{s}{name}{s}",),
    followed_by=("<arg_key>", "</tool_call>"),
    call_close=("</tool_call>",),
    arguments="parameters",
    parameter_open=("<arg_key>{key}</arg_key>{s}<arg_value>",),
    parameter_close=("</arg_value>",),
    line_breaks_before=2,
    begins_with_break=True,
)
KIMI_K2: Final = Grammar(
    name="kimi_k2",
    sections=(("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),),
    call_open=("<|tool_call_begin|>{s}{id}{s}<|tool_call_argument_begin|>",),
    call_close=("<|tool_call_end|>",),
    arguments="json",
)
KIMI_K3: Final = Grammar(
    name="kimi_k3",
    sections=(
        ("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
        ("<|open|>tools<|sep|>", "<|close|>message<|sep|>"),
    ),
    call_open=(
        '<|open|>call tool="{name}" index="{index}"<|sep|>',
        '<|open|>call tool="{name}"<|sep|>',
    ),
    call_close=("<|close|>call<|sep|>",),
    arguments="parameters",
    parameter_open=('<|open|>argument key="{attribute}" type="{kind}"<|sep|>',),
    parameter_close=("<|close|>argument<|sep|>",),
    verbatim_kind="string",
    escapes_attributes=True,
    wrapper=("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
)

GRAMMARS: Final = {
    grammar.name: grammar
    for grammar in (
        DEEPSEEK_V3,
        DEEPSEEK_V31,
        DEEPSEEK_DSML,
        INVOKE,
        QWEN3_CODER,
        MIMO,
        HERMES,
        GLM,
        KIMI_K2,
        KIMI_K3,
    )
}
