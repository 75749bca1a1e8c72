"""
Claude Code's calls beside the conversation: what each of them is for.

Read off the request alone. Hints in headers come only from clients that were told to send them
(``CLAUDE_CODE_GATEWAY_HINT_HEADERS=1``); the shapes are those of Claude Code 2.1.330 and are looked
for only in what its own program sends, as the same shape means nothing elsewhere.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from dragoman.wire.anthropic import Block, MessagesRequest

SideRole = Literal["", "background", "classifier", "title", "web_search"]
SIDE_ROLES: Final[tuple[SideRole, ...]] = ("background", "classifier", "title", "web_search")
# Nobody waits for these; a person waits for a verdict and for search results.
BACKGROUND_ROLES: Final[frozenset[SideRole]] = frozenset({"background", "title"})

_PROGRAM: Final = "claude-cli"  # of Claude Code and of its agent SDK
_APP: Final = b"x-app"
_CLASS: Final = b"x-claude-code-request-class"
_PRIORITY: Final = b"x-claude-1p-request-class"
# "auxiliary" alone says nothing: a web search is one, too.
_BACKGROUND_CLASSES: Final = frozenset({b"workflow"})
_BACKGROUND_PRIORITIES: Final = frozenset(
    {b"background-task", b"summary-extraction", b"followup-generation"}
)
_VERDICT_STOPS: Final = frozenset({"</block>", "</severity>"})
_TRANSCRIPT: Final = "<transcript>"
_SESSION: Final = "<session>"
_TITLE_FIELDS: Final = (frozenset({"title"}), frozenset({"title", "isNewTopic"}))
_WEB_SEARCH: Final = "web_search_"
_QUOTA: Final = "quota"  # the whole prompt of the call that only looks at the headers of the reply


def read_side_role(
    request: MessagesRequest, headers: Mapping[bytes, bytes], *, program: str
) -> SideRole:
    """
    Return what *request* is for; empty: it is part of a conversation.

    Args:
        request: As parsed.
        headers: Of the request, names in lower case.
        program: The client's own name, as ``Sender.client``.
    """
    return (has_shapes(program) and role_by_shape(request)) or role_of_marks(headers)


def role_of_marks(headers: Mapping[bytes, bytes]) -> SideRole:
    """Return what the headers alone say that a request is for; empty: they say nothing."""
    is_background = (
        headers.get(_APP) == b"cli-bg"
        or headers.get(_PRIORITY) in _BACKGROUND_PRIORITIES
        or headers.get(_CLASS) in _BACKGROUND_CLASSES
    )
    return "background" if is_background else ""


def has_shapes(program: str) -> bool:
    """Tell whether requests of *program* show by themselves what they are for: Claude Code's do."""
    return program == _PROGRAM


def role_by_shape(request: MessagesRequest) -> SideRole:
    """Return what *request* itself shows that it is for, of a program that ``has_shapes``."""
    if request.tools:
        return "web_search" if _only_searches(request) else ""
    if _asks_for_verdict(request):
        return "classifier"
    if _asks_for_title(request):
        return "title"
    return "background" if _looks_at_quota(request) else ""


def _only_searches(request: MessagesRequest) -> bool:
    """Tell whether one question goes to the search tool alone."""
    return (
        len(request.tools) == 1
        and (request.tools[0].type or "").startswith(_WEB_SEARCH)
        and len(request.messages) == 1
    )


def _asks_for_verdict(request: MessagesRequest) -> bool:
    """Tell whether auto mode asks if an action is allowed."""
    if not _VERDICT_STOPS.isdisjoint(request.stop_sequences):
        return True
    return any(text.strip() == _TRANSCRIPT for text in _texts(request))


def _asks_for_title(request: MessagesRequest) -> bool:
    config = request.output_config
    wanted = (config.format if config else None) or request.output_format
    if wanted is not None and wanted.schema is not None:
        fields = wanted.schema.get("properties")
        return isinstance(fields, dict) and frozenset(fields) in _TITLE_FIELDS
    return len(request.messages) == 1 and any(t.startswith(_SESSION) for t in _texts(request))


def _looks_at_quota(request: MessagesRequest) -> bool:
    return request.max_tokens == 1 and list(_texts(request)) == [_QUOTA]


def _texts(request: MessagesRequest) -> Iterator[str]:
    """Yield the texts of the messages, without those inside of other blocks."""
    for message in request.messages:
        content: str | list[Block] = message.content
        if isinstance(content, str):
            yield content
        else:
            yield from (block.text for block in content if block.text is not None)
