"""PDFs made here, good and hostile, read by real worker processes."""

import asyncio
import base64
import hashlib
import io
import os
import signal
import sys
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pypdf
import pytest

from dragoman.core.attachments import Attachment
from dragoman.core.errors import InvalidRequest, Overloaded
from dragoman.server.documents import DocumentLimits, Documents, Resolved
from dragoman.server.fetch import GuardedFetcher
from dragoman.server.pdf_pool import PdfLimits
from dragoman.server.url_guard import PUBLIC, Reach
from support.files import make_pdf

PATH = "messages.0.content.1.source.data"
LAB = Reach(allow_private=True)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")


async def let_others_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def pdf_of(objects: list[bytes]) -> bytes:
    """Return a PDF of these objects, numbered from 1, the first being the catalog."""
    out, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    rows = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    table = b"xref\n0 %d\n0000000000 65535 f \n%b" % (size, rows)
    return (
        out
        + table
        + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (
            size,
            len(out),
        )
    )


def stream(data: bytes) -> bytes:
    packed = zlib.compress(data, 9)
    head = b"<< /Length %d /Filter /FlateDecode >>" % len(packed)
    return head + b"\nstream\n" + packed + b"\nendstream"


CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"
FONT = b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] " + FONT + b" /Contents %b >>"


def one_page(*contents: bytes) -> bytes:
    """Return a PDF whose one page has these compressed content streams."""
    refs = b"[" + b" ".join(b"%d 0 R" % (4 + n) for n in range(len(contents))) + b"]"
    pages = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
    return pdf_of([CATALOG, pages, PAGE % refs, *map(stream, contents)])


def encrypted(password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf("secret")))
    writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


