"""One reply being translated or passed on, as those see it who carry its bytes."""

from typing import Protocol

from dragoman.core.errors import GatewayError
from dragoman.core.usage import Usage


class Turn(Protocol):
    """One reply being translated; one object per upstream reply, no sharing."""

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        ...

    @property
    def prompt_tokens_estimate(self) -> int:
        """What we have taken the prompt for, before anybody has counted; 0: nobody has."""
        ...

    @property
    def stop_reason(self) -> str | None:
        """Why the message ended; None: it has not."""
        ...

    @property
    def is_done(self) -> bool:
        """Tell whether the message is complete, whatever the connection still does."""
        ...

    @property
    def is_finishing(self) -> bool:
        """Tell whether only counts can still come: nobody should wait long for them."""
        ...

    @property
    def is_cut(self) -> bool:
        """Tell whether it is complete because we cut it: the upstream would go on."""
        ...

    @property
    def has_content(self) -> bool:
        """Tell whether a content block has begun: no other upstream may take over."""
        ...

    def start(self) -> bytes:
        """Return the message's start before the upstream has answered, if the turn can."""
        ...

    def ping(self) -> bytes:
        """Return a sign of life."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take any slice of the upstream's body, return the bytes for the client."""
        ...

    def feed_whole(self, body: bytes) -> bytes:
        """Take a whole reply's body instead."""
        ...

    def close(self) -> bytes:
        """Take note that the body has ended; return the end of the message."""
        ...

    def fail(self, error: GatewayError) -> bytes:
        """Return the error event, or the error's body."""
        ...
