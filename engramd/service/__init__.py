"""Waiting: the committer, the fan-out, and one file per concept that clients can ask for."""
