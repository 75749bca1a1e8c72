"""What a reply without calls should have held, if the upstream can still be asked for it."""

from dragoman.core.block_writer import BlockWriter
from dragoman.core.guards import Lack
from dragoman.core.holding_sink import HoldingSink
from dragoman.core.plan import Plan
from dragoman.core.sinks import Sink
from dragoman.core.turn_context import TurnContext


def find_lack(
    plan: Plan, context: TurnContext, *, sink: Sink, blocks: BlockWriter, finish: str | None
) -> Lack:
    """
    Return what is missing; nothing, if it cannot be asked for.

    Args:
        plan: What was asked for.
        context: Whether the message may go on with another reply.
        sink: Where the message goes.
        blocks: What came.
        finish: The upstream's reason for its end, if it gave one.
    """
    if isinstance(sink, HoldingSink) and sink.is_holding:
        return "call"
    if plan.forced_by_choice and context.continues_without_call:
        return "call"
    when = context.continues_empty
    if when == "never" or (when == "unsent" and sink.has_content):
        return ""
    if has_lost_call(plan, blocks, finish=finish) and "messages" in plan.body:
        return "announced call"  # a stream that has begun has let go of the messages
    return "" if blocks.has_text or blocks.server_calls else "answer"


def has_lost_call(plan: Plan, blocks: BlockWriter, *, finish: str | None) -> bool:
    """Tell whether the server has announced a call and not sent any."""
    is_announced = finish in ("tool_calls", "function_call")
    return is_announced and not blocks.has_calls and bool(plan.tool_names)
