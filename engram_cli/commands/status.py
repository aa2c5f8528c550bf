"""`engram status`: the daemon's facts."""

from __future__ import annotations

from typing import Any

from ..common import Common


def run(common: Common) -> None:
    """Print the facts; never start a daemon to do it."""
    out = common.output()
    with common.client(autostart=False) as client:
        facts = client.status()
    subscribers = [] if out.json else facts.pop("subscribers", [])
    out.mapping(facts)
    for subscriber in subscribers:
        out.fact("subscriber", describe(subscriber))


def describe(subscriber: dict[str, Any]) -> str:
    """A subscriber in words."""
    contexts = " ".join(subscriber["contexts"]) or "everything"
    more = f" and {subscriber['more']} more" if "more" in subscriber else ""
    return f"{subscriber['agent']} reads {contexts}{more}: {subscriber['state'].replace('_', ' ')}, lag {subscriber['lag']}"
