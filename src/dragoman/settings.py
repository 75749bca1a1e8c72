"""
The configuration as typed values. Each field is a setting; docs/reference/configuration.md has all.

Seconds, bytes and counts carry bounds, so that a slip of the keyboard cannot switch a limit off.
"""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from dragoman.limit_settings import BudgetConfig, Limits, LimitsConfig

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
SecondsOrNever = Annotated[float, Meta(ge=0, le=86_400)]
ByteCount = Annotated[int, Meta(ge=1024, le=2**40)]
SpoolBytes = Annotated[int, Meta(ge=2**20, le=2**40)]  # less is full within a second of load
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
# Dollars for a million tokens; the most expensive models cost some hundred.
Price = Annotated[float, Meta(ge=0, le=1_000_000)]
Port = Annotated[int, Meta(ge=0, le=65_535)]

Priority = Annotated[int, Meta(ge=0, le=1_000)]
Weight = Annotated[float, Meta(gt=0, le=1_000_000)]
Balance = Literal["affinity", "weighted", "least_busy", "fastest"]

CredentialHeader = Literal["authorization", "x-api-key", "api-key"]
Platform = Literal[
    "generic",
    "kspmas",
    "deepseek",
    "moonshot",
    "zai",
    "bigmodel",
    "dashscope",
    "mimo",
    "siliconflow",
    "ark",
    "openrouter",
    "vllm",
    "sglang",
    "llamacpp",
    "ollama",
]


class Secret:
    """A credential. Printing, formatting or encoding it never shows it; ``reveal`` does."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the credential itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)


class ServerConfig(Struct, frozen=True, kw_only=True):
    """Where to listen, whom to answer, and every limit on the client's side."""

    host: str = "127.0.0.1"
    port: Port = 7777  # 0: any free one
    data_dir: Path = Path("dragoman-data")  # load_config: the user's data folder
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()  # web pages that may read answers; none by default
    environment_presets: bool = True
    local_engines: bool = True
    watch_config: bool = True
    signing_secret: Secret | None = None
    prices_file: Path | None = None
    tls_certificate: Path | None = None  # PEM, with the chain; None: plain HTTP
    tls_key: Path | None = None  # None: it stands in the file of the certificate

    early_start_s: SecondsOrNever = 10.0  # 0: never
    ping_interval_s: Seconds = 10.0
    max_body_bytes: ByteCount = 32 * 2**20  # the API's own limit
    max_messages: Count = 100_000  # the API's own limit
    max_nesting: Annotated[int, Meta(ge=16, le=500)] = 200
    max_header_bytes: ByteCount = 64 * 2**10
    header_timeout_s: Seconds = 20.0
    body_timeout_s: Seconds = 120.0
    keep_alive_timeout_s: Seconds = 75.0
    max_connections: Count = 10_000
    max_concurrent_requests: Count = 1_000
    max_waiting_requests: Annotated[int, Meta(ge=0, le=100_000)] = 200  # 0: nobody waits
    max_waiting_per_key: Count = 50
    max_wait_s: Seconds = 30.0
    shutdown_timeout_s: SecondsOrNever = 30.0

    max_reply_bytes: ByteCount = 64 * 2**20
    max_event_bytes: ByteCount = 16 * 2**20

    log_format: Literal["auto", "human", "json"] = "auto"  # auto: human on a terminal
    log_hold_s: Annotated[float, Meta(ge=0, le=10)] = 0.5  # of JSON lines; 0: each at once


class MetricsConfig(Struct, frozen=True, kw_only=True):
    """Who sees the metrics, and where. Without a port: at the gateway's own."""

    token: Secret | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65_535)] | None = None


class TracingConfig(Struct, frozen=True, kw_only=True):
    """Where traces go. Without an endpoint there are none."""

    endpoint: str | None = None
    headers: dict[str, Secret] = field(default_factory=dict)  # may hold credentials
    service_name: str = "dragoman"
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0


