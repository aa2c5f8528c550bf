"""`engram status`: the daemon's facts."""

from __future__ import annotations

from ..common import Common


def run(common: Common) -> None:
    """Print the facts; never start a daemon to do it."""
    with common.client(autostart=False) as client:
        common.output().mapping(client.status())
