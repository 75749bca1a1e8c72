"""One client's request, as everything that serves it sees it."""

from msgspec import Struct

from dragoman.server.transport.seams import HeaderList
from dragoman.wire.anthropic import MessagesRequest


class Asked(Struct, frozen=True, kw_only=True):
    """One client's request: its bytes, decoded, and what native upstreams get beside them."""

    body: bytes
    request: MessagesRequest
    alias: str  # of the model, whatever name was sent
    native_headers: HeaderList
