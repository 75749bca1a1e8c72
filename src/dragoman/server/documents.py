"""Documents and URLs of a request: read, fetched or checked before it is planned."""

import asyncio
import codecs
import hashlib
import re
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field

from dragoman.core.attachments import Attachment
from dragoman.core.errors import InvalidRequest, Overloaded
from dragoman.server.fetch import Fetched, GuardedFetcher, is_media_type
from dragoman.server.pdf_pool import PdfAnswer, PdfLimits, PdfPool
from dragoman.server.url_guard import Reach

_ACCEPTED: Final = (
    *("application/pdf", "text/*"),
    *("application/octet-stream", "binary/octet-stream", "application/x-pdf"),  # how some send PDF
)
# Codecs of Python that are no character sets; some are slow on hostile data.
_NO_CHARSETS: Final = frozenset(
    {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "unicode_escape"}
)
_ROW_BYTES: Final = 512  # of the cache, beside the text
_CHARSET: Final = re.compile(r"""charset\s*=\s*["']?([\w.:-]{1,40})""", re.ASCII | re.IGNORECASE)
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class DocumentLimits(Struct, frozen=True, kw_only=True):
    """Bounds for the attachments of requests."""

    pdf: PdfLimits = PdfLimits()
    fetch_timeout_s: float = 20.0  # per URL
    request_timeout_s: float = 120.0  # for all PDFs of a request, queueing included
    max_parallel: int = 8  # attachments of one request that are looked at together
    max_attachments: int = 600  # per request; the API's own limit for images
    max_waiting_bytes: int = 256 * 2**20  # of PDFs being read, for all requests together
    cache_bytes: int = 64 * 2**20
    failure_ttl_s: float = 600.0  # a time-out is believed for so long
    url_ttl_s: float = 300.0  # clients send the same URL again on every turn


class Resolved(Struct, frozen=True):
    """
    Texts by the attachments' keys.

    ``reasons`` says for a key without a text why there is none, and for one with a text what is
    missing from it. Checked image URLs are in neither.
    """

    texts: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


