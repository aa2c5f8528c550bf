"""Saving what can be read of a damaged store. The store itself is not touched: LevelDB's own repair works on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..protocol.errors import EngramError
from ..state.retention import EventsTrimmed, UnitsTrimmed
from . import keys
from .backup import Gaps
from .foreign import read_event
from .leveldb import Store, repair
from .log import FORMAT
from .records import EVENTS_TRIMMED, UNITS_TRIMMED

_TRIMS = (bytes((UNITS_TRIMMED,)), bytes((EVENTS_TRIMMED,)))
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
        """The events that can be read, in order, with their seqs, without those that were removed: damage can hide that from LevelDB."""
        self.last = 0
        removed = self._removed()
        gaps, last_ts = Gaps(), 0
        for key, value in self._store.prefixed(keys.LOG):
            seq = keys.seq_of(key)
            if seq in removed:
                continue
            try:
                record, event = read_event(seq, value)
            except EngramError:
                continue
            if record.ts < last_ts:
                continue
            gaps.see(seq, event)
            self.last, last_ts = seq, record.ts
            yield seq, value
        self.lost = gaps.unexplained(self.last)

    def _removed(self) -> set[int]:
        """The seqs that retention has removed, by the events that say so."""
        removed: set[int] = set()
        for key, value in self._store.prefixed(keys.LOG):
            if value[:1] in _TRIMS:
                with suppress(EngramError):
                    _, event = read_event(keys.seq_of(key), value)
                    assert isinstance(event, UnitsTrimmed | EventsTrimmed), "its code says so"
                    removed.update(event.removed)
        return removed

    def close(self) -> None:
        """Remove the copy."""
        self._store.close()
        shutil.rmtree(self._scratch, ignore_errors=True)
