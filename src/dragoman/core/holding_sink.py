"""Hold a message back until a tool call shows that it is the one that was forced."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from dragoman.core.errors import GatewayError
from dragoman.core.sinks import Sink
from dragoman.core.usage import Usage

_MAX_HELD: Final = 256 * 2**10  # characters: more text than any talk before a call


class HoldingSink:
    """
    A sink that keeps blocks to itself until a call begins, or too much has come.

    The start of the message and signs of life go through: nothing depends on them.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._held: list[Callable[[], None]] = []
        self._size = 0
        self.is_holding = True

    @property
    def is_started(self) -> bool:
        return self._sink.is_started

    @property
    def has_content(self) -> bool:
        return self._sink.has_content

    @property
    def is_ended(self) -> bool:
        return self._sink.is_ended

    def release(self) -> None:
        """Write all that was held, and hold nothing any more."""
        held, self._held = self._held, []
        self.is_holding = False
        for write in held:
            write()

    def start(self, usage: Usage) -> None:
        self._sink.start(usage)

    def begin_text(self) -> None:
        self._write(self._sink.begin_text)

    def add_text(self, text: str) -> None:
        self._write(lambda: self._sink.add_text(text), len(text))

    def begin_thinking(self) -> None:
        self._write(self._sink.begin_thinking)

    def add_thinking(self, thinking: str) -> None:
        self._write(lambda: self._sink.add_thinking(thinking), len(thinking))

    def sign(self, signature: str) -> None:
        self._write(lambda: self._sink.sign(signature), len(signature))

    def begin_tool(self, head: dict[str, Any]) -> None:
        if self.is_holding:
            self.release()
        self._sink.begin_tool(head)

    def add_tool_json(self, partial_json: str) -> None:
        self._sink.add_tool_json(partial_json)

    def add_pieces(self, pieces: Sequence[str], encoded: Sequence[bytes]) -> None:
        size = sum(map(len, pieces)) + len(pieces) - 1
        self._write(lambda: self._sink.add_pieces(pieces, encoded), size)

    def end_block(self) -> None:
        self._write(self._sink.end_block)

    def add_block(self, block: dict[str, Any]) -> None:
        self._write(lambda: self._sink.add_block(block))

    def end(self, stop_reason: str, stop_sequence: str | None, *, usage: Usage) -> None:
        if self.is_holding:
            self.release()
        self._sink.end(stop_reason, stop_sequence, usage=usage)

    def fail(self, error: GatewayError) -> None:
        self._held.clear()
        self._sink.fail(error)

    def ping(self) -> None:
        self._sink.ping()

    def take(self) -> bytes:
        return self._sink.take()

    def _write(self, write: Callable[[], None], size: int = 0) -> None:
        if not self.is_holding:
            write()
            return
        self._held.append(write)
        self._size += size + 1
        if self._size > _MAX_HELD:
            self.release()
