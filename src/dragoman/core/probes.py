"""
What to ask a live upstream to find out how it behaves, and in which order.

Each probe is one small request that asks one question. They come in rounds, because some need to
know what others have found: how the length of a reply is limited, how thinking is switched. What
the answers mean is in ``probe_facts``.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.probe_replies import Answer, Reply, read_reply

_SHORT: Final = 96  # tokens: enough to see that it was taken
_LONG: Final = 2048  # where a model that thinks must come to its answer
_HUGE: Final = 99_999_999
CHAT: Final = "/chat/completions"

_HELLO: Final = "Hello"
NO_COMPLETION: Final = "no chat completion; is the path of base_url right?"
_NO_CALL: Final = "Do not call any function. Just say hello."
COUNT_PREFIX: Final = "Numbers: 1, 2, 3, 4,"
STOP: Final = "7"
ENUM_WORD: Final = "heron"
# A red square of 64 pixels: smaller ones are refused for their size.
_RED: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAS0lEQVR42u3PQQkAAAgA"
    "setfWiP4FgYrsKZeS0BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEDgsqnc8OJg6L"
    "n3AAAAAElFTkSuQmCC"
)
SWITCHES: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "thinking_type": ({"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}),
    "enable_thinking": ({"enable_thinking": True}, {"enable_thinking": False}),
    "template_thinking": (
        {"chat_template_kwargs": {"thinking": True}},
        {"chat_template_kwargs": {"thinking": False}},
    ),
    "template_enable_thinking": (
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ),
    "openrouter": ({"reasoning": {"enabled": True}}, {"reasoning": {"enabled": False}}),
    "effort_none": ({}, {"reasoning_effort": "none"}),
}
PREFILLS: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "native": ({}, {}),
    "continue_final_message": (
        {"continue_final_message": True, "add_generation_prompt": False},
        {},
    ),
    "prefix": ({}, {"prefix": True}),
    "partial": ({}, {"partial": True}),
}
# Keywords that engines are known to refuse, each in a schema of its own.
KEYWORDS: Final[Mapping[str, dict[str, Any]]] = {
    "$schema": {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"},
    "title": {"type": "string", "title": "T"},
    "default": {"type": "string", "default": "a"},
    "format": {"type": "string", "format": "uri"},
    "pattern": {"type": "string", "pattern": "^[a-z]+$"},
    "minLength": {"type": "string", "minLength": 1},
    "minimum": {"type": "integer", "minimum": 1},
    "exclusiveMinimum": {"type": "integer", "exclusiveMinimum": 0},
    "minItems": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    "uniqueItems": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    "const": {"type": "string", "const": "a"},
    "oneOf": {"type": "string", "oneOf": [{"type": "string"}]},
    "allOf": {"type": "string", "allOf": [{"type": "string"}]},
    "not": {"type": "string", "not": {"type": "string", "const": "b"}},
    "propertyNames": {"type": "object", "propertyNames": {"type": "string"}},
    "patternProperties": {"type": "object", "patternProperties": {"^a": {"type": "string"}}},
}


class Probe(Struct, frozen=True, kw_only=True):
    """
    One request.

    Attributes:
        name: Of what it asks.
        body: None: a GET.
        at_root: The path stands beside the base URL's, not under it.
    """

    name: str
    body: dict[str, Any] | None
    path: str = CHAT
    at_root: bool = False


class Probing:
    """
    One run: hand out probes round by round, take the answers.

    Args:
        model: The upstream's name for it.
        profile: What is known of it; only tells what to ask first.
    """

    def __init__(self, model: str, profile: DialectProfile) -> None:
        self.model = model
        self.profile = profile
        self.replies: dict[str, Reply] = {}
        self.sent: dict[str, dict[str, Any]] = {}
        self._rounds = iter((self._basics, self._questions, self._followups, self._last))
        self.limit_field = ""  # how a reply is limited; empty: in no way that was tried

    def next_round(self) -> tuple[Probe, ...]:
        """Return what to ask now; empty: all has been asked. Every answer must have been taken."""
        make = next(self._rounds, None)
        while make is not None:
            if self.problem:
                return ()
            if probes := tuple(make()):
                self.sent |= {probe.name: probe.body or {} for probe in probes}
                return probes
            make = next(self._rounds, None)
        return ()

    def take(self, name: str, answer: Answer) -> None:
        """Take the answer to the probe *name*."""
        self.replies[name] = read_reply(answer)

    @property
    def is_unreachable(self) -> bool:
        """Tell whether not one answer has come; then the problem is told in words of ours."""
        return all(reply.status == 0 for reply in self.replies.values())

    @property
    def problem(self) -> str:
        """Why nothing can be measured; empty: something can."""
        basics = [reply for name, reply in self.replies.items() if name in _LIMITS]
        if not basics or any(reply.is_accepted and reply.has_choice for reply in basics):
            return ""
        worst = next((r for r in basics if r.has_no_access), basics[0])
        said = worst.error[:200] or NO_COMPLETION
        return said if worst.status == 0 else f"it answers {worst.status}: {said}"

    def accepted(self, name: str) -> bool | None:
        """Tell whether the request was taken; None: that is not known."""
        reply = self.replies.get(name)
        if reply is None or not (reply.is_accepted or reply.is_refused):
            return None
        return reply.is_accepted

    def thinking_seen(self) -> Reply | None:
        """Return an ordinary reply with thinking in it."""
        names = [*_LIMITS, "math", "stream"]
        found = (self.replies[name] for name in names if name in self.replies)
        return next((reply for reply in found if reply.thinks), None)

    def switch(self) -> str:
        """Return the form that switches thinking, as measured; empty: none does."""
        is_on = self.thinking_seen() is not None
        order = sorted(SWITCHES, key=lambda name: name != self.profile.thinking_switch)
        for name in order:
            reply = self.replies.get(f"thinking_{name}")
            if reply is not None and reply.is_accepted and reply.thinks != is_on:
                return name
        return ""

    # -- rounds

    def _basics(self) -> list[Probe]:
        return [
            Probe(name=name, body={"model": self.model, "messages": _user(_HELLO), **fields})
            for name, fields in _LIMITS.items()
        ]

    def _questions(self) -> list[Probe]:
        order = sorted(_LIMITS, key=lambda name: name != self.profile.max_tokens_field)
        self.limit_field = next((name for name in order if self.accepted(name)), "")
        if self.limit_field == "no limit":
            self.limit_field = ""
        return [
            *self._sampling(),
            *self._streams(),
            *self._conversations(),
            *self._tools(),
            *self._formats(),
            *self._endpoints(),
        ]

    def _followups(self) -> list[Probe]:
        """Ask what depends on the answers: how thinking is switched, which keyword it was."""
        is_on = self.thinking_seen() is not None
        text = _HELLO if is_on and self.thinking_seen() is not self.replies.get("math") else _MATH
        fields = {name: pair[1 if is_on else 0] for name, pair in SWITCHES.items()}
        probes = [
            self._chat(f"thinking_{name}", text, tokens=_LONG, **asked)
            for name, asked in fields.items()
            if asked  # nothing but silence would be an ordinary request again
        ]
        if self.accepted("schema_keywords") is False:
            probes += [
                self._with_schema(f"keyword_{keyword}", {"p": part})
                for keyword, part in KEYWORDS.items()
            ]
        return probes

    def _last(self) -> list[Probe]:
        """Ask what needs thinking to be on or off."""
        switch = self.switch()
        on, off = SWITCHES[switch] if switch else ({}, {})
        probes = []
        if self.thinking_seen() is not None or switch:
            probes += [
                self._chat(name, messages, tokens=_SHORT, tools=[_WEATHER], **on)
                for name, messages in _ECHOES.items()
            ]
        refused = [self.replies.get("forced_required"), self.replies.get("forced_named")]
        if switch and any(reply is not None and reply.is_refused for reply in refused):
            probes += self._forced("_unthinking", off)
        return probes

    # -- questions of one kind

    def _sampling(self) -> list[Probe]:
        many = [f"zq{number}" for number in range(64)]
        return [
            self._chat("temperature_2", _HELLO, temperature=2.0),
            self._chat("temperature_1", _HELLO, temperature=1.0),
            self._chat("temperature_0.7", _HELLO, temperature=0.7),
            self._chat("top_p", _HELLO, top_p=0.9),
            self._chat("top_k", _HELLO, top_k=20),
            self._chat("top_k_odd", _HELLO, top_k="many"),
            self._chat("user", _HELLO, user="dragoman-probe"),
            self._chat("unknown_field", _HELLO, dragoman_probe=True),
            self._chat("effort_odd", _HELLO, reasoning_effort="dragoman-probe"),
            self._chat("effort", _HELLO, reasoning_effort="high"),
            self._chat("stop", "Count from 1 to 20.", tokens=_LONG, stop=[STOP]),
            self._chat("stops_5", _HELLO, stop=many[:5]),
            self._chat("stops_17", _HELLO, stop=many[:17]),
            self._chat("stops_64", _HELLO, stop=many),
            self._chat("max_tokens_huge", _HELLO, tokens=_HUGE),
        ]

    def _streams(self) -> list[Probe]:
        options = {"include_usage": True}
        return [
            self._chat("stream", _HELLO, stream=True),
            self._chat("stream_options", _HELLO, stream=True, stream_options=options),
            self._chat("tool_stream", _PARIS, tokens=_LONG, stream=True, tools=[_WEATHER]),
        ]

    def _conversations(self) -> list[Probe]:
        image = [
            {"type": "text", "text": "Which colour is this picture? Answer with one word."},
            {"type": "image_url", "image_url": {"url": _RED}},
        ]
        system = "From now on answer every message with the single word PELICAN."
        amid = [
            *_user(_HELLO),
            {"role": "assistant", "content": "Hello."},
            {"role": "system", "content": system},
            *_user("How are you?"),
        ]
        start = "Count from 1 to 9, separated by commas, behind the word Numbers."
        prefills = [
            self._chat(
                f"prefill_{form}",
                [*_user(start), {"role": "assistant", "content": COUNT_PREFIX, **mark}],
                **fields,
            )
            for form, (fields, mark) in PREFILLS.items()
        ]
        return [
            self._chat("math", _MATH, tokens=_LONG),
            self._chat("image", [{"role": "user", "content": image}], tokens=_LONG),
            self._chat("mid_system", amid, tokens=_LONG),
            *prefills,
        ]

    def _tools(self) -> list[Probe]:
        strict = {**_WEATHER, "function": {**_WEATHER["function"], "strict": True}}
        both = "Get the weather of Paris and of Rome. Call get_weather for both at once."
        one = {"parallel_tool_calls": False}
        node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
        return [
            self._chat("tool_auto", _PARIS, tokens=_LONG, tools=[_WEATHER]),
            self._chat("parallel", both, tokens=_LONG, tools=[_WEATHER]),
            self._chat("parallel_off", both, tokens=_LONG, tools=[_WEATHER], **one),
            self._chat("tool_ids", _history({}), tools=[_WEATHER]),
            self._chat("strict", _HELLO, tools=[strict]),
            *self._forced("", {}),
            self._with_schema("schema_untyped", {"p": {"description": "Anything."}}),
            self._with_schema("schema_refs", {"p": {"$ref": "#/$defs/node"}}, defs={"node": node}),
            self._with_schema("schema_keywords", dict(KEYWORDS)),
        ]

    def _forced(self, suffix: str, fields: dict[str, Any]) -> list[Probe]:
        """Ask for calls that the model would not make by itself."""
        tools = [_WEATHER, _TIME]
        named = {"type": "function", "function": {"name": "get_time"}}
        return [
            self._chat(f"forced_not{suffix}", _NO_CALL, tokens=_LONG, tools=[_WEATHER], **fields),
            self._chat(
                f"forced_required{suffix}",
                _NO_CALL,
                tokens=_LONG,
                tools=[_WEATHER],
                tool_choice="required",
                **fields,
            ),
            self._chat(
                f"forced_named{suffix}",
                _PARIS,
                tokens=_LONG,
                tools=tools,
                tool_choice=named,
                **fields,
            ),
            self._chat(
                f"forced_by_schema{suffix}",
                _NO_CALL,
                tokens=_LONG,
                tools=tools,
                tool_choice="none",
                response_format=_CALL_FORMAT,
                **fields,
            ),
        ]

    def _formats(self) -> list[Probe]:
        object_ = {"type": "json_object"}
        return [
            self._chat("json_object", _JSON, tokens=_LONG, response_format=object_),
            self._chat("json_schema", _NO_CALL, tokens=_LONG, response_format=_BIRD_FORMAT),
        ]

    def _endpoints(self) -> list[Probe]:
        body = {"model": self.model, "messages": _user(_HELLO)}
        anthropic = {**body, "max_tokens": 16}
        return [
            Probe(name="models", body=None, path="/models"),
            Probe(name="count_llamacpp", body=body, path=f"{CHAT}/input_tokens"),
            Probe(name="count_vllm", body=body, path="/tokenize", at_root=True),
            Probe(
                name="count_sglang",
                body=anthropic,
                path="/v1/messages/count_tokens",
                at_root=True,
            ),
            Probe(name="count_moonshot", body=body, path="/tokenizers/estimate-token-count"),
        ]

    # -- bodies

    def _chat(
        self,
        name: str,
        messages: str | list[dict[str, Any]],
        *,
        tokens: int = _SHORT,
        **fields: Any,  # noqa: ANN401 - any field of a request
    ) -> Probe:
        said = _user(messages) if isinstance(messages, str) else messages
        limit = {self.limit_field: tokens} if self.limit_field else {}
        return Probe(name=name, body={"model": self.model, "messages": said, **limit, **fields})

    def _with_schema(
        self, name: str, properties: dict[str, Any], *, defs: dict[str, Any] | None = None
    ) -> Probe:
        schema = {"type": "object", "properties": properties, **({"$defs": defs} if defs else {})}
        return self._chat(name, _HELLO, tools=[_tool("note", "Keep a note.", schema)])


def _user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def _tool(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


def _history(more: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a conversation with a tool call in it; *more* goes into the assistant's message."""
    call = {
        "id": "toolu_01AbCdEfGhIjKlMnOpQrStUv",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
    }
    return [
        *_user(_PARIS),
        {"role": "assistant", "content": "", "tool_calls": [call], **more},
        {"role": "tool", "tool_call_id": call["id"], "content": "Sunny, 20 degrees."},
    ]


