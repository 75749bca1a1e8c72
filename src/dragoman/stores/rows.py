"""Structs <-> rows. Times become milliseconds, and what has parts of its own becomes JSON."""

import datetime as dt
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Struct

S = TypeVar("S", bound=Struct)

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)
_LAST_MS: Final = (dt.datetime.max.replace(tzinfo=dt.UTC) - _EPOCH) // _MS
_PLAIN: Final = (str, int, bool, bytes)
_encode: Final = msgspec.json.Encoder().encode


class RowCodec(Generic[S]):
    """
    Turns Structs of one type into rows and back; columns have the names of the fields.

    Args:
        type_: Every field of it is text, a number, bytes, a time, or can be JSON.
    """

    def __init__(self, type_: type[S]) -> None:
        self._type = type_
        fields = msgspec.structs.fields(type_)
        self._times = [f.name for f in fields if dt.datetime in _parts(f.type)]
        self._parsers: dict[str, Callable[[str], Any]] = {
            f.name: _parser(f.type)
            for f in fields
            if f.name not in self._times and not _is_plain(f.type)
        }
        self._names = [f.name for f in fields]

    def encode(self, value: S) -> dict[str, Any]:
        """Return the columns of *value*."""
        row = {name: getattr(value, name) for name in self._names}
        for name in self._times:
            row[name] = to_ms(row[name])
        for name in self._parsers:
            row[name] = _encode(row[name]).decode()
        return row

    def decode(self, row: Mapping[Any, Any], prefix: str = "") -> S:
        """Return what *row* holds under the names of the fields behind *prefix*."""
        values = {name: row[prefix + name] for name in self._names}
        for name in self._times:
            values[name] = from_ms(values[name])
        for name, parse in self._parsers.items():
            values[name] = parse(values[name])
        return self._type(**values)


def to_ms(time: dt.datetime | None) -> int | None:
    """Return milliseconds since 1970; parts of one are cut off."""
    return None if time is None else (time - _EPOCH) // _MS


def from_ms(time_ms: int | None) -> dt.datetime | None:
    """Return the time, in UTC; one behind the end of the calendar is that end."""
    return None if time_ms is None else _EPOCH + min(time_ms, _LAST_MS) * _MS


def _parser(type_: object) -> Callable[[str], Any]:
    """Return what reads JSON; fields of a Struct that a newer gateway has added are left out."""
    if not (isinstance(type_, type) and issubclass(type_, Struct)):
        decode: Callable[[str], Any] = msgspec.json.Decoder(type_).decode
        return decode
    names = type_.__struct_fields__

    def parse(text: str) -> Struct:
        fields = msgspec.json.decode(text)
        return msgspec.convert({name: fields[name] for name in names if name in fields}, type_)

    return parse


def _parts(type_: object) -> tuple[object, ...]:
    """Return the types of a union without None."""
    if get_origin(type_) in {Union, UnionType}:
        return tuple(part for part in get_args(type_) if part is not type(None))
    return (type_,)


def _is_plain(type_: object) -> bool:
    parts = _parts(type_)
    return all(part in _PLAIN or _is_text_choice(part) for part in parts)


def _is_text_choice(type_: object) -> bool:
    """Tell whether it is a Literal of strings."""
    choices = get_args(type_)
    return bool(choices) and all(isinstance(choice, str) for choice in choices)
