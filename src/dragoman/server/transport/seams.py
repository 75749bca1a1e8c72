"""
The two seams. The request path and the relay know these and nothing of HTTP libraries.

Everything here runs on one event loop; callbacks are called from it and must not block.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NoReturn, Protocol

from msgspec import Struct

from dragoman.core.errors import UpstreamError

Headers = Mapping[bytes, bytes]  # names in lower case; repeated fields joined by ", "
HeaderList = Sequence[tuple[bytes, bytes]]
NO_HEADERS: Final[Headers] = MappingProxyType({})


class SentHeaders(dict[bytes, bytes]):
    """
    What a client sent: names in lower case; repeated fields joined by ``", "``. Nobody changes it.

    Clients send the same head with every request, and then these are the same headers, too.

    Attributes:
        facts: What follows from the headers alone, kept by whoever has found it out; None: nobody
            has. It is shared with later requests, so it holds nothing that may change meanwhile:
            which keys were sent, but not whom they belong to.
    """

    __slots__ = ("facts",)

    def __init__(self, fields: Mapping[bytes, bytes] | None = None) -> None:
        super().__init__(fields or {})
        self.facts: Any = None  # of a type that the transport does not know

    def __setitem__(self, name: bytes, value: bytes) -> NoReturn:
        raise TypeError("the headers of a request are shared with others")

    def __delitem__(self, name: bytes) -> NoReturn:
        raise TypeError("the headers of a request are shared with others")


class ExchangeWatcher(Protocol):
    """Told what happens on the client's side while a reply is being written."""

    def on_gone(self) -> None:
        """Handle that the client has left; called once, nothing can be written any more."""

    def on_pause(self) -> None:
        """Stop producing: the client reads more slowly than we write."""

    def on_resume(self) -> None:
        """Go on producing."""


class Exchange(Protocol):
    """One request of a client and the reply to it."""

    method: str
    path: str  # percent-decoded, without query
    headers: SentHeaders  # until the reply is started; then there are none
    peer: str  # address of the client, for the log
    gone: bool  # the client has left (end of file counts)

    @property
    def query(self) -> str:
        """Return what stands behind the question mark, as it was sent."""
        ...

    def body_at_hand(self, max_bytes: int) -> bytes | None:
        """Return the whole body, once, if it has come; None: ``read_body`` waits, or says why."""
        ...

    async def read_body(self, max_bytes: int) -> bytes:
        """
        Return the whole body, inflated (gzip, deflate, zstd).

        Raises:
            RequestTooLarge: Over *max_bytes*, counted after inflating.
            RequestTimeout: It came too slowly.
            InvalidRequest: The content-encoding is unknown or its data is broken.
            ClientGone: The client left.
        """
        ...

    def watch(self, watcher: ExchangeWatcher | None) -> None:
        """Tell *watcher* from now on; at once if the client is already gone."""

    def reply_whole(
        self, status: int, headers: HeaderList, body: bytes, lines: bytes = b""
    ) -> None:
        """
        Send a whole reply.

        Args:
            status: Any.
            headers: Without content-length.
            body: All of it.
            lines: Further headers, as whole lines that nobody looks at again.
        """

    def start_reply(self, status: int, headers: HeaderList, lines: bytes = b"") -> None:
        """Send the head; without content-length among *headers* the body is chunked."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body, now."""

    def end_reply(self) -> None:
        """End the body; the connection may then serve the next request. Nobody watches any more."""

    def abort(self) -> None:
        """Cut the connection: the reply cannot be ended honestly."""


class ClientGone(Exception):
    """The client left before its request was read."""


class Timeouts(Struct, frozen=True, gc=False):
    """Seconds. ``first_byte_s`` runs from the request's last byte, ``idle_s`` between two bytes."""

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0


class UpstreamRequest(Struct, kw_only=True):
    """
    One request to an upstream; *path* is appended to the base URL's own path.

    Whoever sends it may empty its body once the reply has begun: it is not sent again then.
    """

    path: str
    body: bytes = b""
    method: str = "POST"
    headers: HeaderList = ()  # beside content-type and the credential, which the upstream adds
    timeouts: Timeouts = Timeouts()
    max_body_bytes: int = 0  # of the reply; 0: no limit here
    at_root: bool = False  # *path* stands alone, without the base URL's own path


class Receiver(Protocol):
    """Gets the reply: on_head, on_data any number of times, then on_end or on_error, once."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Take the status line and headers of the reply."""

    def on_data(self, data: bytes) -> None:
        """Take the next piece of the body, without transfer or content coding."""

    def on_end(self) -> None:
        """Take note that the body is complete."""

    def on_error(self, error: UpstreamError) -> None:
        """Take note that no more will come: connect error, reset, time-out, protocol error."""


class Call(Protocol):
    """
    A request under way.

    Attributes:
        is_complete: All of the reply has come; the receiver has it, or gets it now.
    """

    is_complete: bool

    def pause(self) -> None:
        """Stop reading from the upstream's socket."""

    def resume(self) -> None:
        """Read again."""

    def abort(self) -> None:
        """Give the call up: close its connection now, call the receiver no more. Idempotent."""


class Upstream(Protocol):
    """One base URL with its credential and its pool of connections."""

    def send(self, request: UpstreamRequest, receiver: Receiver) -> Call:
        """Start a call. The receiver is never called before this returns."""
        ...

    async def close(self) -> None:
        """Close idle connections and abort calls."""
