"""The endpoints of an upstream: each of its addresses with each of its keys."""

import hashlib
from collections.abc import Mapping
from itertools import product
from typing import Final

from msgspec import Struct

from dragoman.settings import UpstreamConfig

_DIGEST_BYTES: Final = 16
_SEPARATOR: Final = "\n"  # in none of the parts


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

    @property
    def mark(self) -> str:
        """
        What it is known by in this process, wherever it stands in the list: made of its upstream,
        address and key. Not to be shown, as a short key could be guessed from it.
        """
        upstream = self.name.partition("/")[0]
        text = _SEPARATOR.join((upstream, self.base_url, *(self.credential or ())))
        return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


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


def shared_names(upstreams: Mapping[str, UpstreamConfig], secret: bytes) -> dict[str, str]:
    """
    Return by which name other processes know each endpoint of *upstreams*, by its own.

    One with another address, another key or other headers has another name, so that what was found
    out about the former is not held against it.

    Args:
        upstreams: Of the configuration.
        secret: The signing secret, without which nobody can guess a key from a name.
    """
    key = hashlib.blake2b(secret, digest_size=32, person=b"dragoman-places").digest()
    names: dict[str, str] = {}
    for name, upstream in upstreams.items():
        headers = [f"{field}: {value.reveal()}" for field, value in upstream.headers.items()]
        for endpoint in endpoints_of(name, upstream):
            text = _SEPARATOR.join((endpoint.mark, *headers)).encode()
            names[endpoint.name] = hashlib.blake2b(
                text, key=key, digest_size=_DIGEST_BYTES
            ).hexdigest()
    return names
