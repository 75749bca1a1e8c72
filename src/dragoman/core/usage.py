"""One shape of token counts, and how each wire form becomes it."""

from typing import Final

import msgspec

from dragoman.wire import openai_chat

_encode: Final = msgspec.json.Encoder().encode
_CHARS_PER_TOKEN: Final = 4  # of an output that the upstream did not count
_COUNT_BITS: Final = 40
_MAX_COUNT: Final = 2**_COUNT_BITS  # whatever an upstream writes, clients and sums can hold it


class Usage(msgspec.Struct, gc=False):
    """
    Tokens of one reply, in Anthropic's sense: ``input_tokens`` leaves out what the cache gave.

    ``is_estimate``: the upstream sent no counts and these are ours.
    """

    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int | None = None
    is_estimate: bool = True

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt, wherever they were read from."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_creation_input_tokens

    def plus(self, other: "Usage") -> "Usage":
        """Return the sum, for a turn that took several upstream replies."""
        thinking = [t for t in (self.thinking_tokens, other.thinking_tokens) if t is not None]
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cache_read_input_tokens=self.cache_read_input_tokens + other.cache_read_input_tokens,
            cache_creation_input_tokens=self.cache_creation_input_tokens
            + other.cache_creation_input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            thinking_tokens=sum(thinking) if thinking else None,
            is_estimate=self.is_estimate or other.is_estimate,
        )


class UsageMeter(msgspec.Struct, eq=False):  # made in C: each message has one
    """
    The tokens of one message while it is written.

    Args:
        input_tokens_estimate: Counts until the upstream says better.
        before: Tokens of earlier upstream replies to the same request.
    """

    input_tokens_estimate: int
    before: Usage | None = None
    written_chars: int = 0  # added to by whoever writes; the base of our own estimate
    _counted: Usage | None = None  # by the upstream

    def take(self, wire: openai_chat.Usage) -> None:
        """Take what the upstream counted; counts are cumulative, so that the last one is right."""
        known = self._counted or Usage(self.input_tokens_estimate)
        self._counted = usage_of_chat(wire, known)

    @property
    def total(self) -> Usage:
        """Tokens of the whole message so far."""
        own = self._counted or Usage(self.input_tokens_estimate)
        if not own.output_tokens and self.written_chars:
            estimate = estimate_output(self.written_chars)
            own = Usage(
                input_tokens=own.input_tokens,
                cache_read_input_tokens=own.cache_read_input_tokens,
                cache_creation_input_tokens=own.cache_creation_input_tokens,
                output_tokens=estimate,
                thinking_tokens=own.thinking_tokens,
            )
        return own if self.before is None else self.before.plus(own)


def estimate_output(chars: int) -> int:
    """Return about how many tokens an output of so many characters has; 1 at least."""
    return max(1, chars // _CHARS_PER_TOKEN)


def usage_of_chat(wire: openai_chat.Usage, known: Usage) -> Usage:
    """
    Return *wire* in our shape; a count that the upstream left out comes from *known*.

    ``prompt_tokens`` includes cached tokens on every server read (model dialects, section 5), so
    they are subtracted here, once.
    """
    prompt, output = wire.prompt_tokens, wire.completion_tokens
    details, out = wire.prompt_tokens_details, wire.completion_tokens_details
    # The first one that says something; zero and null say nothing.
    cached = (
        wire.prompt_cache_hit_tokens
        or (details and details.cached_tokens)
        or wire.cached_tokens
        or known.cache_read_input_tokens
    )
    written = (
        wire.cache_creation_input_tokens
        or (details and (details.cache_write_tokens or details.created_cache_tokens))
        or known.cache_creation_input_tokens
    )
    thinking = (out and out.reasoning_tokens) or wire.reasoning_tokens or known.thinking_tokens
    is_estimate = False
    if prompt is None or output is None:
        is_estimate = known.is_estimate
        prompt = known.prompt_tokens if prompt is None else bounded_count(prompt)
        output = known.output_tokens if output is None else bounded_count(output)
    elif (prompt | output) >> _COUNT_BITS:  # one of them is below zero, or too large
        prompt, output = bounded_count(prompt), bounded_count(output)
    if cached or written:
        cached = min(bounded_count(cached), prompt)
        written = min(bounded_count(written), prompt - cached)
    if thinking:
        thinking = bounded_count(thinking) or None
    return Usage(prompt - cached - written, cached, written, output, thinking or None, is_estimate)


class _ShownDetails(msgspec.Struct, gc=False):
    thinking_tokens: int


class ShownUsage(msgspec.Struct, gc=False, omit_defaults=True):
    """The JSON object, its members in the API's order."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: _ShownDetails | None = None


def shown_usage(usage: Usage) -> ShownUsage:
    """Return what is shown of *usage* in a message and in message_delta."""
    thinking = usage.thinking_tokens
    return ShownUsage(
        usage.input_tokens,
        usage.cache_creation_input_tokens,
        usage.cache_read_input_tokens,
        usage.output_tokens,
        None if thinking is None else _ShownDetails(thinking),
    )


def render_usage(usage: Usage) -> bytes:
    """Return the JSON object that stands in a message and in message_delta."""
    return _encode(shown_usage(usage))


def bounded_count(value: int | None) -> int:
    """Return a count that clients and sums can hold, whatever an upstream wrote."""
    if not value or value < 0:
        return 0
    return min(value, _MAX_COUNT)
