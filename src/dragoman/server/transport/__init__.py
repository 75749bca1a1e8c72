"""The two seams, Exchange and Upstream, and their implementation on asyncio protocols."""
