"""The form in which families and platforms state their facts; the registry composes them."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from dragoman.core.dialects.profile import ThinkingSwitch

# Values of DialectProfile fields. Any: each field has a type of its own, checked by the tests.
Facts = Mapping[str, Any]


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """
    One model or generation of a family.

    Attributes:
        name: Its usual id.
        pattern: Regular expression for the start of an id, in lower case, that means it.
        weights: What holds wherever these weights are served.
        vendor: What holds at the vendor's own API, beyond the family's ``vendor``.
        hosts: What holds on one platform only.
    """

    name: str
    pattern: str
    weights: Facts
    vendor: Facts = msgspec.field(default_factory=dict)
    hosts: Mapping[str, Facts] = msgspec.field(default_factory=dict)


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """
    The models of one maker, most particular patterns first.

    Attributes:
        platforms: Where the vendor's own API is spoken.
        weights: What holds for every model wherever it is served.
        vendor: What holds at the vendor's own API for every model.
        vendor_switch: How thinking is switched there.
        template_switch: How thinking is switched where the chat template decides.
    """

    name: str
    models: tuple[ModelFacts, ...]
    platforms: frozenset[str] = frozenset()
    weights: Facts = msgspec.field(default_factory=dict)
    vendor: Facts = msgspec.field(default_factory=dict)
    vendor_switch: ThinkingSwitch = "none"
    template_switch: ThinkingSwitch = "none"


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
