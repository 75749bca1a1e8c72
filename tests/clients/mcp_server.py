"""A small MCP server over standard input and output, with one tool: add(a, b)."""

import json
import sys

_INTEGER = {"type": "integer"}
_SCHEMA = {
    "type": "object",
    "properties": {"a": _INTEGER, "b": _INTEGER},
    "required": ["a", "b"],
}


def answer(method: str, params: dict) -> dict | None:
    """Return the result of one call; None: there is no such method."""
    if method == "initialize":
        return {
            "protocolVersion": params.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "demo", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [{"name": "add", "description": "Add two.", "inputSchema": _SCHEMA}]}
    if method == "tools/call":
        numbers = params["arguments"]
        return {"content": [{"type": "text", "text": str(numbers["a"] + numbers["b"])}]}
    return {} if method == "ping" else None


def main() -> None:
    """Answer one JSON message a line until the input ends."""
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:  # a notification
            continue
        result = answer(message["method"], message.get("params") or {})
        reply = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        if result is None:
            del reply["result"]
            reply["error"] = {"code": -32601, "message": "no such method"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
