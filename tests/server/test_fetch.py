"""The fetcher on real loopback servers, and its guard with a resolver that lies."""

import asyncio
import gzip
import ssl
import subprocess
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from shutil import which
from typing import Self

import pytest

from dragoman.core.errors import InvalidRequest
from dragoman.server.fetch import Fetched, GuardedFetcher
from dragoman.server.url_guard import Reach

PUBLIC = "93.184.216.34"
PATH = "messages.0.content.1.source.url"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Site:
    """A loopback server that answers each path with prepared bytes, and keeps the requests."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        answer = self.answers[head.split(b" ")[1].decode()]
        try:
            writer.write(answer)
            await writer.drain()
            if answer.endswith(b"never ends"):
                await reader.read()
        except ConnectionError:
            pass  # the fetcher has seen enough
        finally:
            writer.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def start(self, tls: ssl.SSLContext | None = None) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.sleep(0)


def reply(body: bytes, kind: str = "text/plain", status: str = "200 OK", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}"
    return head.encode() + b"\r\n" + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return f"HTTP/1.1 {status}\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()


async def fetch(
    fetcher: GuardedFetcher, url: str, *, max_bytes: int = 10_000, timeout_s: float = 20, **more
) -> Fetched:
    return await fetcher.fetch(
        url,
        path=PATH,
        max_bytes=max_bytes,
        timeout_s=timeout_s,
        accept_types=("text/*", "application/pdf"),
        **more,
    )


def run_on_site(
    answers: dict[str, bytes], use: Callable[[Site, GuardedFetcher], Awaitable[object]], **options
) -> Site:
    async def main() -> Site:
        async with Site(answers) as site:
            await use(site, GuardedFetcher(**options))
            return site

    return asyncio.run(main())


LAB = Reach(allow_private=True)
OPEN = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n"
CHUNKED = OPEN[:-2] + b"transfer-encoding: chunked\r\n\r\n"
GOOD = {
    "length": reply(b"hello"),
    "until end of file": OPEN + b"hello",
    "chunked": CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\na: b\r\n\r\n",
    "gzip": reply(gzip.compress(b"hello"), extra="content-encoding: gzip\r\n"),
    "deflate": reply(zlib.compress(b"hello"), extra="Content-Encoding: deflate\r\n"),
    "interim": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + reply(b"hello"),
    "bytes after the end": reply(b"hello") + b"more",
}


@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD)
def test_body_and_type(answer: bytes) -> None:
    async def use(site: Site, fetcher: GuardedFetcher) -> None:
        url = f"http://127.0.0.1:{site.port}/a?b=c#d"
        fetched = await fetch(fetcher, url, reach=LAB)
        assert fetched == Fetched(b"hello", "text/plain", url.removesuffix("#d"))

    site = run_on_site({"/a?b=c": answer}, use)
    (head,) = site.requests
    assert f"host: 127.0.0.1:{site.port}\r\n".encode() in head


BAD = {
    "status": (reply(b"", status="404 Not Found"), "HTTP status 404"),
    "partial content": (reply(b"hello", status="206 Partial Content"), "206"),
    "type": (reply(b"hello", "image/png"), "type of content"),
    "no type": (b"HTTP/1.1 200 OK\r\n\r\nhello", "type of content"),
    "declared too large": (OPEN[:-2] + b"content-length: 99999999\r\n\r\n", "limit"),
    "too large": (OPEN + b"a" * 10_001, "limit"),
    "gzip bomb": (reply(gzip.compress(bytes(10**7)), extra="content-encoding: gzip\r\n"), "limit"),
    "trailer bomb": (CHUNKED + b"0\r\na: " + b"a" * 10**6, "limit"),
    "cut short": (reply(b"hello")[:-1], "complete"),
    "cut gzip": (reply(gzip.compress(b"hello")[:-4], extra="content-encoding: gzip\r\n"), "cut"),
    "broken gzip": (reply(b"hello", extra="content-encoding: gzip\r\n"), "compressed"),
    "brotli": (reply(b"hello", extra="content-encoding: br\r\n"), "compression"),
    "no HTTP": (b"220 mail.example.com ESMTP\r\n", "HTTP"),
    "nothing": (b"", "complete"),
    "huge head": (b"HTTP/1.1 200 OK\r\na: " + b"a" * 200_000 + b"\r\n\r\n", "headers"),
    "upgrade": (b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "URL"),
    "redirect without location": (reply(b"", status="302 Found"), "302"),
    "endless redirect": (redirect("/a"), "redirects more than 3"),
    "redirect to a file": (redirect("file:///etc/passwd"), "http and https"),
    "redirect to credentials": (redirect("http://user:pw@example.com/"), "credentials"),
    "redirect to metadata": (redirect("http://169.254.169.254/"), "metadata"),
    "head never ends": (b"HTTP/1.1 200 OK\r\nx: never ends", "did not answer within 0.5 s"),
    "body never ends": (OPEN + b"never ends", "did not answer within 0.5 s"),
}


@pytest.mark.parametrize(("answer", "reason"), BAD.values(), ids=BAD)
def test_bad_answer_names_the_field_and_no_address(answer: bytes, reason: str) -> None:
    async def use(site: Site, fetcher: GuardedFetcher) -> None:
        timeout_s = 0.5 if answer.endswith(b"never ends") else 20
        url = f"http://127.0.0.1:{site.port}/a"
        with pytest.raises(InvalidRequest) as caught:
            await fetch(fetcher, url, timeout_s=timeout_s, reach=LAB)
        assert caught.value.path == PATH
        assert reason in caught.value.message
        assert "127.0" not in caught.value.message
        assert "169.254" not in caught.value.message

    run_on_site({"/a": answer}, use)


def test_a_bomb_is_not_inflated_first() -> None:
    bomb = reply(gzip.compress(bytes(50 * 2**20)), extra="content-encoding: gzip\r\n")

    async def use(site: Site, fetcher: GuardedFetcher) -> None:
        url = f"http://127.0.0.1:{site.port}/a"
        tracemalloc.start()
        try:
            with pytest.raises(InvalidRequest, match="limit"):
                await fetch(fetcher, url, max_bytes=100_000, reach=LAB)
            assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
        finally:
            tracemalloc.stop()

    run_on_site({"/a": bomb}, use)


def test_nobody_listens() -> None:
    async def use(site: Site, fetcher: GuardedFetcher) -> None:
        await site.__aexit__()
        with pytest.raises(InvalidRequest, match="could not be reached"):
            await fetch(fetcher, f"http://127.0.0.1:{site.port}/a", reach=LAB)

    run_on_site({}, use)


def test_loopback_needs_the_switch() -> None:
    async def use(site: Site, fetcher: GuardedFetcher) -> None:
        with pytest.raises(InvalidRequest, match="allow_private_urls"):
            await fetch(fetcher, f"http://127.0.0.1:{site.port}/a")

    assert run_on_site({"/a": reply(b"hello")}, use).requests == []


@pytest.mark.parametrize("status", ["301", "302", "303", "307", "308"])
def test_redirects_are_followed(status: str) -> None:
    async def use(site: Site, fetcher: GuardedFetcher) -> None:
        fetched = await fetch(fetcher, f"http://127.0.0.1:{site.port}/a", reach=LAB)
        assert fetched.body == b"hello"
        assert fetched.final_url == f"http://127.0.0.1:{site.port}/b/%C3%A4"

    run_on_site({"/a": redirect("b/ä", f"{status} x"), "/b/%C3%A4": reply(b"hello")}, use)


def test_ports_can_be_limited() -> None:
    async def use(site: Site, fetcher: GuardedFetcher) -> None:
        with pytest.raises(InvalidRequest, match="port"):
            await fetch(fetcher, f"http://127.0.0.1:{site.port}/a", reach=LAB)

    run_on_site({"/a": reply(b"hello")}, use, allowed_ports=frozenset({80, 443}))


class Names:
    """A resolver with one prepared answer per look-up; the last one is repeated."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): rows for name, rows in answers.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        rows = self.answers.get(host)
        if rows is None:
            raise OSError("unknown name")
        return rows.pop(0) if len(rows) > 1 else rows[0]


