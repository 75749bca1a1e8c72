"""What one process finds out about the health of upstreams, told to all others."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec import structs

from dragoman.policy.health import Health, HealthEvent
from dragoman.policy.sharing import Board, Notice

_TOPIC: Final = "health"
_WELL_S: Final = 60.0  # that somebody is well again is told to who may have missed it, for so long
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(HealthEvent).decode


def share_health(
    health: Health, board: Board, *, names: Mapping[str, str], clock: Callable[[], float]
) -> None:
    """
    Post what *health* finds out on *board*, and have it do as the others have found.

    Args:
        health: Of this process.
        board: Of all.
        names: By which the others know each endpoint, by its own name. What they say of any other
            is about a place or a key that this process does not have.
        clock: The one that *health* is asked by.
    """
    own_names = {shared: own for own, shared in names.items()}

    def post(event: HealthEvent) -> None:
        subject = _renamed(event.subject, names)
        if subject is None:
            return
        ttl_s = event.for_s if event.cause is not None else _WELL_S
        body = _encode(structs.replace(event, subject=subject))
        board.post(Notice(topic=_TOPIC, key=subject, body=body, ttl_s=ttl_s))

    def read(notice: Notice) -> None:
        try:
            event = _decode(notice.body)
        except msgspec.MsgspecError:  # of another version
            return
        subject = _renamed(event.subject, own_names)
        if subject is None:
            return
        left_s = min(event.for_s, notice.ttl_s)  # who reads it later, waits less
        health.apply(structs.replace(event, subject=subject, for_s=left_s), clock())

    health.tell = post
    board.watch(_TOPIC, read)


def _renamed(subject: str, names: Mapping[str, str]) -> str | None:
    """Return *subject* with another name of its endpoint; None: that has no other name."""
    endpoint, space, model = subject.partition(" ")
    name = names.get(endpoint)
    return None if name is None else f"{name}{space}{model}"
