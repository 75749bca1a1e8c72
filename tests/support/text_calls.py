"""Tool calls as the families write them, and a cutter fed in any pieces."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from dragoman.core.input_schemas import ToolSchemas
from dragoman.core.tool_grammars.body import TextCall
from dragoman.core.tool_text import Piece, ToolTextCutter

ALL_GRAMMARS = (
    "deepseek_v3",
    "deepseek_v31",
    "deepseek_dsml",
    "invoke",
    "qwen3_coder",
    "hermes",
    "glm",
    "kimi_k2",
    "kimi_k3",
)
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
    "write_file": {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "content": {"type": "string"},
            "append": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "mode": {"type": ["integer", "null"]},
        },
        "required": ["path", "content"],
    },
    "list_files": {"type": "object", "properties": {}},
}
TOOLS = ToolSchemas(
    frozenset(SCHEMAS),
    [{"function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()],
)
Call = tuple[str, dict[str, Any]]


def cut_text(
    slices: Iterable[str],
    *,
    grammars: tuple[str, ...] = ALL_GRAMMARS,
    tools: ToolSchemas = TOOLS,
    is_thinking: bool = False,
    is_cut: bool = False,
) -> list[Piece]:
    """Feed a cutter, return what comes out, neighbouring text as one piece."""
    cutter = ToolTextCutter(grammars, tools, is_thinking=is_thinking)
    pieces = [piece for text in slices for piece in cutter.feed(text)]
    pieces += cutter.close(is_cut=is_cut)
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def said(pieces: Iterable[Piece]) -> list[str | Call]:
    """Text as it is, calls as name and input."""
    return [p if isinstance(p, str) else (p.name, json.loads(p.arguments)) for p in pieces]


def text_of(pieces: Iterable[Piece]) -> str:
    return "".join(p for p in pieces if isinstance(p, str))


def calls_of(pieces: Iterable[Piece]) -> list[TextCall]:
    return [p for p in pieces if isinstance(p, TextCall)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _deepseek_v3(calls: list[Call]) -> str:
    written = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{_json(given)}\n```"
        "<｜tool▁call▁end｜>"
        for name, given in calls
    )
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"


def _deepseek_v31(calls: list[Call]) -> str:
    written = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{_json(given)}<｜tool▁call▁end｜>"
        for name, given in calls
    )
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"


def _dsml(mark: str, wrapper: str) -> Callable[[list[Call]], str]:
    def parameter(key: str, value: Any) -> str:
        kind = "true" if isinstance(value, str) else "false"
        return f'<{mark}parameter name="{key}" string="{kind}">{_plain(value)}</{mark}parameter>\n'

    def write(calls: list[Call]) -> str:
        written = "".join(
            f'<{mark}invoke name="{name}">\n'
            f"{''.join(parameter(k, v) for k, v in given.items())}</{mark}invoke>\n"
            for name, given in calls
        )
        return f"<{mark}{wrapper}>\n{written}</{mark}{wrapper}>"

    return write


def _qwen3_coder(calls: list[Call]) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={k}>\n{_plain(v)}\n</parameter>\n" for k, v in given.items())
        + "</function>\n</tool_call>"
        for name, given in calls
    )


def _mimo(calls: list[Call]) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={k}>{_plain(v)}</parameter>\n" for k, v in given.items())
        + "</function>\n</tool_call>"
        for name, given in calls
    )


def _hermes(calls: list[Call]) -> str:
    return "\n".join(
        f"<tool_call>\n{_json({'name': name, 'arguments': given})}\n</tool_call>"
        for name, given in calls
    )


def _glm(between: str) -> Callable[[list[Call]], str]:
    def write(calls: list[Call]) -> str:
        return "\n".join(
            f"<tool_call>{name}{between}"
            + "".join(
                f"<arg_key>{k}</arg_key>{between}<arg_value>{_plain(v)}</arg_value>{between}"
                for k, v in given.items()
            )
            + "</tool_call>"
            for name, given in calls
        )

    return write


def _kimi_k2(calls: list[Call]) -> str:
    written = "".join(
        f"<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>{_json(given)}"
        "<|tool_call_end|>"
        for n, (name, given) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{written}<|tool_calls_section_end|>"


def _kimi_k3(calls: list[Call]) -> str:
    kinds = {str: "string", bool: "boolean", int: "integer", list: "array", type(None): "null"}
    written = "".join(
        f'<|open|>call tool="{name}" index="{n}"<|sep|>'
        + "".join(
            f'<|open|>argument key="{k}" type="{kinds[type(v)]}"<|sep|>{_plain(v)}'
            "<|close|>argument<|sep|>"
            for k, v in given.items()
        )
        + "<|close|>call<|sep|>"
        for n, (name, given) in enumerate(calls, 1)
    )
    return f"<|open|>tools<|sep|>{written}<|close|>tools<|sep|>"


# How each family writes calls, with the grammars that read them.
WRITERS: dict[str, tuple[str, Callable[[list[Call]], str]]] = {
    "DeepSeek V3, R1": ("deepseek_v3", _deepseek_v3),
    "DeepSeek V3.1": ("deepseek_v31", _deepseek_v31),
    "DeepSeek V3.2": ("deepseek_dsml", _dsml("｜DSML｜", "function_calls")),
    "DeepSeek V4": ("deepseek_dsml", _dsml("｜DSML｜", "tool_calls")),
    "DeepSeek V4.1": ("deepseek_dsml", _dsml("｜DSML｜ ", "calls")),
    "DSML without marks": ("invoke", _dsml("", "function_calls")),
    "Qwen3-Coder": ("qwen3_coder", _qwen3_coder),
    "MiMo": ("mimo", _mimo),
    "Qwen3": ("hermes", _hermes),
    "GLM 4.5": ("glm", _glm("\n")),
    "GLM 4.5, spelt out": ("glm", _glm("\\n")),
    "GLM 4.7": ("glm", _glm("")),
    "Kimi K2": ("kimi_k2", _kimi_k2),
    "Kimi K3": ("kimi_k3", _kimi_k3),
}
