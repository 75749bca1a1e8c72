"""Replies that are whole and known at once: what endpoints other than messages answer with."""

from typing import Final

from dragoman.core.errors import GatewayError
from dragoman.server.relay import send_error
from dragoman.server.telemetry import RequestRecord
from dragoman.server.transport.seams import Exchange, HeaderList

CLIENT_GONE: Final = 499  # in the log; nobody is there to be told
JSON: Final = b"application/json"


def answer(
    exchange: Exchange,
    status: int,
    body: bytes,
    *,
    record: RequestRecord,
    headers: HeaderList,
    content_type: bytes = JSON,
) -> None:
    """Send *body* as the whole reply; an empty one has no content type."""
    record.status = status
    kind = ((b"content-type", content_type),) if body else ()
    exchange.reply_whole(status, [*kind, *headers], body)


def refuse(
    exchange: Exchange, error: GatewayError, *, record: RequestRecord, headers: HeaderList
) -> None:
    """Answer with *error*, and write it down."""
    if exchange.gone:  # nobody is there to be told
        record.status, record.error_type = CLIENT_GONE, "client_gone"
        return
    record.status = error.status
    record.error_type, record.error_detail = error.kind, error.log_detail or error.message
    send_error(exchange, error, request_id=record.request_id, extra=headers)
