"""What commands that look into the store, or change it, have in common."""

import asyncio
import datetime as dt
import getpass
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Struct, structs
from rich.console import Console

from dragoman.config import Config, examine_config
from dragoman.core.errors import InvalidRequest, RequestError, StoreUnavailable
from dragoman.core.validate import explain_mismatch
from dragoman.exit_codes import CANNOT_START, USAGE, CommandFailed
from dragoman.local import find_local_engines, with_found_engines
from dragoman.policy.registry import By, Registry
from dragoman.policy.store import Page, Store
from dragoman.store_urls import StoreUrl, read_store_url
from dragoman.stores.opening import LazyStore
from dragoman.tables import ConfigError
from dragoman.terminal import Row, print_line, print_table, printable

T = TypeVar("T")
S = TypeVar("S", bound=Struct)
L = TypeVar("L", bound="Listed")

# What is wrong there stops a gateway, but says nothing about where the store is. A host that other
# machines can reach is wrong just until the first key is made.
_OTHER_PROBLEMS: Final = ("upstreams.", "models.", "roles.", "keys[", "server.host:")
# Fields whose flags have another name.
_FLAGS: Final = {
    "after_id": "--after",
    "allowed_models": "--model",
    "expires_at": "--expires",
    "fetch_hosts": "--fetch-host",
    "overlap": "--overlap",
    "owner": "--owner",
    "workspace_id": "--workspace",
}
_SPAN: Final = re.compile(r"(\d{1,5})(d|h|m)")
_SPANS: Final = {
    "d": dt.timedelta(days=1),
    "h": dt.timedelta(hours=1),
    "m": dt.timedelta(minutes=1),
}
_PAGE: Final = 1000  # of what is looked through for a name
NONE: Final = "-"
SHOWN_ONCE: Final = "This is the only time that it is shown:"


class StoreOptions(Struct, frozen=True, kw_only=True):
    """What every such command is told: the configuration file, and whether to print JSON."""

    config: Path | None = None
    is_json: bool = False


class Desk(Struct, frozen=True, kw_only=True):
    """
    What a command works with.

    Attributes:
        by: Whoever runs it, for the audit; and the time.
    """

    store: Store
    config: Config
    by: By

    async def registry(self, patterns: Sequence[str] | None = None) -> Registry:
        """
        Return what changes keys and workspaces by its rules.

        Args:
            patterns: Of models, if the change has any; they must fit some model of this
                configuration.

        Raises:
            CommandFailed: No model is configured that they could fit.
        """
        aliases: tuple[str, ...] = ()
        if patterns:
            found = await find_local_engines(self.config)
            aliases = tuple(with_found_engines(self.config, found).models)
            if not aliases:
                line = f"--model {patterns[0]}: no model is configured here; give the gateway's own"
                raise CommandFailed(f"{line} file with --config", code=USAGE)
        return Registry(self._get, aliases=lambda: aliases)

    async def _get(self) -> Store:
        return self.store


def at_store(
    options: StoreOptions, case: Callable[[Desk], Awaitable[T]], *, environ: Mapping[str, str]
) -> T:
    """
    Open the store of the configuration, return what *case* makes of it.

    Raises:
        ConfigError: The configuration does not say where the store is.
        CommandFailed: The store cannot be used, or what is asked for is wrong.
    """
    config, url = find_store(options.config, environ=environ)
    is_new = url.is_missing

    async def main() -> T:
        lazy = LazyStore(url, config.store)
        now = dt.datetime.now(dt.UTC)
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)  # as the store keeps it
        by = By(actor=f"cli:{_user(environ)}", now=now)
        try:
            return await case(Desk(store=await lazy.get(), config=config, by=by))
        finally:
            await lazy.close()

    result = explained(main, url)
    if is_new:  # maybe not where the gateway's is, for want of a variable or of its file
        print_line(Console(stderr=True, highlight=False), f"dragoman: made a new store: {url}")
    return result


def explained(main: Callable[[], Coroutine[Any, Any, T]], url: StoreUrl) -> T:
    """
    Run *main*; what goes wrong with the store at *url* becomes one line.

    Raises:
        CommandFailed: Something went wrong.
    """
    try:
        return asyncio.run(main())
    except StoreUnavailable as error:
        line = f"the store ({url}) cannot be used: {error.log_detail}"
        raise CommandFailed(line, code=CANNOT_START) from None
    except InvalidRequest as error:
        raise _wrong(error) from None
    except RequestError as error:
        raise CommandFailed(error.message, code=USAGE) from None
    except UnicodeEncodeError as error:  # bytes of the command line that are no text
        line = f"{error.object!a}: is no text in UTF-8"
        raise CommandFailed(line, code=USAGE) from None


def find_store(path: Path | None, *, environ: Mapping[str, str]) -> tuple[Config, StoreUrl]:
    """
    Return the configuration and where its store is.

    Raises:
        ConfigError: It does not say so clearly.
        CommandFailed: There shall be none.
    """
    examined = examine_config(path, environ=environ)
    config = examined.config
    problems = [line for line in examined.problems if not line.startswith(_OTHER_PROBLEMS)]
    if problems:
        raise ConfigError(problems, source=config.source)
    url = read_store_url(config.store.url, config.server.data_dir)
    if url is None:
        raise CommandFailed('store.url is "none": this gateway keeps nothing', code=USAGE)
    return config, url


