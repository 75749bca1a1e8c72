"""What must hold between settings; each breach is one line that says where and what to do."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, get_args
from urllib.parse import parse_qsl, urlsplit

import msgspec

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.dialects.registry import family_names, is_known, model_names
from dragoman.limit_settings import budget_problems
from dragoman.presets import is_loopback
from dragoman.routing_rules import choice_problems, endpoint_problems, routing_problems
from dragoman.settings import Config, KeyConfig, Secret
from dragoman.store_urls import NO_STORE, read_store_url
from dragoman.tables import TableReader, join, nearest, unknown_name

_MONTH_DAYS: Final = 31
_MIN_OPEN_KEY: Final = 16  # characters; a key that a network can try must not be guessed
_MIN_SIGNING_SECRET: Final = 16
_KEY: Final = re.compile(r"[\x21-\x7e]{1,512}")
_SERVICE_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_CONTACT: Final = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{16,512}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALIAS: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]{0,4096}")
_ORIGIN: Final = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?")
_ALLOWED_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
# Set by the transport itself; a second one would be an illegal request, or show another credential.
_OWN_HEADERS: Final = frozenset(
    {"connection", "content-length", "content-type", "expect", "host", "transfer-encoding"}
)
_REDIS_URL: Final = re.compile(r"(?:rediss?://[^/?#\s]+|unix://(?:[^/@\s]*@)?/[^\s])")
_REDIS_DATABASE: Final = re.compile(r"(?:/[0-9]{0,5})?")
_REDIS_PARAMETERS: Final = frozenset(
    {"db", "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
)
_NOTHING: Final = "none"  # no value: the limit is not known, or the parameter is not taken
_ENDPOINTS: Final = ("/chat/completions", "/messages", "/completions")


def rule_problems(config: Config) -> tuple[str, ...]:
    """Return what stops a start, in the order of the file's tables."""
    checks: tuple[Callable[[Config], Iterator[str]], ...] = (
        _server_problems,
        _admin_problems,
        _metrics_problems,
        _tracing_problems,
        _store_problems,
        _usage_problems,
        _key_problems,
        _upstream_problems,
        _model_problems,
        choice_problems,
        routing_problems,
        _role_problems,
        _limits_problems,
        _redis_problems,
    )
    return tuple(line for check in checks for line in check(config))


def rule_warnings(config: Config) -> tuple[str, ...]:
    """Return what is allowed and yet probably not meant."""
    return tuple(_warnings(config))


