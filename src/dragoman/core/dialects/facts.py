"""The form in which families and platforms state their facts; the registry composes them."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from dragoman.core.dialects.profile import ThinkingSwitch

# Forms that models of any family write, from memory of others or of a client's prompt: JSON in a
# tag, and tags for each parameter. They stand behind a family's own.
COMMON_FORMS: Final = ("hermes", "invoke", "qwen3_coder")

Input = Literal["text", "image", "audio", "video"]

# Values of DialectProfile fields. Any: each field has a type of its own, checked by the tests.
Facts = Mapping[str, Any]


class Source(msgspec.Struct, frozen=True):
    """Where facts were read, and when; a note is dated by its own date."""

    what: str
    read: str  # YYYY-MM-DD or YYYY-MM


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """
    One model or generation of a family.

    Attributes:
        name: Its usual id.
        pattern: Regular expression for the start of an id, in lower case, that means it.
        weights: What holds wherever these weights are served.
        vendor: What holds at the vendor's own API, beyond the family's ``vendor``.
        hosts: What holds on one platform only.
        ids: Under which vendors and hosts list it.
        inputs: What the model itself takes; what is sent of it is in the profile.
        thinks_by_default: Where a request says nothing; None: unknown, or it is no choice.
    """

    name: str
    pattern: str
    weights: Facts
    vendor: Facts = msgspec.field(default_factory=dict)
    hosts: Mapping[str, Facts] = msgspec.field(default_factory=dict)
    ids: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ("text",)
    thinks_by_default: bool | None = None


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """
    The models of one maker, most particular patterns first.

    Attributes:
        platforms: Where the vendor's own API is spoken.
        weights: What holds for every model wherever it is served.
        vendor: What holds at the vendor's own API for every model.
        vendor_switch: How thinking is switched there.
        template_switch: How thinking is switched where the chat template decides.
        tokenizer: The package that carries it; empty: none is known.
        sources: Of all of this.
    """

    name: str
    models: tuple[ModelFacts, ...]
    platforms: frozenset[str] = frozenset()
    weights: Facts = msgspec.field(default_factory=dict)
    vendor: Facts = msgspec.field(default_factory=dict)
    vendor_switch: ThinkingSwitch = "none"
    template_switch: ThinkingSwitch = "none"
    tokenizer: str = ""
    sources: tuple[Source, ...] = ()


class PlatformFacts(msgspec.Struct, frozen=True, kw_only=True):
    """
    A server or a host of many families.

    Attributes:
        facts: What holds for every model there, above the weights.
        switch: How thinking is switched: by the server's own field, or as the family's vendor or
            template has it.
        thinking_facts: What holds beside that for models that think.
    """

    facts: Facts = msgspec.field(default_factory=dict)
    switch: ThinkingSwitch | Literal["vendor", "template"] = "none"
    thinking_facts: Facts = msgspec.field(default_factory=dict)
