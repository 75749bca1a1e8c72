"""
Find the client's stop sequences in the text ourselves.

Most upstreams cut a stop string out without saying which it was, and some take fewer than were
given; the API promises the matched one in ``stop_sequence``. The match that is complete first wins;
of two that end at the same place, the longer one.
"""

from collections.abc import Sequence


class StopMatcher:
    """
    Feed it text, get the text before the first match.

    Args:
        stops: Non-empty strings.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""  # the end of the text so far that may begin a stop string
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Return the text that no stop string can begin in; nothing after a match."""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = [(at + len(s), at, s) for s in self._stops if (at := text.find(s)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self._held = ""
            return text[:at]
        at = min(_partial_match(text, stop) for stop in self._stops)
        self._held = text[at:]
        return text[:at]

    def close(self) -> str:
        """Return what is held: the text ended before any stop string was complete."""
        held, self._held = self._held, ""
        return held


def _partial_match(text: str, stop: str) -> int:
    """Return where the longest end of *text* that begins *stop* begins; its length if none does."""
    first = stop[0]
    at = text.find(first, max(0, len(text) - len(stop) + 1))
    while at >= 0:
        if stop.startswith(text[at:]):
            return at
        at = text.find(first, at + 1)
    return len(text)
