"""One client's request, as everything that serves it sees it."""

from msgspec import Struct

from dragoman.policy.expected_use import PromptSize
from dragoman.server.transport.seams import HeaderList
from dragoman.wire.anthropic import MessagesRequest


class Asked(Struct):
    """One client's request: its bytes, decoded, and what native upstreams get beside them."""

    body: bytes
    request: MessagesRequest
    alias: str  # of the model, whatever name was sent
    native_headers: HeaderList
    size: PromptSize | None = None  # once somebody wanted to know, before it was forgotten
    is_learnt_from: bool = False

    def forget_prompt(self) -> None:
        """Let go of all that is long: it will not be sent again."""
        self.body = b""
        self.request.messages, self.request.tools, self.request.system = [], [], None
