"""
What the answers to probes say about a model: facts of its profile, and what else was seen.

Where several ways work, the profile's own is taken, so that only true differences are reported.
What was not seen clearly is no fact: a model that answered beside the point measures nothing.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from dragoman.core.dialects.profile import GENERIC, DialectProfile
from dragoman.core.healing import learn_from_refusal
from dragoman.core.probe_replies import Reply, parse_object
from dragoman.core.probes import (
    COUNT_PREFIX,
    ENUM_WORD,
    KEYWORDS,
    PREFILLS,
    STOP,
    SWITCHES,
    Probing,
)

_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_WINDOW: Final = re.compile(r"context|max_model_len|n_ctx|max_seq_len")
_NUMBER: Final = re.compile(r"(?<![\d.])\d[\d,]{2,}(?![\d.]*\d)")
_LIMITS: Final = (256, 50_000_000)  # tokens; other numbers of an error are no limits
_STOP_COUNT: Final = re.compile(
    r"(?:at most|up to|maximum(?: of| is)?|exceed|<=|limit(?: of| is)?)"
    r"\D{0,20}(\d{1,3})\b"
)
_WINDOW_FIELDS: Final = (
    "context_length",
    "max_model_len",
    "context_window",
    "max_context_length",
    "n_ctx",
)
_OUTPUT_FIELDS: Final = ("max_output_tokens", "max_completion_tokens", "max_output_length")
_TEXT_CALLS: Final = ("<tool_call>", "<|tool_call", "<function=", "DSML", "tool▁call", "<invoke")


class Measured(Struct, frozen=True, kw_only=True):
    """A field of ``DialectProfile``, what was measured, and what the profile says."""

    fact: str
    value: Any
    profile_value: Any

    @property
    def differs(self) -> bool:
        """Tell whether the profile is wrong."""
        return bool(self.value != self.profile_value)


def measure(probing: Probing) -> tuple[Measured, ...]:
    """Return the facts that were measured, in the order of the profile's fields."""
    found: dict[str, Any] = {}
    for read in _READERS:
        found |= dict(read(probing))
    profile = probing.profile
    names = [known.name for known in msgspec.structs.fields(DialectProfile)]
    return tuple(
        Measured(fact=name, value=found[name], profile_value=getattr(profile, name))
        for name in names
        if name in found
    )


def observe(probing: Probing) -> tuple[tuple[str, str], ...]:
    """Return what was seen beside the facts of a profile, as a name and a text each."""
    return tuple(_observations(probing))


Facts = Iterator[tuple[str, Any]]


def _limits(probing: Probing) -> Facts:
    """How a reply is limited, and what is said of the model's size."""
    if probing.limit_field:
        yield "max_tokens_field", probing.limit_field
    listed = _listed(probing)
    window = _first_int(listed, _WINDOW_FIELDS)
    output = _first_int(listed, _OUTPUT_FIELDS)
    huge = probing.replies.get("max_tokens_huge")
    if huge is not None and huge.is_refused and (limit := _limit_in(huge.error)):
        if _WINDOW.search(huge.error.lower()):
            window = window or limit
        else:
            output = output or limit
    if window is not None:
        yield "context_window", window
    if output is not None:
        yield "max_output_tokens", output


def _listed(probing: Probing) -> dict[str, Any]:
    """Return what the upstream's list of models says of this one, inner tables included."""
    reply = probing.replies.get("models")
    data = reply.document.get("data") if reply is not None and reply.document else None
    for entry in data if isinstance(data, list) else ():
        if isinstance(entry, dict) and entry.get("id") == probing.model:
            inner = [part for part in entry.values() if isinstance(part, dict)]
            return {key: value for part in (*inner, entry) for key, value in part.items()}
    return {}


def _first_int(table: dict[str, Any], names: tuple[str, ...]) -> int | None:
    values = (table.get(name) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v), None)


def _limit_in(text: str) -> int | None:
    numbers = (int(found.replace(",", "")) for found in _NUMBER.findall(text))
    low, high = _LIMITS
    return max((number for number in numbers if low <= number <= high), default=None)


