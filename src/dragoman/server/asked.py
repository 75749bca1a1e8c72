"""One client's request, as everything that serves it sees it."""

from msgspec import Struct

from dragoman.policy.expected_use import Expected, PromptSize, size_of
from dragoman.server.transport.seams import HeaderList
from dragoman.wire.anthropic import MessagesRequest


class Asked(Struct):
    """One client's request: its bytes, decoded, and what native upstreams get beside them."""

    body: bytes
    request: MessagesRequest
    alias: str  # of the model, whatever name was sent
    native_headers: HeaderList
    expected: Expected | None = None  # of what it will use, once somebody wants to know
    is_learnt_from: bool = False
    _size: PromptSize | None = None

    def size(self) -> PromptSize:
        """Return how long it is, also when it was forgotten after it was first asked for."""
        if self._size is None:
            self._size = size_of(self.body)
        return self._size

    def forget_prompt(self) -> None:
        """Let go of all that is long: it will not be sent again."""
        self.body = b""
        self.request.messages, self.request.tools, self.request.system = [], [], None
