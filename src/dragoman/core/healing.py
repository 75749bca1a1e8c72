"""
What a refusal teaches: a 400 that names a parameter -> facts about this deployment.

The facts stand above the profile's, so that the one planner drops, renames or emulates the
parameter and reports it: in the second try, and from then on. Wordings: model dialects, sections 2,
3 and 6; openai, vllm 0.33.0 and sglang 0.5.23 packages; of schemas, reports of refusals by
Moonshot, Gemini and OpenAI of 2026-04 to 2026-08, and runs of xllamacpp 2026.10.11549.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.tool_schemas import KEPT_KEYWORDS, schema_keywords

Body = Mapping[str, Any]
Facts = dict[str, Any]
# What a sentence that refuses a parameter says of it; a mention alone is no refusal.
_REFUSAL: Final = re.compile(
    r"unrecogni[sz]ed|unsupported|not support|unknown|unexpected|extra|invalid|not permitted"
    r"|not allowed|only|must|should|incorrect|incompatible|forbidden|fixed|cannot|can't|range"
    r"|exceed|not configured|requires"
)
_LIMIT: Final = re.compile(
    r"(?:<=|(less than)(?! or equal)|less than or equal to|at most|maximum(?: of| is)?"
    r"|between -?[\d.]+ and|[\[(] *-?[\d.]+ *,|to be in) *(\d+(?:\.\d+)?)([)])?"
)
_IMAGES: Final = re.compile(r"image|vision|multi-?modal")
# The upstream does not know the field itself, whatever its value.
_NO_FIELD: Final = re.compile(r"unrecogni[sz]ed|unsupported|unknown|unexpected|extra|not permitted")
_OF_SCHEMAS: Final = re.compile(r"schema|parameters|tools?\b|function|keyword|propert")
_TYPE_MISSING: Final = re.compile(
    r"type is not defined|type (?:is|was) (?:missing|required|not specified)"
    r"|missing (?:a )?.?type\b"
    r"|must (?:have|declare|specify|define|contain) (?:an? |the )?(?:explicit )?.?type\b"
    r"|type should be defined in"
)
_REFERENCE: Final = re.compile(r"\$ref|\$defs|references? must|definitions")
# The way to a place in a schema: names of properties, which may be spelt like keywords.
_SCHEMA_PATH: Final = re.compile(r"propert(?:y|ies)['\"]?[\]./, \[]+['\"]?[\w$-]+['\"]?")
_MAX_SEARCHED: Final = 2000  # characters: what an error says, it says at its beginning


class Refusal(Struct, frozen=True, kw_only=True):
    """What an upstream said: *param* where it named the field apart, *text* in lower case."""

    text: str
    param: str = ""


class _Case(Struct, frozen=True, kw_only=True):
    profile: DialectProfile
    body: Body
    text: str


class _Rule(Struct, frozen=True, kw_only=True):
    """A field of the body, and the facts under which it is not sent as it was."""

    field: str
    learn: Callable[[_Case], Facts]
    is_word: bool = False  # an ordinary word, too: only a quoted mention means the field


def learn_from_refusal(profile: DialectProfile, body: Body, refusal: Refusal) -> Facts:
    """
    Return facts that would have avoided the refusal.

    Args:
        profile: As the request was planned with.
        body: As it was sent.
        refusal: What came back, status 400 or 422.

    Returns:
        Fields of ``DialectProfile`` with new values; empty: the refusal names nothing that a
        request can do without.
    """
    refusal = Refusal(text=refusal.text[:_MAX_SEARCHED].lower(), param=refusal.param.lower())
    facts = (
        _reasoning_facts(profile, body, refusal)
        or _image_facts(profile, body, refusal)
        or _schema_facts(profile, body, refusal)
        or _content_facts(profile, refusal)
    )
    if facts:
        return facts
    if not refusal.param and not _REFUSAL.search(refusal.text):
        return {}
    case = _Case(profile=profile, body=body, text=refusal.text)
    named = [(at, rule) for rule in _RULES if (at := _mention(rule, body, refusal)) >= 0]
    for _, rule in sorted(named, key=lambda pair: pair[0]):
        facts = rule.learn(case)
        news = {name: value for name, value in facts.items() if getattr(profile, name) != value}
        if news:
            return news
    return {}


def _mention(rule: _Rule, body: Body, refusal: Refusal) -> int:
    """Return where the refusal names the rule's field, the param first; -1: nowhere."""
    if not _is_sent(rule.field, body):
        return -1
    if rule.field in re.split(r"[.\[\]/ ]+", refusal.param):
        return 0
    name = re.escape(rule.field)
    pattern = rf"(?<![a-z_]){name}(?![a-z_])"
    if rule.is_word:
        pattern = (
            rf"""(?:^|['"`.]){name}['"`\]:]|(?:supplied|parameter|field|argument)s?:? {name}\b"""
        )
    found = re.search(pattern, refusal.text)
    return found.start() + 1 if found else -1