def _images(probing: Probing) -> Facts:
    reply = probing.replies.get("image")
    if reply is None or reply.is_unclear:
        return
    if reply.is_refused:
        yield "sees_images", False
    elif answer := reply.answer.lower():
        yield "sees_images", "red" in answer


def _tools(probing: Probing) -> Facts:
    reply = probing.replies.get("tool_auto")
    if reply is not None and reply.is_refused:
        yield "has_tools", False
    elif reply is not None and reply.calls:
        yield "has_tools", True
    parallel, strict = probing.accepted("parallel_off"), probing.accepted("strict")
    if parallel is not None and probing.accepted("parallel"):
        yield "parallel_tool_calls_field", parallel
    if strict is False and probing.accepted("tool_auto"):
        yield "strict_tools", False


def _thinking(probing: Probing) -> Facts:
    """Whether it thinks, how that is switched, and where the thinking comes out."""
    seen, switch = probing.thinking_seen(), probing.switch()
    if switch:
        yield "thinking", "toggle"
        yield "thinking_switch", switch
    elif _has_tried_all(probing):
        yield "thinking", "never" if seen is None else "always"
    reply = seen or probing.replies.get(f"thinking_{switch}")
    if reply is None or not reply.thinks:
        return
    if reply.reasoning_fields:
        fields = list(reply.reasoning_fields)
        known = probing.profile.reasoning_field
        yield "reasoning_field", known if known in fields else fields[0]
    elif reply.inline_thinking:
        yield "think_tags", True
        yield "think_tag_open_at_start", "<think>" not in reply.text
    yield from _echo(probing)


def _has_tried_all(probing: Probing) -> bool:
    """Tell whether every way of switching thinking that was tried had a clear answer."""
    tried = [name for name in (f"thinking_{switch}" for switch in SWITCHES) if name in probing.sent]
    return bool(tried) and all(probing.accepted(name) is not None for name in tried)


def _echo(probing: Probing) -> Facts:
    """Whether thinking must go back. That it may be left out is no reason to leave it out."""
    missing, given = probing.accepted("echo_missing"), probing.accepted("echo_given")
    if missing is True and given is False:
        yield "echo_reasoning", "never"
    if missing is not False or given is not True:
        return
    needs_all = probing.accepted("echo_missing_plain") is False
    is_known = probing.profile.echo_reasoning == "always"
    yield "echo_reasoning", "always" if needs_all or is_known else "tool_turns"
    if probing.accepted("echo_placeholder"):
        yield "reasoning_placeholder", " "


def _effort(probing: Probing) -> Facts:
    odd = probing.replies.get("effort_odd")
    if odd is None or not odd.is_refused:
        return
    said = odd.error.lower()
    values = tuple(word for word in _EFFORTS if re.search(rf"(?<![\w-]){word}(?![\w-])", said))
    if len(values) > 1:
        # "none" is a switch, not an effort.
        yield "effort_values", tuple(word for word in values if word != "none")
    elif probing.accepted("effort") is False:
        yield "effort_values", ()


def _sampling(probing: Probing) -> Facts:
    accepted = {value: probing.accepted(f"temperature_{value}") for value in ("2", "1", "0.7")}
    if accepted["2"]:
        yield "temperature_max", max(2.0, probing.profile.temperature_max or 0.0)
    elif accepted["2"] is False and accepted["1"] is not None:
        limit = _temperature_limit(probing)
        yield "temperature_max", limit if accepted["1"] and accepted["0.7"] else None
    if (top_p := probing.accepted("top_p")) is not None:
        yield "top_p", top_p
    top_k, odd = probing.accepted("top_k"), probing.accepted("top_k_odd")
    if top_k is False:
        yield "top_k", False
    elif top_k and odd is False:  # a value that makes no sense was read, so this one was, too
        yield "top_k", True
    if (user := probing.accepted("user")) is not None:
        yield "sends_user", user


