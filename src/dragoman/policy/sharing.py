"""What the processes of one gateway tell each other, as interfaces; ``stores`` implements them."""

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct


class Shelf(Protocol):
    """Where all processes keep bytes for a day, under keys that nobody can guess."""

    def put(self, keys: Sequence[bytes], blob: bytes) -> None:
        """Keep *blob* under each key, soon. Never waits; may be lost."""
        ...

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """
        Return what there is, by its key; less where it is too much.

        Raises:
            SharedStateUnavailable: It cannot be reached.
        """
        ...


class Notice(Struct, frozen=True, kw_only=True):
    """
    What one process has found out and all shall know.

    Attributes:
        topic: Who reads it.
        key: What it is about: a later notice about the same takes its place.
        ttl_s: For how long it is shown to processes that start later.
    """

    topic: str
    key: str
    body: bytes
    ttl_s: float


class Board(Protocol):
    """
    Where processes post notices, and read what the others have posted.

    One that has just started reads what still hangs there; a notice may be lost, and comes to
    nobody twice but after an outage.
    """

    def post(self, notice: Notice) -> None:
        """Show *notice* to the others, soon. Never waits."""
        ...

    def watch(self, topic: str, read: Callable[[Notice], None]) -> None:
        """Have *read* called with what the others post, from ``open`` on."""
        ...