def _format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    json_schema = {"name": name, "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": json_schema}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    required = list(properties)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_LIMITS: Final[Mapping[str, dict[str, Any]]] = {
    "max_tokens": {"max_tokens": _LONG},
    "max_completion_tokens": {"max_completion_tokens": _LONG},
    "no limit": {},
}
_MATH: Final = "What is 17 times 23? Think it over, then answer with the number."
_PARIS: Final = "Use get_weather with city Paris."
_JSON: Final = "Answer with a JSON object that has one member, colour."
_CITY: Final = _object({"city": {"type": "string"}})
_WEATHER: Final = _tool("get_weather", "Get the weather of a city.", _CITY)
_TIME: Final = _tool("get_time", "Get the local time of a city.", _CITY)
_BIRD_FORMAT: Final = _format("bird", _object({"bird": {"type": "string", "enum": [ENUM_WORD]}}))
_CALL_FORMAT: Final = _format(
    "call", _object({"name": {"type": "string", "enum": ["get_time"]}, "arguments": _CITY})
)
_ECHOES: Final[Mapping[str, list[dict[str, Any]]]] = {
    "echo_missing": _history({}),
    "echo_placeholder": _history({"reasoning_content": " "}),
    "echo_given": _history({"reasoning_content": "The weather of Paris is asked for."}),
    "echo_missing_plain": [
        *_user(_HELLO),
        {"role": "assistant", "content": "Hello."},
        *_user("How are you?"),
    ],
}
