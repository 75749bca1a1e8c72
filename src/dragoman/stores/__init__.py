"""What outlives a request: adapters behind the interfaces of ``policy``."""
