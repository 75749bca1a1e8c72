"""Content blocks as text and pictures."""

import base64
import hashlib
from typing import Any

import pytest

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import InvalidRequest
from support.plans import assistant, call, plan, result, said, text, user

SEEING = DialectProfile(sees_images=True)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n0000").decode()


def image(media_type: str | None = "image/png", data: str = PNG) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def document(more: dict | None = None, **source: Any) -> dict[str, Any]:
    return {"type": "document", "source": source} | (more or {})


def shown(*blocks: dict[str, Any], profile: DialectProfile = SEEING, **more: Any) -> Any:
    return plan(profile, messages=[user(*blocks)], **more).body["messages"][0]["content"]


def parts(*blocks: dict[str, Any], **more: Any) -> list[str]:
    content = shown(*blocks, **more)
    return [p["text"] if p["type"] == "text" else p["image_url"]["url"] for p in content]


# -- pictures


@pytest.mark.parametrize(
    ("declared", "first_bytes", "media_type"),
    [
        ("image/png", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("image/png", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("image/jpeg", b"GIF89a", "image/gif"),
        (None, b"RIFF\0\0\0\0WEBP", "image/webp"),
        ("image/webp", b"something", "image/webp"),
        (None, b"something", "image/png"),
    ],
)
def test_the_type_of_a_picture(declared: str | None, first_bytes: bytes, media_type: str) -> None:
    data = base64.b64encode(first_bytes + bytes(20)).decode()
    assert parts(image(declared, data)) == [f"data:{media_type};base64,{data}"]


def test_text_and_pictures_keep_their_order() -> None:
    linked = {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}}
    content = shown(text("One"), text("two"), linked, text("three"))
    assert content == [
        {"type": "text", "text": "One\n\ntwo"},
        {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}},
        {"type": "text", "text": "three"},
    ]


def test_transformations_are_reported() -> None:
    block = image() | {"transformations": {"oversized_image": "downsize"}}
    made = plan(SEEING, messages=[user(block)])
    assert said(made) == [("messages.0.content.0.transformations", "dropped")]


@pytest.mark.parametrize("kind", ["image", "document"])
def test_files_are_refused(kind: str) -> None:
    block = {"type": kind, "source": {"type": "file", "file_id": "file_1"}}
    for blocks in ([text("a"), block], [text("a"), result("x", [block])]):
        with pytest.raises(InvalidRequest) as caught:
            plan(messages=[user(*blocks)])
        assert caught.value.path.startswith("messages.0.content.1")
        assert caught.value.path.endswith(".source.file_id")


# -- documents


def test_a_document_of_text() -> None:
    block = document({"title": 'A "B" & C', "context": "Old."}, type="text", data="Hello")
    assert shown(block) == (
        '<document title="A &quot;B&quot; &amp; C">\n<context>Old.</context>\nHello\n</document>'
    )


def test_a_document_of_content() -> None:
    assert shown(document(type="content", content="Hello")) == "<document>\nHello\n</document>"
    block = document(type="content", content=[text("See:"), image(), text("Nice.")])
    first, second = parts(block)
    assert first == "<document>\nSee:\n[image 1: shown below]\nNice.\n</document>"
    assert second.startswith("data:image/png")


def test_plain_text_in_base64() -> None:
    data = base64.b64encode("Grüße".encode()).decode()
    block = document(type="base64", media_type="text/plain", data=data)
    assert shown(block) == "<document>\nGrüße\n</document>"
    broken = plan(messages=[user(document(type="base64", media_type="text/plain", data="x"))])
    assert "could not be read" in broken.body["messages"][0]["content"]
    assert said(broken) == [("messages.0.content.0", "dropped")]


@pytest.mark.parametrize(
    ("source", "held"),
    [
        ({"type": "base64", "media_type": "application/pdf", "data": "JVBERi0"}, "JVBERi0"),
        ({"type": "url", "url": "https://a.example/a.pdf"}, "https://a.example/a.pdf"),
    ],
)
def test_documents_that_must_be_read(source: dict, held: str) -> None:
    key = hashlib.sha256(held.encode()).hexdigest()
    block = document(**source)
    assert shown(block, texts={key: "Page 1"}) == "<document>\nPage 1\n</document>"
    for texts, words in (({}, "could not be read"), ({key: ""}, "no text was found")):
        made = plan(messages=[user(block)], texts=texts)
        assert words in made.body["messages"][0]["content"]
        assert said(made) == [("messages.0.content.0", "dropped")]


