"""Turns without a server: plans, chunks, and a reply fed whole, in cuts, or as one body."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import GatewayError
from dragoman.core.plan import Deployment, Plan
from dragoman.core.signatures import Signer
from dragoman.core.sinks import MessageHead, MessageSink, SseSink
from dragoman.core.turn import ChatTurn
from dragoman.core.turn_context import TurnContext
from dragoman.core.upstream_errors import ReplyContext
from dragoman.core.usage import Usage
from dragoman.wire.anthropic import MessagesRequest
from support.sse_grammar import AssembledMessage, check_error, check_message, check_stream

SIGNER = Signer(b"a secret of sixteen bytes or more")
HEAD = MessageHead(message_id="msg_1", model="alias", request_id="req_1")
DONE = b"data: [DONE]\n\n"


def make_plan(
    *, stops: Sequence[str] = (), profile: DialectProfile | None = None, **changes: Any
) -> Plan:
    """A plan that shows thinking and declares the tools f and g."""
    request = MessagesRequest(model="alias", messages=[], stop_sequences=list(stops))
    deployment = Deployment(upstream="lab", model="m", profile=profile or DialectProfile())
    fields: dict[str, Any] = {
        "body": {},
        "input_tokens_estimate": 7,
        "tool_names": frozenset({"f", "g"}),
        "show_thinking": "full",
    }
    return Plan(request=request, deployment=deployment, adjustments=(), **(fields | changes))


def make_turn(
    plan: Plan | None = None,
    *,
    is_stream: bool = True,
    before: Usage | None = None,
    reply: ReplyContext | None = None,
) -> ChatTurn:
    counter = itertools.count()
    context = TurnContext(
        signer=SIGNER,
        nonce=lambda: f"{next(counter):011d}",
        reply=reply or ReplyContext(),
        usage_before=before,
    )
    sink = SseSink(HEAD) if is_stream else MessageSink(HEAD)
    return ChatTurn(plan or make_plan(), sink, context=context)


@dataclass
class Ended:
    """What came of one reply."""

    body: bytes
    turn: ChatTurn
    error: GatewayError | None = None


def run(
    slices: Iterable[bytes], plan: Plan | None = None, *, is_stream: bool = True, **context: Any
) -> Ended:
    """Feed a streamed reply; an error of the upstream ends the message, as the relay does it."""
    turn = make_turn(plan, is_stream=is_stream, **context)
    out: list[bytes] = []
    try:
        for data in slices:
            out.append(turn.feed(data))
        out.append(turn.close())
    except GatewayError as error:
        out.append(turn.fail(error))
        return Ended(b"".join(out), turn, error)
    return Ended(b"".join(out), turn)


def run_whole(body: bytes, plan: Plan | None = None, *, is_stream: bool = False) -> Ended:
    """Feed a whole reply."""
    turn = make_turn(plan, is_stream=is_stream)
    try:
        out = turn.feed_whole(body)
        return Ended(out + turn.close(), turn)
    except GatewayError as error:
        return Ended(turn.fail(error), turn, error)


def read(ended: Ended, *, is_stream: bool = True) -> AssembledMessage:
    """Check a reply's grammar, return what it says."""
    if is_stream:
        return check_stream(ended.body)
    if ended.error is not None:
        return AssembledMessage(error=check_error(ended.body))
    return check_message(ended.body)


def stream(*chunks: bytes | dict[str, Any], plan: Plan | None = None) -> AssembledMessage:
    """What a client reads when the upstream streams *chunks*."""
    return read(run([sse(*chunks)], plan))


def sse(*chunks: bytes | dict[str, Any]) -> bytes:
    return b"".join(c if isinstance(c, bytes) else event(c) for c in chunks)


def event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(
    index: int | None = 0,
    call_id: str | None = None,
    name: str | None = None,
    arguments: Any = None,
) -> dict[str, Any]:
    """A chunk with one fragment of a tool call."""
    fragment: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    if index is not None:
        fragment["index"] = index
    if call_id is not None:
        fragment["id"] = call_id
    return chunk(tool_calls=[fragment])


def usage(**counts: Any) -> dict[str, Any]:
    return {"choices": [], "usage": counts}


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(body) + 1) for p in places), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(edges)]
