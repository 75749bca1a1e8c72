"""
When a failed upstream call is made again: on the same upstream, or on the route's next one.

Never again on the same upstream: what it refused (4xx), what timed out after it was sent (it may
still run there, and be billed), and what broke its own API. All of it may still be tried elsewhere,
but for a refusal of the request itself.
"""

from typing import Final

from dragoman.core.errors import (
    GatewayError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamUnavailable,
)

MAX_WAIT_S: Final = 5.0  # of waiting between attempts, in all, for one request
_MAX_RATE_LIMIT_S: Final = 2.0  # longer waits are the client's to decide
_FIRST_DELAY_S: Final = 0.25
_RETRIED_STATUSES: Final = frozenset({0, 502, 503})  # 0: no status line came


def retry_delay_s(error: GatewayError, attempt: int, *, jitter: float) -> float | None:
    """
    Return the seconds to wait before the same upstream is asked again; None: it is not.

    Args:
        error: How the last attempt failed, before any content.
        attempt: How many have failed so far.
        jitter: Random, 0 to 1: clients that failed together do not come back together.
    """
    if isinstance(error, UpstreamRateLimited) or error.upstream_status == 429:
        wait_s = error.retry_after_s
        if wait_s is None or wait_s > _MAX_RATE_LIMIT_S:
            return None
        return float(wait_s) + 0.1 * jitter
    if isinstance(error, UpstreamOverloaded):
        asked_s = error.retry_after_s or 0.0
    elif isinstance(error, UpstreamUnavailable) and error.upstream_status in _RETRIED_STATUSES:
        asked_s = 0.0
    else:
        return None
    delay_s: float = _FIRST_DELAY_S * 2.0 ** (attempt - 1) * (0.5 + jitter)
    return max(asked_s, delay_s)


def may_try_next(error: GatewayError) -> bool:
    """Tell whether the next upstream of the route may succeed where this one failed."""
    return error.retryable
