"""
The admin API: who may ask, which operation it is, and its answer.

It is there only while the store has an admin key that is good; before, its paths are as unknown as
any other. What is asked here may wait for the store: no request for a model does.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs

import msgspec

from dragoman.core.errors import (
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    UnknownPath,
)
from dragoman.server.admin.operations import Ask, Operation, OperationTable
from dragoman.server.admin_access import AdminAccess
from dragoman.server.answers import answer
from dragoman.server.telemetry import EventLog, RequestRecord
from dragoman.server.transport.seams import Exchange, HeaderList

_MAX_BODY_BYTES: Final = 2**20
_MAX_PARAMETERS: Final = 100
_MAX_AT_WORK: Final = 16  # whoever guesses keys keeps no more of the database's connections busy
_LOOK_S: Final = 2.0  # how long it is believed that there is an admin key, or none
_TOUCH_S: Final = 60.0  # between two notes of a key's last use
_HOW: Final = "send an admin key as x-api-key or as Authorization: Bearer"
_encode: Final = msgspec.json.Encoder().encode


class AdminApi:
    """
    Answer administrators.

    Args:
        operations: What is served.
        access: Knows administrators.
        log: Told of every change.
        clock: The time in UTC.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        access: AdminAccess,
        *,
        log: EventLog,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._table = OperationTable(operations)
        self._access = access
        self._log = log
        self._clock = clock
        self._n_at_work = 0

    async def serve(
        self, exchange: Exchange, path: str, *, record: RequestRecord, headers: HeaderList
    ) -> None:
        """
        Answer one request.

        Raises:
            GatewayError: The caller answers.
        """
        if self._n_at_work >= _MAX_AT_WORK:
            raise Overloaded("too many admin requests are at work; try again", retry_after_s=1)
        self._n_at_work += 1
        try:
            await self._serve(exchange, path, record=record, headers=headers)
        finally:
            self._n_at_work -= 1

    async def _serve(
        self, exchange: Exchange, path: str, *, record: RequestRecord, headers: HeaderList
    ) -> None:
        if not await self._access.has_keys():
            raise UnknownPath(
                "the admin API is off: create an admin key with `dragoman admin-keys create`"
            )
        key = await self._access.check(exchange.headers)
        method = "GET" if exchange.method == "HEAD" else exchange.method
        found = self._table.find(method, path)
        if found is None:
            raise self._unknown(exchange.method, path)
        operation, ids = found
        if "\0" in path:  # which PostgreSQL refuses as if something were wrong with it
            raise self._unknown(exchange.method, path)
        if operation.role == "write" and key.role != "write":
            raise PermissionDenied("this admin key may only read; use one with the role write")
        n_bytes = operation.reads_bytes
        body = await exchange.read_body(n_bytes) if n_bytes else b""
        ask = Ask(
            ids=ids,
            query=_query(operation, exchange.query),
            headers=exchange.headers,
            body=body,
            actor=f"{key.id} {key.name}",
            now=self._clock(),
        )
        result = await operation.run(ask)
        if operation.role == "write":
            self._log.event("admin", action=f"{method} {operation.path}", actor=ask.actor)
        sent = result if isinstance(result, bytes) else _encode(result)
        answer(exchange, 200, sent, record=record, headers=headers)

    def _unknown(self, method: str, path: str) -> UnknownPath:
        others = self._table.methods(path)
        shown = ascii(f"{method[:20]} {path[:100]}")[1:-1]
        if others:
            known = " and ".join(others)
            return UnknownPath(f"nothing is served at {shown}; this path takes {known}")
        return UnknownPath(f"nothing is served at {shown}; GET /admin/v1/openapi.json lists all")


def _query(operation: Operation, query: str) -> Mapping[str, list[str]]:
    """
    Return the parameters of a request.

    Raises:
        InvalidRequest: One is not known, or one that is needed is missing.
    """
    try:
        sent = parse_qs(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        reason = f"holds more than {_MAX_PARAMETERS} parameters"
        raise InvalidRequest("query", reason) from None
    known = {parameter.name: parameter for parameter in operation.parameters}
    found: dict[str, list[str]] = {}
    for name, values in sent.items():
        plain = name.removesuffix("[]")
        if plain not in known or (plain != name and not known[plain].is_list):
            reason = f"unknown parameter; this list takes {', '.join(known) or 'none'}"
            raise InvalidRequest(ascii(name[:60])[1:-1], reason)
        if any("\0" in value for value in values):
            raise InvalidRequest(plain, "must not hold a NUL character")
        found.setdefault(plain, []).extend(value for value in values if value)
    for parameter in operation.parameters:
        if parameter.is_needed and not found.get(parameter.name):
            raise InvalidRequest(parameter.name, "Field required")
    return {name: values for name, values in found.items() if values}
