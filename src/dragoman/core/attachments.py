"""What a request points at or holds that must be read before the request can be planned."""

from typing import Literal

from msgspec import Struct


class Attachment(Struct, frozen=True):
    """
    One document or image of a request.

    ``path`` is that of its field, for errors; ``key`` the SHA-256 of what it holds, in hex.
    """

    path: str
    key: str
    kind: Literal["pdf", "document_url", "image_url"]
    data: str | None = None  # base64
    url: str | None = None
