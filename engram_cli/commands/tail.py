"""`engram tail`: the last units of contexts, and with -f everything that follows."""

from __future__ import annotations

from typing import Any

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import ENTRY_KINDS

from .. import common as c

LAST = 10


def run(
    common: c.Common,
    contexts: list[str],
    number: int | None,
    follow: bool,
    events: bool,
    kinds: list[str] | None,
    filters: dict[str, Any],
) -> None:
    """Print the stream; whatever is at hand is flushed before waiting for more."""
    out = common.output()
    names = [c.context(name) for name in contexts]
    starts = [
        option for option, given in (("-n", number is not None), ("--since", "since" in filters), ("--after", "after" in filters)) if given
    ]
    if len(starts) > 1:
        raise EngramError("invalid", f"{' and '.join(starts)}: give only one place to start")
    if number is not None or not starts:
        filters["last"] = LAST if number is None else number
    if kinds:
        filters["kinds"] = kinds
        events = events or not set(kinds).issubset(ENTRY_KINDS)
    if events:
        filters["events"] = True
    with common.client() as client:
        stream = client.tail(*names, follow=follow, **filters)
        for item in stream.raw():
            if events:
                out.event(item, len(names) != 1)
            elif "unit" in item:
                out.unit(item["unit"], len(names) != 1)
            if not stream.pending():
                out.flush()