# Takes pypdf many seconds: a million small operations, 20 kB when compressed.
SLOW = one_page(b"BT /F1 9 Tf " + b"1 0 Td (a) Tj " * 3_000_000 + b"ET")
PAGE_TREE_LOOP = pdf_of([CATALOG, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 9 >>"])
COUNT_LIE = make_pdf("one", "two").replace(b"/Count 2", b"/Count 999999999")
HUGE_TREE = pdf_of(
    [
        CATALOG,
        *(
            b"<< /Type /Pages /Count 2 /Kids [%d 0 R %d 0 R] >>" % (n + 1, n + 1)
            for n in range(2, 42)
        ),
        b"<< /Type /Page /MediaBox [0 0 9 9] >>",
    ]
)


def pdf_attachment(data: bytes | str, path: str = PATH) -> Attachment:
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Attachment(path, key, "pdf", data=text)


def url_attachment(url: str, kind: str = "document_url") -> Attachment:
    return Attachment(PATH, hashlib.sha256(url.encode()).hexdigest(), kind, url=url)


def run(
    use: Callable[[Documents], Awaitable[object]], *, pdf: PdfLimits | None = None, **limits
) -> None:
    async def main() -> None:
        documents = Documents(
            GuardedFetcher(), DocumentLimits(pdf=pdf or PdfLimits(workers=1), **limits)
        )
        try:
            await use(documents)
        finally:
            await documents.close()

    asyncio.run(main())


async def resolve(documents: Documents, *attachments: Attachment) -> Resolved:
    return await documents.resolve(attachments, LAB)


def read_all(*data: bytes | str, pdf: PdfLimits | None = None) -> list[tuple[str | None, str]]:
    """Return (text, reason) of each."""
    found: list[tuple[str | None, str]] = []

    async def use(documents: Documents) -> None:
        for row in map(pdf_attachment, data):
            resolved = await resolve(documents, row)
            found.append((resolved.texts.get(row.key), resolved.reasons.get(row.key, "")))

    run(use, pdf=pdf)
    return found


def test_readable_pdfs() -> None:
    wrapped = "\n".join(base64.encodebytes(make_pdf("wrapped")).decode().splitlines())
    compressed = one_page(b"BT /F1 9 Tf (first) Tj ET ", b"BT 0 -20 Td (second) Tj ET")
    assert read_all(
        make_pdf("Hello one", "Hello two", "Hello three"),
        compressed,
        encrypted(""),
        b"\n\njunk before\n" + make_pdf("late head"),
        wrapped,
        COUNT_LIE,
    ) == [
        ("[page 1]\nHello one\n\n[page 2]\nHello two\n\n[page 3]\nHello three", ""),
        ("[page 1]\nfirst\nsecond", ""),
        ("[page 1]\nsecret", ""),
        ("[page 1]\nlate head", ""),
        ("[page 1]\nwrapped", ""),
        ("[page 1]\none\n\n[page 2]\ntwo", ""),
    ]


UNREADABLE = {
    "encrypted": (encrypted("pw"), "encrypted"),
    "empty": (b"", "not a PDF"),
    "picture": (b"\x89PNG\r\n\x1a\n", "not a PDF"),
    "garbage": (b"%PDF-1.7\n" + bytes(range(256)) * 40, "broken"),
    "cut in half": (make_pdf("Hello")[:200], ""),
    "no text": (one_page(b"0 0 m 9 9 l S"), "no text"),
    "page tree loop": (PAGE_TREE_LOOP, ""),
    "no pages": (pdf_of([CATALOG, b"<< /Type /Pages /Kids [] /Count 0 >>"]), "no text"),
    "bomb": (one_page(bytes(300 * 2**20)), ""),
}


def test_unreadable_pdfs_have_a_reason() -> None:
    answers = read_all(*(data for data, _ in UNREADABLE.values()), make_pdf("still alive"))
    assert answers.pop() == ("[page 1]\nstill alive", "")
    for (name, (_, part)), (text, reason) in zip(UNREADABLE.items(), answers, strict=True):
        assert text is None, name
        assert reason, name
        assert part in reason, name


def test_pages_and_text_are_bounded() -> None:
    limits = PdfLimits(workers=1, max_pages=2, max_text_chars=60)
    many, long = make_pdf("a", "b", "c"), make_pdf("x" * 100)
    assert read_all(many, long, pdf=limits) == [
        (
            "[page 1]\na\n\n[page 2]\nb\n\n[only the first 2 of 3 pages were read]",
            "only the first 2 of 3 pages were read",
        ),
        (
            "[page 1]\n" + "x" * 51 + "\n\n[only the first 60 characters were read]",
            "only the first 60 characters were read",
        ),
    ]


def test_oversized_pdf_is_not_even_sent_to_a_worker() -> None:
    async def use(documents: Documents) -> None:
        row = pdf_attachment(make_pdf("a" * 2000))
        assert "larger than 1000 bytes" in (await resolve(documents, row)).reasons[row.key]
        assert documents.n_read == 0

    run(use, pdf=PdfLimits(max_bytes=1000))


@pytest.mark.parametrize(
    "data", ["%%%", "QUJ", "JVBERi0x=A", "data:application/pdf;base64,AA", "ä"]
)
def test_invalid_base64_names_the_field(data: str) -> None:
    async def use(documents: Documents) -> None:
        with pytest.raises(InvalidRequest, match="base64") as caught:
            await resolve(documents, pdf_attachment(data))
        assert caught.value.path == PATH

    run(use)


def test_slow_pdf_is_given_up_and_the_loop_stays_free() -> None:
    async def use(documents: Documents) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        good, slow = pdf_attachment(make_pdf("first")), pdf_attachment(SLOW)
        await resolve(documents, good)  # the worker has started
        ticker = asyncio.create_task(tick())
        resolved = await resolve(documents, slow)
        assert ticks > 10
        ticker.cancel()
        assert resolved.texts == {}
        assert "longer than 1.5 s" in resolved.reasons[slow.key]
        again = pdf_attachment(make_pdf("next"))
        assert (await resolve(documents, again)).texts == {again.key: "[page 1]\nnext"}

    run(use, pdf=PdfLimits(workers=1, time_limit_s=1.5))


@pytest.mark.parametrize("data", [HUGE_TREE], ids=["a tree of 2**40 pages"])
def test_hostile_trees_end(data: bytes) -> None:
    ((text, reason), good) = read_all(
        data, make_pdf("good"), pdf=PdfLimits(workers=1, time_limit_s=3)
    )
    assert text is None
    assert reason
    assert good == ("[page 1]\ngood", "")


@linux_only
def test_memory_is_bounded() -> None:
    # Within the library's own limits for one stream, but not within ours for the process.
    greedy = one_page(b" " * 70_000_000)
    answers = read_all(
        greedy, make_pdf("good"), pdf=PdfLimits(workers=1, max_memory_bytes=140 * 2**20)
    )
    assert answers == [
        (None, "the PDF needs too much memory to be read"),
        ("[page 1]\ngood", ""),
    ]


def test_memory_too_small_to_start() -> None:
    ((text, reason),) = read_all(make_pdf("a"), pdf=PdfLimits(max_memory_bytes=2**20))
    assert text is None
    assert reason


def test_known_documents_are_not_read_again() -> None:
    async def use(documents: Documents) -> None:
        rows = [pdf_attachment(make_pdf("a")), pdf_attachment(b"%PDF-broken")]
        first = await resolve(documents, *rows)
        assert (await resolve(documents, *rows)) == first
        assert (documents.n_read, documents.n_cache_hits) == (2, 2)

    run(use)


def test_the_cache_is_bounded() -> None:
    async def use(documents: Documents) -> None:
        rows = [pdf_attachment(make_pdf(letter * 500)) for letter in "abc"]
        for row in (*rows, rows[2], rows[1], rows[0]):
            assert row.key in (await resolve(documents, row)).texts
        assert (documents.n_read, documents.n_cache_hits) == (4, 2)

    run(use, cache_bytes=2400)


def test_failures_that_may_pass_are_forgotten() -> None:
    async def use(documents: Documents) -> None:
        for _ in range(2):
            await resolve(documents, pdf_attachment(SLOW))
        assert (documents.n_read, documents.n_cache_hits) == (2, 0)

    run(use, pdf=PdfLimits(workers=1, time_limit_s=0.2), failure_ttl_s=-1)


def test_identical_documents_are_read_once() -> None:
    async def use(documents: Documents) -> None:
        row = pdf_attachment(make_pdf("a"))
        found = await asyncio.gather(*(resolve(documents, row, row) for _ in range(5)))
        assert [resolved.texts for resolved in found] == [{row.key: "[page 1]\na"}] * 5
        assert documents.n_read == 1

    run(use)


def test_a_client_that_leaves_does_not_take_the_work_away() -> None:
    async def use(documents: Documents) -> None:
        row = pdf_attachment(make_pdf("a"))
        leaving = asyncio.create_task(resolve(documents, row))
        staying = asyncio.create_task(resolve(documents, row))
        await let_others_run()
        leaving.cancel()
        assert (await staying).texts == {row.key: "[page 1]\na"}
        assert leaving.cancelled()
        assert documents.n_read == 1

    run(use)


def test_a_request_waits_only_so_long() -> None:
    async def use(documents: Documents) -> None:
        slow, other = pdf_attachment(SLOW), pdf_attachment(make_pdf("a"))
        resolved = await resolve(documents, slow, other)
        assert resolved.texts == {}
        assert "took too long" in resolved.reasons[slow.key]
        assert "took too long" in resolved.reasons[other.key]

    run(use, request_timeout_s=0.3)


def test_waiting_documents_are_bounded() -> None:
    async def use(documents: Documents) -> None:
        waiting = asyncio.create_task(resolve(documents, pdf_attachment(SLOW)))
        await let_others_run()
        with pytest.raises(Overloaded) as caught:
            await resolve(documents, pdf_attachment(make_pdf("a" * 3000)))
        assert caught.value.retry_after_s
        await waiting

    run(use, pdf=PdfLimits(workers=1, time_limit_s=0.2), max_waiting_bytes=len(SLOW) * 4 // 3 + 999)


def test_too_many_attachments() -> None:
    async def use(documents: Documents) -> None:
        rows = [pdf_attachment(b"x%d" % n, f"messages.0.content.{n}") for n in range(4)]
        with pytest.raises(InvalidRequest, match="at most 3") as caught:
            await resolve(documents, *rows)
        assert caught.value.path == "messages.0.content.3"

    run(use, max_attachments=3)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_worker_is_replaced_and_none_is_left() -> None:
    async def use(documents: Documents) -> None:
        rows = [pdf_attachment(make_pdf(letter)) for letter in "abc"]
        await resolve(documents, rows[0])
        (killed,) = documents.worker_pids
        os.kill(killed, signal.SIGKILL)
        while documents.worker_pids:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await resolve(documents, rows[1])).texts == {rows[1].key: "[page 1]\nb"}
        (second,) = documents.worker_pids
        assert second != killed
        await documents.close()
        assert not is_running(killed)
        assert not is_running(second)
        assert "could not be started" in (await resolve(documents, rows[2])).reasons[rows[2].key]

    run(use)


def test_closing_gives_up_what_is_under_way() -> None:
    async def use(documents: Documents) -> None:
        await resolve(documents, pdf_attachment(make_pdf("warm")))
        waiting = asyncio.create_task(resolve(documents, pdf_attachment(SLOW)))
        await let_others_run()
        (pid,) = documents.worker_pids
        await documents.close()
        assert (await waiting).texts == {}
        assert not is_running(pid)

    run(use)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


@linux_only
def test_the_worker_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")

    async def use(documents: Documents) -> None:
        await resolve(documents, pdf_attachment(make_pdf("a")))
        (pid,) = documents.worker_pids
        assert b"sk-secret" not in environment_of(pid)

    run(use)


# -- URLs


async def serve_reply(answer: bytes) -> asyncio.Server:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


def read_url(body: bytes, kind: str, **limits) -> tuple[str | None, str]:
    found: list[tuple[str | None, str]] = []

    async def use(documents: Documents) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        server = await serve_reply(head.encode() + body)
        async with server:
            row = url_attachment(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a")
            resolved = await resolve(documents, row)
        found.append((resolved.texts.get(row.key), resolved.reasons.get(row.key, "")))

    run(use, **limits)
    return found[0]


LINKED = {
    "pdf": (make_pdf("linked"), "application/pdf", "[page 1]\nlinked"),
    "pdf as bytes": (make_pdf("linked"), "application/octet-stream", "[page 1]\nlinked"),
    "utf-8": ("grün".encode(), "text/plain", "grün"),
    "latin-1": ("grün".encode("latin-1"), "text/html; charset=ISO-8859-1", "grün"),
    "quoted": ("汉字".encode("gb18030"), 'text/plain;Charset="GB18030"', "汉字"),
    "utf-16 mark": ("grün".encode("utf-16"), "text/markdown", "grün"),
    "utf-8 mark": ("grün".encode("utf-8-sig"), "text/csv", "grün"),
    "unknown charset": ("grün".encode(), "text/plain; charset=klingon", "grün"),
    "codec that is no charset": ("grün".encode(), "text/plain; charset=zlib", "grün"),
    "slow codec": (b"abc", "text/plain; charset=punycode", "abc"),
    "broken and NUL": (b"a\xffb\0c", "text/plain", "a�bc"),
}


@pytest.mark.parametrize(("body", "kind", "text"), LINKED.values(), ids=LINKED)
def test_linked_documents(body: bytes, kind: str, text: str) -> None:
    assert read_url(body, kind) == (text, "")


def test_a_link_is_followed_once_per_switch() -> None:
    async def use(documents: Documents) -> None:
        n_requests = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal n_requests
            n_requests += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhello")
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a"
            document, image = url_attachment(url), url_attachment(url, "image_url")
            for _ in range(2):
                assert (await resolve(documents, document, image)).texts == {document.key: "hello"}
            with pytest.raises(InvalidRequest):
                await documents.resolve([document], PUBLIC)
        assert (n_requests, documents.n_cache_hits) == (1, 1)

    run(use)


def test_linked_text_is_bounded() -> None:
    cut = "only the first 5 characters were read"
    found = read_url(b"a" * 100, "text/plain", pdf=PdfLimits(max_text_chars=5))
    assert found == (f"aaaaa\n\n[{cut}]", cut)


def test_linked_broken_pdf_has_a_reason() -> None:
    assert read_url(b"%PDF-1.7 nothing", "application/pdf") == (None, "the PDF is broken")


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"PK\3\4", "application/octet-stream"), (b"x", "image/png"), (b"x", "application/pdf")],
)
def test_linked_other_things_are_refused(body: bytes, kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_url(body, kind)
    assert caught.value.path == PATH


@pytest.mark.parametrize("kind", ["document_url", "image_url"])
def test_private_urls_need_the_switch(kind: str) -> None:
    async def use(documents: Documents) -> None:
        row = url_attachment("http://127.0.0.1:9/a", kind)
        with pytest.raises(InvalidRequest, match="allow_private_urls") as caught:
            await documents.resolve([row], PUBLIC)
        assert caught.value.path == PATH

    run(use)


def test_image_urls_are_only_checked() -> None:
    async def use(documents: Documents) -> None:
        row = url_attachment("http://127.0.0.1:9/a.png", "image_url")
        assert await resolve(documents, row) == Resolved()
        assert await resolve(documents) == Resolved()

    run(use)


def test_slow_urls_are_refused_when_the_request_has_no_time_left() -> None:
    async def use(documents: Documents) -> None:
        held: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(
            lambda reader, writer: held.append(writer), "127.0.0.1", 0
        )
        async with silent:
            url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/a"
            with pytest.raises(InvalidRequest, match="too long") as caught:
                await resolve(documents, url_attachment(url))
            for writer in held:
                writer.close()
        assert caught.value.path == PATH

    run(use, request_timeout_s=0.2)
