"""
What the headers of a reply say of a rate limit, in OpenAI's form.

``x-ratelimit-remaining-requests: 0`` and ``x-ratelimit-reset-requests: 6m0s``, and the same with
``tokens``. Source: OpenAI API reference, "Rate limits"; vendors and gateways have copied it. Resets
that are dates or times of a clock are not read: whose clock, they do not say.
"""

import re
from collections.abc import Mapping
from typing import Final

_LIMITED: Final = (b"requests", b"tokens")
_REQUESTS_LEFT: Final = b"x-ratelimit-remaining-requests"
_TOKENS_LEFT: Final = b"x-ratelimit-remaining-tokens"
_MAX_S: Final = 86_400.0  # more is no duration, but a time
_DURATION: Final = re.compile(
    rb"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?"
)
_UNITS_S: Final = (3600.0, 60.0, 1.0, 0.001)
_SECONDS: Final = re.compile(rb"\d{1,6}(?:\.\d{1,9})?")


def spent_for_s(headers: Mapping[bytes, bytes]) -> float | None:
    """
    Return how long nothing more will be answered; None: something is left, or nothing is said.

    Args:
        headers: Of any reply, names in lower case.
    """
    if _REQUESTS_LEFT not in headers and _TOKENS_LEFT not in headers:  # most say nothing
        return None
    waits = [
        read_duration_s(headers.get(b"x-ratelimit-reset-" + what, b""))
        for what in _LIMITED
        if headers.get(b"x-ratelimit-remaining-" + what) == b"0"
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def read_duration_s(value: bytes) -> float | None:
    """Read ``1h2m3.5s``, ``20ms`` or plain seconds; None: it is none of them."""
    value = value.strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    elif value and (found := _DURATION.fullmatch(value)):
        seconds = sum(
            float(part) * unit for part, unit in zip(found.groups(), _UNITS_S, strict=True) if part
        )
    else:
        return None
    return seconds if seconds <= _MAX_S else None
