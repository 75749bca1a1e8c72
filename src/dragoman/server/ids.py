"""Fresh ids, of the operating system's randomness."""

import secrets


def new_request_id() -> str:
    """Return an id for one request; every answer carries it."""
    return f"req_{secrets.token_hex(12)}"


def new_message_id() -> str:
    """Return an id for one reply."""
    return f"msg_{secrets.token_hex(12)}"


def new_nonce() -> str:
    """Return eleven characters of base64url, 64 bits of them random (see ``core.tool_ids``)."""
    return secrets.token_urlsafe(8)
