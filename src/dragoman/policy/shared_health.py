"""What one process finds out about the health of upstreams, told to all others."""

from collections.abc import Callable
from typing import Final

import msgspec

from dragoman.policy.health import Health, HealthEvent
from dragoman.policy.sharing import Board, Notice

_TOPIC: Final = "health"
_WELL_S: Final = 60.0  # that somebody is well again is told to who may have missed it, for so long
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(HealthEvent).decode


def share_health(health: Health, board: Board, *, clock: Callable[[], float]) -> None:
    """
    Post what *health* finds out on *board*, and have it do as the others have found.

    Args:
        health: Of this process.
        board: Of all.
        clock: The one that *health* is asked by.
    """

    def post(event: HealthEvent) -> None:
        ttl_s = event.for_s if event.cause is not None else _WELL_S
        shown = Notice(topic=_TOPIC, key=event.subject, body=_encode(event), ttl_s=ttl_s)
        board.post(shown)

    def read(notice: Notice) -> None:
        try:
            event = _decode(notice.body)
        except msgspec.MsgspecError:  # of another version
            return
        left_s = min(event.for_s, notice.ttl_s)  # who reads it later, waits less
        health.apply(msgspec.structs.replace(event, for_s=left_s), clock())

    health.tell = post
    board.watch(_TOPIC, read)