def _is_sent(field: str, body: Body) -> bool:
    if field == "strict":
        return any("strict" in tool.get("function", {}) for tool in body.get("tools", ()))
    if field in ("prefix", "partial"):
        return bool(body.get("messages")) and field in body["messages"][-1]
    return field in body


def _reasoning_facts(profile: DialectProfile, body: Body, refusal: Refusal) -> Facts:
    """Learn that reasoning must go back, or that it must not."""
    facts: Facts = {"echo_reasoning": "always", "reasoning_placeholder": " "}
    news = {name: value for name, value in facts.items() if getattr(profile, name) != value}
    if _is_mimo_missing_reasoning(profile, body, refusal):
        return news
    if "reasoning_content" not in refusal.text and "reasoning_content" not in refusal.param:
        return {}
    if _NO_FIELD.search(refusal.text):
        return {} if profile.echo_reasoning == "never" else {"echo_reasoning": "never"}
    return news


def _is_mimo_missing_reasoning(profile: DialectProfile, body: Body, refusal: Refusal) -> bool:
    """Tell MiMo's words for it, "Param Incorrect: `text` is not set", from others with them."""
    said = f"{refusal.text} {refusal.param}"
    if "param incorrect" not in said or not re.search(r"\btext\b", said):
        return False
    return any(
        message.get("role") == "assistant" and not message.get(profile.reasoning_field)
        for message in body.get("messages", ())
    )


def _image_facts(profile: DialectProfile, body: Body, refusal: Refusal) -> Facts:
    if not profile.sees_images or not _IMAGES.search(refusal.text):
        return {}
    has_images = any(
        isinstance(part, dict) and part.get("type") == "image_url"
        for message in body.get("messages", ())
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )
    return {"sees_images": False} if has_images and _REFUSAL.search(refusal.text) else {}


def _content_facts(profile: DialectProfile, refusal: Refusal) -> Facts:
    """Learn that an empty text is no content (Moonshot)."""
    is_news = profile.empty_content != "omitted" and "text content is empty" in refusal.text
    return {"empty_content": "omitted"} if is_news else {}


def _schema_facts(profile: DialectProfile, body: Body, refusal: Refusal) -> Facts:
    """Learn which part of a schema, of a tool or of structured output, is not understood."""
    said = f"{refusal.param} {refusal.text}"
    if not _OF_SCHEMAS.search(said):
        return {}
    sent = set[str]().union(*map(schema_keywords, _schemas(body)))
    if _TYPE_MISSING.search(said):
        return {} if profile.schema_types or not sent else {"schema_types": True}
    if "$ref" in sent and _REFERENCE.search(said):
        return {"schema_refs": False} if profile.schema_refs else {}
    if not _REFUSAL.search(said):
        return {}
    said = _SCHEMA_PATH.sub("properties", said)
    found = [(at, name) for name in sent if (at := _keyword_mention(name, said)) >= 0]
    name = min(found)[1] if found else ""
    if name == "additionalProperties" and profile.strict_tools and _is_sent("strict", body):
        return {"strict_tools": False}  # binding inputs to their schemas has rules of its own
    return {"schema_refused": (*profile.schema_refused, name)} if name else {}


def _schemas(body: Body) -> list[object]:
    schemas = [tool.get("function", {}).get("parameters") for tool in body.get("tools", ())]
    response_format = body.get("response_format") or {}
    return [*schemas, response_format.get("json_schema", {}).get("schema")]


def _keyword_mention(keyword: str, said: str) -> int:
    """Return where a keyword is named that a schema can do without; -1: nowhere."""
    if keyword in KEPT_KEYWORDS:
        return -1
    name = re.escape(keyword.lower())
    pattern = rf"(?<![\w$]){name}(?!\w)"
    if keyword.islower() and "$" not in keyword:  # an ordinary word, too
        pattern = rf"""['"`]{name}['"`]|(?:keyword|field|name|property|parameter)s?:? {name}\b"""
    found = re.search(pattern, said)
    return found.start() if found else -1


