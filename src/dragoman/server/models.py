"""GET /v1/models and /v1/models/{id}: what is served, in the API's own shape."""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import InvalidRequest
from dragoman.policy.access import Caller
from dragoman.policy.routes import ListedModel, Route, Routes

_encode: Final = msgspec.json.Encoder().encode
_DEFAULT_LIMIT: Final = 20  # the API's own default and maximum
_MAX_LIMIT: Final = 1000
_MAX_PARAMETERS: Final = 100
_UNKNOWN_DATE: Final = "1970-01-01T00:00:00Z"  # what the API itself says of undated models
_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")


def list_models(routes: Routes, query: str, *, caller: Caller) -> bytes:
    """
    Return the page of the list that *query* asks for (``limit``, ``after_id``, ``before_id``).

    Only what the *caller* may use is in the list.

    Raises:
        InvalidRequest: A parameter is out of range, or names no model of the list.
    """
    listed = [model for model in routes.listed_models() if caller.may_use(model.route.alias)]
    sent = _parse(query)
    limit = _limit(sent.get("limit", [str(_DEFAULT_LIMIT)])[-1])
    ids = [model.id for model in listed]
    start, end = 0, len(listed)
    is_backwards = "before_id" in sent
    if "after_id" in sent:
        start = _position(ids, sent["after_id"][-1], "after_id") + 1
    if is_backwards:
        end = _position(ids, sent["before_id"][-1], "before_id")
    found: Sequence[ListedModel] = listed[start:end]
    page = found[-limit:] if is_backwards else found[:limit]
    return _encode(
        {
            "data": [model_info(model.id, model.route) for model in page],
            "has_more": len(found) > len(page),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


def show_model(routes: Routes, model_id: str, *, caller: Caller) -> bytes:
    """
    Return one model; any name that may be sent in a request is known here, too.

    Raises:
        UnknownModel: None has this name.
        PermissionDenied: The *caller* may not use it.
    """
    route = routes.resolve(model_id)
    caller.check_model(route.alias)
    return _encode(model_info(model_id, route))


def model_info(model_id: str, route: Route) -> dict[str, Any]:
    """Return all fields of the API's ModelInfo; ``description`` is read by Claude Code only."""
    profile = route.profile
    window, output = profile.context_window, profile.max_output_tokens
    info: dict[str, Any] = {
        "id": model_id,
        "type": "model",
        "allowed_fallback_models": [],  # the field "fallbacks" is not served
        "display_name": route.display_name,
        "created_at": _UNKNOWN_DATE,
        "lifecycle": "active",
        "line": None,
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": window,
        "max_tokens": output,
        "capabilities": _capabilities(profile, route),
    }
    if route.description:
        info["description"] = route.description
    return info


def _capabilities(profile: DialectProfile, route: Route) -> dict[str, Any]:
    is_native = route.targets[0].deployment.kind == "anthropic"
    thinks = profile.thinking in ("toggle", "always")
    has_effort = bool(profile.effort_values)
    return {
        "batch": _is(supported=False),
        "citations": _is(supported=is_native),
        "code_execution": _is(supported=False),
        "compaction": {**_is(supported=is_native), "summarize": _is(supported=is_native)},
        "context_management": {
            **_is(supported=is_native),
            "clear_thinking_20251015": _is(supported=is_native),
            "clear_tool_uses_20250919": _is(supported=is_native),
            "compact_20260112": _is(supported=is_native),
        },
        "effort": {
            **_is(supported=has_effort),
            **{effort: _is(supported=has_effort) for effort in _EFFORTS},
        },
        "image_input": _is(supported=profile.sees_images),
        "pdf_input": _is(supported=True),  # as text, where the model does not read PDF itself
        "server_tools": {
            **_is(supported=False),
            "code_execution": _is(supported=False),
            "web_search": _is(supported=False),
        },
        "structured_outputs": _is(supported=True),
        "thinking": {
            **_is(supported=thinks),
            "types": {
                "adaptive": _is(supported=thinks),
                "between_tools": _is(supported=False),
                "disabled": _is(supported=profile.thinking == "toggle"),
                "enabled": _is(supported=thinks),
            },
        },
    }


def _is(*, supported: bool) -> dict[str, Any]:
    return {"supported": supported}


def _parse(query: str) -> dict[str, list[str]]:
    try:
        return parse_qs(query, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        reason = f"holds more than {_MAX_PARAMETERS} parameters; send limit, after_id, before_id"
        raise InvalidRequest("query", reason) from None


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest("limit", f"must be an integer from 1 to {_MAX_LIMIT}")
    limit = int(text)
    if not 1 <= limit <= _MAX_LIMIT:
        raise InvalidRequest("limit", f"must be from 1 to {_MAX_LIMIT}")
    return limit


def _position(ids: Sequence[str], model_id: str, parameter: str) -> int:
    try:
        return ids.index(model_id)
    except ValueError:
        raise InvalidRequest(parameter, "is not the id of a model in this list") from None
