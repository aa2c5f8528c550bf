"""What retention has to look at: the oldest entries of a context, and the oldest events, a bounded step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cbor2

from ..protocol.errors import EngramError
from ..shapes import NamedTuple
from ..state.contexts import UnitRemoved
from ..state.filters import Filter
from ..state.retention import Candidate
from ..state.view import PINS
from . import keys, records
from .log import Log

STEP_ENTRIES = 32  # looked at in one step: two milliseconds of the loop
STEP_BYTES = 1024 * 1024  # and about how many bytes of units
STEP_EVENTS = 128


class Interest(NamedTuple):
    """A consumer that reads a context: up to where all is done, and what it wants."""

    name: str
    cursor: int
    filter: Filter


def oldest(
    log: Log, context: str, after: int, limit: int = STEP_ENTRIES, interests: Sequence[Interest] = ()
) -> tuple[list[Candidate], int | None]:
    """The entries of a context behind `after` that may be removed, oldest first: so many, or what a step finds.

    Args:
        interests: of consumers of which it is to be said whether they want an entry.

    Returns:
        The entries, and the seq up to which was looked; None for the end.

    Raises:
        EngramError: `storage` where the log has lost an entry's event or unit.
    """
    found, size = list[Candidate](), 0
    for looked, (key, value) in enumerate(log.scan(keys.entries(context), after + 1, keys.LAST_SEQ), 1):
        entry, at = keys.seq_of(key), records.read_entry(value)
        encoded = at if isinstance(at, bytes) else log.unit(at)
        if encoded is None:
            raise _lost(context, entry)
        size += len(encoded)
        unit = cbor2.loads(encoded)
        removal = log.gone_at(context, entry) or 0
        if removal or log.durable.get(PINS, (context, unit["seq"])) is None:
            wanted = tuple(one.name for one in interests if one.cursor < entry and one.filter.matches(unit))
            found.append(Candidate(entry, _ts(log, context, entry, unit), unit["id"], wanted, removal))
        if len(found) == limit or looked == STEP_ENTRIES or size > STEP_BYTES:
            return found, entry
    return found, None


def _ts(log: Log, context: str, entry: int, unit: dict[str, Any]) -> int:
    """When an entry arrived."""
    if entry == unit["seq"]:
        return int(unit["ts"])
    record = log.record(entry)
    if record is None:
        raise _lost(context, entry)
    return record.ts


def _lost(context: str, entry: int) -> EngramError:
    return EngramError("storage", f"the log has lost what entry {entry} of context {context!r} is; see: engram doctor")


def old_events(log: Log, after: int, before: int) -> tuple[list[tuple[int, int, Any]], int]:
    """The events behind `after` that are no entries and older than the instant `before`: seq, time and event, and how far was looked.

    The removal of an entry that the log still has is left out: the entry would be back without it.
    """
    found = list[tuple[int, int, Any]]()
    reached = after
    for looked, (seq, record) in enumerate(log.records(after + 1, log.last_seq), 1):
        if record.ts >= before:
            break
        reached = seq
        if record.code not in records.ENTRIES:
            event = records.decode_event(record)
            if not isinstance(event, UnitRemoved) or log.gone_at(event.context, event.entry) is None:
                found.append((seq, record.ts, event))
        if looked == STEP_EVENTS:
            break
    return found, reached
