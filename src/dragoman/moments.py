"""Points in time as people write them on a command line; all of them in UTC."""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Final

_FORMS: Final = (
    "use 2026-11-25, 2026-11-25T14:00, today, yesterday, or 7d, 24h, 30m for so long ago"
)
_AGO: Final = re.compile(r"(\d{1,6})([dhm])")
_UNITS: Final[Mapping[str, dt.timedelta]] = {
    "d": dt.timedelta(days=1),
    "h": dt.timedelta(hours=1),
    "m": dt.timedelta(minutes=1),
}


def parse_moment(text: str, now: dt.datetime) -> dt.datetime:
    """
    Return the time that *text* means; a date is its first moment.

    Args:
        text: A date, a date with a time and maybe an offset, a word, or a number of days, hours or
            minutes before *now*.
        now: In UTC.

    Raises:
        ValueError: It is none of these; the message says what would be.
    """
    word = text.strip().lower()
    if (named := _named(word, now)) is not None:
        return named
    try:
        if ago := _AGO.fullmatch(word):
            return now - int(ago[1]) * _UNITS[ago[2]]
        found = dt.datetime.fromisoformat(text.strip())
        return found.astimezone(dt.UTC) if found.tzinfo else found.replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time; {_FORMS}") from None


def _named(word: str, now: dt.datetime) -> dt.datetime | None:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return {"now": now, "today": today, "yesterday": today - dt.timedelta(days=1)}.get(word)
