"""Numbers with their nouns, for people."""


def counted(n: int, noun: str) -> str:
    """Return *n* with its noun: ``1 request``, ``2,000 requests``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
