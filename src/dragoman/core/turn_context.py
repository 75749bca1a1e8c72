"""What a turn is given beside its plan."""

from collections.abc import Callable
from typing import Literal

import msgspec

from dragoman.core.signatures import Signer
from dragoman.core.upstream_errors import ReplyContext
from dragoman.core.usage import Usage


class TurnContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn needs beside its plan; everything random or secret comes in here."""

    signer: Signer
    nonce: Callable[[], str]  # eleven fresh characters of base64url
    reply: ReplyContext
    max_event_bytes: int = 16 * 2**20
    usage_before: Usage | None = None  # of earlier upstream replies to the same request
    # May the message go on with another upstream reply after one that is empty, or lacks a call?
    continues_empty: Literal["never", "unsent", "always"] = "never"
    # May it, after one without the call that the upstream was told to make?
    continues_without_call: bool = False
