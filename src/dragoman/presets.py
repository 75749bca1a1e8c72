"""Vendors and local engines that need no configuration file: presets.toml as typed values."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field

from dragoman.settings import CredentialHeader, Platform, RolesConfig


class Preset(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vendor. ``models`` maps an alias to the vendor's name for it."""

    title: str
    base_url: str
    key_variables: tuple[str, ...]
    platform: Platform
    models: dict[str, str]
    roles: RolesConfig
    anthropic_base_url: str | None = None
    credential_header: CredentialHeader | None = None
    anthropic_credential_header: CredentialHeader | None = None

    def variable_in(self, environ: Mapping[str, str]) -> str | None:
        """Return the first of its key variables that holds something."""
        return next((name for name in self.key_variables if environ.get(name, "").strip()), None)

    def defaults(self, kind: object) -> dict[str, Any]:
        """Return the settings of an upstream of this vendor, as its table would hold them."""
        is_native = kind == "anthropic"
        values = {
            "base_url": self.anthropic_base_url if is_native else self.base_url,
            "credential_header": (
                self.anthropic_credential_header if is_native else self.credential_header
            ),
            "platform": self.platform,
        }
        return {name: value for name, value in values.items() if value is not None}


class LocalEngine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that usually listens at *port* of this machine."""

    name: str
    port: int
    platform: Platform
    own_port: bool = False

    @property
    def base_url(self) -> str:
        """Its OpenAI base URL."""
        return f"http://127.0.0.1:{self.port}/v1"


class Catalog(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of presets.toml; ``presets`` in the order in which the environment is searched."""

    presets: dict[str, Preset]
    hosts: dict[str, Platform]
    local_engines: tuple[LocalEngine, ...] = field(default_factory=tuple)


@cache
def load_catalog() -> Catalog:
    """Return the packaged presets."""
    text = files("dragoman").joinpath("presets.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Catalog)


def guess_platform(base_url: str) -> Platform:
    """Return what the address alone says about the platform; most say nothing."""
    catalog = load_catalog()
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "generic"
    for known, platform in catalog.hosts.items():
        if host == known or host.endswith(f".{known}"):
            return platform
    if is_loopback(host):
        for engine in catalog.local_engines:
            if engine.own_port and engine.port == port:
                return engine.platform
    return "generic"


def is_loopback(host: str) -> bool:
    """Return whether *host*, a name or an address, is this machine for certain."""
    if host.casefold() == "localhost":
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
