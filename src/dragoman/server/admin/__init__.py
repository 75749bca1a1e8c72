"""What administrators ask: the gateway's own admin API, and what it shares with Anthropic's."""
