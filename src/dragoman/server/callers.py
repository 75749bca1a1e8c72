"""Who calls: somebody with a key of the configuration, or of the store, or anybody."""

from dragoman.core.errors import AuthenticationFailed
from dragoman.policy.access import Caller
from dragoman.policy.keys import ANYBODY, KeyRing, refusal, sent_keys
from dragoman.server.head_facts import HeadFacts
from dragoman.server.key_cache import KeyCache


class Callers:
    """
    Keys of the configuration and of the store; both count.

    Args:
        ring: Those of the configuration.
        stored: Those of the store; None: there is no store.
        asks_always: A key is asked for even where there is none yet.
    """

    def __init__(
        self, ring: KeyRing, stored: KeyCache | None = None, *, asks_always: bool = False
    ) -> None:
        self._ring = ring
        self._stored = stored
        self._asks = asks_always or not ring.is_open

    @property
    def may_be_open(self) -> bool:
        """Whether no key is asked for, as far as is known."""
        return not self._asks and (self._stored is None or not self._stored.has_keys)

    async def is_open(self) -> bool:
        """
        Tell whether no key is asked for, and wait until that is known.

        Raises:
            StoreUnavailable: It cannot be known now.
        """
        if self._asks or self._stored is None or self._stored.has_keys is not None:
            return self.may_be_open
        return not await self._stored.wait_until_known()

    @property
    def why_nobody(self) -> str:
        """Why no client at all could be let in; empty: some could."""
        if self._stored is None or not self._ring.is_open or self._stored.has_keys is not None:
            return ""
        return "the store of keys has not answered yet"

    def recognise(self, head: HeadFacts) -> Caller | None:
        """Return who has sent this head; None: ``look_up`` can tell. Any good key in it counts."""
        stored = self._stored
        if not self._asks and (stored is None or stored.has_keys is False):
            return ANYBODY
        if head.ring is not self._ring:
            head.found_in(self._ring)
        if stored is None or not stored.has_keys:
            return head.caller
        for key, configured in zip(head.keys, head.found_in(self._ring), strict=True):
            caller = stored.find(key) or configured
            if caller is not None:
                return caller
        return None

    async def look_up(self, x_api_key: bytes | None, authorization: bytes | None) -> Caller:
        """
        Return who has sent these headers, asking the store.

        Raises:
            AuthenticationFailed: Neither holds a good key; the message says why.
            StoreUnavailable: One may be good, and the store is away.
            Overloaded: Too many keys are being looked for.
        """
        stored, failed = self._stored, refusal(x_api_key, authorization)
        if stored is None:
            raise failed
        if not self._asks and not await stored.wait_until_known():
            return ANYBODY
        for key in sent_keys(x_api_key, authorization):
            try:
                return await stored.look_up(key)
            except AuthenticationFailed as error:
                failed = error
        raise failed
