"""
How each family streams a reply, with its worst documented habits: a step of a script -> SSE bytes.

Source of every habit: model dialects, sections 3 to 6, and the samples in tests/streams/dialects.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Input = dict[str, Any]
Delta = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """
    One reply of the model.

    Attributes:
        form: How its calls come: as the API has them, or as the model writes them, because the
            engine's parser is off or failed, in the content or inside the reasoning.
        trouble: The first attempt ends as this vendor's engines fail; the second one succeeds.
    """

    thought: str = ""
    text: str = ""
    calls: tuple[tuple[str, Input], ...] = ()
    form: Literal["structured", "content", "reasoning"] = "structured"
    trouble: bool = False


@dataclass(frozen=True)
class Wire:
    """
    A family's way of streaming.

    Attributes:
        stream: Writes a step; gets the model's name, and the number of calls before this one.
        fail: The body of an attempt that failed behind status 200; None: it has no such way.
    """

    stream: Callable[[str, Step, int], bytes]
    fail: Callable[[str], bytes] | None = None


def call_id(family: str, name: str, number: int) -> str:
    """Return the id under which *family* sends call *number* of the conversation."""
    return f"functions.{name}:{number}" if family == "kimi" else f"call_{family}_{number}"


def _event(chunk: Delta) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def _chunk(model: str, delta: Delta, finish: str | None = None, **more: Any) -> Delta:
    """Return a chunk; what *more* holds goes beside ``choices``."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_763_800_000}
    return {**head, "model": model, "choices": [choice], **more}


def _cut(text: str, size: int = 7) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _texts(step: Step, write: Callable[[Step], str], *, gap: str) -> tuple[str, str]:
    """Return reasoning and content, with the calls in whichever of them they come in."""
    if step.form == "structured":
        return step.thought, step.text
    if step.form == "reasoning":
        return step.thought + write(step), step.text
    return step.thought, (step.text + gap if step.text else "") + write(step)


# -- DeepSeek: keep-alive comments, blank lines, reasoning first as "", content null, usage null


def _write_dsml(step: Step) -> str:
    """V3.2: text verbatim, all else as JSON."""
    mark = "｜DSML｜"
    invokes = []
    for name, given in step.calls:
        parameters = "".join(
            f'<{mark}parameter name="{k}" string="{str(isinstance(v, str)).lower()}">{_plain(v)}'
            f"</{mark}parameter>\n"
            for k, v in given.items()
        )
        invokes.append(f'<{mark}invoke name="{name}">\n{parameters}</{mark}invoke>\n')
    return f"<{mark}function_calls>\n{''.join(invokes)}</{mark}function_calls>"