class Documents:
    """
    Read PDFs and URLs for requests. Belongs to one event loop.

    Args:
        fetcher: Reaches URLs.
        limits: Bounds.

    Attributes:
        n_cache_hits: Documents whose text was known.
    """

    def __init__(self, fetcher: GuardedFetcher, limits: DocumentLimits | None = None) -> None:
        self._fetcher = fetcher
        self._limits = limits or DocumentLimits()
        self._pool = PdfPool(self._limits.pdf)
        self._cache = _AnswerCache(self._limits.cache_bytes)
        self._under_way: dict[str, asyncio.Task[PdfAnswer]] = {}
        self._waiting_bytes = 0
        self.n_cache_hits = 0

    @property
    def n_read(self) -> int:
        """PDFs given to a worker so far."""
        return self._pool.n_read

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are running."""
        return self._pool.pids

    async def resolve(self, attachments: Sequence[Attachment], reach: Reach) -> Resolved:
        """
        Read documents, fetch document URLs, check image URLs.

        A PDF that cannot be read has a reason instead of a text: the request goes on.

        Raises:
            InvalidRequest: At an attachment's path: a refused or unreachable URL, invalid base64.
            Overloaded: Too many PDFs are being read for other requests.
        """
        distinct: dict[tuple[str, str], Attachment] = {}
        for attachment in attachments:  # errors name the first of several equal ones
            distinct.setdefault((attachment.kind, attachment.key), attachment)
        if len(distinct) > self._limits.max_attachments:
            path = list(distinct.values())[self._limits.max_attachments].path
            raise InvalidRequest(
                path, f"at most {self._limits.max_attachments} documents and image URLs are read"
            )
        resolved = Resolved()
        await self._resolve_all(list(distinct.values()), resolved, reach=reach)
        return resolved

    async def close(self) -> None:
        """End the worker processes; PDFs under way count as unreadable."""
        await self._pool.close()
        await asyncio.gather(*self._under_way.values())

    async def _resolve_all(
        self, attachments: list[Attachment], resolved: Resolved, *, reach: Reach
    ) -> None:
        slots = asyncio.Semaphore(self._limits.max_parallel)
        deadline_s = asyncio.get_running_loop().time() + self._limits.request_timeout_s

        async def resolve_one(attachment: Attachment) -> None:
            try:
                async with asyncio.timeout_at(deadline_s), slots:
                    await self._resolve_one(attachment, resolved, reach=reach)
            except TimeoutError:
                _give_up(attachment, resolved)

        tasks = [asyncio.create_task(resolve_one(attachment)) for attachment in attachments]
        try:
            await asyncio.gather(*tasks)
        finally:  # the first error decides; the others are not waited for
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _resolve_one(
        self, attachment: Attachment, resolved: Resolved, *, reach: Reach
    ) -> None:
        if attachment.kind == "pdf":
            await self._read_inline(attachment, resolved)
        elif attachment.kind == "image_url":
            url = attachment.url or ""
            await self._fetcher.check_public(url, path=attachment.path, reach=reach)
        else:
            await self._read_url(attachment, resolved, reach=reach)

    async def _read_inline(self, attachment: Attachment, resolved: Resolved) -> None:
        try:
            data = (attachment.data or "").encode("ascii")
        except UnicodeEncodeError:
            raise _not_base64(attachment) from None
        if len(data) // 4 * 3 > self._limits.pdf.max_bytes:
            reason = f"the PDF is larger than {self._limits.pdf.max_bytes} bytes"
            resolved.reasons[attachment.key] = reason
            return
        answer = await self._read_pdf(attachment.key, data, is_base64=True)
        if answer.status == "invalid_base64":
            raise _not_base64(attachment)
        _add(attachment, answer, resolved)

    async def _read_url(self, attachment: Attachment, resolved: Resolved, *, reach: Reach) -> None:
        # What one upstream's or workspace's clients may reach says nothing about another's.
        key = f"{reach} {attachment.url}"
        answer = self._cache.get(key)
        if answer is None:
            answer = await self._fetch(attachment, reach=reach)
            if answer.is_lasting:
                self._cache.add(key, answer, self._limits.url_ttl_s)
        else:
            self.n_cache_hits += 1
        _add(attachment, answer, resolved)

    async def _fetch(self, attachment: Attachment, *, reach: Reach) -> PdfAnswer:
        fetched = await self._fetcher.fetch(
            attachment.url or "",
            path=attachment.path,
            max_bytes=self._limits.pdf.max_bytes,
            timeout_s=self._limits.fetch_timeout_s,
            accept_types=_ACCEPTED,
            reach=reach,
        )
        if b"%PDF-" in fetched.body[:1024]:
            digest = await asyncio.to_thread(hashlib.sha256, fetched.body)
            return await self._read_pdf(digest.hexdigest(), fetched.body, is_base64=False)
        if is_media_type(fetched.content_type, ("text/*",)):
            return _read_text(fetched, self._limits.pdf.max_text_chars)
        raise InvalidRequest(
            attachment.path, "the URL leads neither to a PDF nor to text; send such a document"
        )

    async def _read_pdf(self, key: str, data: bytes, *, is_base64: bool) -> PdfAnswer:
        """Read a PDF once, whoever and however many ask for it."""
        known = self._cache.get(key)
        if known is not None:
            self.n_cache_hits += 1
            return known
        task = self._under_way.get(key)
        if task is None:
            if self._waiting_bytes + len(data) > self._limits.max_waiting_bytes:
                raise Overloaded("too many PDF documents are being read", retry_after_s=5)
            task = asyncio.create_task(self._extract(key, data, is_base64=is_base64))
            self._under_way[key] = task
            self._waiting_bytes += len(data)
        # A client that leaves does not take the work from others, nor from its own next try.
        return await asyncio.shield(task)

    async def _extract(self, key: str, data: bytes, *, is_base64: bool) -> PdfAnswer:
        try:
            answer = await self._pool.extract(data, is_base64=is_base64)
        finally:
            self._waiting_bytes -= len(data)
            del self._under_way[key]
        self._cache.add(key, answer, None if answer.is_lasting else self._limits.failure_ttl_s)
        return answer


class _AnswerCache:
    """Answers by content, the least recently used ones forgotten first."""

    def __init__(self, max_bytes: int) -> None:
        self._rows: OrderedDict[str, tuple[PdfAnswer, float | None]] = OrderedDict()
        self._max_bytes = max_bytes
        self._n_bytes = 0

    def get(self, key: str) -> PdfAnswer | None:
        answer, expires_s = self._rows.get(key, (None, None))
        if answer is not None and expires_s is not None and expires_s < _now_s():
            self._remove(key)
            return None
        if answer is not None:
            self._rows.move_to_end(key)
        return answer

    def add(self, key: str, answer: PdfAnswer, ttl_s: float | None) -> None:
        if key in self._rows:  # fetched twice at the same time
            self._remove(key)
        self._rows[key] = answer, None if ttl_s is None else _now_s() + ttl_s
        self._n_bytes += _size(answer)
        while self._n_bytes > self._max_bytes:
            self._remove(next(iter(self._rows)))

    def _remove(self, key: str) -> None:
        answer, _ = self._rows.pop(key)
        self._n_bytes -= _size(answer)


def _size(answer: PdfAnswer) -> int:
    return sys.getsizeof(answer.text) + _ROW_BYTES


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _add(attachment: Attachment, answer: PdfAnswer, resolved: Resolved) -> None:
    if answer.status == "text":
        resolved.texts[attachment.key] = answer.text
    if answer.reason:
        resolved.reasons[attachment.key] = answer.reason


def _give_up(attachment: Attachment, resolved: Resolved) -> None:
    if attachment.kind != "pdf":
        raise InvalidRequest(attachment.path, "the URLs of the request take too long; send fewer")
    resolved.reasons[attachment.key] = "the documents of the request took too long to be read"


def _not_base64(attachment: Attachment) -> InvalidRequest:
    return InvalidRequest(attachment.path, "this is not valid base64 of a PDF file")


def _read_text(fetched: Fetched, max_chars: int) -> PdfAnswer:
    body = fetched.body[: 4 * max_chars]  # no character set needs more
    text = body.decode(_charset(fetched), "replace").replace("\0", "")
    if len(text) <= max_chars and len(body) == len(fetched.body):
        return PdfAnswer("text", text, "")
    cut = f"only the first {max_chars} characters were read"
    return PdfAnswer("text", f"{text[:max_chars]}\n\n[{cut}]", cut)


def _charset(fetched: Fetched) -> str:
    for mark, charset in _BYTE_ORDER_MARKS:
        if fetched.body.startswith(mark):
            return charset
    match = _CHARSET.search(fetched.content_type)
    try:
        charset = codecs.lookup(match[1] if match else "utf-8").name
        b"a".decode(charset, "replace")  # raises for codecs that do not make text
    except (LookupError, UnicodeError):
        return "utf-8"
    return "utf-8" if charset in _NO_CHARSETS else charset
