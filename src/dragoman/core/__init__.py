"""Pure translation: bytes in, bytes out; no I/O, clock or randomness."""