def _stream_deepseek(model: str, step: Step, before: int) -> bytes:
    thought, text = _texts(step, _write_dsml, gap="\n\n")
    first = {"role": "assistant", "content": None, "reasoning_content": ""}
    deltas: list[Delta] = [first]
    deltas += [{"content": None, "reasoning_content": piece} for piece in _cut(thought)]
    deltas += [{"content": piece} for piece in _cut(text)]
    calls = step.calls if step.form == "structured" else ()
    for index, (name, given) in enumerate(calls):
        head = {"index": index, "id": call_id("deepseek", name, before + index)}
        function: Input = {"name": name, "arguments": ""}
        deltas.append({"tool_calls": [{**head, "type": "function", "function": function}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in _cut(_json(given))
        ]
    usage = {
        "prompt_tokens": 900,
        "completion_tokens": 61,
        "total_tokens": 961,
        "prompt_tokens_details": {"cached_tokens": 640},
        "completion_tokens_details": {"reasoning_tokens": 24},
        "prompt_cache_hit_tokens": 640,
        "prompt_cache_miss_tokens": 260,
    }
    events = [_event(_chunk(model, delta, usage=None)) for delta in deltas]
    finish = "tool_calls" if calls else "stop"  # stop, too, where the calls came as text
    events.append(_event(_chunk(model, {"content": ""}, finish, usage=usage)))
    return b"\n\n: keep-alive\n\n" + b": keep-alive\n\n".join(events) + b"data: [DONE]\n\n"


def _fail_deepseek(model: str) -> bytes:
    first = {"role": "assistant", "content": None, "reasoning_content": ""}
    last = _chunk(model, {"content": ""}, "insufficient_system_resource", usage=None)
    return _event(_chunk(model, first, usage=None)) + _event(last) + b"data: [DONE]\n\n"


# -- Qwen on DashScope: id "" and name null in later deltas, finish "null", usage trailing


def _write_qwen(step: Step) -> str:
    """Without the outer tag, as it often comes."""
    return "\n".join(
        f"<function={name}>\n"
        + "".join(f"<parameter={k}>\n{_plain(v)}\n</parameter>\n" for k, v in given.items())
        + "</function>\n</tool_call>"
        for name, given in step.calls
    )


def _stream_qwen(model: str, step: Step, before: int) -> bytes:
    thought, text = _texts(step, _write_qwen, gap="\n\n")
    events = [_chunk(model, {"role": "assistant", "content": None, "reasoning_content": ""})]
    events += [
        _chunk(model, {"content": None, "reasoning_content": piece}, "null")
        for piece in _cut(thought)
    ]
    events += [_chunk(model, {"content": p, "reasoning_content": None}, "null") for p in _cut(text)]
    calls = step.calls if step.form == "structured" else ()
    for index, (name, given) in enumerate(calls):
        names: list[str | None] = [None, ""]
        head = {"index": index, "type": "function"}
        first = {"name": name, "arguments": ""}
        made = {**head, "id": call_id("qwen", name, before + index), "function": first}
        events.append(_chunk(model, {"content": None, "tool_calls": [made]}))
        for number, piece in enumerate(_cut(_json(given))):
            function = {"name": names[number % 2], "arguments": piece}
            made = {**head, "id": "", "function": function}
            events.append(_chunk(model, {"content": None, "tool_calls": [made]}, "null"))
        made = {**head, "id": "", "function": {"arguments": None}}
        events.append(_chunk(model, {"content": "", "tool_calls": [made]}, "null"))
    events.append(_chunk(model, {"content": ""}, "tool_calls" if calls else "stop"))
    counts = {"prompt_tokens": 900, "completion_tokens": 33, "total_tokens": 933}
    details = {"prompt_tokens_details": {"cached_tokens": 640}}
    last = {**_chunk(model, {}), "choices": [], "usage": {**counts, **details}}
    nulls = [{**chunk, "usage": None, "service_tier": None} for chunk in events]
    return b"".join(_event(chunk) for chunk in [*nulls, last]) + b"data: [DONE]\n\n"


# -- Kimi: ids functions.NAME:IDX over the whole conversation, usage inside the choice


def _stream_kimi(model: str, step: Step, before: int) -> bytes:
    def write(step: Step) -> str:
        written = "".join(
            f"<|tool_call_begin|>{call_id('kimi', name, before + n)}<|tool_call_argument_begin|>"
            f"{_json(given)}<|tool_call_end|>"
            for n, (name, given) in enumerate(step.calls)
        )
        return f"<|tool_calls_section_begin|>{written}<|tool_calls_section_end|>"

    thought, text = _texts(step, write, gap="")
    deltas: list[Delta] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in _cut(thought)]
    deltas += [{"content": piece} for piece in _cut(text)]
    calls = step.calls if step.form == "structured" else ()
    for index, (name, given) in enumerate(calls):
        head = {"index": index, "id": call_id("kimi", name, before + index), "type": "function"}
        deltas.append({"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in _cut(_json(given))
        ]
    counts = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940}
    last = _chunk(model, {}, "tool_calls" if calls else "stop")
    last["choices"][0]["usage"] = {**counts, "cached_tokens": 640}
    chunks = [*(_chunk(model, delta) for delta in deltas), last]
    return b"".join(map(_event, chunks)) + b"data: [DONE]\n\n"


# -- GLM: no object field, a role on every delta, ids and names repeated, usage unasked


def _write_glm(step: Step) -> str:
    """4.7: no line breaks."""
    return "".join(
        f"<tool_call>{name}"
        + "".join(
            f"<arg_key>{k}</arg_key><arg_value>{_plain(v)}</arg_value>" for k, v in given.items()
        )
        + "</tool_call>"
        for name, given in step.calls
    )


def _glm_chunk(model: str, delta: Delta, finish: str | None = None, **more: Any) -> Delta:
    chunk = _chunk(model, {"role": "assistant", **delta}, finish, **more)
    del chunk["object"]
    return chunk


def _stream_glm(model: str, step: Step, before: int) -> bytes:
    thought, text = _texts(step, _write_glm, gap="\n")
    deltas: list[Delta] = [{"reasoning_content": piece} for piece in _cut(thought)]
    deltas += [{"content": piece} for piece in _cut(text)]
    calls = step.calls if step.form == "structured" else ()
    for index, (name, given) in enumerate(calls):
        head = {"index": index, "id": call_id("glm", name, before + index), "type": "function"}
        deltas += [
            {"tool_calls": [{**head, "function": {"name": name, "arguments": piece}}]}
            for piece in ("", *_cut(_json(given), 30))
        ]
    counts = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940}
    usage = {**counts, "prompt_tokens_details": {"cached_tokens": 640}}
    finish = "tool_calls" if calls else "stop"
    chunks = [*(_glm_chunk(model, d) for d in deltas), _glm_chunk(model, {}, finish, usage=usage)]
    return b"".join(map(_event, chunks)) + b"data: [DONE]\n\n"


