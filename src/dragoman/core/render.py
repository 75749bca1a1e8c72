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
    body, table = plan.body, plan.tool_table
    if table is None or body.get("tools") is not table.functions:
        return _encode(body)
    return _encode({**body, "tools": msgspec.Raw(table.encode())})