class AdminConfig(Struct, frozen=True, kw_only=True):
    """Where the admin API is, and what it calls us. Without a port: at the gateway's own."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    organization: Annotated[str, Meta(min_length=1, max_length=200)] = "Dragoman"


class KeyConfig(Struct, frozen=True, kw_only=True):
    """A client key; *name* is what the log shows."""

    name: str
    key: Secret
    limits: Limits = Limits()
    budgets: tuple[BudgetConfig, ...] = ()


class StoreConfig(Struct, frozen=True, kw_only=True):
    """Where keys and usage are kept, and how long what is known of keys is believed."""

    url: Secret | None = None  # may hold a password; None: a SQLite file in server.data_dir
    pool_size: Annotated[int, Meta(ge=1, le=200)] = 5
    timeout_s: Seconds = 5.0
    report_timeout_s: Seconds = 60.0
    key_cache_size: Annotated[int, Meta(ge=16, le=10_000_000)] = 10_000
    # With what a poll may take itself, a revoked key is refused within two seconds.
    key_poll_s: Annotated[float, Meta(ge=0.05, le=1)] = 0.5
    key_grace_s: SecondsOrNever = 300.0  # 0: without the database no key of it is good
    max_key_lookups_per_s: Count = 100


class UsageConfig(Struct, frozen=True, kw_only=True):
    """What is kept of requests, and for how long."""

    keep_records_days: Annotated[int, Meta(ge=0, le=36_500)] = 90  # then as sums; 0: for ever
    keep_sums_days: Annotated[int, Meta(ge=0, le=36_500)] = 0  # 0: for ever
    spool_max_bytes: SpoolBytes = 256 * 2**20  # some 500,000 records that the store has not taken


class UpstreamConfig(Struct, frozen=True, kw_only=True):
    """
    A base URL with its credential, and how long to wait for it; or several of either.

    Of several base URLs, all serve the same models; ``load_config`` makes the first one *base_url*.
    """

    base_url: str = ""
    base_urls: tuple[str, ...] = ()
    kind: Literal["openai", "anthropic"] = "openai"
    preset: str | None = None
    platform: Platform = "generic"
    api_key: Secret | None = None
    api_keys: tuple[Secret, ...] = ()
    # None: bearer, or x-api-key where the kind is anthropic.
    credential_header: CredentialHeader | None = None
    headers: dict[str, Secret] = field(default_factory=dict)  # may hold credentials, too
    connect_timeout_s: Seconds = 5.0
    first_byte_timeout_s: Seconds = 600.0
    idle_timeout_s: Seconds = 300.0
    retries: Annotated[int, Meta(ge=0, le=10)] = 2
    max_connections: Count = 1_000
    allow_private_urls: bool = False
    trusted: bool = False
    discover: bool = False
    busy_at: Count | None = None  # calls at once, at each address; more spill over to others
    limits: Limits = Limits()

    @property
    def addresses(self) -> tuple[str, ...]:
        """All its base URLs; mostly one."""
        return self.base_urls or (self.base_url,)

    @property
    def keys(self) -> tuple[Secret, ...]:
        """All its keys; mostly one, or none."""
        return self.api_keys or ((self.api_key,) if self.api_key else ())

    def credential(self) -> tuple[str, str] | None:
        """Return the header that carries the first key, in lower case, and its value."""
        return self.credential_of(self.keys[0]) if self.keys else None

    def credential_of(self, key: Secret) -> tuple[str, str]:
        """Return the header that carries *key*, in lower case, and its value."""
        default = "x-api-key" if self.kind == "anthropic" else "authorization"
        name = self.credential_header or default
        value = key.reveal()
        return name, f"Bearer {value}" if name == "authorization" else value


class ModelConfig(Struct, frozen=True, kw_only=True):
    """What a model alias stands for. None: as the upstream says."""

    upstream: tuple[str, ...] = ()  # tried in order; empty: the only upstream there is
    upstream_model: str | dict[str, str] | None = None  # by upstream, where the names differ
    display_name: str | None = None
    description: str | None = None
    family: str | None = None  # a name that is known, where the model's own says nothing
    profile: dict[str, Any] = field(default_factory=dict)  # checked against DialectProfile
    connect_timeout_s: Seconds | None = None
    first_byte_timeout_s: Seconds | None = None
    idle_timeout_s: Seconds | None = None
    retries: Annotated[int, Meta(ge=0, le=10)] | None = None
    continue_empty: Literal["never", "unsent", "always"] = "always"
    ask_again_for_call: bool = True
    max_repeats: Annotated[int, Meta(ge=0, le=100)] = 5  # 0: nothing is a loop
    nudge_repeats: bool = False
    # None: in the order of the list; the addresses and keys of one upstream by affinity.
    balance: Balance | None = None
    priority: dict[str, Priority] = field(default_factory=dict)  # by upstream; lower ones first
    weight: dict[str, Weight] = field(default_factory=dict)  # by upstream; 1 where it is left out
    fallbacks: tuple[str, ...] = ()  # models that answer where no upstream of this one can
    long_prompt_fallback: str | None = None
    image_fallback: str | None = None
    hedge_percentile: Annotated[float, Meta(ge=50, lt=100)] | None = None  # None: no second call
    hedge_min_s: Seconds = 1.0
    join_resends: bool = False
    limits: Limits = Limits()


class RoutingConfig(Struct, frozen=True, kw_only=True):
    """When an upstream that fails is left alone, and for how long."""

    failures_to_open: Annotated[int, Meta(ge=1, le=1_000)] = 5
    open_s: Seconds = 5.0  # doubles each time that the first call after it fails, too
    max_open_s: Seconds = 120.0
    rate_limited_s: Seconds = 5.0  # where a 429 names no time; doubles
    max_rate_limited_s: Seconds = 60.0  # of any wait that an upstream asks for
    refused_s: Seconds = 600.0  # after 401, 402, 403


class PriceConfig(Struct, frozen=True, kw_only=True):
    """
    What a model costs in US dollars per million tokens. None: as ``input_per_mtok``.

    Attributes:
        models: Its names at the upstream.
        platforms: Where the price holds; it holds everywhere if there are no upstreams either.
        upstreams: The same by the names in the configuration.
        date: When the price was right.
    """

    models: tuple[str, ...]
    input_per_mtok: Price
    output_per_mtok: Price
    cached_input_per_mtok: Price | None = None
    cache_write_per_mtok: Price | None = None
    platforms: tuple[Platform, ...] = ()
    upstreams: tuple[str, ...] = ()
    source: str = ""
    date: dt.date | None = None


class RolesConfig(Struct, frozen=True, kw_only=True):
    """
    What the names of Claude models become; *default* serves those that match no role.

    The last four are for Claude Code's calls beside the conversation, whatever model they name;
    without one they go where they say, and titles to *background*.
    """

    opus: str | None = None
    sonnet: str | None = None
    haiku: str | None = None
    fable: str | None = None
    default: str | None = None
    background: str | None = None
    classifier: str | None = None
    title: str | None = None
    web_search: str | None = None


class RedisConfig(Struct, frozen=True, kw_only=True):
    """Where several gateways keep what they share, and how long to wait for it."""

    url: Secret  # redis://, rediss:// or unix://; may hold a password
    prefix: str = "dragoman"  # of all keys, so that other programs may use the same server
    timeout_s: Annotated[float, Meta(gt=0, le=30)] = 0.5  # of one round trip
    connect_timeout_s: Seconds = 2.0
    retry_interval_s: Seconds = 0.5  # while it is away
    max_connections: Count = 64


class Config(Struct, frozen=True, kw_only=True):
    """
    Everything a gateway is built from.

    Attributes:
        preset_roles: From the presets in use; *roles* stands above them.
        automatic: Upstreams that were found in the environment, not written down.
        implied: Models that only a role names; they are asked of the one upstream there is.
        served_at: Base URLs for models that only some of their upstream's addresses list.
        redis: None: nothing is shared with gateways on other machines.
        prices: The user's own first, then those that come with the package.
        unread: What is to be said of variables that bear our name and mean nothing.
        source: The file, None without one.
    """

    server: ServerConfig = ServerConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()
    admin: AdminConfig = AdminConfig()
    store: StoreConfig = StoreConfig()
    usage: UsageConfig = UsageConfig()
    keys: tuple[KeyConfig, ...] = ()
    upstreams: dict[str, UpstreamConfig] = field(default_factory=dict)
    models: dict[str, ModelConfig] = field(default_factory=dict)
    roles: RolesConfig = RolesConfig()
    routing: RoutingConfig = RoutingConfig()
    preset_roles: RolesConfig = RolesConfig()
    limits: LimitsConfig = LimitsConfig()
    automatic: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()
    served_at: dict[str, tuple[str, ...]] = field(default_factory=dict)
    redis: RedisConfig | None = None
    prices: tuple[PriceConfig, ...] = ()
    unread: tuple[str, ...] = ()
    source: Path | None = None

    def upstream_model(self, alias: str, upstream: str) -> str:
        """Return the name that *upstream* knows the model *alias* by."""
        name = self.models[alias].upstream_model
        if isinstance(name, dict):
            name = name.get(upstream)
        return name or alias
