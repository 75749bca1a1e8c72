"""
What the headers of a native upstream's reply say of a rate limit.

``anthropic-ratelimit-requests-remaining: 0``, ``-limit: 50`` and ``-reset``, a time of day, and the
same with ``tokens``, ``input-tokens`` and ``output-tokens``. Source: Anthropic API reference, "Rate
limits". The clock is that of the reply's own ``date``: ours need not be right.
"""

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from typing import Final

_REQUESTS_LEFT: Final = b"anthropic-ratelimit-requests-remaining"
_TOKENS_LEFT: Final = b"anthropic-ratelimit-tokens-remaining"
# In what the rest is told: tokens are rounded to thousands.
_UNITS: Final = {b"requests": 1, b"tokens": 1000, b"input-tokens": 1000, b"output-tokens": 1000}
_MAX_S: Final = 86_400.0  # more is nothing to wait for
_COUNT: Final = re.compile(rb"\d{1,12}")
_DATE_FORM: Final = "%a, %d %b %Y %H:%M:%S GMT"  # RFC 9110, 5.6.7: all others are obsolete


def native_spent_for_s(headers: Mapping[bytes, bytes]) -> float | None:
    """
    Return how long nothing more will be answered; None: something is left, or nothing is said.

    Args:
        headers: Of any reply, names in lower case.
    """
    if _REQUESTS_LEFT not in headers and _TOKENS_LEFT not in headers:
        return None
    return max(_waits_s(headers), default=None)


def _waits_s(headers: Mapping[bytes, bytes]) -> Iterator[float]:
    """
    Yield the time until a little is left again of each limit that is spent.

    The reset is when all of it will be, and it comes back bit by bit: whoever waited for all would
    leave most of a minute unused.
    """
    for what, unit in _UNITS.items():
        prefix = b"anthropic-ratelimit-" + what
        if headers.get(prefix + b"-remaining") == b"0":
            full_s = _until_s(headers.get(prefix + b"-reset", b""), headers.get(b"date", b""))
            if full_s is not None:
                yield full_s * min(1.0, unit / _count(headers.get(prefix + b"-limit", b"")))


def _until_s(moment: bytes, date: bytes) -> float | None:
    """Return the time from *date* (HTTP) to *moment* (RFC 3339); None: one is not to be read."""
    try:
        since = dt.datetime.strptime(date.decode("ascii"), _DATE_FORM).replace(tzinfo=dt.UTC)
        seconds = (dt.datetime.fromisoformat(moment.decode("ascii")) - since).total_seconds()
    except (ValueError, TypeError):  # TypeError: a moment without an offset
        return None
    return seconds if 0 <= seconds <= _MAX_S else None


def _count(value: bytes) -> int:
    """Return the number that *value* says; 1, so that all is waited for: it says none."""
    return (int(value) or 1) if _COUNT.fullmatch(value) else 1
