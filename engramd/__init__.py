"""Engram's daemon: a durable, ordered log of work units, streamed to every agent."""

__version__ = "0.1.0"
