"""What must be read before a request can be planned."""

import hashlib

import pytest

from dragoman.core.attachments import Attachment, find_attachments, find_urls
from dragoman.core.errors import InvalidRequest
from support.plans import MINIMAL, assistant, call, parse, result, text, user

PDF = {"type": "document", "source": {"type": "base64", "data": "JVBERi0="}}
PDF |= {"source": PDF["source"] | {"media_type": "application/pdf"}}
LINKED_PDF = {"type": "document", "source": {"type": "url", "url": "https://a.example/a.pdf"}}
LINKED_IMAGE = {"type": "image", "source": {"type": "url", "url": "https://a.example/a.png"}}
INLINE_IMAGE = {"type": "image", "source": {"type": "base64", "data": "iVBOR"}}
PLAIN = {
    "type": "document",
    "source": {"type": "base64", "media_type": "text/plain", "data": "eA=="},
}


def found(*messages: dict, sees_images: bool = True) -> list[Attachment]:
    request = parse(MINIMAL | {"messages": list(messages)})
    return find_attachments(request, sees_images=sees_images)


def digest(held: str) -> str:
    return hashlib.sha256(held.encode()).hexdigest()


def test_each_kind() -> None:
    assert found(user("Hi"), user(text("See:"), PDF, LINKED_PDF, LINKED_IMAGE)) == [
        Attachment("messages.1.content.1.source.data", digest("JVBERi0="), "pdf", data="JVBERi0="),
        Attachment(
            "messages.1.content.2.source.url",
            digest("https://a.example/a.pdf"),
            "document_url",
            url="https://a.example/a.pdf",
        ),
        Attachment(
            "messages.1.content.3.source.url",
            digest("https://a.example/a.png"),
            "image_url",
            url="https://a.example/a.png",
        ),
    ]


def test_what_needs_no_reading() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "x"}
    assert found(user(INLINE_IMAGE, PLAIN, {"type": "document", "source": source})) == []


def test_pictures_matter_only_to_models_that_see() -> None:
    assert found(user(LINKED_IMAGE), sees_images=False) == []
    assert len(found(user(LINKED_PDF), sees_images=False)) == 1


def test_inside_results_and_documents() -> None:
    nested = {"type": "document", "source": {"type": "content", "content": [LINKED_IMAGE]}}
    paths = [
        attachment.path
        for attachment in found(
            user("Hi"),
            assistant(call("a")),
            user(result("a", [text("Here:"), PDF, nested])),
            {"role": "system", "content": [text("S"), PDF]},
        )
    ]
    assert paths == [
        "messages.2.content.0.content.1.source.data",
        "messages.2.content.0.content.2.source.content.0.source.url",
        "messages.3.content.1.source.data",
    ]


@pytest.mark.parametrize("kind", ["image", "document"])
def test_files_are_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        found(user({"type": kind, "source": {"type": "file", "file_id": "f"}}))
    assert caught.value.path == "messages.0.content.0.source.file_id"


def test_urls_for_an_upstream_that_fetches_them_itself() -> None:
    file = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
    inside = result("t", [LINKED_IMAGE])
    messages = [user(file, PDF, LINKED_PDF), assistant(call("t")), user(inside)]
    assert find_urls(parse(MINIMAL | {"messages": messages})) == [
        ("messages.0.content.2.source.url", "https://a.example/a.pdf"),
        ("messages.2.content.0.content.0.source.url", "https://a.example/a.png"),
    ]
