"""
TOML file, environment and flags -> Config. Flags beat the environment, which beats the file.

Every problem is found in one go; ``load_config`` raises them together, ``examine_config`` returns
them beside what could be read, for ``dragoman check``.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_origin

import msgspec
import platformdirs
from msgspec import Struct

from dragoman.config_rules import profile_problems, rule_problems, rule_warnings
from dragoman.limit_settings import LimitsConfig
from dragoman.presets import LocalEngine, Preset, guess_platform, load_catalog
from dragoman.price_files import read_prices
from dragoman.settings import (
    AdminConfig,
    Config,
    KeyConfig,
    MetricsConfig,
    ModelConfig,
    RedisConfig,
    RolesConfig,
    RoutingConfig,
    Secret,
    ServerConfig,
    StoreConfig,
    TracingConfig,
    UpstreamConfig,
    UsageConfig,
)
from dragoman.tables import ConfigError, S, TableReader, join, unknown_name
from dragoman.variables import unread_variables, without_service_links

__all__ = [
    "Config",
    "ConfigError",
    "Examined",
    "KeyConfig",
    "ModelConfig",
    "RolesConfig",
    "Secret",
    "ServerConfig",
    "StoreConfig",
    "UpstreamConfig",
    "examine_config",
    "find_config",
    "load_config",
    "with_engine",
    "with_local_engine",
]

_MAX_FILE_BYTES: Final = 4 * 2**20  # far over any that a person writes
# Before the settings of a table that the environment may name one by one: DRAGOMAN_SERVER_PORT.
_PREFIX: Final = "DRAGOMAN_{}_"
_SHORT_NAMES: Final = {
    "DRAGOMAN_HOST": "host",
    "DRAGOMAN_PORT": "port",
    "DRAGOMAN_DATA_DIR": "data_dir",
    "DRAGOMAN_LOG_FORMAT": "log_format",
}
_CONFIG_VARIABLE: Final = "DRAGOMAN_CONFIG"
# Stands in for the address of a preset that does not exist, so that the rest can be checked.
NO_ADDRESS: Final = "http://unknown.invalid"
_KEY_VARIABLE: Final = "DRAGOMAN_KEY"  # a client key without any file, as containers want it
_TABLES: Final = (
    "server",
    "store",
    "usage",
    "admin",
    "metrics",
    "tracing",
    "keys",
    "upstreams",
    "models",
    "roles",
    "routing",
    "limits",
    "redis",
)


class Examined(Struct, frozen=True, kw_only=True):
    """What could be read, what stops a start, and what only deserves a look."""

    config: Config
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def load_config(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> Config:
    """
    Return the configuration.

    Args:
        path: Of the file; None: ``find_config`` looks for one, and there need be none.
        environ: The environment; ``env:NAME`` is looked up in it, too.
        overrides: Flags, by the dotted path of what they set: ``{"server.port": 8080}``.

    Raises:
        ConfigError: With every problem that was found.
    """
    examined = examine_config(path, environ=environ, overrides=overrides)
    if examined.problems:
        raise ConfigError(examined.problems, source=examined.config.source)
    return examined.config


def examine_config(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> Examined:
    """
    Return what could be read, beside everything that is wrong with it.

    Raises:
        ConfigError: The file cannot be read, or is not TOML.
    """
    path = path or find_config(environ)
    if path is not None and not path.name:
        raise ConfigError([f"'{path}' is no file; give one, or leave --config out"])
    document = _read_document(path) if path else {}
    reader = TableReader(environ)
    own = without_service_links(environ)
    for name in document:
        if name not in _TABLES:
            reader.problems.append(unknown_name(name, "unknown table", name=name, known=_TABLES))
    builder = _Builder(reader, document, environ=own)
    config = builder.build(overrides or {}, source=path)
    unread = unread_variables(own, reader.references | builder.variables)
    config = msgspec.structs.replace(config, unread=tuple(unread))
    problems = (*reader.problems, *rule_problems(config))
    return Examined(config=config, problems=problems, warnings=rule_warnings(config))


def find_config(environ: Mapping[str, str]) -> Path | None:
    """Return the file that is read when none is named; None: there is none."""
    if named := environ.get(_CONFIG_VARIABLE):
        return Path(named)
    own = platformdirs.user_config_path("dragoman", appauthor=False) / "config.toml"
    return next((path for path in (Path("dragoman.toml"), own) if path.is_file()), None)


def with_engine(
    config: Config, alias: str, base_url: str, *, display_name: str, leads: bool
) -> Config:
    """
    Return *config* with the embedded engine as the upstream ``engine`` and its model.

    Args:
        config: What was loaded.
        alias: The model's name.
        base_url: Where the engine listens.
        display_name: Shown in the list of models.
        leads: The model comes first and, where no role is written down, serves every claude name.
            Otherwise it does so only where nothing else is configured. It is never in the failover
            order of another model, and no other upstream is in its own.
    """
    upstream = UpstreamConfig(base_url=base_url, platform="llamacpp", retries=2)
    model = ModelConfig(upstream=("engine",), display_name=display_name)
    others = {name: other for name, other in config.models.items() if name != alias}
    models = {alias: model, **others} if leads else {**others, alias: model}
    leading = RolesConfig(default=alias) if leads else config.preset_roles
    return msgspec.structs.replace(
        config,
        upstreams={**config.upstreams, "engine": upstream},
        models=models,
        preset_roles=leading,
    )


def with_local_engine(config: Config, engine: LocalEngine, models: Iterable[str]) -> Config:
    """
    Return *config* with an engine that was found on this machine and the models it serves.

    Its models come after all others and take no role from them; a name that is taken already stays
    as it is, the engine's is ``<engine>/<name>`` then. Nothing changes if the address is
    configured.
    """
    known = {url for upstream in config.upstreams.values() for url in upstream.addresses}
    if engine.base_url in known or engine.base_url.replace("127.0.0.1", "localhost") in known:
        return config
    name = engine.name.casefold().replace(" ", "-")
    if name in config.upstreams:
        name = f"{name}-{engine.port}"
    upstream = UpstreamConfig(base_url=engine.base_url, platform=engine.platform)
    added = {
        f"{name}/{model}" if model in config.models else model: ModelConfig(
            upstream=(name,), upstream_model=model
        )
        for model in models
    }
    return msgspec.structs.replace(
        config, upstreams={**config.upstreams, name: upstream}, models={**config.models, **added}
    )


def _read_document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise ConfigError([f"{path}: larger than {_MAX_FILE_BYTES} bytes"])
        # With a line end at the end, every complaint of the parser names a line.
        return tomllib.loads(data.decode("utf-8-sig") + "\n")
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}: not UTF-8 (at line {line})"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: {error}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply"]) from None


class _Builder:
    """
    Builds one Config out of a document; problems go to the reader.

    Attributes:
        variables: Of the environment, that are settings.
    """

    def __init__(
        self, reader: TableReader, document: dict[str, Any], *, environ: Mapping[str, str]
    ) -> None:
        self._reader = reader
        self._document = document
        self._environ = environ
        self._catalog = load_catalog()
        self.variables = {_CONFIG_VARIABLE, _KEY_VARIABLE, *_SHORT_NAMES}

    def build(self, overrides: Mapping[str, Any], *, source: Path | None) -> Config:
        server = self._server(overrides)
        upstreams = self._upstreams()
        models = self._models(upstreams)
        automatic: dict[str, UpstreamConfig] = {}
        if server.environment_presets and not self._document.get("upstreams"):
            automatic = self._from_environment()
        upstreams |= automatic
        preset_roles = self._add_preset_models(upstreams, models)
        roles = self._reader.read(self._document.get("roles", {}), RolesConfig, "roles")
        limits = self._reader.read(self._document.get("limits", {}), LimitsConfig, "limits")
        metrics = self._reader.read(self._document.get("metrics", {}), MetricsConfig, "metrics")
        tracing = self._reader.read(self._document.get("tracing", {}), TracingConfig, "tracing")
        implied = _add_role_models(roles or RolesConfig(), upstreams, models)
        prices, problems = read_prices(server.prices_file)
        self._reader.problems += problems
        return Config(
            server=server,
            metrics=metrics or MetricsConfig(),
            tracing=tracing or TracingConfig(),
            admin=self._section("admin", AdminConfig),
            store=self._section("store", StoreConfig),
            usage=self._section("usage", UsageConfig),
            keys=self._keys(),
            upstreams=upstreams,
            models=models,
            roles=roles or RolesConfig(),
            routing=self._reader.read(self._document.get("routing", {}), RoutingConfig, "routing")
            or RoutingConfig(),
            preset_roles=preset_roles,
            limits=limits or LimitsConfig(),
            automatic=tuple(automatic),
            implied=implied,
            redis=self._redis(),
            prices=prices,
            source=source,
        )

    def _redis(self) -> RedisConfig | None:
        if "redis" not in self._document:
            return None
        return self._reader.read(self._document["redis"], RedisConfig, "redis")

    def _server(self, overrides: Mapping[str, Any]) -> ServerConfig:
        server = self._section("server", ServerConfig, _SHORT_NAMES)
        changes: dict[str, Any] = {}
        fields = {known.name: known for known in msgspec.structs.fields(ServerConfig)}
        for path, value in overrides.items():
            name = path.removeprefix("server.")
            if name not in fields:
                line = unknown_name(path, "unknown setting", name=name, known=fields)
                self._reader.problems.append(line)
                continue
            read = self._reader.read_value(value, fields[name].type, path=path)
            if read is not msgspec.UNSET:
                changes[name] = read
        if "data_dir" not in changes and not self._is_data_dir_given():
            changes["data_dir"] = platformdirs.user_data_path("dragoman", appauthor=False)
        return msgspec.structs.replace(server, **changes)

    def _is_data_dir_given(self) -> bool:
        table = self._document.get("server")
        variables = ("DRAGOMAN_DATA_DIR", "DRAGOMAN_SERVER_DATA_DIR")
        is_written = isinstance(table, dict) and "data_dir" in table
        return is_written or any(map(self._environ.get, variables))

    def _section(
        self, name: str, type_: type[S], short_names: Mapping[str, str] = MappingProxyType({})
    ) -> S:
        """Return a table whose settings the environment may change one by one."""
        read = self._reader.read(self._document.get(name, {}), type_, name) or type_()
        changes = self._variables(type_, _PREFIX.format(name.upper()), short_names)
        return msgspec.structs.replace(read, **changes)

    def _variables(
        self, type_: type[Struct], prefix: str, short_names: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return what the environment says about a table; the short names count for less."""
        fields = {known.name: known for known in msgspec.structs.fields(type_)}
        known = {f"{prefix}{name.upper()}": name for name in fields}
        self.variables |= known.keys()
        changes: dict[str, Any] = {}
        for variable, name in {**short_names, **known}.items():
            text = self._environ.get(variable, "")
            if not text:
                continue
            field_type = fields[name].type
            is_list = get_origin(field_type) is tuple
            value: Any = [part.strip() for part in text.split(",")] if is_list else text
            read = self._reader.read_value(value, field_type, path=variable, strict=False)
            if read is not msgspec.UNSET:
                changes[name] = read
        for variable in self._environ:
            if variable.startswith(prefix) and variable not in known:
                line = unknown_name(variable, "unknown setting", name=variable, known=known)
                self._reader.problems.append(line)
                self.variables.add(variable)  # that is told of
        return changes

    def _keys(self) -> tuple[KeyConfig, ...]:
        tables = self._document.get("keys", [])
        if not isinstance(tables, list):
            self._reader.problems.append("keys: expected [[keys]], each with a name and a key")
            return ()
        read = [
            self._reader.read(table, KeyConfig, f"keys[{index}]")
            for index, table in enumerate(tables)
        ]
        value = self._environ.get(_KEY_VARIABLE, "")
        if not tables and value:
            return (KeyConfig(name=_KEY_VARIABLE, key=Secret(value)),)
        return tuple(key for key in read if key is not None)

    def _entries(self, name: str) -> dict[str, Any]:
        tables = self._document.get(name, {})
        if isinstance(tables, dict):
            return tables
        self._reader.problems.append(f"{name}: expected [{name}.NAME] tables")
        return {}

    def _upstreams(self) -> dict[str, UpstreamConfig]:
        found: dict[str, UpstreamConfig] = {}
        for name, table in self._entries("upstreams").items():
            path = join("upstreams", name)
            values = self._with_preset(table, path) if isinstance(table, dict) else table
            upstream = self._reader.read(values, UpstreamConfig, path)
            if upstream is not None:
                found[name] = _tidy(upstream)
        return found

    def _with_preset(self, table: dict[str, Any], path: str) -> dict[str, Any]:
        """Return *table* over the defaults of its preset, with the platform filled in."""
        name = table.get("preset")
        if name is None:
            url = _first_url(table)
            return {"platform": guess_platform(url), **table} if url else table
        preset = self._catalog.presets.get(name) if isinstance(name, str) else None
        if preset is None:
            known = self._catalog.presets
            self._reader.problems.append(
                unknown_name(f"{path}.preset", "unknown preset", name=str(name), known=known)
            )
            return {"base_url": NO_ADDRESS, **table, "preset": None}
        values = {**preset.defaults(table.get("kind")), **table}
        if "base_urls" in table:
            values["base_url"] = table.get("base_url", "")
        elif "base_url" not in values:
            self._reader.problems.append(f"{path}.base_url: {name} has no Anthropic endpoint")
            values["base_url"] = preset.base_url
        if "api_key" not in values and "api_keys" not in values:
            variable = preset.variable_in(self._environ) or preset.key_variables[0]
            values["api_key"] = f"env:{variable}"
        return values

    def _models(self, upstreams: Mapping[str, UpstreamConfig]) -> dict[str, ModelConfig]:
        found: dict[str, ModelConfig] = {}
        for alias, table in self._entries("models").items():
            path = join("models", alias)
            model = self._reader.read(table, ModelConfig, path)
            if model is None:
                continue
            profile, problems = profile_problems(model.profile, f"{path}.profile")
            self._reader.problems += problems
            if not model.upstream and len(upstreams) == 1:
                model = msgspec.structs.replace(model, upstream=tuple(upstreams))
            found[alias] = msgspec.structs.replace(model, profile=profile)
        return found

    def _from_environment(self) -> dict[str, UpstreamConfig]:
        """Return an upstream for each vendor whose key variable is set."""
        found: dict[str, UpstreamConfig] = {}
        for name, preset in self._catalog.presets.items():
            if variable := preset.variable_in(self._environ):
                key = Secret(self._environ[variable].strip())
                values = preset.defaults("openai")
                found[name] = UpstreamConfig(preset=name, api_key=key, **values)
        return found

    def _add_preset_models(
        self, upstreams: Mapping[str, UpstreamConfig], models: dict[str, ModelConfig]
    ) -> RolesConfig:
        """
        Add the models of presets that nothing was said about; return the roles of the first one.

        A name that is taken already stays as it is: the second vendor's is ``<upstream>/<name>``.
        """
        used = {name for model in models.values() for name in model.upstream}
        roles = RolesConfig()
        for name, upstream in upstreams.items():
            if upstream.preset is None or name in used:
                continue
            preset = self._catalog.presets[upstream.preset]
            aliases = _add_models(name, preset, models)
            if roles == RolesConfig():
                roles = _renamed(preset.roles, aliases)
        return roles


