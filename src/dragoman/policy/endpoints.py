"""The endpoints of an upstream: each of its addresses with each of its keys."""

from itertools import product

from msgspec import Struct

from dragoman.settings import UpstreamConfig


class Endpoint(Struct, frozen=True, kw_only=True):
    """
    Where calls go, with one credential.

    Attributes:
        name: Of the upstream; with a number behind it (``lab/2``) where that has several.
        credential: Header and value.
    """

    name: str
    base_url: str
    credential: tuple[str, str] | None


def endpoints_of(name: str, upstream: UpstreamConfig) -> tuple[Endpoint, ...]:
    """Return the endpoints of the upstream *name*: for each key all addresses."""
    urls = upstream.addresses
    keys = upstream.keys or (None,)
    pairs = list(product(keys, urls))
    return tuple(
        Endpoint(
            name=f"{name}/{number}" if len(pairs) > 1 else name,
            base_url=url,
            credential=upstream.credential_of(key) if key else None,
        )
        for number, (key, url) in enumerate(pairs, 1)
    )
