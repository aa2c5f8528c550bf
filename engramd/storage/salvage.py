"""Saving what can be read of a damaged store. The store itself is not touched: LevelDB's own repair works on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..protocol.errors import EngramError
from ..state.contexts import UnitAdded
from ..state.redaction import UnitRedacted
from ..state.retention import EventsTrimmed, UnitsTrimmed
from ..state.units import UnitPut
from . import keys, records
from .backup import Gaps
from .foreign import read_event
from .leveldb import Store, repair
from .log import FORMAT
from .rewrites import Redone

_REWRITES = {bytes((code,)) for code in (records.UNITS_TRIMMED, records.EVENTS_TRIMMED, records.UNIT_REDACTED)}
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

    def records(self) -> Iterator[tuple[int, bytes]]:
        """The events that can be read, in order, with their seqs, as later ones have left them: damage can hide that from LevelDB.

        An addition whose unit is lost is lost, too.
        """
        self.last = 0
        redone = self._redone()
        left_out = set(redone.removed)
        gaps, last_ts = Gaps(), 0
        for key, value in self._store.prefixed(keys.LOG):
            seq = keys.seq_of(key)
            if seq in left_out:
                continue
            try:
                record, event = read_event(seq, value)
            except EngramError:
                left_out.add(seq)
                continue
            if record.ts < last_ts or (isinstance(event, UnitAdded) and not self._has(event.unit, left_out)):
                left_out.add(seq)
                continue
            gaps.see(seq, event)
            self.last, last_ts = seq, record.ts
            yield seq, records.pack(redone.unit(seq, record)) if isinstance(event, UnitPut) else value
        self.lost = gaps.unexplained(self.last)

    def _redone(self) -> Redone:
        """What retention and redaction have done, by those of their events that can be read."""
        redone = Redone()
        for key, value in self._store.prefixed(keys.LOG):
            if value[:1] in _REWRITES:
                with suppress(EngramError):
                    record, event = read_event(seq := keys.seq_of(key), value)
                    assert isinstance(event, UnitsTrimmed | EventsTrimmed | UnitRedacted), "its code says so"
                    redone.see(seq, record.ts, event)
        return redone

    def _has(self, unit: int, left_out: set[int]) -> bool:
        """Whether an earlier unit was not left out."""
        return unit not in left_out and self._store.get(keys.LOG + keys.pack_seq(unit)) is not None

    def close(self) -> None:
        """Remove the copy."""
        self._store.close()
        shutil.rmtree(self._scratch, ignore_errors=True)