def _fail_glm(model: str) -> bytes:
    last = _glm_chunk(model, {"content": ""}, "network_error")
    return _event(last) + b"data: [DONE]\n\n"


# -- MiMo: every field of a delta always there, whole arguments in one chunk


def _write_mimo(step: Step) -> str:
    """Values tight against their tags."""
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={k}>{_plain(v)}</parameter>\n" for k, v in given.items())
        + "</function>\n</tool_call>"
        for name, given in step.calls
    )


def _stream_mimo(model: str, step: Step, before: int) -> bytes:
    thought, text = _texts(step, _write_mimo, gap="\n")
    empty: Delta = {"role": None, "content": "", "reasoning_content": None, "tool_calls": None}
    deltas: list[Delta] = [{**empty, "role": "assistant"}]
    deltas += [{**empty, "reasoning_content": piece} for piece in _cut(thought)]
    deltas += [{**empty, "content": piece} for piece in _cut(text)]
    calls = step.calls if step.form == "structured" else ()
    made = [
        {
            "index": index,
            "id": call_id("mimo", name, before + index),
            "type": "function",
            "function": {"name": name, "arguments": _json(given)},
        }
        for index, (name, given) in enumerate(calls)
    ]
    deltas += [{**empty, "tool_calls": made}] if made else []
    counts = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940}
    details = {"prompt_tokens_details": {"cached_tokens": 640}}
    chunks = [_chunk(model, delta, usage=None) for delta in deltas]
    chunks.append(_chunk(model, empty, "tool_calls" if calls else "stop", usage=None))
    last = {**_chunk(model, {}), "choices": [], "usage": {**counts, **details}}
    return b"".join(map(_event, [*chunks, last])) + b"data: [DONE]\n\n"


WIRES = {
    "deepseek": Wire(_stream_deepseek, _fail_deepseek),
    "qwen": Wire(_stream_qwen),
    "kimi": Wire(_stream_kimi),
    "glm": Wire(_stream_glm, _fail_glm),
    "mimo": Wire(_stream_mimo),
}