def profile_problems(table: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """Return the overrides that can be used, and a line for each that cannot."""
    fields = {known.name: known for known in msgspec.structs.fields(DialectProfile)}
    reader = TableReader({})
    values: dict[str, Any] = {}
    for name, value in table.items():
        here = join(path, name)
        if name not in fields:
            reader.problems.append(unknown_name(here, "unknown key", name=name, known=fields))
            continue
        if value == _NOTHING and _may_be_nothing(fields[name].type):
            values[name] = None
            continue
        read = reader.read_value(value, fields[name].type, path=here)
        if read is not msgspec.UNSET:
            values[name] = read
    return values, reader.problems


def _may_be_nothing(type_: object) -> bool:
    """Tell whether a fact of this type may have no value, which TOML has no word for."""
    parts = get_args(type_)
    return type(None) in parts and str not in parts


def _server_problems(config: Config) -> Iterator[str]:
    server = config.server
    if not server.host or re.search(r"[\s/]", server.host):
        yield f'server.host: "{server.host}" is no host name or address'
    elif not is_loopback(server.host) and not config.keys and not _may_store_keys(config):
        yield (
            f"server.host: {server.host} can be reached from other machines, which needs a client "
            f"key: `dragoman keys create`, or [[keys]] with a name and a key, or DRAGOMAN_KEY"
        )
    for origin in server.cors_origins:
        if not _ORIGIN.fullmatch(origin):
            yield f'server.cors_origins: "{origin}" is no origin such as "https://app.example.com"'
    for host in server.allowed_hosts:
        if not _ALLOWED_HOST.fullmatch(host):
            yield f'server.allowed_hosts: "{host}" is no host name (leave out scheme and port)'
    if server.tls_key is not None and server.tls_certificate is None:
        yield "server.tls_key: there is no server.tls_certificate that it belongs to"
    secret = server.signing_secret
    if secret is not None and len(secret.reveal()) < _MIN_SIGNING_SECRET:
        yield f"server.signing_secret: shorter than {_MIN_SIGNING_SECRET} characters"


def _admin_problems(config: Config) -> Iterator[str]:
    admin, server = config.admin, config.server
    if admin.port is None:
        return
    if not admin.host or re.search(r"[\s/]", admin.host):
        yield f'admin.host: "{admin.host}" is no host name or address'
    if _keeps_nothing(config):
        yield (
            f'admin.port: with store.url = "{NO_STORE}" there is nothing to administer; '
            "leave it out"
        )
    if (admin.host, admin.port) == (server.host, server.port):
        yield "admin.port: the same as server.port; leave it out to serve the admin API there"
    if (admin.host, admin.port) == (config.metrics.host, config.metrics.port):
        yield "admin.port: the same as metrics.port"


def _keeps_nothing(config: Config) -> bool:
    return config.store.url is not None and config.store.url.reveal().strip() == NO_STORE


def _metrics_problems(config: Config) -> Iterator[str]:
    metrics = config.metrics
    token = metrics.token
    if token is not None and not _TOKEN.fullmatch(token.reveal()):
        yield "metrics.token: must be 16 to 512 visible ASCII characters, without spaces"
    if metrics.port is None:
        return
    if not metrics.host or re.search(r"[\s/]", metrics.host):
        yield f'metrics.host: "{metrics.host}" is no host name or address'
    elif not is_loopback(metrics.host) and token is None:
        yield (
            f"metrics.host: {metrics.host} can be reached from other machines, which needs "
            "metrics.token"
        )
    if (metrics.host, metrics.port) == (config.server.host, config.server.port):
        yield "metrics.port: the same as server.port; leave it out to show them there"


def _may_store_keys(config: Config) -> bool:
    """Tell whether somebody may have made keys in the store: it is not where none has ever been."""
    try:
        url = read_store_url(config.store.url, config.server.data_dir)
    except ValueError:  # reported elsewhere
        return False
    return url is not None and not url.is_missing


def _store_problems(config: Config) -> Iterator[str]:
    try:
        read_store_url(config.store.url, config.server.data_dir)
    except ValueError as error:
        yield f"store.url: {error}"


def _usage_problems(config: Config) -> Iterator[str]:
    days, records_days = config.usage.keep_sums_days, config.usage.keep_records_days
    if 0 < days < records_days:
        yield (
            f"usage.keep_sums_days: {days} is less than keep_records_days, {records_days}: sums "
            "would be gone before they are made; 0 keeps them for ever"
        )
    elif 0 < days < _MONTH_DAYS:
        yield (
            f"usage.keep_sums_days: {days} is less than {_MONTH_DAYS}: after a restart a month's "
            "budgets go on with the sums of that month; 0 keeps them for ever"
        )


def _tracing_problems(config: Config) -> Iterator[str]:
    tracing = config.tracing
    if tracing.endpoint is not None and (line := url_problem(tracing.endpoint)):
        yield f"tracing.endpoint: {line.replace('api_key', 'tracing.headers')}"
    if not _SERVICE_NAME.fullmatch(tracing.service_name):
        yield "tracing.service_name: must be 1 to 100 characters, on one line"
    yield from _header_problems(tracing.headers, "tracing")


def _key_problems(config: Config) -> Iterator[str]:
    is_open = not is_loopback(config.server.host)
    names: set[str] = set()
    values: dict[str, str] = {}
    for index, key in enumerate(config.keys):
        path = f"keys[{index}]"
        if not _ALIAS.fullmatch(key.name):
            yield f"{path}.name: must be one word of at most 200 characters"
        elif key.name in names:
            yield f'{path}.name: "{key.name}" is used twice'
        names.add(key.name)
        if line := _key_problem(key, is_open=is_open):
            yield f"{path}.key: {line}"
        elif key.key.reveal() in values:
            yield f'{path}.key: the same as that of "{values[key.key.reveal()]}"'
        values.setdefault(key.key.reveal(), key.name)
        for place, field, line in budget_problems(key.budgets):
            yield f"{path}.budgets[{place}]{field and '.'}{field}: {line}"


def _key_problem(key: KeyConfig, *, is_open: bool) -> str | None:
    value = key.key.reveal()
    if not _KEY.fullmatch(value):
        return "must be 1 to 512 visible ASCII characters, without spaces"
    if is_open and len(value) < _MIN_OPEN_KEY:
        return f"at least {_MIN_OPEN_KEY} characters, as server.host is not this machine alone"
    return None


def _upstream_problems(config: Config) -> Iterator[str]:
    for name, upstream in config.upstreams.items():
        path = join("upstreams", name)
        if not _NAME.fullmatch(name):
            yield f"{path}: a name has letters, digits, '.', '_' and '-', at most 64 of them"
        yield from endpoint_problems(upstream, path)
        is_list = bool(upstream.base_urls)
        for number, url in enumerate(upstream.addresses):
            if url and (line := url_problem(url)):
                yield f"{path}.{f'base_urls[{number}]' if is_list else 'base_url'}: {line}"
        one = (upstream.api_key,) if upstream.api_key is not None else ()
        for number, key in enumerate(upstream.api_keys or one):
            if not _KEY.fullmatch(key.reveal()):
                here = f"api_keys[{number}]" if upstream.api_keys else "api_key"
                yield f"{path}.{here}: must be 1 to 512 visible ASCII characters, without spaces"
        yield from _header_problems(upstream.headers, path)


def url_problem(url: str) -> str | None:
    """Return why *url* cannot be a base URL; None: it can."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "not a URL"
    if parts.scheme not in {"http", "https"}:
        return "must begin with http:// or https://"
    if parts.username is not None or parts.password is not None:
        return "holds a credential: put it into api_key"
    if not parts.hostname or port == 0 or re.search(r"[\s\x00-\x1f\x7f]", url):
        return "not a URL"
    if parts.query or parts.fragment:
        return "must end with its path, without '?' or '#'"
    for endpoint in _ENDPOINTS:
        if parts.path.endswith(endpoint):
            return f"leave {endpoint} out: it is added to the base URL"
    return None


def _header_problems(headers: Mapping[str, Secret], path: str) -> Iterator[str]:
    for name, value in headers.items():
        here = join(f"{path}.headers", name)
        if not _HEADER_NAME.fullmatch(name):
            yield f"{here}: no header name"
        elif name.lower() in _OWN_HEADERS:
            yield f"{here}: set by the gateway itself"
        elif not _HEADER_VALUE.fullmatch(value.reveal()):
            yield f"{here}: a value is ASCII, on one line"


def _model_problems(config: Config) -> Iterator[str]:
    for alias, model in config.models.items():
        path = f'roles: "{alias}"' if alias in config.implied else join("models", alias)
        if not _ALIAS.fullmatch(alias):
            yield f"{path}: a name is one word of at most 200 characters"
        elif alias.endswith("[1m]"):
            yield f"{path}: clients add [1m] themselves; leave it out"
        if not model.upstream:
            known = config.upstreams
            yield unknown_name(f"{path}.upstream", "required", name="", known=known)
        if model.family is not None and not is_known(model.family):
            yield _unknown_family(model.family, f"{path}.family")
        if len(set(model.upstream)) < len(model.upstream):
            yield f"{path}.upstream: names an upstream twice"
        theirs = model.upstream_model
        names = theirs if isinstance(theirs, dict) else {}
        if theirs == "" or "" in names.values():
            yield f"{path}.upstream_model: is empty; leave it out where the names are the same"
        for name in model.upstream:
            if name not in config.upstreams:
                what = f'no upstream "{name}"'
                known = config.upstreams
                yield unknown_name(f"{path}.upstream", what, name=name, known=known)
        for name in names:
            if name not in model.upstream:
                yield f'{path}.upstream_model: "{name}" is not among its upstreams'


def _unknown_family(name: str, path: str) -> str:
    what = f'nothing is known of "{name}"'
    names = (*family_names(), *model_names())
    known = names if nearest(name, names) else family_names()
    return unknown_name(path, what, name=name, known=known)


def _role_problems(config: Config) -> Iterator[str]:
    for role, alias in msgspec.structs.asdict(config.roles).items():
        if alias is not None and alias not in config.models:
            what = f'no model "{alias}"'
            yield unknown_name(f"roles.{role}", what, name=alias, known=config.models)


def _limits_problems(config: Config) -> Iterator[str]:
    if not _CONTACT.fullmatch(config.limits.contact) or config.limits.contact.isspace():
        yield (
            "limits.contact: must be 1 to 200 characters, on one line: whom people are told to "
            "ask; leave it out for the usual words"
        )


def _redis_problems(config: Config) -> Iterator[str]:
    redis = config.redis
    if redis is None:
        return
    if line := _redis_url_problem(redis.url.reveal()):
        yield f"redis.url: {line}"
    if not _NAME.fullmatch(redis.prefix):
        yield "redis.prefix: letters, digits, '.', '_' and '-', at most 64 of them"


def _redis_url_problem(url: str) -> str | None:
    """Return why *url* cannot be used, without any part of it, as it may hold a password."""
    if not _REDIS_URL.match(url):
        return "must begin with redis://HOST, rediss://HOST or unix:///PATH"
    try:
        parts = urlsplit(url)
        port = parts.port if parts.scheme != "unix" else None
    except ValueError:
        return "cannot be read; what a password holds beside letters and digits is written as %23"
    if port == 0:
        return "0 is no port"
    if parts.scheme != "unix" and not _REDIS_DATABASE.fullmatch(parts.path):
        return "after the host comes the number of a database, as in redis://HOST:6379/0"
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if parts.fragment or not names <= _REDIS_PARAMETERS:
        return f"unknown parameter; known: {', '.join(sorted(_REDIS_PARAMETERS))}"
    return None


def _warnings(config: Config) -> Iterator[str]:
    yield from config.unread
    used = {name for model in config.models.values() for name in model.upstream}
    for name, upstream in config.upstreams.items():
        path = join("upstreams", name)
        if name not in used and not upstream.discover:
            yield f"{path}: no model uses it; add [models.NAME] with upstream = {name!r}"
        for url in upstream.addresses:
            parts = urlsplit(url if not url_problem(url) else "")
            if parts.scheme == "http" and upstream.keys and not is_loopback(parts.hostname or ""):
                yield f"{path}.base_url: the key travels unencrypted over http"
                break
    if config.redis and config.server.signing_secret is None:
        yield "server.signing_secret: not set; all gateways at one Redis need the same one"
    for alias in config.implied:
        yield f"roles: {alias} has no [models] table; it is asked of the only upstream as it is"
    for index, key in enumerate(config.keys):
        if key.budgets and _keeps_nothing(config) and config.redis is None:
            yield (
                f'keys[{index}].budgets: with store.url = "{NO_STORE}" nobody knows after a start '
                "what was used before; they begin at 0"
            )
        if len(key.key.reveal()) < _MIN_OPEN_KEY:
            yield f"keys[{index}].key: shorter than {_MIN_OPEN_KEY} characters"
