"""
Model names -> routes: an alias and its deployments, in the order in which they are tried.

A name is looked for as it is, then without the suffix ``[1m]``, in any case, without the prefix
``claude-`` or ``anthropic/`` under which Claude Code discovers models, and last as the name of a
Claude model, by its role.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.dialects.registry import find_profile, is_known
from dragoman.core.errors import PermissionDenied, UnknownModel
from dragoman.core.guards import Guards
from dragoman.core.plan import Deployment
from dragoman.policy.access import Caller
from dragoman.policy.endpoints import endpoints_of
from dragoman.policy.hedges import HedgeRule
from dragoman.policy.side_traffic import SIDE_ROLES, SideRole
from dragoman.settings import Balance, Config, ModelConfig, RolesConfig
from dragoman.tables import nearest

ROLES: Final = ("opus", "sonnet", "haiku", "fable")
_WINDOW_SUFFIX: Final = "[1m]"  # asks Claude Code for a long window; no part of the name
_PREFIXES: Final = ("claude-", "anthropic/")
_BARE: Final = frozenset({*ROLES, "default", "claude"})
_MAX_SHOWN: Final = 100


class Target(Struct, frozen=True, kw_only=True):
    """
    A deployment at one endpoint, and what the configuration says about calling it.

    Attributes:
        endpoint: Name of the address and key to use.
        id: The endpoint with the model's name there.
        home: The same by address and key, whatever their place in the list: conversations stay.
        priority: Lower ones are asked first.
        weight: Its share among those of the same priority.
        busy_at: Calls at once from which on it counts as overloaded; None: by its fair share.
    """

    deployment: Deployment
    endpoint: str
    id: str
    home: str
    priority: int = 0
    weight: float = 1.0
    busy_at: int | None = None
    connect_timeout_s: float
    first_byte_timeout_s: float
    idle_timeout_s: float
    retries: int
    trusted: bool = False
    allow_private_urls: bool = False
    url_hosts: tuple[str, ...] = ()  # of the caller's workspace; see ``for_caller``

    def for_caller(self, caller: Caller) -> "Target":
        """Return the target with what the caller's workspace says of it."""
        workspace = caller.workspace
        if workspace is None or not workspace.fetch_hosts:
            return self
        return msgspec.structs.replace(self, url_hosts=workspace.fetch_hosts)


class Route(Struct, frozen=True, kw_only=True):
    """
    A model alias and where it leads.

    Attributes:
        targets: In the order of the configuration.
        balance: How targets of the same priority are put in order for a request.
        fallbacks: Aliases that may answer where none of the targets can.
        long_prompt_fallback: Alias for prompts that do not fit.
        image_fallback: Alias for requests with images that the model does not see.
        hedge: When a second target is asked beside the first; None: never.
        joins_resends: Identical requests of one key share a reply that has not begun.
        is_alone: One target, and no other model, may answer: there is nothing to choose.
    """

    alias: str
    targets: tuple[Target, ...]
    display_name: str
    description: str | None = None
    balance: Balance = "affinity"
    fallbacks: tuple[str, ...] = ()
    long_prompt_fallback: str | None = None
    image_fallback: str | None = None
    hedge: HedgeRule | None = None
    joins_resends: bool = False
    is_alone: bool = False

    @property
    def upstreams(self) -> tuple[str, ...]:
        """Names of the upstreams, in order; one may have several endpoints."""
        return tuple(dict.fromkeys(target.deployment.upstream for target in self.targets))

    @property
    def profile(self) -> DialectProfile:
        """Of the first target: what clients are told about the model."""
        return self.targets[0].deployment.profile


class ListedModel(Struct, frozen=True, kw_only=True):
    """One entry of the list of models; several ids may lead to one route."""

    id: str
    route: Route


