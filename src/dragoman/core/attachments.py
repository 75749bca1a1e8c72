"""What a request points at or holds that must be read before the request can be planned."""

import hashlib
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from dragoman.core.errors import InvalidRequest
from dragoman.wire.anthropic import Block, MessagesRequest, Source


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


def find_attachments(request: MessagesRequest, *, sees_images: bool) -> list[Attachment]:
    """
    Return the PDF documents, document URLs and, for a model that sees, image URLs of *request*.

    Raises:
        InvalidRequest: A ``file`` source: there are no files to find it in.
    """
    found: list[Attachment] = []
    for number, message in enumerate(request.messages):
        if not isinstance(message.content, str):
            found += _find(message.content, f"messages.{number}.content", sees_images=sees_images)
    return found


def attachment_key(source: Source) -> str:
    """Return the key under which the text of *source* is found."""
    held = source.url if source.type == "url" else source.data
    return hashlib.sha256((held or "").encode("utf-8", "surrogatepass")).hexdigest()


def refuse_file(path: str) -> InvalidRequest:
    """Return the error for a ``file`` source at *path*."""
    reason = "files cannot be referred to by id on this gateway; send the content as base64"
    return InvalidRequest(f"{path}.source.file_id", reason)


def is_text_type(source: Source) -> bool:
    """Tell whether base64 *source* holds plain text, which needs no reading."""
    return (source.media_type or "").startswith("text/")


def _find(blocks: list[Block], path: str, *, sees_images: bool) -> Iterator[Attachment]:
    for number, block in enumerate(blocks):
        if block.type == "text":
            continue
        at = f"{path}.{number}"
        source = block.source
        if isinstance(source, Source) and block.type in ("image", "document"):
            attachment = _attachment(block.type, source, path=at)
            if attachment is not None and (sees_images or attachment.kind != "image_url"):
                yield attachment
            if isinstance(source.content, list):
                yield from _find(source.content, f"{at}.source.content", sees_images=sees_images)
        if isinstance(block.content, list):
            yield from _find(block.content, f"{at}.content", sees_images=sees_images)


def _attachment(block_type: str, source: Source, *, path: str) -> Attachment | None:
    if source.type == "file":
        raise refuse_file(path)
    if source.type == "url":
        kind: Literal["image_url", "document_url"]
        kind = "image_url" if block_type == "image" else "document_url"
        return Attachment(f"{path}.source.url", attachment_key(source), kind, url=source.url)
    if block_type == "document" and source.type == "base64" and not is_text_type(source):
        return Attachment(f"{path}.source.data", attachment_key(source), "pdf", data=source.data)
    return None
