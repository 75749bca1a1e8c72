"""Pages of what has no ids to go on after: which one is next stands in a token."""

import base64
import datetime as dt

from msgspec import Struct

from dragoman.core.errors import InvalidRequest
from dragoman.server.admin.operations import Ask

_MAX_DIGITS = 9  # of rows that are left out


class UsagePage(Struct, frozen=True, kw_only=True):
    """A part of sums of usage: all pages are about the time that the first one was about."""

    since: dt.datetime
    until: dt.datetime
    offset: int = 0

    def token(self) -> str:
        """Return what this page is asked for with."""
        return page_token(f"{self.offset} {self.since.isoformat()} {self.until.isoformat()}")


def page_token(text: str) -> str:
    """Return *text* as it is told to those who ask."""
    return "page_" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def text_of_page(ask: Ask) -> str:
    """
    Return the text of the token that was sent; empty: there was none.

    Raises:
        InvalidRequest: It is none of ours.
    """
    token = ask.one("page")
    try:
        raw = token.removeprefix("page_")
        return base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)).decode()
    except ValueError:
        raise not_ours() from None


def offset_of(ask: Ask) -> int:
    """Return how many entries come before the page; raise InvalidRequest as ``text_of_page``."""
    return _offset(text_of_page(ask) or "0")


def usage_page(ask: Ask) -> UsagePage:
    """
    Return which time is asked about, and how many rows are left out.

    Raises:
        InvalidRequest: A moment is none, they are in the wrong order, or the token is not ours.
    """
    until = ask.moment("until") or ask.now
    since = ask.moment("since") or until - dt.timedelta(days=1)
    if since >= until:
        raise InvalidRequest("since", "must be before until")
    if not (text := text_of_page(ask)):
        return UsagePage(since=since, until=until)
    try:
        number, *times = text.split(" ")
        since, until = (dt.datetime.fromisoformat(each).astimezone(dt.UTC) for each in times)
    except (ValueError, OverflowError):
        raise not_ours() from None
    return UsagePage(since=since, until=until, offset=_offset(number))


def not_ours() -> InvalidRequest:
    """Return what is said of a token that no answer had."""
    return InvalidRequest("page", "is not the next_page of an answer of this list")


def _offset(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise not_ours()
    return int(text)