class Wire:
    """Leads connections for any address to the site, and keeps the addresses."""

    def __init__(self, site: Site, *, dead: frozenset[str] = frozenset()) -> None:
        self.site, self.dead = site, dead
        self.connected: list[str] = []

    async def connect(self, address: str, port: int, **options) -> Streams:
        self.connected.append(address)
        if address in self.dead:
            raise ConnectionRefusedError
        return await asyncio.open_connection("127.0.0.1", self.site.port, **options)


def run_with_names(
    names: Names,
    answers: dict[str, bytes],
    use: Callable[[GuardedFetcher], Awaitable[None]],
    *,
    dead: frozenset[str] = frozenset(),
) -> tuple[list[str], Site]:
    """Return the addresses that were connected to."""

    async def main() -> tuple[list[str], Site]:
        async with Site(answers) as site:
            wire = Wire(site, dead=dead)
            await use(GuardedFetcher(resolve=names.resolve, connect=wire.connect))
            return wire.connected, site

    return asyncio.run(main())


def test_rebinding_has_no_second_look_up_to_poison() -> None:
    names = Names(rebind_example=[[PUBLIC], ["127.0.0.1"]])

    async def use(fetcher: GuardedFetcher) -> None:
        assert (await fetch(fetcher, "http://rebind.example/a")).body == b"hello"

    connected, site = run_with_names(names, {"/a": reply(b"hello")}, use)
    assert names.asked == ["rebind.example"]
    assert connected == [PUBLIC]
    assert b"\r\nhost: rebind.example\r\n" in site.requests[0]