class Listed(Protocol):
    """What has an id that people can give in place of a name."""

    @property
    def id(self) -> str:
        """Of it alone."""
        ...


def the_one(groups: Sequence[Sequence[L]], name: str, *, kinds: str, command: str) -> L:
    """
    Return what is meant by *name*: the first group with a single member decides.

    Args:
        groups: What has the name, from what is most likely meant to all of it.
        name: As it was given.
        kinds: What it is, of several: ``keys``.
        command: Whose list shows what there is.

    Raises:
        CommandFailed: There is none, or nobody can say which.
    """
    for group in groups:
        if len(group) == 1:
            return group[0]
    likely = next(filter(None, groups), ())
    if not likely:
        line = f"there is no {kinds.removesuffix('s')} {name!r}; see dragoman {command} list"
        raise CommandFailed(line, code=USAGE)
    ids = ", ".join(each.id for each in likely[:5])
    raise CommandFailed(f"several {kinds} are called {name!r}; give an id: {ids}", code=USAGE)


def checked(asked: S) -> S:
    """
    Return what is asked for, if every value is within its bounds.

    Raises:
        CommandFailed: One is not; the line names it.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(asked), type(asked))
    except msgspec.ValidationError as error:
        raise _wrong(explain_mismatch(str(error))) from None


def _wrong(error: InvalidRequest) -> CommandFailed:
    """Say what is wrong with a field as whoever has typed the flag for it knows it."""
    flag = _FLAGS.get(error.path.partition(".")[0])
    if flag is None:
        return CommandFailed(error.message, code=USAGE)
    return CommandFailed(f"{flag}: {error.message.removeprefix(f'{error.path}: ')}", code=USAGE)


def _user(environ: Mapping[str, str]) -> str:
    try:
        return printable(getpass.getuser())[:100]
    except (KeyError, OSError):  # a container's user without a name
        return environ.get("USER", "somebody")


def parse_expiry(text: str, now: dt.datetime) -> dt.datetime | None:
    """
    Return when something ends: ``never``, a date (its first moment in UTC), or 90d from *now*.

    Raises:
        CommandFailed: It is none of these.
    """
    word = text.strip().lower()
    if word == "never":
        return None
    try:
        if (span := _span(word)) is not None:
            return now + span
        found = dt.datetime.fromisoformat(text.strip())
        return found.astimezone(dt.UTC) if found.tzinfo else found.replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        forms = "use 2026-12-31, 2026-12-31T18:00+02:00, 90d, 12h, or never"
        raise CommandFailed(f"--expires {text}: is no time; {forms}", code=USAGE) from None


def parse_span(text: str) -> dt.timedelta:
    """
    Return how long ``7d``, ``24h``, ``30m`` or ``0`` is.

    Raises:
        CommandFailed: It is none of these.
    """
    span = dt.timedelta() if text.strip() == "0" else _span(text.strip().lower())
    if span is None:
        raise CommandFailed(f"--overlap {text}: use 7d, 24h, 30m, or 0 for none", code=USAGE)
    return span


def _span(word: str) -> dt.timedelta | None:
    found = _SPAN.fullmatch(word)
    return int(found[1]) * _SPANS[found[2]] if found else None


def whole_page() -> Page:
    """Return the page in which a name is looked for."""
    return Page(limit=_PAGE)


async def read_page(read: Callable[[Page], Awaitable[list[L]]], page: Page) -> tuple[list[L], bool]:
    """Return a page of a list, and whether there is more behind it."""
    found = await read(structs.replace(page, limit=page.limit + 1))
    return found[: page.limit], len(found) > page.limit


def tell_of_more(last: Sequence[Listed], *, is_more: bool) -> None:
    """Say on standard error how a list that was cut goes on."""
    if is_more:
        line = f"dragoman: there are more; go on with --after {last[-1].id}, or see --limit"
        print_line(Console(stderr=True, highlight=False), line)


def print_json(value: object) -> None:
    """Print a value as JSON that people can read, too."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    print_line(Console(highlight=False, markup=False), text)


def print_rows(columns: Row, rows: Sequence[Row], *, nothing: str) -> None:
    """Print a table, or that there is *nothing* to show."""
    console = Console(highlight=False)
    if rows:
        print_table(console, columns, rows)
    else:
        print_line(console, nothing)


def print_fields(fields: Mapping[str, str]) -> None:
    """Print names and values under each other."""
    console = Console(highlight=False)
    width = max(map(len, fields))
    for name, value in fields.items():
        print_line(console, f"{name.ljust(width)}  {printable(value)}")


def shown_time(at: dt.datetime | None, *, without: str = NONE) -> str:
    """Return a time to the minute, in UTC."""
    return without if at is None else f"{at:%Y-%m-%d %H:%M}Z"
