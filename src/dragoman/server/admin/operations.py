"""One operation of the admin API as data: what it takes, what it gives, who may ask."""

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from dragoman.core.errors import InvalidRequest
from dragoman.core.validate import explain_mismatch
from dragoman.policy.access import Role
from dragoman.policy.registry import END_YEAR
from dragoman.server.transport.seams import Headers

Method = Literal["GET", "POST", "DELETE"]
MAX_PAGE: Final = 1000  # entries; what Anthropic's own lists allow
_DEFAULT_PAGE: Final = 20
_MAX_BODY_BYTES: Final = 2**20
_CHOICES: Final = {
    "period": "'day' or 'month'",
    "role": "'read' or 'write'",
    "status": "'active', 'inactive' or 'archived'",
}
_FIRST_YEAR: Final = 1970
_T = TypeVar("_T")


class Parameter(Struct, frozen=True):
    """A parameter of the query."""

    name: str
    about: str
    is_list: bool = False  # may come several times, with or without [] behind the name
    is_needed: bool = False


class Ask(Struct, frozen=True, kw_only=True):
    """
    One admin request, taken apart.

    Attributes:
        ids: What stands in the places of the path that the operation names.
        query: Every parameter with all its values, known ones only.
        headers: Of the request.
        body: As it came.
        actor: Who asks, for the audit.
        now: When.
    """

    ids: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    headers: Headers
    body: bytes
    actor: str
    now: dt.datetime

    def one(self, name: str, default: str = "") -> str:
        """Return the last value of a parameter of the query."""
        return self.query[name][-1] if name in self.query else default

    def choice(self, name: str, known: Sequence[str], default: str) -> str:
        """
        Return the value of a parameter that has only few.

        Raises:
            InvalidRequest: It has another one.
        """
        value = self.one(name, default)
        if value not in known:
            raise InvalidRequest(name, f"must be one of {', '.join(known)}")
        return value

    def number(self, name: str, *, default: int, most: int) -> int:
        """
        Return the value of a parameter that is a number from 1 on.

        Raises:
            InvalidRequest: It is none, or over *most*.
        """
        text = self.one(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
            raise InvalidRequest(name, f"must be an integer from 1 to {most}")
        return int(text)

    def page_size(self) -> int:
        """Return how many entries of a list are wanted."""
        return self.number("limit", default=_DEFAULT_PAGE, most=MAX_PAGE)

    def moment(self, name: str) -> dt.datetime | None:
        """
        Return a time of the query (RFC 3339 or a date, UTC where it says nothing else).

        Raises:
            InvalidRequest: It is none, or so far away that nothing can be added to it.
        """
        text = self.one(name)
        if not text:
            return None
        try:
            found = dt.datetime.fromisoformat(text)
            at = found.astimezone(dt.UTC) if found.tzinfo else found.replace(tzinfo=dt.UTC)
        except (ValueError, OverflowError):
            reason = "must be a time such as 2026-11-25T00:00:00Z"
            raise InvalidRequest(name, reason) from None
        if not _FIRST_YEAR <= at.year < END_YEAR:
            raise InvalidRequest(name, f"must be from {_FIRST_YEAR} to {END_YEAR - 1}")
        return at

    def decode(self, kind: type[_T]) -> _T:
        """
        Return the body as *kind*.

        Raises:
            InvalidRequest: It is no JSON, or not of this form; the message names the field.
        """
        try:
            return msgspec.json.decode(self.body or b"{}", type=kind)
        except msgspec.ValidationError as error:
            raise explain_mismatch(str(error), _CHOICES) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise InvalidRequest("", "the body is not valid JSON") from None


class Operation(Struct, frozen=True, kw_only=True):
    """
    What is served at one path with one method.

    Attributes:
        path: With ``{name}`` for each id.
        role: What the caller's key must at least be.
        about: One line, for people.
        run: Answers; what it returns is sent as JSON.
        body: The form of the body; None: there is none.
        result: The form of the answer.
        parameters: Of the query; others are refused.
        max_body_bytes: 0: what is usual for one that has a *body*.
    """

    method: Method
    path: str
    role: Role
    about: str
    run: Callable[[Ask], Awaitable[Any]]
    body: type[Struct] | None = None
    result: Any = None
    parameters: tuple[Parameter, ...] = ()
    max_body_bytes: int = 0

    @property
    def reads_bytes(self) -> int:
        """How long a body may be; 0: none is read."""
        return self.max_body_bytes or (_MAX_BODY_BYTES if self.body else 0)


PAGING: Final = (
    Parameter("after_id", "The page behind the entry with this id."),
    Parameter("before_id", "The page before the entry with this id."),
    Parameter("limit", f"Entries of a page, 1 to {MAX_PAGE}; {_DEFAULT_PAGE} if not given."),
)


class OperationTable:
    """Finds the operation for a request, and what its path names."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = tuple(operations)
        self._by_length: dict[int, list[tuple[list[str], Operation]]] = {}
        for operation in operations:
            parts = operation.path.split("/")
            self._by_length.setdefault(len(parts), []).append((parts, operation))

    def find(self, method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
        """Return the operation and its ids; None: there is none."""
        given = path.split("/")
        for parts, operation in self._by_length.get(len(given), ()):
            if operation.method == method and (ids := _match(parts, given)) is not None:
                return operation, ids
        return None

    def methods(self, path: str) -> list[str]:
        """Return what else the path is served with."""
        given = path.split("/")
        rows = self._by_length.get(len(given), ())
        return [each.method for parts, each in rows if _match(parts, given) is not None]


def _match(parts: Sequence[str], given: Sequence[str]) -> dict[str, str] | None:
    ids: dict[str, str] = {}
    for part, word in zip(parts, given, strict=True):
        if part.startswith("{"):
            ids[part[1:-1]] = word
        elif part != word:
            return None
    return ids
