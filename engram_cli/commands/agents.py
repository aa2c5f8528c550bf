"""`engram agents`: who is there, and who has been."""

from __future__ import annotations

from .. import common as c


def run(common: c.Common, context: str | None) -> None:
    """List every agent, or a context's members."""
    with common.client() as client:
        members = client.agents(None if context is None else c.context(context))
        common.output().table(members, ("id", "units", "first_seen", "last_seen", "present_since", "holds"))
