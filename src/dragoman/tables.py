"""Read tables of a TOML document into Structs, strictly, and collect everything that is wrong."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeGuard, TypeVar, Union, get_args, get_origin

import msgspec

from dragoman.settings import Secret

S = TypeVar("S", bound=msgspec.Struct)

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_REFERENCE: Final = "env:"
# What TOML calls the types that msgspec names.
_TYPE_NAMES: Final = {
    "int": "integer",
    "str": "string",
    "float": "number",
    "bool": "true or false",
    "object": "table",
}


class ConfigError(Exception):
    """
    The configuration cannot be used. The message is one line for the user.

    Args:
        problems: Every problem that was found, each one line; the first one is the message.
        source: The file, shown before the message.
    """

    def __init__(self, problems: Iterable[str], *, source: Path | None = None) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - 1
        asking = f"dragoman check --config {source}" if source else "dragoman check"
        rest = f" (and {more} more: see `{asking}`)" if more > 0 else ""
        where = f"{source}: " if source else ""
        super().__init__(f"{where}{self.problems[0]}{rest}")


def join(path: str, name: object) -> str:
    """Return the dotted path of *name* below *path*, quoted as TOML wants it."""
    text = str(name)
    text = text if _BARE.fullmatch(text) else msgspec.json.encode(text).decode()
    return f"{path}.{text}" if path else text


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that *name* was probably meant to be."""
    folded = {candidate.casefold(): candidate for candidate in known}
    found = get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def unknown_name(path: str, what: str, *, name: str, known: Iterable[str]) -> str:
    """Return the line that says that *name* is unknown and what may have been meant."""
    known = sorted(known)
    near = nearest(name, known)
    if near:
        return f"{path}: {what}; did you mean {msgspec.json.encode(near).decode()}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"{path}: {what}; known: {shown}" if shown else f"{path}: {what}; there is none yet"


