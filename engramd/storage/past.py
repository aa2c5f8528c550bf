"""What was so after the event at a seq. What ended since stands under the seq of its end, so the newer the past, the less is read.

What retention removed is no part of any past: of what ended before the oldest event that is kept, nothing is known.
"""

from __future__ import annotations

from ..state.view import MEMBERS, PAST_MEMBERS, PAST_PINS, PINS
from . import keys
from .log import Log


def pins_at(log: Log, context: str, seq: int) -> list[int]:
    """The seqs of the units that were pinned in a context, in order."""
    rows, prefix = log.durable, keys.name(context)
    found = {keys.seq_of(key) for key, pin in rows.scan(PINS, prefix) if pin.since <= seq}
    found |= {pin.unit for _, pin in rows.scan(PAST_PINS, prefix, keys.pack_seq(seq)) if pin.since <= seq}
    return sorted(found)


def members_at(log: Log, context: str, seq: int) -> list[str]:
    """The agents that were members of a context, in order."""
    rows, prefix = log.durable, keys.name(context)
    found = {key.decode() for key, member in rows.scan(MEMBERS, prefix) if member.since <= seq}
    found |= {member.agent for _, member in rows.scan(PAST_MEMBERS, prefix, keys.pack_seq(seq)) if member.since <= seq}
    return sorted(found)


def was_present(log: Log, context: str, entry: int, seq: int) -> bool:
    """Whether an entry of a context that is still kept stood there: it had arrived, and was not taken out."""
    return entry <= seq and not log.is_gone(context, entry, seq)
