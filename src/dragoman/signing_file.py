"""The signing secret: configured, or made once and kept in the data folder."""

import os
import secrets
from pathlib import Path
from typing import Final

from dragoman.settings import ServerConfig
from dragoman.tables import ConfigError

_SECRET_FILE: Final = "signing-secret"
_SECRET_BYTES: Final = 32


class FolderUnusable(ConfigError):
    """The data folder cannot keep what it should; the settings themselves are well."""


def signing_secret(server: ServerConfig) -> bytes:
    """
    Return the configured secret, or the one of the data folder, which is made if need be.

    Raises:
        FolderUnusable: It can be neither read nor made.
    """
    if server.signing_secret is not None:
        return server.signing_secret.reveal().encode()
    path = server.data_dir / _SECRET_FILE
    try:
        return _read_secret(path) or _make_secret(path)
    except OSError as error:
        line = f"server.data_dir: {path}: {error.strerror or error}"
        remedy = "or set server.signing_secret"
        if error.errno is not None:  # else it has named one that is better
            remedy = f"name a folder that can be written to, {remedy}"
        raise FolderUnusable([f"{line}; {remedy}"]) from None


def has_signing_secret(server: ServerConfig) -> bool:
    """Tell whether there is a signing secret already."""
    return server.signing_secret is not None or (server.data_dir / _SECRET_FILE).exists()


def _read_secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        return b""
    if len(secret) < _SECRET_BYTES:
        raise OSError(f"holds less than {_SECRET_BYTES} bytes: remove it, and a new one is made")
    return secret


def _make_secret(path: Path) -> bytes:
    """Make the file whole under another name first: two gateways may start at once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = secrets.token_bytes(_SECRET_BYTES)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
        _put_in_place(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return _read_secret(path)


def _put_in_place(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:  # the other one was faster
        return
    except OSError:  # a file system without links
        draft.replace(path)