def _temperature_limit(probing: Probing) -> float:
    """Return what the refusal says; it takes 1, for that has been tried."""
    reply = probing.replies["temperature_2"]
    facts = learn_from_refusal(GENERIC, probing.sent["temperature_2"], reply.refusal)
    return max(1.0, facts.get("temperature_max") or 1.0)


def _stops(probing: Probing) -> Facts:
    reply = probing.replies.get("stop")
    if reply is None or reply.is_unclear:
        return
    if reply.stop_report == STOP:
        yield "reports_stop", True
        yield from _stop_count(probing)
    elif reply.is_refused or reply.text or reply.finish:
        yield "reports_stop", False


def _stop_count(probing: Probing) -> Facts:
    most: int | None = 1
    for count in (5, 17, 64):
        accepted = probing.accepted(f"stops_{count}")
        if accepted is None:
            return
        if not accepted:
            found = _STOP_COUNT.search(probing.replies[f"stops_{count}"].error.lower())
            said = int(found[1]) if found else 0
            yield "max_stop_sequences", said if 0 < said < count else most
            return
        most = count
    known = probing.profile.max_stop_sequences
    yield "max_stop_sequences", known if known is not None and known >= 64 else None


def _forced(probing: Probing) -> Facts:
    """How a call can be forced; a model that calls anyway shows nothing."""
    refused = [probing.replies.get(name) for name in ("forced_required", "forced_named")]
    needs_none = any(
        reply is not None and reply.is_refused and "thinking" in reply.error.lower()
        for reply in refused
    )
    if needs_none:
        yield "forced_tools_need_no_thinking", True
    suffix = "_unthinking" if "forced_named_unthinking" in probing.replies else ""
    how = _forcing(probing, suffix)
    if how is not None:
        yield "forced_tools", how


def _forcing(probing: Probing, suffix: str) -> str | None:
    named = _binds(probing, f"forced_named{suffix}", "get_time")
    required = _binds(probing, f"forced_required{suffix}", "get_weather")
    control = probing.replies.get(f"forced_not{suffix}")
    if required and (control is None or control.calls or not control.is_accepted):
        required = None
    reply = probing.replies.get(f"forced_by_schema{suffix}")
    schema = None if reply is None or reply.is_unclear else _is_call(reply)
    ways = {
        "native": named and required,
        "named_only": named,
        "required_only": required,
        "json_schema": schema,
    }
    known = probing.profile.forced_tools
    if ways.get(known):
        return known
    if required is None and named:  # whether any tool can be forced stays open
        return None
    best = next((how for how, works in ways.items() if works), None)
    if best is not None:
        return best
    return "hint" if named is False and schema is False else None


def _binds(probing: Probing, name: str, tool: str) -> bool | None:
    reply = probing.replies.get(name)
    if reply is None or reply.is_unclear:
        return None
    return reply.is_accepted and bool(reply.calls) and reply.calls[0].name == tool


def _is_call(reply: Reply) -> bool:
    found = parse_object(reply.answer)
    return found is not None and found.get("name") == "get_time" and "arguments" in found


def _schemas(probing: Probing) -> Facts:
    if not probing.accepted("tool_auto"):
        return
    if (untyped := probing.accepted("schema_untyped")) is not None:
        yield "schema_types", not untyped
    if (refs := probing.accepted("schema_refs")) is not None:
        yield "schema_refs", refs
    if probing.accepted("schema_keywords") is not False:
        return
    refused = [word for word in KEYWORDS if probing.accepted(f"keyword_{word}") is False]
    if refused and len(refused) < len(KEYWORDS):
        known = probing.profile.schema_refused
        yield "schema_refused", (*known, *(word for word in refused if word not in known))


def _formats(probing: Probing) -> Facts:
    schema, object_ = probing.replies.get("json_schema"), probing.replies.get("json_object")
    if schema is None or schema.is_unclear or object_ is None or object_.is_unclear:
        return
    found = parse_object(schema.answer)
    if schema.is_accepted and found is not None and found.get("bird") == ENUM_WORD:
        yield "response_format", "json_schema"
    elif schema.is_accepted and not schema.answer:
        return  # it has thought up all its tokens
    else:
        yield "response_format", "json_object" if object_.is_accepted else "none"


