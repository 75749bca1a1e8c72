"""What the log says already: each state of a thing once, whichever process has said it."""

from typing import Final

from dragoman.policy.sharing import Board, Notice

_MAX_KNOWN: Final = 20_000  # things
_TOPIC: Final = "told"
# To processes that start later, among the others at least. A gateway that starts anew says it anew.
_SHOWN_S: Final = 60.0
_MAX_STATE_BYTES: Final = 100


class Told:
    """
    Remember what was told. Belongs to one event loop; outlives a change of the configuration.

    Two processes that find the same out at the same moment both tell it.

    Args:
        board: Shows the others what one has told; None: there are none.
    """

    def __init__(self, board: Board | None = None) -> None:
        self._states: dict[str, str] = {}
        self._board = board
        if board is not None:
            board.watch(_TOPIC, self._read)

    def is_news(self, what: str, state: str) -> bool:
        """Tell whether nobody has told yet that *what* is in *state*; whoever asks tells it now."""
        if self._states.get(what) == state:
            return False
        self._keep(what, state)
        if self._board is not None:
            self._board.post(Notice(topic=_TOPIC, key=what, body=state.encode(), ttl_s=_SHOWN_S))
        return True

    def _keep(self, what: str, state: str) -> None:
        if what not in self._states and len(self._states) >= _MAX_KNOWN:
            self._states.pop(next(iter(self._states)))
        self._states[what] = state

    def _read(self, notice: Notice) -> None:
        self._keep(notice.key, notice.body[:_MAX_STATE_BYTES].decode("utf-8", "replace"))
