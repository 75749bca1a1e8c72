"""The description of the admin API, made of its operations."""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from dragoman import __version__
from dragoman.server.admin.operations import Operation, Parameter

_IDS: Final = re.compile(r"\{(\w+)\}")
_REF: Final = "#/components/schemas/{name}"
_ERRORS: Final = {
    "400": "Something in the request is wrong; the message names it.",
    "401": "No admin key, or one that is not good.",
    "403": "The key may only read.",
    "404": "There is no such thing.",
    "503": "The store is away; try again.",
    "529": "Too many admin requests are at work; try again.",
}


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document."""
    types = [kind for each in operations for kind in (each.body, each.result) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        entry = _describe(each, by_type)
        paths.setdefault(each.path, {})[each.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dragoman admin API", "version": __version__},
        "security": [{"adminKey": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {
                "adminKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _describe(operation: Operation, by_type: dict[int, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "The answer."}
    if operation.result is not None:
        answer["content"] = _json(by_type[id(operation.result)])
    entry: dict[str, Any] = {
        "summary": operation.about,
        "operationId": _name(operation),
        "parameters": [*map(_of_path, _IDS.findall(operation.path)), *_of_query(operation)],
        "responses": {
            "200": answer,
            **{code: _failure(about) for code, about in _ERRORS.items()},
        },
        "x-role": operation.role,
    }
    if operation.body is not None:
        entry["requestBody"] = {"required": True, "content": _json(by_type[id(operation.body)])}
    return entry


def _name(operation: Operation) -> str:
    words = re.findall(r"[a-z0-9]+", f"{operation.method.lower()} {operation.path}")
    return "_".join(words)


def _of_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _of_query(operation: Operation) -> list[dict[str, Any]]:
    return [_parameter(each) for each in operation.parameters]


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if parameter.is_list:
        schema = {"type": "array", "items": schema}
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.about,
        "required": parameter.is_needed,
        "schema": schema,
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _failure(about: str) -> dict[str, Any]:
    return {"description": about, "content": _json({"$ref": "#/components/schemas/Error"})}


_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}
