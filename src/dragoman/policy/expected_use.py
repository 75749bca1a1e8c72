"""What a request will use, before it has: learnt from what others for the same model have used."""

import math
import re
import string
from typing import Final, Protocol

from dragoman.core.usage import Usage

# Tokens of one request: those of the prompt that no cache gives, all of it, the reply's.
Expected = tuple[int, int, int]

_MAX_MODELS: Final = 10_000
_MIN_OBSERVATIONS: Final = 8
_WEIGHT: Final = 1 / 16  # of a new observation: the last few dozen decide
_ALL_OF: Final = 64  # the first observations; of later ones every sixteenth is enough
_ONE_OF: Final = 16
_BITS: Final = 20  # behind the point: to multiply whole numbers is quick
_DEVIATIONS: Final = 2.0  # above the mean: few requests use more than was held for them
_TOKENS_PER_BYTE: Final = 0.3  # of a body, until better is known
_UNKNOWN_OUTPUT: Final = 4_096  # tokens, until better is known
_TOKENS_PER_FILE: Final = 1_500
_FILE_BYTES: Final = string.ascii_letters.encode() + string.digits.encode() + b"+/="
_SAMPLE_BYTES: Final = 48  # words of so many letters and digits are rare
_STRIDE_BYTES: Final = 8_192
_MIN_FILE_BYTES: Final = 1_000
_BASE64: Final = re.compile(rb'"data"\s*:\s*"([A-Za-z0-9+/=]{%d,})"' % _MIN_FILE_BYTES)


class Prompt(Protocol):
    """
    What is looked at of a request.

    Attributes:
        body: May be forgotten once it was measured.
        alias: Of the model.
        n_bytes: Of the body without the files in it; 0: it was not measured yet.
        file_tokens: For those files.
        teaches: What it uses is to be learnt from; of many that are alike few do.
    """

    body: bytes
    alias: str
    n_bytes: int
    file_tokens: int
    teaches: bool


def measure(prompt: Prompt) -> int:
    """Find out how long a prompt is; return its bytes, at least 1."""
    body = prompt.body
    n_bytes = len(body) or 1
    if n_bytes >= _MIN_FILE_BYTES and _may_hold_files(body):
        files = [found.end(1) - found.start(1) for found in _BASE64.finditer(body)]
        prompt.file_tokens = _TOKENS_PER_FILE * len(files)
        n_bytes -= sum(files)
    prompt.n_bytes = n_bytes
    return n_bytes


def _may_hold_files(body: bytes) -> bool:
    """
    Tell whether somewhere in *body* there is what only files look like.

    To search all of it takes 50 us for 100 kB. A file that no sample falls into is small, and
    counts as text.
    """
    for start in range(0, len(body) - _SAMPLE_BYTES, _STRIDE_BYTES):
        if not body[start : start + _SAMPLE_BYTES].translate(None, _FILE_BYTES):
            return True
    return False


class _Average:
    """A moving mean, and how far observations are from it."""

    __slots__ = ("_deviation", "_mean")

    def __init__(self) -> None:
        self._mean = self._deviation = 0.0

    def take(self, value: float, weight: float) -> None:
        difference = value - self._mean
        self._mean += weight * difference
        self._deviation += weight * (abs(difference) - self._deviation)

    def high(self) -> int:
        """Return what most observations are below, in parts of ``1 << _BITS``."""
        return math.ceil((self._mean + _DEVIATIONS * self._deviation) * (1 << _BITS))


class _Learnt:
    __slots__ = ("fresh", "fresh_part", "n", "output", "prompt", "prompt_part", "reply", "rest")

    def __init__(self) -> None:
        self.n = 0
        self.rest = 0  # how many requests teach nothing, from now on
        # What to expect: for each byte of the body, in parts of ``1 << _BITS``, and of the reply.
        self.fresh_part = self.prompt_part = math.ceil(_TOKENS_PER_BYTE * (1 << _BITS))
        self.reply = _UNKNOWN_OUTPUT
        self.fresh = _Average()
        self.prompt = _Average()
        self.output = _Average()


class ExpectedUse:
    """
    Estimates by model alias. Belongs to one event loop; a restart begins anew.

    Prompts are reckoned by the size of the body. Most of a long conversation comes from the
    upstream's cache, which only experience can say: a limit counts what did not.
    """

    def __init__(self) -> None:
        self._learnt: dict[str, _Learnt] = {}

    def of(self, prompt: Prompt, max_tokens: int | None) -> Expected:
        """Return what a request will probably use, by its *max_tokens* at most."""
        known = self._learnt.get(prompt.alias) or self._begin(prompt.alias)
        size = len(prompt.body)
        if known.rest:
            known.rest -= 1
        else:
            prompt.teaches = True
            known.rest = 0 if known.n < _ALL_OF else _ONE_OF - 1
            size = 0  # it is kept when it is measured
        if not 0 < size < _MIN_FILE_BYTES:  # no files are in it then
            size = prompt.n_bytes or measure(prompt)
        fresh, total = size * known.fresh_part >> _BITS, size * known.prompt_part >> _BITS
        if files := prompt.file_tokens:
            fresh += files
            total += files
        output = known.reply
        if max_tokens is not None and max_tokens < output:
            output = max_tokens
        return fresh, total, output

    def observe(self, prompt: Prompt, usage: Usage) -> None:
        """Learn from what the upstream has counted for a request, once."""
        prompt.teaches = False
        size, files = prompt.n_bytes or measure(prompt), prompt.file_tokens
        known = self._learnt.get(prompt.alias) or self._begin(prompt.alias)
        known.n = n = known.n + 1
        weight = max(_WEIGHT, 1 / n)  # a plain mean of the first ones
        fresh = usage.input_tokens + usage.cache_creation_input_tokens
        known.fresh.take(max(0, fresh - files) / size, weight)
        known.prompt.take(max(0, usage.prompt_tokens - files) / size, weight)
        known.output.take(usage.output_tokens, weight)
        if n >= _MIN_OBSERVATIONS:
            known.fresh_part, known.prompt_part = known.fresh.high(), known.prompt.high()
            known.reply = known.output.high() >> _BITS

    def _begin(self, alias: str) -> _Learnt:
        if len(self._learnt) >= _MAX_MODELS:
            self._learnt.pop(next(iter(self._learnt)))
        self._learnt[alias] = known = _Learnt()
        return known
