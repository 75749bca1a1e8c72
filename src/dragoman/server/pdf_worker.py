"""
The child process that reads PDF files: run as a script, it needs nothing of this package.

It reads frames from standard input (``>BI``: 1 if base64, length; then the data) and answers each
with ``>I``, a length, and that many bytes of JSON: ``status``, ``text``, ``reason``. The first
answer says that it is ready, status ``exhausted`` that it is the last one. It ends with its input.
"""

import base64
import io
import json
import logging
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import BinaryIO, Final

import pypdf
from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError

try:
    import resource
except ImportError:  # not on Windows: no memory limit there
    resource = None  # type: ignore[assignment]  # the documented way to do without it

Answer = dict[str, str]

_REQUEST_HEAD: Final = struct.Struct(">BI")
_ANSWER_HEAD: Final = struct.Struct(">I")
_EXIT_AFTER_MEMORY_ERROR: Final = 3
_PAGES_SHARE: Final = 0.8  # of the time; the rest is for the page then under way
_ALARM_GRACE_S: Final = 5  # the parent is first, if it lives


class Extractor:
    """
    Turn PDF bytes into text, page by page.

    Args:
        max_pages: Pages that are read.
        max_text_chars: Characters that are kept.
        time_limit_s: No further page is begun after this long.
    """

    def __init__(self, max_pages: int, max_text_chars: int, *, time_limit_s: float) -> None:
        self._max_pages, self._max_text_chars = max_pages, max_text_chars
        self._time_limit_s = time_limit_s

    def extract(self, data: bytes) -> Answer:
        """Return the text, or why there is none; raises only MemoryError."""
        try:
            return self._read_pages(pypdf.PdfReader(io.BytesIO(data)))
        except MemoryError:
            raise
        except (FileNotDecryptedError, DependencyError):
            return _unreadable("the PDF is encrypted; send it without a password")
        except (LimitReachedError, RecursionError):
            return _unreadable("the PDF is too complex to be read")
        except Exception:  # parsers of hostile data fail in any way
            return _unreadable("the PDF is broken")

    def _read_pages(self, reader: pypdf.PdfReader) -> Answer:
        deadline_s = time.monotonic() + self._time_limit_s
        n_pages, n_chars, parts = len(reader.pages), 0, []
        cut = f"only the first {self._max_pages} of {n_pages} pages were read"
        has_text = False
        for index in range(min(n_pages, self._max_pages)):
            text = _page_text(reader, index)
            has_text = has_text or bool(text)
            parts.append(f"[page {index + 1}]\n{text}")
            n_chars += len(parts[-1]) + 2
            is_late = time.monotonic() > deadline_s
            if (is_late or n_chars > self._max_text_chars) and index + 1 < n_pages:
                cut = f"only the first {index + 1} of {n_pages} pages were read"
                break
        else:
            cut = cut if n_pages > self._max_pages else ""
        if not has_text:
            return _unreadable("the PDF holds no text; send its pages as images")
        return self._answer("\n\n".join(parts), cut)

    def _answer(self, text: str, cut: str) -> Answer:
        if len(text) > self._max_text_chars:
            text = text[: self._max_text_chars]
            cut = cut or f"only the first {self._max_text_chars} characters were read"
        return {"status": "text", "text": f"{text}\n\n[{cut}]" if cut else text, "reason": cut}


def _page_text(reader: pypdf.PdfReader, index: int) -> str:
    try:
        text = reader.pages[index].extract_text()
    except (MemoryError, FileNotDecryptedError, DependencyError):
        raise
    except Exception:  # one broken page does not spoil the others
        return ""
    # Half surrogates cannot be sent on; NUL breaks some tokenizers.
    return text.encode("utf-8", "replace").decode().replace("\0", "").strip()


def _unreadable(reason: str) -> Answer:
    return {"status": "unreadable", "text": "", "reason": reason}


def _decode_base64(data: bytes) -> bytes | None:
    try:
        return base64.b64decode(data.translate(None, b" \t\r\n"), validate=True)
    except ValueError:
        return None


def answer_frame(data: bytes, *, is_base64: bool, extractor: Extractor) -> Answer:
    """Return the answer to one frame."""
    decoded = _decode_base64(data) if is_base64 else data
    if decoded is None:
        return {"status": "invalid_base64", "text": "", "reason": "this is not valid base64"}
    # The specification allows bytes before it: readers look in the first 1024.
    if b"%PDF-" not in decoded[:1024]:
        return _unreadable("this is not a PDF file")
    return extractor.extract(decoded)


def limit_resources(max_memory_bytes: int) -> None:
    """Bound this process: memory, and no files or core dumps."""
    if resource is not None:
        for kind, limit in (
            (resource.RLIMIT_AS, max_memory_bytes),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            try:
                resource.setrlimit(kind, (limit, limit))
            except (ValueError, OSError):  # some systems know the limit but refuse it
                continue
    if hasattr(os, "nice"):
        os.nice(5)  # the gateway's own work goes first


def _arm(seconds: int) -> None:
    """End this process after *seconds*, should the parent be gone and a page never end."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def serve(
    source: BinaryIO, sink: Callable[[Answer], None], *, extractor: Extractor, alarm_s: int
) -> int:
    """Answer frames until the input ends; return the exit code."""
    sink({"status": "ready", "text": "", "reason": ""})
    while len(head := source.read(_REQUEST_HEAD.size)) == _REQUEST_HEAD.size:
        is_base64, n_bytes = _REQUEST_HEAD.unpack(head)
        data = source.read(n_bytes)
        if len(data) < n_bytes:
            break
        _arm(alarm_s)
        try:
            sink(answer_frame(data, is_base64=bool(is_base64), extractor=extractor))
        except MemoryError:
            reason = "the PDF needs too much memory to be read"
            sink({"status": "exhausted", "text": "", "reason": reason})
            return _EXIT_AFTER_MEMORY_ERROR  # what is left of the heap is not worth keeping
        _arm(0)
    return 0


def main() -> int:
    """Run the worker; its one argument is a JSON object with the limits."""
    limits = json.loads(sys.argv[1])
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may get between the frames
    time_limit_s = limits["time_limit_s"]
    limit_resources(limits["max_memory_bytes"])

    def send(answer: Answer) -> None:
        payload = json.dumps(answer, ensure_ascii=False).encode()
        answers.write(_ANSWER_HEAD.pack(len(payload)) + payload)
        answers.flush()

    extractor = Extractor(
        limits["max_pages"],
        limits["max_text_chars"],
        time_limit_s=time_limit_s * _PAGES_SHARE,
    )
    alarm_s = int(time_limit_s) + _ALARM_GRACE_S
    return serve(sys.stdin.buffer, send, extractor=extractor, alarm_s=alarm_s)


if __name__ == "__main__":
    sys.exit(main())
