"""Ask upstreams, engines and gateways which models they have; all of them answer in one shape."""

import asyncio
from typing import Final

import msgspec
from msgspec import Struct

from dragoman.core.errors import UpstreamTimeout
from dragoman.server.transport.ask import Answer, ask
from dragoman.server.transport.seams import HeaderList, Timeouts, Upstream, UpstreamRequest

_MAX_LIST_BYTES: Final = 16 * 2**20  # an aggregator lists thousands, with descriptions
_MAX_MODELS: Final = 10_000
_MAX_NAME: Final = 200


class ListedModel(Struct, frozen=True):
    """What is read of one entry; engines and gateways say how much a model takes."""

    id: str
    owned_by: str | None = None
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    max_model_len: int | None = None  # vLLM, SGLang: the window


class _List(Struct, frozen=True):
    data: list[msgspec.Raw]


_decode_list: Final = msgspec.json.Decoder(_List).decode
_decode_entry: Final = msgspec.json.Decoder(ListedModel).decode


async def get(
    upstream: Upstream,
    path: str,
    *,
    timeout_s: float,
    headers: HeaderList = (),
    at_root: bool = False,
) -> Answer:
    """
    Make one small GET and return the answer, whatever its status.

    Raises:
        UpstreamError: There is no whole answer within *timeout_s*.
    """
    request = UpstreamRequest(
        path=path,
        method="GET",
        headers=headers,
        timeouts=Timeouts(timeout_s, timeout_s, timeout_s),
        max_body_bytes=_MAX_LIST_BYTES,
        at_root=at_root,
    )
    try:
        async with asyncio.timeout(timeout_s):
            return await ask(upstream, request)
    except TimeoutError:
        raise UpstreamTimeout(f"no answer within {timeout_s:g} s") from None


def read_list(body: bytes) -> tuple[ListedModel, ...]:
    """Return the models of a list; what is no list, and entries without an id, are left out."""
    try:
        entries = _decode_list(body).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    found = (_read_entry(entry) for entry in entries[:_MAX_MODELS])
    return tuple(model for model in found if model is not None)


def is_chat_model(name: str) -> bool:
    """Say whether the name can be an alias, and is not that of a model that only embeds."""
    is_alias = 0 < len(name) <= _MAX_NAME and name.isprintable() and " " not in name
    return is_alias and "embed" not in name.casefold()


def _read_entry(entry: msgspec.Raw) -> ListedModel | None:
    try:
        return _decode_entry(entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
