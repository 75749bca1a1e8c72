"""Plan -> bytes of the upstream's request."""

from typing import Final

import msgspec

from dragoman.core.plan import Plan

_encode: Final = msgspec.json.Encoder().encode


def render(plan: Plan) -> bytes:
    """
    Return the body to send.

    The model and the messages come first and every key keeps its place, so that a conversation
    that has grown begins with the bytes it had before: upstream prefix caches live on that.
    """
    return _encode(plan.body)