def test_one_document_cannot_fill_the_memory() -> None:
    key = hashlib.sha256(b"https://a.example").hexdigest()
    block = document(type="url", url="https://a.example")
    made = plan(messages=[user(*[block] * 50)], texts={key: "x" * 2**20})
    content = made.body["messages"][0]["content"]
    assert content.count("[the same document as before]") == 45
    assert len(content) < 6 * 2**20
    assert said(made) == [("messages.0.content.5", "dropped")]


def test_documents_inside_results() -> None:
    block = document(type="text", data="Hello")
    messages = [user("Hi"), assistant(call("a")), user(result("a", [text("Read:"), block]))]
    made = plan(messages=messages)
    assert made.body["messages"][2]["content"] == "Read:\n<document>\nHello\n</document>"


def test_search_results() -> None:
    found = {
        "type": "search_result",
        "source": "https://a.example",
        "title": "T",
        "content": [text("One"), text("two")],
    }
    assert shown(found) == (
        '<search_result source="https://a.example" title="T">\nOne\ntwo\n</search_result>'
    )


@pytest.mark.parametrize(("citations", "n"), [({"enabled": True}, 1), ({"enabled": False}, 0)])
def test_citations_are_reported(citations: dict, n: int) -> None:
    block = document({"citations": citations}, type="text", data="Hello")
    assert said(plan(messages=[user(block)])) == [("messages.0.content.0.citations", "dropped")] * n


def test_citations_inside_results_are_reported() -> None:
    cited = text("One") | {"citations": [{"type": "char_location"}]}
    found = {"type": "search_result", "source": "a", "title": "T", "content": [cited]}
    assert said(plan(messages=[user(found)])) == [
        ("messages.0.content.0.content.0.citations", "dropped")
    ]
    messages = [user("Hi"), assistant(call("a")), user(result("a", [cited]))]
    assert said(plan(messages=messages)) == [
        ("messages.2.content.0.content.0.citations", "dropped")
    ]


# -- results of server tools


def server_answer(content: Any, kind: str = "code_execution") -> tuple[str, list]:
    used = {"type": "server_tool_use", "id": "s", "name": kind, "input": {}}
    got = {"type": f"{kind}_tool_result", "tool_use_id": "s", "content": content}
    made = plan(messages=[user("Hi"), assistant(used, got, text("A")), user("B")])
    return made.body["messages"][2]["content"], said(made)


ANSWERS = {
    "error": (
        {"type": "code_execution_tool_result_error", "error_code": "too_many_requests"},
        "[tool error] too_many_requests",
    ),
    "output": (
        {"type": "code_execution_result", "stdout": "3", "return_code": 0, "content": []},
        '{"type":"code_execution_result","stdout":"3","return_code":0,"content":[]}',
    ),
    "advice": ({"type": "advisor_result", "text": "Do it."}, "Do it."),
    "odd advice": ({"type": "advisor_result"}, '{"type":"advisor_result"}'),
    "found nothing": ({"type": "tool_search_tool_search_result"}, "(no output)"),
    "page": (
        {
            "type": "web_fetch_result",
            "url": "u",
            "content": {"type": "document", "source": {"type": "text", "data": "Hello"}},
        },
        '{"type":"web_fetch_result","url":"u","content":{"type":"document",'
        '"source":{"type":"text","data":"Hello"}}}',
    ),
    "text": ("Hello", "Hello"),
}


@pytest.mark.parametrize(("content", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_results_of_server_tools(content: Any, answer: str) -> None:
    assert server_answer(content) == (answer, [])


def test_encrypted_results_of_server_tools_are_reported() -> None:
    result_type = "encrypted_code_execution_result"
    content = {"type": result_type, "encrypted_stdout": "zz", "return_code": 0}
    assert server_answer(content) == (
        f'{{"type":"{result_type}","return_code":0}}',
        [("messages.1.content.1.content", "dropped")],
    )


def test_files_in_results_of_server_tools_are_reported() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0"}
    page = {"type": "web_fetch_result", "url": "u", "content": [{"source": source}]}
    answer, adjustments = server_answer(page, "web_fetch")
    assert answer == '{"type":"web_fetch_result","url":"u","content":[{"source":"[file omitted]"}]}'
    assert adjustments == [("messages.1.content.1.content", "dropped")]


def test_error_marks_are_not_doubled() -> None:
    unavailable = result("a", "[tool error] x", is_error=True)
    made = plan(messages=[user("Hi"), assistant(call("a")), user(unavailable)])
    assert made.body["messages"][2]["content"] == "[tool error] x"
