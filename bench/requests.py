"""The requests of the scenarios: bytes as a client sends them, and the gateway's configuration."""

import json
from pathlib import Path
from typing import Any, Final

KEY: Final = "bench-client-key"
MODELS: Final = ("whole", "burst-256", "tools-256", "think-256", "silent")
_CONFIG: Final = """\
[server]
data_dir = "{folder}"

[store]
url = "none"

[[keys]]
name = "bench"
key = "{key}"

[upstreams.plain]
kind = "openai"
base_url = "http://127.0.0.1:{upstream}/v1"
api_key = "bench-upstream-key"
max_connections = 4096

[upstreams.tls]
kind = "openai"
base_url = "https://localhost:{tls}/v1"
api_key = "bench-upstream-key"
max_connections = 4096
"""
_SENTENCE: Final = "The quick brown fox jumps over the lazy dog, and says nothing of it to anyone. "


def write_config(folder: Path, models: list[str], *, upstream: int, tls: int) -> Path:
    """Write the configuration: each model there is, plain and, as ``tls:NAME``, through TLS."""
    lines = [_CONFIG.format(folder=folder, key=KEY, upstream=upstream, tls=tls)]
    for model in models:
        lines.append(f'[models."{model}"]\nupstream = "plain"\n')
        lines.append(f'[models."tls:{model}"]\nupstream = "tls"\nupstream_model = "{model}"\n')
    path = folder / "dragoman.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def small(model: str, *, is_stream: bool) -> bytes:
    """Return a short question."""
    return _request(model, is_stream=is_stream, messages=[_user("Say something short.")])


def with_tool(model: str) -> bytes:
    """Return a question with one tool, whose schema the arguments are checked against."""
    return _request(model, is_stream=True, messages=[_user("Write it.")], tools=[_tool(0)])


def with_thinking(model: str) -> bytes:
    """Return a question that is to be thought about."""
    thinking = {"type": "enabled", "budget_tokens": 2048}
    return _request(model, is_stream=True, messages=[_user("Think.")], thinking=thinking)


def large(model: str, n_bytes: int, *, is_stream: bool = False) -> bytes:
    """Return what a coding agent sends: twenty tools, forty messages, *n_bytes* in all."""
    tools = [_tool(number) for number in range(20)]
    used = len(json.dumps(tools)) + 6000
    text = _SENTENCE * (max(0, n_bytes - used) // (40 * len(_SENTENCE)) + 1)
    text = text[: max(20, (n_bytes - used) // 40)]
    messages = [_user(text)]
    for number in range(19):
        call_id = f"toolu_bench{number:04}"
        given = {"path": f"src/part_{number}.py", "content": text[: len(text) // 2]}
        call = {"type": "tool_use", "id": call_id, "name": "write_file", "input": given}
        said = {"type": "text", "text": text[: len(text) // 2]}
        messages.append({"role": "assistant", "content": [said, call]})
        result = {"type": "tool_result", "tool_use_id": call_id, "content": text}
        messages.append({"role": "user", "content": [result]})
    return _request(model, is_stream=is_stream, messages=messages, tools=tools)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _tool(number: int) -> dict[str, Any]:
    properties = {
        "path": {"type": "string", "description": "Where it is, from the root of the project."},
        "content": {"type": "string", "description": _SENTENCE * 3},
        "mode": {"type": "string", "enum": ["replace", "append"], "description": _SENTENCE},
        "lines": {"type": "array", "items": {"type": "integer"}, "description": _SENTENCE},
    }
    return {
        "name": "write_file" if not number else f"tool_{number:02}",
        "description": _SENTENCE * 12,
        "input_schema": {
            "type": "object",
            "properties": properties,
            "required": ["path", "content"],
        },
    }


def _request(model: str, *, is_stream: bool, **fields: Any) -> bytes:
    body = json.dumps({"model": model, "max_tokens": 4096, "stream": is_stream, **fields}).replace(
        '"model": "', '"model":"', 1
    )
    head = (
        "POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\naccept: */*\r\n"
        f"content-type: application/json\r\nanthropic-version: 2023-06-01\r\nx-api-key: {KEY}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode("ascii")
