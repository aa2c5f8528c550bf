"""What retention and redaction do to what is stored: the only writes that change or remove records, entries and the keys that find them.

Each goes into the batch of its event. So a crash leaves all of it or nothing. Damage may leave a part, which `Redone` completes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import cbor2

from ..protocol.paths import normal
from ..protocol.unit import tombstone
from ..state.redaction import UnitRedacted
from ..state.retention import EventsTrimmed, UnitsTrimmed
from ..state.units import size_of
from ..state.view import UNITS, UnitHead
from . import keys, records
from .records import Record

if TYPE_CHECKING:
    from .log import Log

Writes = Iterator[tuple[bytes, bytes | None]]  # keys and values, None for one to remove


def of(log: Log, units: dict[int, Record], seq: int, ts: int, event: UnitsTrimmed | EventsTrimmed | UnitRedacted) -> Writes:
    """The writes of an event at `seq` that is not yet folded. Records of units that it rewrites are noted in `units`."""
    if isinstance(event, UnitsTrimmed):
        return _trim(log, units, seq, event)
    if isinstance(event, UnitRedacted):
        return _redact(log, units, seq, ts, event)
    return ((keys.LOG + keys.pack_seq(gone), None) for gone in event.removed)


def _head(log: Log, unit: bytes) -> UnitHead:
    head = log.pending.get(UNITS, unit)
    assert head is not None, "the event was decided on what there is"
    return head


def _trim(log: Log, units: dict[int, Record], seq: int, event: UnitsTrimmed) -> Writes:
    removed = set(event.removed)
    for entry, unit_id in event.entries:
        head = _head(log, unit_id)
        record = log.newest(head.seq)
        unit, tail = cbor2.loads(record.body), keys.pack_seq(entry)
        targets = {edge["target"] for edge in unit["relationships"]}
        for key, _ in records.finding_keys(event.context, tail, unit["agent"], unit["type"], unit["meta"], targets, b""):
            yield key, None
        yield keys.entries(event.context) + tail, None
        yield keys.gone(event.context) + tail, None
        if entry != head.seq:
            yield keys.ADDED + keys.pack_seq(head.seq) + tail, None
        elif head.seq not in removed:
            units[head.seq] = records.trimmed(record, seq)
            yield keys.LOG + tail, records.pack(units[head.seq])
        if head.seq in removed:
            yield from _without_path(head.seq, unit)
    for gone in event.removed:
        yield keys.LOG + keys.pack_seq(gone), None


def _without_path(seq: int, unit: dict[str, Any]) -> Writes:
    path = normal(unit["meta"].get("path", "")) if unit["type"] == records.FILE_CHANGE else ""
    if path:
        yield keys.by_path(path) + keys.pack_seq(seq), None


def _redact(log: Log, units: dict[int, Record], seq: int, ts: int, event: UnitRedacted) -> Writes:
    head = _head(log, event.id)
    record, tail = log.newest(head.seq), keys.pack_seq(head.seq)
    unit = cbor2.loads(record.body)
    units[head.seq] = _erased(record, unit, seq, ts, event, head.size)
    yield keys.LOG + tail, records.pack(units[head.seq])
    entries = log.additions(head.seq)
    if head.born:
        yield keys.entries(head.context) + tail, records.birth_entry(head.seq, units[head.seq].body)
        entries[head.seq] = head.context
    for entry, context in entries.items():
        for label in unit["meta"].items():
            yield keys.by_meta(context, *label) + keys.pack_seq(entry), None
    yield from _without_path(head.seq, unit)


def _erased(record: Record, unit: dict[str, Any], seq: int, ts: int, event: UnitRedacted, size: int) -> Record:
    """What the event at `seq` leaves of a unit's record; `size` is what retention counts of it."""
    return records.with_extra(record._replace(body=tombstone(unit, seq, ts, event.agent, event.reason)), size=size)


class Redone:
    """What events say that they have done to the records before them, for where these may be as they were before.

    Attributes:
        removed: the seqs that the log has no more.
    """

    def __init__(self) -> None:
        self.removed: set[int] = set()
        self._trimmed: dict[int, int] = {}  # births that are no entries any more, and the events that say so
        self._redacted: dict[int, tuple[int, int, UnitRedacted]] = {}
        self._looked_at = 0  # up to here, events may have been removed that say more

    def see(self, seq: int, ts: int, event: UnitsTrimmed | EventsTrimmed | UnitRedacted) -> None:
        """An event is there."""
        if isinstance(event, UnitRedacted):
            self._redacted[event.unit] = seq, ts, event
            return
        self.removed.update(event.removed)
        if isinstance(event, UnitsTrimmed):  # whose additions are removed, too
            self._trimmed |= {entry: seq for entry, _ in event.entries if entry not in self.removed}
        else:
            self._looked_at = max(self._looked_at, event.last)

    def unit(self, seq: int, record: Record) -> Record:
        """The record of the unit at `seq` as those events have left it. A tombstone stays one without its event: nothing else is there."""
        if seq in self._redacted:
            unit, redaction = cbor2.loads(record.body), self._redacted[seq]
            if "redacted" not in unit:
                record = _erased(record, unit, *redaction, size_of(unit["text"] if "text" in unit else unit["payload"], unit["meta"]))
        by, marked = self._trimmed.get(seq), records.trimmed_at(record)
        is_right = marked == by or (by is None and marked is not None and marked <= self._looked_at)
        return record if is_right else records.trimmed(record, by)
