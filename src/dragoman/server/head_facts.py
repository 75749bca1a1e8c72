"""What follows from the head of a request alone: found out once, for clients repeat their heads."""

from msgspec import Struct

from dragoman.policy.access import Caller
from dragoman.policy.keys import KeyRing, sent_keys
from dragoman.policy.senders import Sender, read_sender
from dragoman.policy.side_traffic import SideRole, has_shapes, role_of_marks
from dragoman.server.transport.seams import HeaderList, SentHeaders
from dragoman.server.upstream_requests import native_headers


class HeadFacts(Struct):
    """
    What one head says.

    Attributes:
        sender: What the client says of itself.
        role: What the request is for, where the client marks that.
        has_shapes: Its body may say more of that.
        keys: Which were sent.
        native_headers: What native upstreams get of it.
        is_traced: It names a trace.
        ring: The keys that were looked at last.
        caller: Whose the first of the keys is that stands in there; None: of nobody.
    """

    sender: Sender
    role: SideRole
    has_shapes: bool
    keys: tuple[bytes, ...]
    native_headers: HeaderList
    is_traced: bool
    ring: KeyRing | None = None
    caller: Caller | None = None
    _found: tuple[Caller | None, ...] = ()

    def found_in(self, ring: KeyRing) -> tuple[Caller | None, ...]:
        """Return for each of the keys whose it is in *ring*, which does not change."""
        if ring is not self.ring:  # another configuration has other keys
            found = tuple(ring.find(key) for key in self.keys)
            self.ring, self._found = ring, found
            self.caller = next((caller for caller in found if caller is not None), None)
        return self._found


def facts_of(sent: SentHeaders) -> HeadFacts:
    """Return what *sent* says, also to the next request that has the same head."""
    if sent.facts is not None:
        found: HeadFacts = sent.facts
        return found
    sender = read_sender(sent)
    facts = sent.facts = HeadFacts(
        sender=sender,
        role=role_of_marks(sent),
        has_shapes=has_shapes(sender.client),
        keys=tuple(sent_keys(sent.get(b"x-api-key"), sent.get(b"authorization"))),
        native_headers=native_headers(sent),
        is_traced=b"traceparent" in sent,
    )
    return facts
