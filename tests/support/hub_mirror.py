"""The few requests of the model hub that a download needs, answered on loopback."""

import hashlib
import http.server
import json
from typing import Any

from support.loopback import LoopbackServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubMirror(LoopbackServer):
    """
    A context manager serving one repository.

    Attributes:
        requests: What was asked for: method, path, Range header.
        cuts: The next file transfers break off after so many bytes; when empty, they go through.
        status: Answer everything with this status and nothing else; 0: serve.
    """

    def __init__(self, repo_id: str, files: dict[str, bytes], *, licence: str = "cc0-1.0") -> None:
        self.repo_id = repo_id
        self.files = files
        self.licence = licence
        self.requests: list[tuple[str, str, str]] = []
        self.cuts: list[int] = []
        self.status = 0
        mirror = self

        class Handler(_Handler):
            hub = mirror

        super().__init__(Handler)

    def info(self) -> dict[str, Any]:
        """The metadata of the repository."""
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            for name, data in self.files.items()
        ]
        return {
            "id": self.repo_id,
            "sha": COMMIT,
            "tags": ["gguf", f"license:{self.licence}"],
            "cardData": {"license": self.licence},
            "siblings": siblings,
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubMirror
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path, hub = self.path.partition("?")[0], self.hub
        hub.requests.append((self.command, path, self.headers.get("range", "")))
        prefix = f"/{hub.repo_id}/resolve/"
        if hub.status:
            self._answer(hub.status, b"<html>sorry</html>", {"content-type": "text/html"})
        elif path.startswith(f"/api/models/{hub.repo_id}"):
            self._answer(200, json.dumps(hub.info()).encode(), {"content-type": "application/json"})
        elif path.startswith(prefix) and (name := path.split("/", 5)[-1]) in hub.files:
            self._file(hub.files[name])
        elif path.startswith(prefix):
            self._answer(404, b"", {"x-error-code": "EntryNotFound", "x-repo-commit": COMMIT})
        else:
            self._answer(404, b"", {"x-error-code": "RepoNotFound"})

    def _file(self, data: bytes) -> None:
        etag = hashlib.sha256(data).hexdigest()
        headers = {"etag": f'"{etag}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes"}
        start = int((self.headers.get("range") or "bytes=0-")[6:].split("-")[0])
        if start:
            headers["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(206 if start else 200, data[start:], headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cuts.pop(0) if self.hub.cuts and "etag" in headers else None
        self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = cut is not None
