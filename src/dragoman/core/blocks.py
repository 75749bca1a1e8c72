"""Content blocks -> what a chat-completions message can hold: text, and pictures for who sees."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from dragoman.core.adjustments import Adjustments
from dragoman.core.attachments import attachment_key, is_text_type, refuse_file
from dragoman.core.server_tools import UNAVAILABLE
from dragoman.core.tool_uses import referenced_tools
from dragoman.core.tools import ToolTable
from dragoman.wire.anthropic import Block, Source

Part = str | dict[str, Any]  # a text, or an image part ready to be sent

EMPTY_RESULT: Final = "(no output)"
ERROR_PREFIX: Final = "[tool error] "
_encode: Final = msgspec.json.Encoder().encode
# First characters of the formats in base64: clients often name another one than they send.
_IMAGE_HEADS: Final = {
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
}
# Characters of documents that may be shown again: a short reference repeated without end would
# otherwise become a prompt of any size.
_MAX_REPEATED_CHARS: Final = 4 * 2**20
_ENCRYPTED: Final = ("encrypted_content", "encrypted_stdout", "encrypted_index")
# What these say is read elsewhere: they have no words of their own.
_WORDLESS: Final = ("fallback", "mcp_tool_listing", "compaction", "tool_addition", "tool_removal")


class BlockRenderer:
    """
    Render the blocks of one request.

    Args:
        model: The upstream's model, for what is said about it.
        sees_images: Whether that model sees.
        texts: Texts of documents by attachment key.
        tools: For references to tools.
        adjustments: Where what is lost is reported.
    """

    def __init__(
        self,
        model: str,
        *,
        sees_images: bool,
        texts: Mapping[str, str],
        tools: ToolTable,
        adjustments: Adjustments,
    ) -> None:
        self._model = model
        self._sees_images = sees_images
        self._texts = texts
        self._tools = tools
        self._adjustments = adjustments
        self._described: set[str] = set()
        self._shown: set[str] = set()
        self._repeated_chars = 0

    def parts(self, block: Block, path: str) -> list[Part]:
        """Return the parts for a block that may stand in a user message, in order."""
        match block.type:
            case "text":
                note_text_citations(block, path, self._adjustments)
                return [block.text] if block.text else []
            case "image":
                return [self._image(block, path)]
            case "document":
                return self._document(block, path)
            case "search_result":
                return [self._search_result(block, path)]
            case "tool_reference":
                return [self._tool_reference(block.tool_name or "")]
            case "browser_state":
                state = {"tabs": block.tabs, "state_changes": block.state_changes}
                return [f"<browser_state>\n{_json(state)}\n</browser_state>"]
            case kind if kind in _WORDLESS:
                return []
            case _:
                return [self._unknown(block, path)]

    def result(self, block: Block, path: str) -> tuple[str, list[Part]]:
        """
        Return the text of a result of any kind of tool, and what must follow in a user message.

        Upstreams take tool messages as plain strings only, so pictures cannot stay in them.
        """
        content, is_error = block.content, bool(block.is_error)
        pictures: list[Part] = []
        if content is None or isinstance(content, str):
            text = content or ""
        elif isinstance(content, dict):
            text, is_code = self._server_result(content, path)
            is_error = is_error or is_code
        else:
            text = self._result_blocks(content, f"{path}.content", pictures=pictures)
        text = text or EMPTY_RESULT
        if is_error and not text.startswith(ERROR_PREFIX):
            text = ERROR_PREFIX + text
        return text, pictures

    # -- results

    def _result_blocks(self, blocks: Iterable[Block], path: str, *, pictures: list[Part]) -> str:
        texts: list[str] = []
        results: list[dict[str, Any]] = []
        for number, block in enumerate(blocks):
            if block.type == "web_search_result":
                if block.encrypted_content:
                    self._note_encrypted(path)
                found = {"title": block.title, "url": block.url, "page_age": block.page_age}
                results.append({name: value for name, value in found.items() if value})
                continue
            for part in self.parts(block, f"{path}.{number}"):
                if isinstance(part, str):
                    texts.append(part)
                else:
                    pictures.append(part)
                    texts.append(f"[image {len(pictures)}: shown below]")
        if results:
            texts.append(_json(results))
        return "\n".join(texts)

    def _server_result(self, content: dict[str, Any], path: str) -> tuple[str, bool]:
        kind = content.get("type")
        if isinstance(kind, str) and kind.endswith("_error"):
            code = content.get("error_code")
            return (UNAVAILABLE if code == "unavailable" else str(code)), True
        if kind == "tool_search_tool_search_result":
            names = referenced_tools(content)
            return "\n".join(self._tool_reference(name) for name in names), False
        if kind == "advisor_result" and isinstance(content.get("text"), str):
            return content["text"], False
        return _json(self._readable(content, path)), False

    def _readable(self, value: object, path: str) -> object:
        """Return *value* without what only Anthropic can read and without files in base64."""
        if isinstance(value, list):
            return [self._readable(item, path) for item in value]
        if not isinstance(value, dict):
            return value
        if value.get("type") == "base64":
            reason = "files inside results of server tools are not read"
            self._adjustments.add(f"{path}.content", "dropped", reason=reason)
            return "[file omitted]"
        if any(value.get(key) for key in _ENCRYPTED):
            self._note_encrypted(f"{path}.content")
        kept = (key for key in value if key not in _ENCRYPTED and key != "cache_control")
        return {key: self._readable(value[key], path) for key in kept}

    def _note_encrypted(self, path: str) -> None:
        reason = "encrypted results can be read by Anthropic's models only"
        self._adjustments.add(path, "dropped", reason=reason)

    def _tool_reference(self, name: str) -> str:
        """Describe the tool where it is first referred to; later its name is enough."""
        described = self._tools.describe(name)
        if name in self._described:
            described = {"name": described["name"]}
        self._described.add(name)
        return f"<tool>\n{_json(described)}\n</tool>"

    # -- pictures

    def _image(self, block: Block, path: str) -> Part:
        source = block.source
        if not isinstance(source, Source):
            return self._unknown(block, path)
        if source.type == "file":
            raise refuse_file(path)
        if not self._sees_images:
            reason = f"model {self._model} cannot see images"
            self._adjustments.add(path, "dropped", reason=reason)
            return f"[image omitted: {reason}]"
        if block.transformations:
            reason = "images are sent as they are"
            self._adjustments.add(f"{path}.transformations", "dropped", reason=reason)
        if source.type == "url":
            return _image_part(source.url or "")
        url = f"data:{_media_type(source)};base64,{source.data or ''}"
        return _image_part(url)

    # -- documents

    def _document(self, block: Block, path: str) -> list[Part]:
        source = block.source
        if not isinstance(source, Source):
            return [self._unknown(block, path)]
        if source.type == "file":
            raise refuse_file(path)
        self._note_citations(block, path)
        pictures: list[Part] = []
        if source.type == "content" and isinstance(source.content, list):
            at = f"{path}.source.content"
            text = self._result_blocks(source.content, at, pictures=pictures)
        else:
            text = self._document_text(source, path)
        context = f"<context>{block.context}</context>\n" if block.context else ""
        head = f'<document title="{_attribute(block.title)}">' if block.title else "<document>"
        return [f"{head}\n{context}{text}\n</document>", *pictures]

    def _document_text(self, source: Source, path: str) -> str:
        if source.type == "content" and isinstance(source.content, str):
            return source.content
        if source.type == "text":
            return source.data or ""
        if source.type == "base64" and is_text_type(source):
            try:
                return base64.b64decode(source.data or "").decode("utf-8", "replace")
            except (binascii.Error, ValueError):
                text = None
        else:
            key = attachment_key(source)
            text = self._texts.get(key)
            if text and self._is_too_often(key, text):
                reason = "the same document is shown too often"
                self._adjustments.add(path, "dropped", reason=reason)
                return "[the same document as before]"
        if text:
            return text
        if text is None:
            self._adjustments.add(path, "dropped", reason="the document could not be read")
            return "[document omitted: it could not be read]"
        self._adjustments.add(path, "dropped", reason="no text was found in the document")
        return "[no text was found in this document]"

    def _is_too_often(self, key: str, text: str) -> bool:
        if key not in self._shown:
            self._shown.add(key)
            return False
        self._repeated_chars += len(text)
        return self._repeated_chars > _MAX_REPEATED_CHARS

    def _search_result(self, block: Block, path: str) -> str:
        self._note_citations(block, path)
        content = block.content if isinstance(block.content, list) else []
        for number, inner in enumerate(content):
            note_text_citations(inner, f"{path}.content.{number}", self._adjustments)
        text = "\n".join(inner.text or "" for inner in content)
        source = block.source if isinstance(block.source, str) else ""
        head = f'<search_result source="{_attribute(source)}" title="{_attribute(block.title)}">'
        return f"{head}\n{text}\n</search_result>"

    def _note_citations(self, block: Block, path: str) -> None:
        if isinstance(block.citations, dict) and block.citations.get("enabled"):
            reason = "the reply will hold no citations"
            self._adjustments.add(f"{path}.citations", "dropped", reason=reason)

    def _unknown(self, block: Block, path: str) -> str:
        kind = block.type[:40]
        self._adjustments.add(path, "dropped", reason=f"{kind} blocks cannot be translated")
        return f"[{kind} omitted]"


def note_text_citations(block: Block, path: str, adjustments: Adjustments) -> None:
    """Report citations that a text of the history carries."""
    if block.citations:
        reason = "citations of earlier texts are not shown to the model"
        adjustments.add(f"{path}.citations", "dropped", reason=reason)


def _image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _media_type(source: Source) -> str:
    data = source.data or ""
    for head, media_type in _IMAGE_HEADS.items():
        if data.startswith(head):
            return media_type
    return source.media_type or "image/png"


def _attribute(value: str | None) -> str:
    return (value or "").replace("&", "&amp;").replace('"', "&quot;").replace("\n", " ")


def _json(value: object) -> str:
    return _encode(value).decode()