class Routes:
    """All routes of a configuration without problems. Immutable."""

    def __init__(self, config: Config) -> None:
        self._routes = {alias: _route(config, alias) for alias in config.models}
        self._folded = {alias.casefold(): alias for alias in reversed(self._routes)}
        self._roles = _roles(config)
        self._side_routes = self._find_side_routes(config)

    def __bool__(self) -> bool:
        return bool(self._routes)

    @property
    def roles(self) -> dict[str, str]:
        """Role -> alias, for every role and ``default``; empty without models."""
        return dict(self._roles)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names of the models, as configured."""
        return tuple(self._routes)

    def resolve(self, model: str) -> Route:
        """
        Return the route that *model* means.

        Raises:
            UnknownModel: None; the message names the nearest one.
        """
        if (found := self._routes.get(model)) is not None:
            return found
        name = model.casefold().removesuffix(_WINDOW_SUFFIX).strip()
        alias = self._find(name)
        if alias is None:
            raise UnknownModel(self._explain(model, name))
        return self._routes[alias]

    def choose(self, model: str, *, role: SideRole, caller: Caller) -> Route:
        """
        Return the route for a request: of its role, if there is one that the caller may use.

        Args:
            model: The name that was sent.
            role: What the request is for.
            caller: Who sends it.

        Raises:
            UnknownModel: No route has this name.
            PermissionDenied: The caller may not use the model.
        """
        route = self._side_routes.get(role) if role else None
        if route is None or not may_use(caller, route):
            route = self._routes.get(model) or self.resolve(model)
            if caller.workspace is not None or caller.key is not None:
                caller.check_model(route.alias)
        return route

    def listed_models(self) -> tuple[ListedModel, ...]:
        """
        Return the list of models in the order of the configuration.

        Claude Code shows only ids that hold ``claude`` or ``anthropic``, so that the other models
        are listed a second time under such a name, after all real ones.
        """
        own = [ListedModel(id=alias, route=route) for alias, route in self._routes.items()]
        return (*own, *self._discoverable())

    def _find_side_routes(self, config: Config) -> dict[SideRole, Route]:
        written = _known(config.roles, config)
        aliases = {role: written.get(role) for role in SIDE_ROLES}
        aliases["title"] = aliases["title"] or aliases["background"]
        return {role: self._routes[alias] for role, alias in aliases.items() if alias}

    def _discoverable(self) -> Iterator[ListedModel]:
        for alias, route in self._routes.items():
            folded = alias.casefold()
            if "claude" in folded or "anthropic" in folded:
                continue
            name = f"anthropic/{alias}" if "/" in alias else f"claude-{alias}"
            if self._find_named(name.casefold()) == alias:
                yield ListedModel(id=name, route=route)

    def _find(self, name: str) -> str | None:
        if (alias := self._find_named(name)) is not None:
            return alias
        if "claude" not in name and name not in _BARE:
            return None
        role = next((role for role in ROLES if role in name), "default")
        return self._roles.get(role)

    def _find_named(self, name: str) -> str | None:
        """Return the alias of a name in lower case, by itself or behind a prefix."""
        if (alias := self._folded.get(name)) is not None:
            return alias
        for prefix in _PREFIXES:
            rest = name.removeprefix(prefix)
            if rest != name and (alias := self._folded.get(rest)) is not None:
                return alias
        return None

    def _explain(self, model: str, name: str) -> str:
        shown = model if len(model) <= _MAX_SHOWN else f"{model[:_MAX_SHOWN]}..."
        text = f"model: {msgspec.json.encode(shown).decode()} is not served here"
        if not self._routes:
            return f"{text}; no model is configured"
        near = nearest(name[:_MAX_SHOWN], self._routes)
        hint = f"; did you mean {msgspec.json.encode(near).decode()}?" if near else ";"
        return f"{text}{hint} GET /v1/models lists all names"


def may_use(caller: Caller, route: Route) -> bool:
    """Tell whether *caller* may be led to *route* without having asked for it."""
    try:
        caller.check_model(route.alias)
    except PermissionDenied:
        return False
    return True


def _roles(config: Config) -> dict[str, str]:
    """Return what every role becomes; what is written down stands above what a preset says."""
    if not config.models:
        return {}
    written, preset = _known(config.roles, config), _known(config.preset_roles, config)
    default = (
        written.get("default")
        or preset.get("default")
        or next((written[role] for role in ("sonnet", *ROLES) if role in written), None)
        or next((preset[role] for role in ("sonnet", *ROLES) if role in preset), None)
        or next(iter(config.models))
    )
    roles = {"default": default}
    for role in ROLES:
        own = written.get(role) or written.get("default") or preset.get(role)
        roles[role] = own or default
    return roles


def _known(roles: RolesConfig, config: Config) -> dict[str, str]:
    named = msgspec.structs.asdict(roles)
    return {role: alias for role, alias in named.items() if alias in config.models}


def _route(config: Config, alias: str) -> Route:
    model = config.models[alias]
    targets = tuple(_targets(config, alias))
    has_stand_in = model.fallbacks or model.long_prompt_fallback or model.image_fallback
    return Route(
        alias=alias,
        targets=targets,
        display_name=model.display_name or alias,
        description=model.description,
        balance=model.balance or "affinity",
        fallbacks=model.fallbacks,
        long_prompt_fallback=model.long_prompt_fallback,
        image_fallback=model.image_fallback,
        hedge=_hedge_rule(model),
        joins_resends=model.join_resends,
        is_alone=len(targets) == 1 and not has_stand_in,
    )


def _hedge_rule(model: ModelConfig) -> HedgeRule | None:
    if model.hedge_percentile is None:
        return None
    return HedgeRule(percentile=model.hedge_percentile, min_s=model.hedge_min_s)


def _targets(config: Config, alias: str) -> Iterator[Target]:
    """Yield the targets of every upstream: as many as it has endpoints that serve the model."""
    model, served_at = config.models[alias], config.served_at.get(alias)
    is_list = model.balance is None and not model.priority  # its order is the priority
    for number, name in enumerate(model.upstream):
        target = _target(config, alias, name)
        priority = number if is_list else model.priority.get(name, 0)
        for endpoint in endpoints_of(name, config.upstreams[name]):
            if served_at is not None and endpoint.base_url not in served_at:
                continue
            yield msgspec.structs.replace(
                target,
                endpoint=endpoint.name,
                id=f"{endpoint.name} {target.deployment.model}",
                home=f"{endpoint.mark} {target.deployment.model}",
                priority=priority,
            )


def _target(config: Config, alias: str, name: str) -> Target:
    model, upstream = config.models[alias], config.upstreams[name]
    upstream_model = config.upstream_model(alias, name)
    # An endpoint's id ("ep-2026...") says nothing about the model behind it; the alias may.
    known_as = model.family or (upstream_model if is_known(upstream_model) else alias)
    profile = find_profile(known_as, platform=upstream.platform, overrides=model.profile)
    deployment = Deployment(
        upstream=name,
        model=upstream_model,
        profile=profile,
        kind=upstream.kind,
        guards=Guards(
            continue_empty=model.continue_empty,
            ask_again_for_call=model.ask_again_for_call,
            max_repeats=model.max_repeats,
            nudge_repeats=model.nudge_repeats,
        ),
    )
    return Target(
        deployment=deployment,
        endpoint=name,
        id=name,
        home=name,
        weight=model.weight.get(name, 1.0),
        busy_at=upstream.busy_at,
        connect_timeout_s=_first(model.connect_timeout_s, upstream.connect_timeout_s),
        first_byte_timeout_s=_first(model.first_byte_timeout_s, upstream.first_byte_timeout_s),
        idle_timeout_s=_first(model.idle_timeout_s, upstream.idle_timeout_s),
        retries=upstream.retries if model.retries is None else model.retries,
        trusted=upstream.trusted,
        allow_private_urls=upstream.allow_private_urls,
    )


def _first(own: float | None, inherited: float) -> float:
    return inherited if own is None else own
