"""
Estimate tokens without a tokenizer, for max_tokens, message_start and count_tokens.

Figures: English, code and JSON take about four characters a token in vocabularies of 100,000 to
250,000 entries; Chinese, Japanese and Korean about 1.8; other alphabets about two; a character
outside the basic plane (emoji) takes about two tokens.
"""

from typing import Final

_TOKENS_PER_IMAGE: Final = 1500
_TOKENS_PER_MESSAGE: Final = 4  # role and turn markers of the chat template
_TOKENS_PER_TOOL: Final = 8
_ALL: Final = bytes(range(256))
# First bytes of UTF-8 sequences by length; deleting all others leaves one byte per character.
_NOT_TWO: Final = _ALL.translate(None, bytes(range(0xC2, 0xE0)))
_NOT_THREE: Final = _ALL.translate(None, bytes(range(0xE0, 0xF0)))
_NOT_FOUR: Final = _ALL.translate(None, bytes(range(0xF0, 0xF5)))
_NOT_ASCII: Final = bytes(range(128, 256))


def estimate_tokens(
    body: bytes, *, images: int = 0, image_bytes: int = 0, messages: int = 0, tools: int = 0
) -> int:
    """
    Return about how many tokens a prompt has.

    Args:
        body: The prompt as JSON, in UTF-8.
        images: How many images it holds.
        image_bytes: How many bytes of *body* are images in base64, which are no text.
        messages: How many messages the chat template will frame.
        tools: How many tools it will describe.
    """
    if body.isascii():
        tokens = (len(body) - image_bytes) / 4
    else:
        tokens = (len(body.translate(None, _NOT_ASCII)) - image_bytes) / 4
        tokens += len(body.translate(None, _NOT_TWO)) / 2
        tokens += len(body.translate(None, _NOT_THREE)) / 1.8
        tokens += len(body.translate(None, _NOT_FOUR)) * 2
    tokens += images * _TOKENS_PER_IMAGE
    tokens += messages * _TOKENS_PER_MESSAGE + tools * _TOKENS_PER_TOOL
    return max(1, round(tokens))