def test_every_hop_is_resolved_and_checked_anew() -> None:
    names = Names(rebind_example=[[PUBLIC], ["127.0.0.1"]])

    async def use(fetcher: GuardedFetcher) -> None:
        with pytest.raises(InvalidRequest, match="public host"):
            await fetch(fetcher, "http://rebind.example/a")

    connected, _ = run_with_names(names, {"/a": redirect("/b"), "/b": reply(b"secret")}, use)
    assert names.asked == ["rebind.example"] * 2
    assert connected == [PUBLIC]


PRIVATE_ANSWERS = {
    "loopback": ["127.0.0.1"],
    "mixed": [PUBLIC, "10.0.0.1"],
    "private behind many": [*(f"93.184.216.{n}" for n in range(1, 9)), "192.168.0.1"],
    "metadata": ["169.254.169.254"],
    "v6 loopback": ["::1"],
    "v6 scope": ["fe80::1%eth0"],
    "mapped": ["::ffff:10.0.0.1"],
    "NAT64": ["64:ff9b::7f00:1"],
    "no address": ["what?"],
    "none": [],
}


@pytest.mark.parametrize("found", PRIVATE_ANSWERS.values(), ids=PRIVATE_ANSWERS)
def test_names_of_private_addresses_are_refused(found: list[str]) -> None:
    names = Names(evil_example=[found])

    async def use(fetcher: GuardedFetcher) -> None:
        for ask in (
            fetch(fetcher, "https://evil.example/a"),
            fetcher.check_public("https://evil.example/a", path=PATH),
        ):
            with pytest.raises(InvalidRequest) as caught:
                await ask
            assert caught.value.path == PATH
            assert not any(address in caught.value.message for address in found)

    assert run_with_names(names, {}, use)[0] == []


PRIVATE_HOPS = [
    *("http://127.0.0.1/", "http://localhost/", "http://10.0.0.1/", "http://[::1]/"),
    *("//169.254.169.254/latest", "http://0x7f000001/", "http://inner.example/"),
    *("https://user:pw@good.example/", "gopher://good.example/"),
]


@pytest.mark.parametrize("location", PRIVATE_HOPS)
def test_redirects_to_private_hosts_are_refused(location: str) -> None:
    names = Names(good_example=[[PUBLIC]], inner_example=[["10.0.0.1"]])

    async def use(fetcher: GuardedFetcher) -> None:
        with pytest.raises(InvalidRequest):
            await fetch(fetcher, "http://good.example/a")

    connected, _ = run_with_names(names, {"/a": redirect(location)}, use)
    assert connected == [PUBLIC]


def test_the_next_address_is_tried() -> None:
    names = Names(good_example=[["2606:4700::1111", PUBLIC]])

    async def use(fetcher: GuardedFetcher) -> None:
        assert (await fetch(fetcher, "http://good.example/a")).body == b"hello"

    dead = frozenset({"2606:4700::1111"})
    connected, _ = run_with_names(names, {"/a": reply(b"hello")}, use, dead=dead)
    assert connected == ["2606:4700::1111", PUBLIC]


def test_check_public() -> None:
    names = Names(good_example=[[PUBLIC]])

    async def use(fetcher: GuardedFetcher) -> None:
        await fetcher.check_public("https://good.example/a.png", path=PATH)
        await fetcher.check_public("http://inner.lab/a.png", path=PATH, reach=LAB)
        await fetcher.check_public("http://127.0.0.1:9/a.png", path=PATH, reach=LAB)
        for url in ("http://unknown.example/", "http://127.0.0.1/", "ftp://good.example/"):
            with pytest.raises(InvalidRequest):
                await fetcher.check_public(url, path=PATH)
        with pytest.raises(InvalidRequest):
            await fetcher.check_public("http://169.254.169.254/", path=PATH, reach=LAB)

    assert run_with_names(names, {}, use)[0] == []
    assert names.asked == ["good.example", "unknown.example"]


def test_slow_resolver_is_bounded() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    async def main() -> None:
        with pytest.raises(InvalidRequest, match=r"within 0\.1 s"):
            await fetch(GuardedFetcher(resolve=resolve), "http://slow.example/", timeout_s=0.1)

    asyncio.run(main())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of ``good.example`` with its key, made for this run."""
    openssl = which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    path = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=good.example"),
            *("-addext", "subjectAltName=DNS:good.example"),
            *("-keyout", path / "key.pem", "-out", path / "cert.pem"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return path


@pytest.mark.parametrize("host", ["good.example", "other.example"])
def test_certificates_are_checked_for_the_name(certificate: Path, host: str) -> None:
    names = Names(good_example=[[PUBLIC]], other_example=[[PUBLIC]])

    async def main() -> None:
        server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_side.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        client_side = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        site = await Site({"/a": reply(b"hello")}).start(server_side)
        fetcher = GuardedFetcher(
            resolve=names.resolve, connect=Wire(site).connect, tls_context=client_side
        )
        if host == "good.example":
            assert (await fetch(fetcher, f"https://{host}/a")).body == b"hello"
        else:
            with pytest.raises(InvalidRequest, match="certificate"):
                await fetch(fetcher, f"https://{host}/a")
        await site.__aexit__()

    asyncio.run(main())
