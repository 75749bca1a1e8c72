"""What had to be put right in the replies that one message is made of."""

from collections import Counter

from dragoman.core.adjustments import Adjustment
from dragoman.core.turn import ChatTurn


class ReplyRepairs:
    """
    Add up the repairs of one request's replies.

    Nearly always there is one reply, which knows its own: then nobody needs this.

    Args:
        current: The reply that comes, or came last; None: none that is translated.

    Attributes:
        current: The same.
    """

    __slots__ = ("_asked_for", "_earlier", "_noticed", "current")

    def __init__(self, current: ChatTurn | None = None) -> None:
        self.current = current
        self._earlier: list[ChatTurn] = []
        self._asked_for: list[str] = []  # a second time, as the reply before did not hold it
        self._noticed: dict[str, int] = {}

    def begin(self) -> None:
        """Forget replies: the first one is asked for now, whatever another upstream has said."""
        self.current = None
        self._earlier.clear()
        self._asked_for.clear()

    def notice(self, kind: str) -> None:
        """Count something that was seen in the conversation, once."""
        self._noticed[kind] = 1

    def go_on(self, turn: ChatTurn) -> None:
        """Keep a reply that the message goes on after."""
        self._earlier.append(turn)

    def ask_again(self, turn: ChatTurn, lacks: str) -> None:
        """Keep a reply that held no *lacks*; the model is asked for it once more."""
        self.go_on(turn)
        self._asked_for.append(lacks)

    @property
    def adjustments(self) -> tuple[Adjustment, ...]:
        """The repairs, for people; what happened in two replies is told once."""
        if not self._earlier:
            return self.current.repairs if self.current is not None else ()
        found = [_second_asking(lacks) for lacks in self._asked_for]
        for turn in self._turns():
            found += turn.repairs
        return tuple(dict.fromkeys(found))

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind of repair was made, or each kind of trouble seen."""
        if not (self._noticed or self._earlier or self._asked_for):
            return dict(self.current.repair_counts) if self.current is not None else {}
        counts = Counter(self._noticed)
        counts.update(f"again.{lacks.replace(' ', '_')}" for lacks in self._asked_for)
        for turn in self._turns():
            counts.update(turn.repair_counts)
        return dict(counts)

    def _turns(self) -> list[ChatTurn]:
        """Return the turns, each once: a message may end with what an earlier one holds."""
        current = [] if self.current is None else [self.current]
        return list(dict.fromkeys([*self._earlier, *current]))


def _second_asking(lacks: str) -> Adjustment:
    reason = f"the reply held no {lacks}: the model was asked once more"
    return Adjustment("reply", "repaired", reason)
