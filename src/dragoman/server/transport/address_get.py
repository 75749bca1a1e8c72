"""One bounded HTTP/1.1 GET to an address that was checked before; no name is looked up here."""

import asyncio
import ssl
import zlib
from collections.abc import Awaitable, Callable
from typing import Final

import httptools

from dragoman import __version__

_READ_BYTES: Final = 64 * 2**10
_MAX_HEAD_BYTES: Final = 64 * 2**10
# Chunk sizes and trailers come on top of the body; a body cut into single bytes is an attack.
_MAX_FRAMING_BYTES: Final = 256 * 2**10

Connect = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class GetFailed(Exception):
    """No usable answer. The message completes "the URL ..." and holds no address."""


class AddressGet:
    """
    Ask *address* for *path* in the name of *authority*: ``open``, ``read``, and always ``close``.

    ``status`` and ``headers`` (names in lower case, the last of repeated ones) are there after
    ``open``. There is no time limit in here.

    Args:
        address: An IP address, never a name.
        port: Of TCP.
        path: With query, percent-encoded.
        authority: For the Host header.
        tls: A context and the name to ask and to verify the certificate for; None: no TLS.
        connect: Opens the connection; ``asyncio.open_connection`` outside tests.
    """

    def __init__(
        self,
        address: str,
        port: int,
        *,
        path: str,
        authority: str,
        tls: tuple[ssl.SSLContext, str] | None,
        connect: Connect,
    ) -> None:
        self._address, self._port, self._tls, self._connect = address, port, tls, connect
        self._head = (
            f"GET {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: dragoman/{__version__}\r\n"
            "accept: */*\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n"
        ).encode("ascii")
        self._parser = httptools.HttpResponseParser(self)
        self._writer: asyncio.StreamWriter | None = None
        self._pieces: list[bytes] = []  # parsed but not yet taken
        self._has_head = self._is_complete = False
        self.status = 0
        self.headers: dict[str, str] = {}

    async def open(self) -> None:
        """
        Connect, ask, and read the head.

        Raises:
            GetFailed: No connection, or no HTTP behind it.
        """
        context, name = self._tls or (None, None)
        try:
            self._reader, self._writer = await self._connect(
                self._address, self._port, ssl=context, server_hostname=name
            )
            self._writer.write(self._head)
            await self._read_head()
        except OSError as error:
            raise _failed(error) from error

    def close(self) -> None:
        """Cut the connection, at any time; idempotent."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def read(self, max_bytes: int) -> bytes:
        """
        Return the whole body, inflated.

        Raises:
            GetFailed: Over *max_bytes* before or after inflating, cut short, or broken.
        """
        if _declared_length(self.headers) > max_bytes:
            raise _too_large(max_bytes)
        try:
            return await self._read_body(_Inflater(self.headers, max_bytes), max_bytes)
        except (OSError, zlib.error) as error:
            raise _failed(error) from error

    async def _read_head(self) -> None:
        n_bytes = 0
        while not self._has_head:
            n_bytes += await self._feed_once()
            if n_bytes > _MAX_HEAD_BYTES and not self._has_head:
                raise GetFailed("answered with oversized headers")

    async def _read_body(self, inflater: "_Inflater", max_bytes: int) -> bytes:
        n_bytes = 0
        while True:
            for piece in self._pieces:
                inflater.feed(piece)
            self._pieces.clear()
            if self._is_complete:
                return inflater.close()
            n_bytes += await self._feed_once()
            if n_bytes > 2 * max_bytes + _MAX_FRAMING_BYTES:
                raise _too_large(max_bytes)

    async def _feed_once(self) -> int:
        data = await self._reader.read(_READ_BYTES)
        if not data:
            self._take_end_of_file()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._is_complete:  # bytes after the end are not ours to judge
                raise GetFailed("did not answer with valid HTTP") from error
        return len(data)

    def _take_end_of_file(self) -> None:
        has_length = "content-length" in self.headers or "transfer-encoding" in self.headers
        if not self._has_head or has_length:
            raise GetFailed("closed the connection before its answer was complete")
        self._is_complete = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        """Called by the parser, also for interim (1xx) answers."""
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200
        if not self._has_head:
            self.headers.clear()

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        if not self._is_complete:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser, also for interim answers."""
        self._is_complete = self._has_head


class _Inflater:
    """Collects a body, inflating gzip and deflate; never holds more than *max_bytes* of it."""

    def __init__(self, headers: dict[str, str], max_bytes: int) -> None:
        coding = headers.get("content-encoding", "identity").lower()
        if coding not in {"identity", "", "gzip", "x-gzip", "deflate"}:
            raise GetFailed("answered in a compression that was not asked for")
        is_plain = coding in {"identity", ""}
        # 32 + 15: either a gzip or a zlib head.
        self._inflate = None if is_plain else zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._max_bytes = max_bytes
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        if self._inflate is not None:
            data = self._inflate.decompress(data, self._max_bytes + 1 - len(self._body))
        self._body += data
        if len(self._body) > self._max_bytes:
            raise _too_large(self._max_bytes)

    def close(self) -> bytes:
        if self._inflate is not None and not self._inflate.eof:
            raise GetFailed("answered with compressed data that is cut short")
        return bytes(self._body)


def _declared_length(headers: dict[str, str]) -> int:
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else 0


def _too_large(max_bytes: int) -> GetFailed:
    return GetFailed(f"leads to more than {max_bytes} bytes, the limit here")


def _failed(error: OSError | zlib.error) -> GetFailed:
    """Return what to raise for *error*, which tells too much about the network to be shown."""
    if isinstance(error, ssl.SSLError):  # before OSError, of which it is one
        return GetFailed("failed the TLS handshake or has no valid certificate")
    if isinstance(error, OSError):
        return GetFailed("could not be reached")
    return GetFailed("answered with broken compressed data")
