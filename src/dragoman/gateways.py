"""Gateways that run already: find the configured one, or visit one at a given URL."""

import ssl
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from dragoman.banner import base_url
from dragoman.build import open_upstream
from dragoman.config import Config
from dragoman.config_rules import url_problem
from dragoman.core.errors import UpstreamError
from dragoman.exit_codes import FAILED, USAGE, CommandFailed
from dragoman.model_lists import ListedModel, get, read_list
from dragoman.policy.keys import OPEN
from dragoman.settings import UpstreamConfig

_OWN_HEADER: Final = b"x-dragoman-version"  # on every answer of ours
_FIND_TIMEOUT_S: Final = 2.0
_VISIT_TIMEOUT_S: Final = 15.0
_REFUSED: Final = frozenset({401, 403})
_LIST: Final = "/v1/models?limit=1000"


class RunningGateway(Struct, frozen=True, kw_only=True):
    """A gateway that answers us; *token* is a key that it accepts."""

    base_url: str
    token: str
    models: tuple[ListedModel, ...]

    def find(self, name: str) -> ListedModel | None:
        """Return the model of that name, in any case."""
        folded = name.casefold()
        return next((model for model in self.models if model.id.casefold() == folded), None)


def configured_url(config: Config) -> str | None:
    """Return where a gateway with this configuration listens; None: at any free port."""
    server = config.server
    return base_url(server, server.port) if server.port else None


def configured_token(config: Config) -> str:
    """Return a key that such a gateway accepts; where none is needed any word will do."""
    return config.keys[0].key.reveal() if config.keys else OPEN


async def find_running(config: Config) -> RunningGateway | None:
    """
    Return the gateway that runs where *config* says, if it is one of ours and accepts our key.

    What runs there is asked who it is before it gets to see a key.
    """
    url = configured_url(config)
    if url is None:
        return None
    upstream = open_upstream(UpstreamConfig(base_url=url), environ={}, tls=_client_tls(url))
    token = configured_token(config)
    try:
        hello = await get(upstream, "/api/hello", timeout_s=_FIND_TIMEOUT_S)
        if _OWN_HEADER not in hello.headers:
            return None
        answer = await get(upstream, _LIST, timeout_s=_FIND_TIMEOUT_S, headers=_headers(token))
    except UpstreamError:
        return None
    finally:
        await upstream.close()
    models = read_list(answer.body)
    if answer.status != 200 or not models:
        return None
    return RunningGateway(base_url=url, token=token, models=models)


def check_url(url: str) -> None:
    """
    Find out whether *url* can be that of a gateway.

    Raises:
        CommandFailed: It cannot.
    """
    if problem := url_problem(url):
        raise CommandFailed(f"--url: {problem}", code=USAGE)


async def visit(url: str, token: str, *, environ: Mapping[str, str]) -> RunningGateway:
    """
    Return the gateway at *url*, which the user has named.

    Args:
        url: With or without ``/v1``.
        token: A key that it may accept.
        environ: Says which proxy leads to it.

    Raises:
        CommandFailed: It does not answer, refuses the key or lists no models.
    """
    url = url.rstrip("/").removesuffix("/v1")
    upstream = open_upstream(UpstreamConfig(base_url=url), environ=environ, tls=_client_tls(url))
    try:
        answer = await get(upstream, _LIST, timeout_s=_VISIT_TIMEOUT_S, headers=_headers(token))
    except UpstreamError as error:
        reason = error.log_detail or error.message
        raise CommandFailed(f"{url}: no gateway answers there ({reason})", code=FAILED) from None
    finally:
        await upstream.close()
    if answer.status in _REFUSED:
        raise CommandFailed(f"{url}: the gateway refuses this key; give one with --key", code=USAGE)
    models = read_list(answer.body)
    if answer.status != 200 or not models:
        what = f"it answered {answer.status}" if answer.status != 200 else "it lists no models"
        raise CommandFailed(f"{url}: no gateway that can be used: {what}", code=FAILED)
    return RunningGateway(base_url=url, token=token, models=models)


def _client_tls(url: str) -> ssl.SSLContext | None:
    return ssl.create_default_context() if url.startswith("https:") else None


def _headers(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-api-key", token.encode()), (b"anthropic-version", b"2023-06-01")]
