"""Sockets: listeners and the session that serves one connection."""
