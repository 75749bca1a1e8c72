"""Variables of the environment that bear our name: which are settings, which say nothing."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from dragoman.tables import nearest

_OURS: Final = "DRAGOMAN_"
# What Kubernetes tells every pod of each Service beside it: one that is named "dragoman" puts
# DRAGOMAN_PORT=tcp://10.0.0.1:7777 there, and DRAGOMAN_SERVICE_HOST.
_LINK: Final = re.compile(
    r"DRAGOMAN_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?"
    r"|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_LINK_PORT: Final = re.compile(r"(?:tcp|udp|sctp)://\S+")
_OF_TESTS: Final = frozenset(
    {"DRAGOMAN_NODE_MODULES", "DRAGOMAN_REQUIRE_CLIENTS", "DRAGOMAN_SERVERS"}
)
_MAX_TOLD: Final = 10


def without_service_links(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return *environ* without what Kubernetes put there: it looks like settings of ours."""
    return {name: value for name, value in environ.items() if not _is_link(name, value)}


def unread_variables(environ: Mapping[str, str], known: Iterable[str]) -> Iterator[str]:
    """
    Yield a line for each variable that bears our name and is read by nobody: mostly a slip.

    Args:
        environ: Without links of services.
        known: Names that are settings, or that the configuration refers to.
    """
    endings = {name.removeprefix(_OURS) for name in known}
    told = 0
    for name, value in environ.items():
        ending = name.removeprefix(_OURS)
        if name == ending or not value or ending in endings or name in _OF_TESTS:
            continue
        if told == _MAX_TOLD:
            return
        told += 1
        near = nearest(ending, endings)
        hint = f'; did you mean "{_OURS}{near}"?' if near else ""
        yield f"{name}: nothing reads this variable{hint}"


def _is_link(name: str, value: str) -> bool:
    if _LINK.fullmatch(name):
        return True
    is_port = name.startswith(_OURS) and name.endswith("_PORT")
    return is_port and _LINK_PORT.fullmatch(value) is not None