class TableReader:
    """
    Turns tables into Structs; a value that cannot be used is reported and left at its default.

    Args:
        environ: Where ``env:NAME`` is looked up.

    Attributes:
        problems: One line each, in the order of the document.
        references: The variables that the document names.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []
        self.references: set[str] = set()

    def read(self, table: object, type_: type[S], path: str) -> S | None:
        """Return *table* as a *type_*; None if it cannot be one at all."""
        if not isinstance(table, dict):
            self.problems.append(f"{path}: expected table, got {_name_of(table)}")
            return None
        fields = {known.name: known for known in msgspec.structs.fields(type_)}
        values: dict[str, Any] = {}
        n_problems = len(self.problems)
        for name, value in table.items():
            here = join(path, name)
            if name not in fields:
                line = unknown_name(here, "unknown key", name=name, known=fields)
                self.problems.append(line)
                continue
            read = self._read_field(value, fields[name].type, here)
            if read is not msgspec.UNSET:
                values[name] = read
        missing = [f.name for f in fields.values() if f.required and f.name not in values]
        for name in missing:
            if name not in table:
                self.problems.append(f"{join(path, name)}: required")
        if missing:
            assert len(self.problems) > n_problems
            return None
        return type_(**values)

    def _read_field(self, value: object, type_: object, path: str) -> object:
        """Return *value* as *type_*, a table or several of them included; UNSET: it cannot be."""
        if _is_table(type_):
            table = self.read(value, type_, path)
            return msgspec.UNSET if table is None else table
        if get_origin(type_) is tuple and _is_table(inner := get_args(type_)[0]):
            return self._read_tables(value, inner, path)
        return self.read_value(value, type_, path=path)

    def _read_tables(self, value: object, type_: type[S], path: str) -> object:
        if not isinstance(value, list):
            self.problems.append(f"{path}: expected array of tables, got {_name_of(value)}")
            return msgspec.UNSET
        read = [self.read(table, type_, f"{path}[{i}]") for i, table in enumerate(value)]
        return tuple(table for table in read if table is not None)

    def read_value(self, value: object, type_: object, *, path: str, strict: bool = True) -> object:
        """
        Return *value* as *type_*, a type of Python; UNSET where it cannot be.

        Args:
            value: From the document.
            type_: Any annotation of a setting.
            path: For the line that reports it.
            strict: Otherwise text is read as a number or a truth value, too.
        """
        resolved = self._resolve(value, path)
        if resolved is msgspec.UNSET:
            return resolved
        if isinstance(resolved, str) and get_origin(type_) is tuple:
            resolved = [resolved]  # one name may stand for a list of one
        try:
            return msgspec.convert(resolved, type_, strict=strict, dec_hook=_decode_own)
        except msgspec.ValidationError as error:
            self.problems.append(_describe(str(error), type_, path=path, value=resolved))
            return msgspec.UNSET

    def _resolve(self, value: object, path: str) -> object:
        """Replace references to the environment, at any depth."""
        if isinstance(value, str) and value.startswith(_REFERENCE):
            name = value.removeprefix(_REFERENCE)
            self.references.add(name)
            # Variables that were read from files end with a line end.
            if found := self._environ.get(name, "").strip():
                return found
            state = "is empty" if name in self._environ else "is not set"
            self.problems.append(f"{path}: the environment variable {name} {state}")
            return msgspec.UNSET
        if isinstance(value, list):
            found_items = [self._resolve(v, f"{path}[{i}]") for i, v in enumerate(value)]
            return [v for v in found_items if v is not msgspec.UNSET]
        if isinstance(value, dict):
            found_values = {k: self._resolve(v, join(path, k)) for k, v in value.items()}
            return {k: v for k, v in found_values.items() if v is not msgspec.UNSET}
        return value


def _decode_own(type_: type, value: object) -> object:
    if type_ in {Secret, Path} and not isinstance(value, str):
        raise ValueError(f"Expected `str`, got `{_PYTHON_NAMES.get(type(value), 'object')}`")
    if type_ is Secret:
        assert isinstance(value, str)
        return Secret(value)
    if type_ is Path:
        assert isinstance(value, str)
        return Path(value).expanduser()
    raise NotImplementedError(type_)


_WRONG_CHOICE: Final = re.compile("Invalid enum value '(.*)'", re.DOTALL)
_PYTHON_NAMES: Final[dict[type, str]] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "array",
    dict: "object",
}


def _is_table(type_: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _name_of(value: object) -> str:
    name = _PYTHON_NAMES.get(type(value), "date or time")
    return _TYPE_NAMES.get(name, name)


def _describe(error: str, type_: object, *, path: str, value: object) -> str:
    """Say in the document's own words what msgspec has found."""
    error, _, where = error.partition(" - at `$")
    path += where.removesuffix("`").replace("[...]", "")
    if choices := _choices(type_):
        return _not_chosen(value, choices, path)
    if wrong := _WRONG_CHOICE.fullmatch(error):  # one of several
        inner = next((found for part in get_args(type_) if (found := _choices(part))), ())
        return _not_chosen(wrong[1], inner, path)
    if get_origin(type_) is tuple and not where:
        error = error.replace("`array`", "`str | array`", 1)  # one name may stand for a list of one
    text = re.sub(r"`([^`]*)`", lambda found: _type_words(found[1]), error)
    return f"{path}: {text[:1].lower()}{text[1:]}"


def _not_chosen(value: object, choices: tuple[str, ...], path: str) -> str:
    shown = msgspec.json.encode(value, enc_hook=str).decode()
    near = nearest(str(value), choices)
    hint = f"; did you mean {msgspec.json.encode(near).decode()}?" if near else ""
    return f"{path}: expected one of {', '.join(choices)}, got {shown[:60]}{hint}"


def _type_words(names: str) -> str:
    words = [_TYPE_NAMES.get(name, name) for name in names.split(" | ") if name != "null"]
    return " or ".join(words)


def _choices(type_: object) -> tuple[str, ...]:
    """Return the values of a Literal, or of one in a union."""
    origin = get_origin(type_)
    if origin is Literal:
        return tuple(str(choice) for choice in get_args(type_))
    if origin is Annotated:
        return _choices(get_args(type_)[0])
    if origin in {Union, UnionType}:
        return next((found for part in get_args(type_) if (found := _choices(part))), ())
    return ()