def _prefill(probing: Probing) -> Facts:
    order = sorted(PREFILLS, key=lambda form: form != probing.profile.prefill)
    replies = {form: probing.replies.get(f"prefill_{form}") for form in order}
    if any(reply is None or reply.is_unclear for reply in replies.values()):
        return
    works = (form for form, reply in replies.items() if reply is not None and _continues(reply))
    yield "prefill", next(works, "hint")


def _continues(reply: Reply) -> bool:
    """Tell whether the text goes on where the message stopped; some repeat its beginning."""
    return reply.is_accepted and reply.answer.removeprefix(COUNT_PREFIX).lstrip(" ,").startswith(
        "5"
    )


def _mid_system(probing: Probing) -> Facts:
    reply = probing.replies.get("mid_system")
    if reply is None or reply.is_unclear:
        return
    if reply.is_refused:
        if "reasoning" not in reply.error.lower():  # else it is the turn before that is incomplete
            yield "mid_system", "user_text"
    elif "pelican" in reply.answer.lower():
        yield "mid_system", "native"


def _streams(probing: Probing) -> Facts:
    accepted, plain = probing.accepted("stream_options"), probing.accepted("stream")
    if accepted is not None and plain:
        yield "stream_options", accepted


def _counting(probing: Probing) -> Facts:
    kinds = ("llamacpp", "vllm", "sglang", "moonshot")
    order = sorted(kinds, key=lambda kind: kind != probing.profile.count_tokens)
    replies = [probing.replies.get(f"count_{kind}") for kind in order]
    for kind, reply in zip(order, replies, strict=True):
        if reply is not None and reply.is_accepted and _count_in(reply):
            yield "count_tokens", kind
            return
    if all(reply is not None and not reply.is_unclear for reply in replies):
        yield "count_tokens", "none"


def _count_in(reply: Reply) -> int | None:
    document = reply.document or {}
    inner = document.get("data")
    table = {**document, **(inner if isinstance(inner, dict) else {})}
    return _first_int(table, ("input_tokens", "count", "total_tokens"))


_READERS: Final[tuple[Callable[[Probing], Facts], ...]] = (
    _limits,
    _images,
    _tools,
    _thinking,
    _effort,
    _sampling,
    _stops,
    _forced,
    _schemas,
    _formats,
    _prefill,
    _mid_system,
    _streams,
    _counting,
)


def _observations(probing: Probing) -> Iterator[tuple[str, str]]:
    replies = probing.replies
    places = [
        place
        for name in ("stream", "stream_options")
        if name in replies
        for place in replies[name].usage_places
    ]
    if "stream" in replies:
        yield "usage in a stream", ", ".join(dict.fromkeys(places)) or "none"
    seen = probing.thinking_seen()
    if seen is not None:
        where = [*seen.reasoning_fields, *(["<think> tags"] if seen.inline_thinking else [])]
        yield "thinking comes in", ", ".join(where) or "token counts only"
    if (parallel := replies.get("parallel")) is not None and parallel.calls:
        yield "calls in one reply", str(len(parallel.calls))
    if (one := replies.get("parallel_off")) is not None and one.calls:
        yield "with parallel_tool_calls: false", str(len(one.calls))
    if (called := replies.get("tool_auto")) is not None and called.calls:
        yield "its tool ids look like", called.calls[0].id[:40] or "nothing"
    texts = [r.text for name in ("tool_auto", "tool_stream") if (r := replies.get(name))]
    if found := next((mark for mark in _TEXT_CALLS for text in texts if mark in text), ""):
        yield "calls left in the text", found
    if (accepted := probing.accepted("tool_ids")) is not None:
        yield "tool ids of this gateway", "accepted" if accepted else "refused"
    if (ignored := probing.accepted("unknown_field")) is not None:
        yield "unknown fields", "ignored" if ignored else "refused"
    if (reply := replies.get("max_tokens_huge")) is not None and reply.is_accepted:
        yield "max_tokens over any limit", "accepted"
