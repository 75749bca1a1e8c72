"""What a request points at or holds that must be read before the request can be planned."""

import hashlib
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
    for message in request.messages:
        if not isinstance(message.content, str):
            break
    else:
        return []  # nothing but strings
    sources = _sources(request)
    if not sources:
        return []
    found = [_attachment(kind, source, path=path) for path, kind, source in sources]
    return [a for a in found if a is not None and (sees_images or a.kind != "image_url")]


def find_urls(request: MessagesRequest) -> list[tuple[str, str]]:
    """Return path and URL of every image and document that *request* only points at."""
    return [
        (f"{path}.source.url", source.url)
        for path, _, source in _sources(request)
        if source.type == "url" and source.url
    ]


def has_images(request: MessagesRequest) -> bool:
    """Tell whether *request* holds or points at an image, in results of tools, too."""
    return any(kind == "image" for _, kind, _ in _sources(request))


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


def _sources(request: MessagesRequest) -> list[tuple[str, str, Source]]:
    """Return path, block type and source of every image and document."""
    found: list[tuple[str, str, Source]] = []
    for number, message in enumerate(request.messages):
        content = message.content
        if not isinstance(content, str):
            for position, block in enumerate(content):
                if _may_hold_sources(block):
                    _add_sources(block, f"messages.{number}.content.{position}", found)
    return found


def _may_hold_sources(block: Block) -> bool:
    return block.type != "text" and (block.source is not None or isinstance(block.content, list))


def _add_sources(block: Block, path: str, found: list[tuple[str, str, Source]]) -> None:
    source, content = block.source, block.content
    if isinstance(source, Source) and block.type in ("image", "document"):
        found.append((path, block.type, source))
        if isinstance(source.content, list):
            _add_all(source.content, f"{path}.source.content", found)
    if isinstance(content, list):
        _add_all(content, f"{path}.content", found)


def _add_all(blocks: list[Block], path: str, found: list[tuple[str, str, Source]]) -> None:
    for number, block in enumerate(blocks):
        if _may_hold_sources(block):
            _add_sources(block, f"{path}.{number}", found)


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
