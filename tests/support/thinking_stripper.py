"""A small proxy before a gateway that drops thinking from the history, as some clients do."""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive")
_TIMEOUT_S = 60


class ThinkingStripper:
    """The proxy; a context manager. ``n_dropped`` counts the blocks that went no further."""

    def __init__(self, port: int) -> None:
        self.n_dropped = 0
        stripper = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stripper.forward(self, port)

            do_POST = do_GET  # noqa: N815 - the base class calls it
            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        """Base URL for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def forward(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        """Pass one request on without its thinking, and the reply back piece by piece."""
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        if body:
            body = json.dumps(self._strip(json.loads(body))).encode()
        headers = {n: v for n, v in handler.headers.items() if n.lower() not in (*_HOP, "host")}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        try:
            connection.request(handler.command, handler.path, body or None, headers)
            self._answer(handler, connection.getresponse())
        finally:
            connection.close()

    def _answer(self, handler: BaseHTTPRequestHandler, reply: http.client.HTTPResponse) -> None:
        handler.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in _HOP:
                handler.send_header(name, value)
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        while piece := reply.read1(65_536):
            handler.wfile.write(piece)
            handler.wfile.flush()

    def _strip(self, body: dict[str, Any]) -> dict[str, Any]:
        for message in body.get("messages", ()):
            content = message["content"]
            if message["role"] == "assistant" and isinstance(content, list):
                kept = [block for block in content if "thinking" not in block["type"]]
                self.n_dropped += len(content) - len(kept)
                message["content"] = kept
        return body
