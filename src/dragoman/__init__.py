"""Dragoman: an Anthropic-API gateway in front of any model."""

__version__ = "0.1.0"
