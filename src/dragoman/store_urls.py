"""Where the store is: the URL of a SQLite file or of a PostgreSQL database, read strictly."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from msgspec import Struct

from dragoman.settings import Secret

NO_STORE: Final = "none"
DEFAULT_FILE: Final = "dragoman.db"  # in the data folder
_FORMS: Final = 'sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE, or "none"'
CHECKED_MODES: Final = ("verify-ca", "verify-full")  # of a server's certificate
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", *CHECKED_MODES)
_DEFAULT_PORT: Final = 5432


class PostgresAddress(Struct, frozen=True, kw_only=True):
    """
    A database of a PostgreSQL server.

    Attributes:
        host: A name, an address, or the folder of a socket.
        ssl_mode: How the connection is encrypted, in PostgreSQL's words; None: if the server can.
        ssl_root: Certificates that the server's is checked against; None: those of the system.
        statement_cache_size: Prepared statements of a connection; None: the driver's default.
    """

    host: str
    port: int
    database: str
    user: str | None
    password: str | None
    ssl_mode: str | None = None
    ssl_root: Path | None = None
    statement_cache_size: int | None = None

    def __repr__(self) -> str:
        return f"PostgresAddress({self.host}:{self.port}/{self.database})"


class StoreUrl(Struct, frozen=True, kw_only=True):
    """One of both: the file of a SQLite database, or the address of a PostgreSQL one."""

    path: Path | None = None
    address: PostgresAddress | None = None

    @property
    def is_missing(self) -> bool:
        """Whether there is surely nothing yet: a file that nobody has made."""
        if self.path is None:
            return False
        try:
            return not self.path.exists()
        except OSError:  # a folder that may not be looked into may hold one
            return False

    def __str__(self) -> str:
        """Return what people may see: no user, no password."""
        if self.address is None:
            return f"sqlite {self.path}"
        at = self.address
        return f"postgresql {at.host}:{at.port}/{at.database}"


def read_store_url(url: Secret | None, data_dir: Path) -> StoreUrl | None:
    """
    Return where the store is; None: there shall be none.

    Args:
        url: As configured; None: a file in the data folder.
        data_dir: The data folder.

    Raises:
        ValueError: It has no form that is known; the message never shows it, as it may hold a
            password.
    """
    if url is None:
        return StoreUrl(path=data_dir / DEFAULT_FILE)
    text = url.reveal().strip()
    if text == NO_STORE:
        return None
    scheme, _, rest = text.partition(":")
    if scheme == "sqlite":
        if not rest.startswith("///") or len(rest) == len("///"):
            raise ValueError("sqlite needs a file: sqlite:///relative or sqlite:////absolute")
        return StoreUrl(path=Path(unquote(rest.removeprefix("///"))).expanduser())
    if scheme in ("postgresql", "postgres"):
        return StoreUrl(address=_read_address(text))
    raise ValueError(f"unknown form; use {_FORMS}")


def _read_address(text: str) -> PostgresAddress:
    try:
        parts = urlsplit(text)
        port = parts.port or _DEFAULT_PORT
    except ValueError:
        raise ValueError(f"cannot be read; use {_FORMS}") from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    host = query.pop("host", None) or parts.hostname
    database = unquote(parts.path.removeprefix("/"))
    if not host or not database or "/" in database:
        raise ValueError("postgresql needs a host and a database: postgresql://HOST/DATABASE")
    return PostgresAddress(
        host=host,
        port=port,
        database=database,
        user=_unquoted(parts, "username"),
        password=_unquoted(parts, "password"),
        **_read_options(query),
    )


def _unquoted(parts: SplitResult, name: str) -> str | None:
    value = getattr(parts, name)
    return None if value is None else unquote(value)


def _read_options(query: dict[str, str]) -> dict[str, Any]:
    mode, root = query.pop("sslmode", None), query.pop("sslrootcert", None)
    size = query.pop("statement_cache_size", None)  # 0 behind a pooler that shares connections
    if query:
        known = "host, sslmode, sslrootcert, statement_cache_size"
        raise ValueError(f"unknown parameter; known: {known}")
    if mode is not None and mode not in _SSL_MODES:
        raise ValueError(f"sslmode: expected one of {', '.join(_SSL_MODES)}")
    if root is not None and mode not in CHECKED_MODES:
        raise ValueError(f"sslrootcert: goes with sslmode={' or '.join(CHECKED_MODES)}")
    if size is not None and (not size.isdecimal() or len(size) > 6):
        raise ValueError("statement_cache_size: expected a number, 0 to have none")
    return {
        "ssl_mode": mode,
        "ssl_root": None if root is None else Path(root).expanduser(),
        "statement_cache_size": None if size is None else int(size),
    }
