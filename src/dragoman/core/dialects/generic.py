"""Names that say something whoever made the model. From memory, 2026-11; limits are left open."""

from typing import Final

from dragoman.core.dialects.facts import Family, ModelFacts

GENERIC_FAMILY: Final = Family(
    name="generic",
    models=(
        ModelFacts(
            name="gpt-oss",
            pattern=r"gpt-oss",
            weights={
                "context_window": 131_072,
                "thinking": "always",
                "effort_values": ("low", "medium", "high"),
            },
        ),
        ModelFacts(
            name="any-vision",
            pattern=r"(?:llava|pixtral|internvl|gemma-?3|llama-?4|gpt-4o|gpt-4[.]1"
            r"|[a-z0-9._-]+-(?:vl|vision)(?![a-z0-9]))",
            weights={"sees_images": True},
        ),
    ),
)
