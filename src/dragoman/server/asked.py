"""One client's request, as everything that serves it sees it."""

from msgspec import Struct

from dragoman.server.transport.seams import HeaderList
from dragoman.wire.anthropic import MessagesRequest


class Asked(Struct):
    """
    One client's request: its bytes, decoded, and what native upstreams get beside them.

    The last three are as for ``Prompt``.
    """

    body: bytes
    request: MessagesRequest
    alias: str  # of the model, whatever name was sent
    native_headers: HeaderList
    n_bytes: int = 0
    file_tokens: int = 0
    teaches: bool = False

    def forget_prompt(self) -> None:
        """Let go of all that is long: it will not be sent again."""
        self.body = b""
        self.request.messages, self.request.tools, self.request.system = [], [], None
