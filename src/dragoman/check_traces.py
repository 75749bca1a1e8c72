"""Whether the collector of traces takes them; one that does not stops no gateway."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Final

from dragoman.build import open_upstream
from dragoman.config import Config
from dragoman.core.errors import UpstreamError
from dragoman.server.otel_export import NOT_INSTALLED, TRACES_PATH
from dragoman.server.transport.ask import ask
from dragoman.server.transport.seams import Timeouts, UpstreamRequest
from dragoman.settings import UpstreamConfig

_TIMES: Final = Timeouts(5.0, 5.0, 5.0)
_MAX_ANSWER_BYTES: Final = 64 * 2**10
_MAX_REASON: Final = 200
_NO_SPANS: Final = b'{"resourceSpans":[]}'  # OTLP in its JSON form, which collectors take, too
_LIBRARY: Final = "opentelemetry.exporter.otlp.proto.http"


async def check_traces(
    config: Config, problems: Sequence[str], *, environ: Mapping[str, str]
) -> str:
    """
    Return ``ok``, or what is wrong with the collector; empty: nobody is to be asked.

    Only what begins with ``FAILED`` keeps a gateway from starting.
    """
    endpoint = config.tracing.endpoint
    if endpoint is None or any(line.startswith("tracing.") for line in problems):
        return ""
    if not _is_installed():
        return f"FAILED: {NOT_INSTALLED}"
    collector = UpstreamConfig(base_url=endpoint, headers=config.tracing.headers)
    client = open_upstream(collector, environ=environ)
    request = UpstreamRequest(
        path=TRACES_PATH, body=_NO_SPANS, timeouts=_TIMES, max_body_bytes=_MAX_ANSWER_BYTES
    )
    try:
        answer = await ask(client, request)
    except UpstreamError as error:
        return f"warning: no traces arrive: {(error.log_detail or error.message)[:_MAX_REASON]}"
    finally:
        await client.close()
    return _meaning(answer.status)


def _meaning(status: int) -> str:
    """Say what the collector's answer to an export of nothing means."""
    if status in (401, 403):
        return f"warning: the collector refuses us ({status}): are tracing.headers right?"
    if status in (404, 405):
        return f"warning: nothing takes traces at {TRACES_PATH} there ({status})"
    if status >= 500:
        return f"warning: the collector answers {status}"
    return "ok"


def _is_installed() -> bool:
    try:
        return find_spec(_LIBRARY) is not None
    except ModuleNotFoundError:  # not even what it is a part of
        return False
