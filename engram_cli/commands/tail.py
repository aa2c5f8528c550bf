"""`engram tail`: the last units of contexts, and with -f everything that follows."""

from __future__ import annotations

from typing import Any

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import ENTRY_KINDS

from .. import common as c
from ..output import note

LAST = 10
PREFETCH = 64


def run(
    common: c.Common,
    contexts: list[str],
    number: int | None,
    follow: bool,
    events: bool,
    kinds: list[str] | None,
    filters: dict[str, Any],
    ack: str | None,
    prefetch: int | None,
) -> None:
    """Print the stream; whatever is at hand is flushed before waiting for more."""
    for option, given in (("--ack", ack), ("--prefetch", prefetch)):
        if given is not None:
            raise EngramError("invalid", f"{option}: goes with --consumer only")
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
    with common.client(presence=follow) as client:
        stream = client.tail(*names, follow=follow, **filters)
        for item in stream.raw():
            if events:
                out.event(item, len(names) != 1)
            elif "unit" in item:
                out.unit(item["unit"], len(names) != 1)
            if not stream.pending():
                out.flush()


def consume(
    common: c.Common,
    consumer: str,
    contexts: list[str],
    number: int | None,
    follow: bool,
    events: bool,
    kinds: list[str] | None,
    filters: dict[str, Any],
    ack: str | None,
    prefetch: int | None,
) -> None:
    """Print a member's units. What is printed and flushed is acknowledged, unless that is left to others."""
    for option, given in (
        ("-n", number is not None),
        ("--events", events),
        ("--kind", kinds),
        *((f"--{name}", name in filters) for name in _PLACES),
    ):
        if given:
            raise EngramError(
                "invalid",
                f"{option} does not go with --consumer, which goes on where it is; to move it: engram consumer reset {consumer} --to PLACE",
            )
    if ack not in (None, "auto", "manual"):
        raise EngramError("invalid", f"--ack {ack!r}: must be auto or manual")
    out, printed = common.output(), []
    names = [c.context(name) for name in contexts]
    prefetch = prefetch or (1 if ack == "manual" else PREFETCH)
    with common.client(presence=follow) as client:
        stream = client.consume(consumer, *names, follow=follow, ack="manual", prefetch=prefetch, **filters)
        missed = 0
        for item in stream.raw():
            if "unit" in item:
                if item.get("missed", 0) != missed:
                    missed = item.get("missed", 0)
                    note(f"engram: retention removed {missed} units before the consumer {consumer} had done them")
                out.unit(item["unit"], len(names) != 1)
                printed.append(item["cursor"])
            if not stream.pending() or len(printed) * 2 > prefetch:
                out.flush()
                if ack != "manual":
                    stream.ack(*printed)
                printed.clear()


_PLACES = ("since", "until", "after")
