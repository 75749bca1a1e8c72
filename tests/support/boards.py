"""A board whose notices a test reads and writes by hand."""

from collections.abc import Callable

from dragoman.policy.sharing import Notice


class FakeBoard:
    """
    Keeps what is posted.

    Attributes:
        posted: By the one under test.
    """

    def __init__(self) -> None:
        self.posted: list[Notice] = []
        self._readers: dict[str, Callable[[Notice], None]] = {}

    def post(self, notice: Notice) -> None:
        self.posted.append(notice)

    def watch(self, topic: str, read: Callable[[Notice], None]) -> None:
        self._readers[topic] = read

    def show(self, notice: Notice) -> None:
        """Show what another process has posted."""
        self._readers[notice.topic](notice)
