"""The certificate and key that the gateway speaks HTTPS with."""

import ssl
from pathlib import Path

from dragoman.server.transport.http_server import HttpServer
from dragoman.settings import ServerConfig
from dragoman.tables import ConfigError


def server_tls(settings: ServerConfig) -> ssl.SSLContext | None:
    """
    Return the server's side of TLS; None: plain HTTP.

    Raises:
        ConfigError: Certificate or key cannot be read, or do not belong together.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        if path is not None and (reason := _unreadable(path)):
            raise ConfigError([f"server.{name}: {path}: {reason}"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError):
        line = f"server.tls_certificate: {certificate}: no PEM certificate with its key: "
        hint = "check that they belong together and that the key has no password"
        raise ConfigError([line + hint]) from None
    return context


def renew_certificate(server: HttpServer, settings: ServerConfig) -> None:
    """
    Read the certificate again; connections that are open keep the one they have.

    Raises:
        ConfigError: It cannot be used, and the former one stays.
    """
    if server.tls is None or settings.tls_certificate is None:
        return
    server_tls(settings)  # tries them: what has failed halfway would be neither the old nor the new
    server.tls.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _no_password() -> str:
    """Stand in the way of OpenSSL, which would ask at the terminal."""
    raise ValueError