def _add_models(upstream: str, preset: Preset, models: dict[str, ModelConfig]) -> dict[str, str]:
    """Add the preset's models; return the names that they got, by the preset's own."""
    aliases: dict[str, str] = {}
    for own, theirs in preset.models.items():
        alias = f"{upstream}/{own}" if own in models else own
        aliases[own] = alias
        models[alias] = ModelConfig(upstream=(upstream,), upstream_model=theirs)
    return aliases


def _add_role_models(
    roles: RolesConfig, upstreams: Mapping[str, UpstreamConfig], models: dict[str, ModelConfig]
) -> tuple[str, ...]:
    """Add models that only a role names, where one upstream leaves no doubt; return their names."""
    if len(upstreams) != 1:
        return ()
    named = [name for name in msgspec.structs.asdict(roles).values() if name]
    missing = tuple(dict.fromkeys(name for name in named if name not in models))
    models |= {name: ModelConfig(upstream=tuple(upstreams)) for name in missing}
    return missing


def _renamed(roles: RolesConfig, aliases: Mapping[str, str]) -> RolesConfig:
    values = msgspec.structs.asdict(roles)
    return RolesConfig(
        **{role: aliases.get(name) if name else None for role, name in values.items()}
    )


def _first_url(table: Mapping[str, Any]) -> str:
    """Return the address that says most about the platform, if it is one at all."""
    urls = table.get("base_urls", table.get("base_url"))
    url = urls[0] if isinstance(urls, list) and urls else urls
    return url if isinstance(url, str) else ""


def _tidy(upstream: UpstreamConfig) -> UpstreamConfig:
    """Return *upstream* with base URLs to which a path can be appended."""
    urls = tuple(_tidy_url(url, upstream.kind) for url in upstream.base_urls)
    first = upstream.base_url or (upstream.base_urls[0] if urls else "")
    return msgspec.structs.replace(
        upstream, base_url=_tidy_url(first, upstream.kind), base_urls=urls
    )


def _tidy_url(url: str, kind: str) -> str:
    url = url.rstrip("/")
    # The path of a native upstream begins with /v1 itself.
    return url.removesuffix("/v1") if kind == "anthropic" else url
