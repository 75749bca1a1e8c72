"""
Our tool ids <-> the upstream's, without state.

Clients require ``^[a-zA-Z0-9_-]{1,64}$`` and uniqueness over a whole conversation; upstreams send
``functions.get:0``, restart at ``call_0`` in every reply, or send nothing. Ours is::

    toolu_<nonce, 11 characters>-<kind><payload>

The nonce (66 random bits, passed in) makes the id unique and unguessable. The payload leads back:
kind ``r`` is the upstream's id as it is, ``v`` the same without vLLM's 14-character prefix (46
characters in all, too many for ``r``), ``e`` its bytes in base64url, ``n`` nothing, because there
was none or it was too long: the upstream then gets ours, which is as good to it as any other.
"""

import base64
import re
from typing import Final

NONCE_LENGTH: Final = 11
_VLLM_PREFIX: Final = "chatcmpl-tool-"
_MAX_PAYLOAD: Final = 64 - len("toolu_") - NONCE_LENGTH - len("-r")
_PLAIN: Final = re.compile(r"[a-zA-Z0-9_-]+")
_OURS: Final = re.compile(r"toolu_[a-zA-Z0-9_-]{11}-([rvn]|e(?=[a-zA-Z0-9_-]))([a-zA-Z0-9_-]*)")


def mint_id(upstream_id: str, nonce: str, *, prefix: str = "toolu_") -> str:
    """
    Return the id that the client sees for a call.

    Args:
        upstream_id: The upstream's id; empty if it sent none.
        nonce: Eleven fresh random characters of base64url, never used for another call.
        prefix: ``toolu_``; calls of server tools are ``srvtoolu_`` and lead nowhere.
    """
    if prefix != "toolu_":
        return f"{prefix}{nonce}"
    kind, payload = _encode_id(upstream_id)
    return f"toolu_{nonce}-{kind}{payload}"


def to_upstream_id(tool_id: str) -> str:
    """Return the upstream's own id for one of ours, and any other id unchanged."""
    match = _OURS.fullmatch(tool_id)
    if match is None:
        return tool_id
    kind, payload = match.groups()
    if kind == "r" and payload:
        return payload
    if kind == "v":
        return _VLLM_PREFIX + payload
    if kind == "e":
        try:
            return base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode()
        except ValueError:  # not an id of ours after all
            return tool_id
    return tool_id


def _encode_id(upstream_id: str) -> tuple[str, str]:
    if not upstream_id:
        return "n", ""
    if _PLAIN.fullmatch(upstream_id):
        if len(upstream_id) <= _MAX_PAYLOAD:
            return "r", upstream_id
        tail = upstream_id.removeprefix(_VLLM_PREFIX)
        if tail != upstream_id and len(tail) <= _MAX_PAYLOAD:
            return "v", tail
    encoded = base64.urlsafe_b64encode(upstream_id.encode("utf-8", "replace")).decode().rstrip("=")
    return ("e", encoded) if len(encoded) <= _MAX_PAYLOAD else ("n", "")
