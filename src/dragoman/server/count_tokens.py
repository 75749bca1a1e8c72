"""
POST /v1/messages/count_tokens: by the upstream where it counts without answering, else by us.

Sources: model dialects, section 8; for llama.cpp, runs of xllamacpp 2026.10.11549 on 2026-11-24.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from dragoman.core.adjustments import Adjustment, render_adjustments
from dragoman.core.errors import GatewayError
from dragoman.core.passthrough import adjust_for_native, rewrite_request
from dragoman.core.plan import Plan
from dragoman.core.token_count import estimate_body, frame_tokens, read_prompt
from dragoman.core.validate import parse_request
from dragoman.policy.health import Health
from dragoman.policy.routes import Route, Routes, Target
from dragoman.server.ask_target import note_target
from dragoman.server.planner import Planner
from dragoman.server.relay import Relay
from dragoman.server.telemetry import RequestRecord
from dragoman.server.tokenizers import LocalTokenizers
from dragoman.server.transport.ask import Answer, ask
from dragoman.server.transport.seams import (
    Exchange,
    HeaderList,
    Timeouts,
    Upstream,
    UpstreamRequest,
)
from dragoman.server.upstream_requests import native_headers
from dragoman.wire.anthropic import MessagesRequest

_encode: Final = msgspec.json.Encoder().encode
# A count is only worth a short wait: Claude Code asks for two dozen at once, between two turns.
_TIMEOUTS: Final = Timeouts(connect_s=2.0, first_byte_s=10.0, idle_s=5.0)
_MAX_REPLY_BYTES: Final = 64 * 2**20  # vLLM and SGLang list every token
_MAX_COUNT: Final = 2**40  # more is no count
_NATIVE_PATH: Final = "/v1/messages/count_tokens"
_COUNTED: Final = Adjustment(
    "input_tokens", "emulated", "counted by a local tokenizer; what the template adds is estimated"
)
_ESTIMATED: Final = Adjustment(
    "input_tokens", "emulated", "estimated: the upstream has not counted them"
)
_CALIBRATED: Final = Adjustment(
    "input_tokens", "emulated", "estimated and calibrated: the upstream has not counted them"
)
_UNMEASURED: Final = Adjustment(
    "input_tokens",
    "emulated",
    "estimated, unmeasured for this model: the upstream has not counted them",
)
_HINT: Final = Adjustment(
    "input_tokens", "emulated", "estimated; dragoman[tokenizers] would count them"
)
# Of a chat-completions body, what a chat template reads.
_TEMPLATE_FIELDS: Final = ("model", "messages", "tools", "chat_template_kwargs")


class _Moonshot(Struct, gc=False):
    total_tokens: int | None = None


class _Count(Struct, gc=False):
    """The replies of all the endpoints; the tokens that some of them list are not read."""

    input_tokens: int | None = None
    count: int | None = None
    data: _Moonshot | None = None


_decode: Final = msgspec.json.Decoder(_Count).decode


class CountTokens:
    """
    The endpoint.

    Args:
        routes: What a model name means.
        upstreams: By the names of endpoints.
        planner: Plans requests, and is told what upstreams count.
        tokenizers: Count where the upstream does not.
        health: Which targets are left alone.
        max_body_bytes: As for messages.
        max_messages: As for messages.
        max_nesting: As for messages.
    """

    def __init__(
        self,
        *,
        routes: Routes,
        upstreams: Mapping[str, Upstream],
        planner: Planner,
        tokenizers: LocalTokenizers,
        health: Health,
        max_body_bytes: int,
        max_messages: int,
        max_nesting: int,
    ) -> None:
        self._routes = routes
        self._upstreams = upstreams
        self._planner = planner
        self._tokenizers = tokenizers
        self._health = health
        self._max_body_bytes = max_body_bytes
        self._max_messages = max_messages
        self._max_nesting = max_nesting

    async def serve(
        self, exchange: Exchange, record: RequestRecord, *, headers: HeaderList
    ) -> None:
        """
        Answer one request.

        Raises:
            GatewayError: Nothing has been sent; the caller answers.
            ClientGone: The client left.
        """
        body = await exchange.read_body(self._max_body_bytes)
        request = parse_request(
            body,
            max_messages=self._max_messages,
            max_nesting=self._max_nesting,
            for_count=True,
            memory=self._planner.memory,
        )
        record.model = request.model
        route = self._routes.resolve(request.model)
        record.alias = route.alias
        record.caller.check_model(route.alias)
        target = self._well(route).for_caller(record.caller)
        note_target(record, target)
        relay = Relay(
            exchange,
            is_stream=False,
            request_id=record.request_id,
            headers=lambda: [*_said(record.adjustments), *headers],
            early_start_s=0,
            ping_interval_s=0,
        )
        try:
            tokens, adjustments = await relay.wait(
                self._ask(body, request, target=target, headers=native_headers(exchange.headers))
            )
            record.adjustments = tuple(adjustments)
            relay.write(_encode({"input_tokens": tokens}))
            relay.end()
        finally:
            relay.close()
            record.status = relay.status

    def _well(self, route: Route) -> Target:
        """Return the first target that is not left alone; where all are, the first."""
        targets, now_s = route.targets, asyncio.get_running_loop().time()
        return next((t for t in targets if self._health.may_ask(t, now_s)), targets[0])

    async def _ask(
        self, body: bytes, request: MessagesRequest, *, target: Target, headers: HeaderList
    ) -> tuple[int, Sequence[Adjustment]]:
        if target.deployment.kind == "anthropic":
            return await self._ask_native(body, request, target=target, headers=headers)
        return await self._ask_chat(body, request, target)

    async def _ask_chat(
        self, body: bytes, request: MessagesRequest, target: Target
    ) -> tuple[int, Sequence[Adjustment]]:
        plan = await self._planner.plan(request, target)
        # What was clamped of the answer is no news of the prompt.
        adjustments = [a for a in plan.adjustments if a.field != "max_tokens"]
        counter = target.deployment.profile.count_tokens
        tokens = await self._count(counter, plan, body=body, target=target)
        if tokens is not None:
            estimated, calibration = plan.uncalibrated_tokens, self._planner.calibration
            calibration.observe(plan.deployment, estimated=estimated, counted=tokens)
            return tokens, adjustments
        tokens, how = await self._count_here(plan)
        return tokens, [how, *adjustments]

    async def _count_here(self, plan: Plan) -> tuple[int, Adjustment]:
        """Count with a tokenizer if there is one for the model, else estimate."""
        profile = plan.deployment.profile
        prompt = read_prompt(plan.body)
        texts = await self._tokenizers.count(profile.vocabulary, prompt.texts)
        tools = await self._tokenizers.count(profile.vocabulary, [prompt.tools_json])
        if texts is not None and tools is not None:
            tokens = texts + round(tools * profile.tool_tokens_factor)
            return max(1, tokens + frame_tokens(prompt, profile)), _COUNTED
        if plan.is_calibrated:
            return plan.input_tokens_estimate, _CALIBRATED
        if profile.vocabulary == "unknown":
            return plan.input_tokens_estimate, _UNMEASURED
        is_missing = not self._tokenizers.may_have(profile.vocabulary)
        return plan.input_tokens_estimate, _HINT if is_missing else _ESTIMATED

    async def _count(self, counter: str, plan: Plan, *, body: bytes, target: Target) -> int | None:
        """Return the upstream's own count; None: it has none, or has failed to give it."""
        if counter == "llamacpp":
            return await self._post(target, "/chat/completions/input_tokens", plan.body)
        if counter == "vllm":
            fields: dict[str, Any] = {k: plan.body[k] for k in _TEMPLATE_FIELDS if k in plan.body}
            fields["add_generation_prompt"] = True
            return await self._post(target, "/tokenize", fields, at_root=True)
        if counter == "sglang":
            native = rewrite_request(
                body, plan.request, model=target.deployment.model, is_trusted=False
            )
            return await self._post(target, _NATIVE_PATH, msgspec.Raw(native), at_root=True)
        if counter == "moonshot":
            fields = {k: plan.body[k] for k in ("model", "messages")}
            return await self._post(target, "/tokenizers/estimate-token-count", fields)
        return None

    async def _post(
        self, target: Target, path: str, body: object, *, at_root: bool = False
    ) -> int | None:
        request = UpstreamRequest(
            path=path,
            body=_encode(body),
            timeouts=_TIMEOUTS,
            max_body_bytes=_MAX_REPLY_BYTES,
            at_root=at_root,
        )
        answer = await self._send(target, request)
        return read_count(answer) if answer is not None else None

    async def _ask_native(
        self, body: bytes, request: MessagesRequest, *, target: Target, headers: HeaderList
    ) -> tuple[int, Sequence[Adjustment]]:
        await self._planner.check_urls(request, target)
        native = UpstreamRequest(
            path=_NATIVE_PATH,
            body=rewrite_request(
                body, request, model=target.deployment.model, is_trusted=target.trusted
            ),
            headers=headers,
            timeouts=_TIMEOUTS,
            max_body_bytes=_MAX_REPLY_BYTES,
        )
        answer = await self._send(target, native)
        adjustments = adjust_for_native(request, is_trusted=target.trusted)
        if (tokens := read_count(answer) if answer is not None else None) is not None:
            return tokens, adjustments
        return await self._estimate(body, request, target), [_ESTIMATED, *adjustments]

    async def _estimate(self, body: bytes, request: MessagesRequest, target: Target) -> int:
        """Estimate as if it were translated: pictures in base64 are not taken for text then."""
        try:
            return (await self._planner.plan(request, target)).input_tokens_estimate
        except GatewayError:  # something that only a native upstream knows: a file, a thread
            return estimate_body(body)

    async def _send(self, target: Target, request: UpstreamRequest) -> Answer | None:
        upstream = self._upstreams[target.endpoint]
        try:
            return await ask(upstream, request)
        except GatewayError:
            return None  # the estimate is the answer then


def read_count(answer: Answer) -> int | None:
    """Return the count in the reply of any of the endpoints."""
    if answer.status != 200:
        return None
    try:
        said = _decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    counts = (said.input_tokens, said.count, said.data.total_tokens if said.data else None)
    return next((count for count in counts if count and 0 < count <= _MAX_COUNT), None)


def _said(adjustments: Sequence[Adjustment]) -> HeaderList:
    if not adjustments:
        return ()
    return [(b"x-dragoman-adjustments", render_adjustments(adjustments))]
