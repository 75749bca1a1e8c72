"""The versions of the store's tables, and how a database stands to them."""

from typing import Final, Literal

from msgspec import Struct

# Oldest first, as in ``migrations/versions``: whether a database is up to date can be seen without
# Alembic, which takes a fifth of a second and ten megabytes.
VERSIONS: Final = ("0001", "0002", "0003", "0004")


class SchemaState(Struct, frozen=True, kw_only=True):
    """
    How a database stands to this program.

    Attributes:
        version: Of the database; None: it is empty.
        wanted: The version of this program.
    """

    version: str | None
    wanted: str = VERSIONS[-1]

    @property
    def state(self) -> Literal["empty", "current", "behind", "newer"]:
        """What follows from it."""
        if self.version is None:
            return "empty"
        if self.version == self.wanted:
            return "current"
        return "behind" if self.version in VERSIONS else "newer"


def too_new(store: object, version: str | None) -> str:
    """Return the line that says that a database is beyond this program, and what to do."""
    return (
        f"{store}: the database has version {version}, this program knows none after "
        f"{VERSIONS[-1]}: install the newer Dragoman that changed it"
    )
