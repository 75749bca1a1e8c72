"""HTTPS for clients: a real gateway process, real TLS clients, and certificates that are none."""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx2
import pytest

from dragoman.settings import ServerConfig
from dragoman.tables import ConfigError
from dragoman.tls_files import server_tls
from support.chat_script import say
from support.chat_upstream import ChatUpstream
from support.gateway import GatewayProcess, lab_config
from support.raw_server import CERTIFICATE, trusting
from support.sse_grammar import check_stream

ASK = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("tls")
    with ChatUpstream() as upstream:
        upstream.script(say("Hello", times=-1))
        env = {
            "DRAGOMAN_SERVER_TLS_CERTIFICATE": str(CERTIFICATE),
            "DRAGOMAN_SERVER_HEADER_TIMEOUT_S": "1",
        }
        config = lab_config(upstream.url, "m")
        with GatewayProcess(folder, config=config, env=env, tls=trusting()) as running:
            yield running


def test_a_whole_reply_and_a_stream(gateway: GatewayProcess) -> None:
    assert gateway.request("POST", "/v1/messages", ASK).status == 200
    streamed = gateway.request("POST", "/v1/messages", ASK | {"stream": True})
    assert check_stream(streamed.body).stop_reason == "end_turn"


def test_the_sdk_speaks_to_it(gateway: GatewayProcess) -> None:
    with (
        httpx2.Client(verify=trusting()) as http,
        anthropic.Anthropic(base_url=gateway.url, api_key="any", http_client=http) as client,
    ):
        message = client.messages.create(**ASK)
    assert message.stop_reason == "end_turn"


def test_the_connection_ends_cleanly_after_a_refusal(gateway: GatewayProcess) -> None:
    """What is refused before its body has come is answered, although TLS has no half-close."""
    with connected(gateway) as tls:
        tls.sendall(TOO_LONG)
        assert tls.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_plain_http_is_not_spoken(gateway: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert b"HTTP/1.1" not in plain.recv(65536)
    assert gateway.request("GET", "/healthz").status == 200


def test_a_client_that_never_shakes_hands_is_cut(gateway: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as silent:
        began_s = time.monotonic()
        assert silent.recv(100) == b""
    assert time.monotonic() - began_s < 9


def test_old_versions_are_refused(gateway: GatewayProcess) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as plain,
        pytest.raises(OSError, match=r"(?i)ssl|tls|reset|protocol"),
    ):
        old.wrap_socket(plain)


TOO_LONG = (
    b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    b"content-type: application/json\r\ncontent-length: 99999999999\r\n\r\n"
)


def connected(gateway: GatewayProcess) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    return trusting().wrap_socket(plain, server_hostname="127.0.0.1")


# -- what cannot be used


def problem(certificate: Path, key: Path | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        server_tls(ServerConfig(tls_certificate=certificate, tls_key=key))
    return str(raised.value)


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    missing, garbage = tmp_path / "missing.pem", tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    assert problem(missing) == f"server.tls_certificate: {missing}: No such file or directory"
    assert problem(CERTIFICATE, missing) == f"server.tls_key: {missing}: No such file or directory"
    assert problem(garbage).startswith(f"server.tls_certificate: {garbage}: no PEM certificate")
    assert "belong together" in problem(CERTIFICATE, garbage)


def test_a_key_with_a_password_does_not_ask_at_the_terminal(tmp_path: Path) -> None:
    pem = CERTIFICATE.read_text()
    begin = pem.index("-----BEGIN CERT")
    end = pem.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----\n")
    alone, locked = tmp_path / "certificate.pem", tmp_path / "key.pem"
    alone.write_text(pem[begin:end])
    locked.write_text(LOCKED_KEY)
    assert "has no password" in problem(alone, locked)


# Made with: openssl genpkey -algorithm ed25519 -aes256 -pass pass:secret
LOCKED_KEY = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAi3/YZ2Xaq8/AICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEBQ82fqEqviHRX1m655c2gIEQIhH
+0LnRfPeJaV71a8NZBttbvxlykALPfDjLFL+FKLeFcnfFlbBEVzhpXz1zzmJSjB4
sQeT0RlxlVDknapmi+4=
-----END ENCRYPTED PRIVATE KEY-----
"""


def test_plain_http_without_a_certificate() -> None:
    assert server_tls(ServerConfig()) is None


def test_handshakes_do_not_stop_others(gateway: GatewayProcess) -> None:
    async def many() -> list[int]:
        async with httpx2.AsyncClient(verify=trusting(), base_url=gateway.url) as client:
            silent = await asyncio.open_connection("127.0.0.1", gateway.port)
            replies = await asyncio.gather(*(client.get("/healthz") for _ in range(20)))
            silent[1].close()
            return [reply.status_code for reply in replies]

    assert asyncio.run(many()) == [200] * 20
