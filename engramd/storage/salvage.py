"""Saving what can be read of a damaged store. The store itself is not touched: LevelDB's own repair works on a copy."""

from __future__ import annotations

import heapq
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import cbor2

from ..protocol.errors import EngramError
from ..protocol.unit import id_in
from ..state.contexts import UnitAdded
from ..state.redaction import UnitRedacted
from ..state.retention import EventsTrimmed, UnitsTrimmed
from ..state.units import UnitPut
from ..state.view import CONTEXTS, DEDUPE, PINS, UNITS
from . import keys, records
from .backup import Gaps, merged
from .foreign import read_event
from .leveldb import Store, repair
from .log import FORMAT
from .records import Record
from .rewrites import Redone
from .rows import DurableRows

_REWRITES = (records.UNITS_TRIMMED, records.EVENTS_TRIMMED, records.UNIT_REDACTED)
NO_HISTORY = "0" * 12  # of a store that has lost its own


class Salvage:
    """What can be read of a damaged store.

    Args:
        directory: the store.
        scratch: a directory for the copy, which must not be there yet; as much room as the store takes.

    Attributes:
        history: of the store.
        last: the seq of the last event that can be read.
        lost: ranges of seqs before it whose events cannot be; known at the end of `records`.

    Raises:
        EngramError: `storage` when not even the copy can be opened.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        self._scratch = scratch
        try:
            scratch.mkdir(mode=0o700)
            for file in directory.iterdir():
                if file.is_file() and not file.is_symlink() and file.name not in ("LOCK", "LOG", "LOG.old"):
                    shutil.copyfile(file, scratch / file.name)
        except OSError as error:
            raise EngramError("storage", f"the store in {directory} cannot be copied to {scratch}: {error.strerror or error}") from error
        repair(scratch)
        self._store = Store(scratch)
        stored = self._store.get(keys.FORMAT)
        if stored not in (None, b"%d" % FORMAT):
            self.close()
            raise EngramError(
                "storage", f"the store has format {stored!r}, this Engram reads format {FORMAT}; use the Engram that wrote it"
            )
        self.history = (self._store.get(keys.HISTORY) or NO_HISTORY.encode()).decode(errors="replace")
        newest = next(self._store.scan(keys.LOG, keys.LOG + b"\xff" * 8, reverse=True), None)
        self.last = keys.seq_of(newest[0]) if newest is not None and newest[0][:1] == keys.LOG else 0
        self.lost: list[tuple[int, int]] = []
        self._entries: dict[int, bytes] = {}  # of units that only their contexts still have: seq, and key

    def records(self) -> Iterator[tuple[int, bytes]]:
        """The events that can be read, in order, with their seqs, as later ones have left them: damage can hide that from LevelDB.

        An addition whose unit is lost is lost, too.
        """
        redone, missing = self._survey()
        self._entries = self._only_in_contexts(missing)
        newest = self._put_twice()
        left_out = set(redone.removed)
        gaps, last_ts, self.last = Gaps(), 0, 0
        for seq, value in self._all():
            if seq in left_out:
                continue
            self.last = seq
            try:
                record, event = read_event(seq, value)
            except EngramError:
                left_out.add(seq)
                continue
            if isinstance(event, UnitPut):
                value = records.pack(redone.unit(seq, record))
                is_odd = newest.get(event.id, seq) != seq
            else:
                is_odd = isinstance(event, UnitAdded) and not self._has(event.unit, left_out)
            if record.ts < last_ts or is_odd:
                left_out.add(seq)
                continue
            gaps.see(seq, event)
            last_ts = record.ts
            yield seq, value
        lost = [(seq, seq) for seq in left_out - redone.removed]
        self.lost = merged([*gaps.unexplained(self.last), *lost])

    def _survey(self) -> tuple[Redone, list[tuple[int, int]]]:
        """What retention and redaction have done, by those of their events that can be read; and the seqs without a record, to no end."""
        redone, missing, before = Redone(), list[tuple[int, int]](), 0
        for seq, value in self._stored():
            if seq > before + 1:
                missing.append((before + 1, seq - 1))
            before = seq
            if value[0] in _REWRITES:
                with suppress(EngramError):
                    record, event = read_event(seq, value)
                    assert isinstance(event, UnitsTrimmed | EventsTrimmed | UnitRedacted), "its code says so"
                    redone.see(seq, record.ts, event)
        return redone, [*missing, (before + 1, keys.LAST_SEQ)]

    def _put_twice(self) -> dict[bytes, int]:
        """Of ids that several units have, the seq of the last: one that retention had removed may have come back by an import, and the
        record before it by damage. Halves of ids tell which to look at, since all whole ones would take too much memory."""
        halves = array("Q", (_half(id_in(records.unpack(value).body)) for _, value in self._all() if value[0] == records.UNIT_PUT))
        twice = {one for one, other in pairwise(sorted(halves)) if one == other}
        if not twice:  # as nearly always: the store need not be read again
            return {}
        units = ((seq, id_in(records.unpack(value).body)) for seq, value in self._all() if value[0] == records.UNIT_PUT)
        return {unit: seq for seq, unit in units if _half(unit) in twice}

    def _all(self) -> Iterator[tuple[int, bytes]]:
        """Every record there is, with its seq, in order."""
        return heapq.merge(self._stored(), self._from_entries())

    def _stored(self) -> Iterator[tuple[int, bytes]]:
        return ((keys.seq_of(key), value) for key, value in self._store.prefixed(keys.LOG) if len(value) > records.HEAD_BYTES)

    def _only_in_contexts(self, missing: list[tuple[int, int]]) -> dict[int, bytes]:
        """The entries, by their seqs, of units that have no record and stand in their contexts, too. Not those that retention has passed:
        an event that said that it has taken them may be gone, and damage have uncovered them."""
        found, rows = dict[int, bytes](), DurableRows(self._store)
        for key, value in self._store.prefixed(keys.ENTRY):
            seq = keys.seq_of(key)
            at = bisect_right(missing, (seq, keys.LAST_SEQ)) - 1
            if at < 0 or seq > missing[at][1] or not isinstance(records.read_entry(value), bytes):
                continue
            name = key[:-9].decode(errors="replace")
            context = rows.get(CONTEXTS, name)
            if context is None or seq > context.trimmed or rows.get(PINS, (name, seq)) is not None:
                found[seq] = keys.ENTRY + key
        return found

    def _from_entries(self) -> Iterator[tuple[int, bytes]]:
        """The records of those units, in order: only what they were put under is lost."""
        for seq in sorted(self._entries):
            try:
                yield seq, self._record_of(seq, self._entries[seq])
            except Exception:  # whatever stands there is not what an engramd wrote
                del self._entries[seq]

    def _record_of(self, seq: int, key: bytes) -> bytes:
        """The record of a unit, from its entry and what the state has of it. Raises anything where these do not fit."""
        encoded = records.read_entry(self._store.get(key) or b"")
        assert isinstance(encoded, bytes), "it was when it was found"
        unit = cbor2.loads(encoded)
        if unit["seq"] != seq or key != keys.entries(unit["context"]) + keys.pack_seq(seq):
            raise ValueError("this is another unit's entry")
        rows, extra = DurableRows(self._store), dict[str, Any]()
        head = rows.get(UNITS, unit["id"])
        if head is not None and head.seq == seq:
            put = None if head.dedupe is None else rows.get(DEDUPE, (unit["context"], head.dedupe))
            extra |= {} if put is None or put.first_seq != seq else {"dedupe": head.dedupe, "dedupe_count": put.units}
            extra |= {"size": head.size} if "redacted" in unit else {}
        record = Record(records.UNIT_PUT, unit["ts"], b"", encoded)
        return records.pack(records.with_extra(record, **extra))

    def _has(self, unit: int, left_out: set[int]) -> bool:
        """Whether an earlier unit was not left out."""
        return unit not in left_out and (unit in self._entries or self._store.get(keys.LOG + keys.pack_seq(unit)) is not None)

    def close(self) -> None:
        """Remove the copy."""
        self._store.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _half(unit_id: bytes) -> int:
    """The half of an id that is random."""
    return int.from_bytes(unit_id[8:])