def _temperature(case: _Case) -> Facts:
    """Learn the maximum where the upstream says it, else that the value is not to be sent."""
    found = _LIMIT.search(case.text)
    if found is not None:
        limit = float(found[2]) - (0.01 if found[1] or found[3] else 0.0)
        if 0 < limit < case.body["temperature"]:
            return {"temperature_max": limit}
    return {"temperature_max": None}


def _max_tokens(case: _Case) -> Facts:
    """Learn the field's other name, from an upstream that speaks of it, or does not know ours."""
    ours = case.profile.max_tokens_field
    other = "max_tokens" if ours == "max_completion_tokens" else "max_completion_tokens"
    is_known = re.search(rf"(?<!\w){other}", case.text) or _NO_FIELD.search(case.text)
    return {"max_tokens_field": other} if is_known else {}


def _effort(case: _Case) -> Facts:
    """Learn that there is no such field; where it only switches thinking off, no such switch."""
    if case.body["reasoning_effort"] == "none":
        return {"thinking_switch": "none"}
    return {"effort_values": ()}


def _tool_choice(case: _Case) -> Facts:
    """Learn the next weaker way of forcing; ``auto`` and ``none`` can only be left to the model."""
    profile, asked = case.profile, case.body["tool_choice"]
    if asked in ("auto", "none"):
        return {}
    if "thinking" in case.text and not profile.forced_tools_need_no_thinking:
        return {"forced_tools_need_no_thinking": True}
    if profile.forced_tools == "native" and asked == "required":
        return {"forced_tools": "named_only"}
    has_schema = profile.response_format == "json_schema"
    return {"forced_tools": "json_schema" if has_schema else "hint"}


def _response_format(case: _Case) -> Facts:
    if case.profile.forced_tools == "json_schema" and "tool_choice" in case.body:
        return {"forced_tools": "hint", "response_format": "json_object"}
    weaker = {"json_schema": "json_object", "json_object": "none", "none": "none"}
    return {"response_format": weaker[case.profile.response_format]}


def _fixed(name: str, value: object) -> Callable[[_Case], Facts]:
    return lambda _: {name: value}


_NO_SWITCH: Final = _fixed("thinking_switch", "none")
_NO_BUDGET: Final = _fixed("thinking_budget_field", None)
_NO_PREFILL: Final = _fixed("prefill", "hint")
_RULES: Final = (
    _Rule(field="temperature", learn=_temperature),
    _Rule(field="top_p", learn=_fixed("top_p", False)),
    _Rule(field="top_k", learn=_fixed("top_k", False)),
    _Rule(field="stop", learn=_fixed("reports_stop", False), is_word=True),
    _Rule(field="user", learn=_fixed("sends_user", False), is_word=True),
    _Rule(field="stream_options", learn=_fixed("stream_options", False)),
    _Rule(field="tool_stream", learn=_fixed("tool_stream", False)),
    _Rule(field="parallel_tool_calls", learn=_fixed("parallel_tool_calls_field", False)),
    _Rule(field="reasoning_effort", learn=_effort),
    _Rule(field="thinking_budget", learn=_NO_BUDGET),
    _Rule(field="thinking_token_budget", learn=_NO_BUDGET),
    _Rule(field="tool_choice", learn=_tool_choice),
    _Rule(field="response_format", learn=_response_format),
    _Rule(field="max_tokens", learn=_max_tokens),
    _Rule(field="max_completion_tokens", learn=_max_tokens),
    _Rule(field="strict", learn=_fixed("strict_tools", False), is_word=True),
    _Rule(field="enable_thinking", learn=_NO_SWITCH),
    _Rule(field="chat_template_kwargs", learn=_NO_SWITCH),
    _Rule(field="thinking", learn=_NO_SWITCH, is_word=True),
    _Rule(field="reasoning", learn=_NO_SWITCH, is_word=True),
    _Rule(field="continue_final_message", learn=_NO_PREFILL),
    _Rule(field="add_generation_prompt", learn=_NO_PREFILL),
    _Rule(field="prefix", learn=_NO_PREFILL, is_word=True),
    _Rule(field="partial", learn=_NO_PREFILL, is_word=True),
)
