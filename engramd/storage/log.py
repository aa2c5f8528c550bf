"""The log: an ordered, gapless sequence of events in one LevelDB, with the state rows and secondary keys of each event in its batch."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cbor2

from ..protocol.errors import EngramError
from ..shapes import NamedTuple
from ..state.contexts import UnitAdded
from ..state.machine import Event, apply
from ..state.redaction import UnitRedacted
from ..state.refold import refold
from ..state.retention import EventsTrimmed, UnitsTrimmed
from ..state.units import UnitPut
from . import keys, records, rewrites
from .leveldb import Reader, Store
from .records import Record
from .rows import DurableRows, PendingRows

FORMAT = 1


class Appended(NamedTuple):
    """One event as it was appended. `unit` is the encoded unit of an entry, and None for other events."""

    seq: int
    record: Record
    event: Event
    unit: bytes | None


class Log:
    """The store of one daemon.

    Args:
        directory: where LevelDB keeps its files; created if need be, and a new store gets a new history.

    Attributes:
        history: the id that cursors carry.
        last_seq: the seq of the last event on disk, 0 in an empty log.
        last_ts: its time, in microseconds since the epoch.
        durable: the state rows on disk.
        last_rewrite: the seq of the last appended event that changed what stands before it; at first, the end of the log.

    Raises:
        EngramError: `storage` when the store is damaged, of an unknown format, or cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
            _make(directory)
        self._store = Store(directory)
        self._inode = os.stat(directory).st_ino
        try:
            self.history = self._open_format(directory)
            self.durable = DurableRows(self._store)
            self._pending = PendingRows(self.durable)
            self.last_seq, self.last_ts = self._find_end()
        except EngramError:
            self._store.close()
            raise
        self._head = self.last_rewrite = self.last_seq
        self._unsettled: list[Batch] = []

    def close(self) -> None:
        """Close the store. Nothing is pending in LevelDB itself: every batch was synced."""
        self._store.close()

    @property
    def is_lost(self) -> bool:
        """Whether the process has to end at once, since LevelDB will end it."""
        return self._store.is_lost

    # Writing

    @property
    def pending(self) -> PendingRows:
        """The state with everything appended so far, on disk or not: what decisions look at."""
        return self._pending

    @property
    def head(self) -> int:
        """The seq of the last event appended to any batch, on disk or not."""
        return self._head

    def batch(self) -> Batch:
        """A new batch; batches must be committed in the order they were begun, one at a time."""
        batch = Batch(self)
        self._unsettled.append(batch)
        return batch

    # Reading

    def record(self, seq: int) -> Record | None:
        """The event at `seq`, or None."""
        value = self._store.get(keys.LOG + keys.pack_seq(seq))
        return None if value is None else records.unpack(value)

    def unit(self, seq: int) -> bytes | None:
        """The encoded unit whose entry (birth or later addition) is the event at `seq`, or None."""
        record = self.record(seq)
        if record is not None and record.code == records.UNIT_ADDED:
            record = self.record(cbor2.loads(record.body)["unit"])
        return record.body if record is not None and record.code == records.UNIT_PUT else None

    def newest(self, seq: int) -> Record:
        """The record of the unit that was put at `seq`, as it will be once everything appended so far is on disk."""
        for batch in reversed(self._unsettled):
            if seq in batch.units:
                return batch.units[seq]
        record = self.record(seq)
        if record is None:
            raise EngramError("internal", f"unit {seq} is neither on disk nor on its way there")
        return record

    def additions(self, unit: int) -> dict[int, str]:
        """The entries by which a unit was added to further contexts, with everything appended so far: seq, and context."""
        found = {keys.seq_of(key): context.decode() for key, context in self._store.prefixed(keys.ADDED + keys.pack_seq(unit))}
        for batch in self._unsettled:
            found |= {at.seq: at.event.context for at in batch.events if isinstance(at.event, UnitAdded) and at.event.unit == unit}
        return found

    def added_to(self, unit: int) -> Iterator[str]:
        """The contexts that a unit was added to, and perhaps removed from since, as long as retention keeps that entry there."""
        return (context.decode() for _, context in self._store.prefixed(keys.ADDED + keys.pack_seq(unit)))

    def entry_at(self, seq: int) -> Record | None:
        """The record of the entry that arrived at a seq, with everything appended so far; None where retention has removed it."""
        for batch in self._unsettled:
            for appended in batch.events:
                if appended.seq == seq:
                    return appended.record
        return self.record(seq)

    def unit_so_far(self, record: Record, event: Event) -> bytes | None:
        """The encoded unit of an entry that is about to be replayed; None for other events, and where the unit is lost."""
        if isinstance(event, UnitPut):
            return record.body
        return self.put_so_far(event.unit) if isinstance(event, UnitAdded) else None

    def put_so_far(self, seq: int) -> bytes | None:
        """The encoded unit that was put at a seq, with everything appended so far; None where that is lost."""
        for batch in self._unsettled:
            if seq in batch.units:
                return batch.units[seq].body
        return self.unit(seq)

    def records(self, first: int, last: int, reverse: bool = False) -> Iterator[tuple[int, Record]]:
        """The events from `first` to `last`, both included."""
        for key, value in self.scan(keys.LOG, first, last, reverse):
            yield keys.seq_of(key), records.unpack(value)

    def scan(self, prefix: bytes, first: int, last: int, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values under a prefix that a seq follows, from seq `first` to `last`, as of now."""
        return iter(()) if first > last else self._store.scan(*_ends(prefix, first, last), reverse)

    def rows(self, prefix: bytes, first: int, last: int, reverse: bool, most: int) -> list[tuple[bytes, bytes]]:
        """At most so many keys and values of those that `scan` yields, in less time."""
        return [] if first > last else self._store.rows(*_ends(prefix, first, last), reverse, most)

    def has_removals(self, context: str) -> bool:
        """Whether an entry was ever removed from a context, and retention has not taken it since."""
        return self._store.has(*_ends(keys.gone(context), 0, keys.LAST_SEQ))

    def sources(self, target: bytes, after: bytes, limit: int) -> Iterator[tuple[bytes, int]]:
        """The units with a relationship to a unit, one for each context they are in: where to go on (`after`), and the unit's seq."""
        for rest, value in islice(self._store.prefixed(keys.BY_TARGET + target, after), limit):
            yield rest, keys.seq_of(value or rest)

    def is_gone(self, context: str, entry: int, at: int = keys.LAST_SEQ) -> bool:
        """Whether the entry was removed from its context by an event up to `at`."""
        removal = self.gone_at(context, entry)
        return removal is not None and removal <= at

    def gone_at(self, context: str, entry: int) -> int | None:
        """The seq of the event that removed the entry from its context; None for one that was not."""
        stored = self._store.get(keys.gone(context) + keys.pack_seq(entry))
        return None if stored is None else keys.seq_of(stored)

    def first_at(self, ts: int) -> int:
        """The first seq whose time is `ts` or later; one past the end when there is none. Times never fall, so this bisects."""
        low, high = 1, self.last_seq + 1
        while low < high:
            middle = (low + high) // 2
            record = self.record(middle)  # one look-up, where an iterator would have to find its place in every level of LevelDB
            found = (middle, record) if record is not None else next(self.records(middle, high - 1), None)
            if found is None or found[1].ts >= ts:
                high = middle
            else:
                low = found[0] + 1
        return low

    def flush(self) -> None:
        """Have what is on disk in table files, and not in LevelDB's own log. Blocks for the disk."""
        self._store.flush()

    def compact(self, first: bytes, last: bytes) -> None:
        """Have the keys from `first` to `last` in the files in their newest form alone. Blocks for the disk."""
        self._store.compact(first, last)

    def drop(self, prefix: bytes, first: int, last: int) -> None:
        """Have the files lose what was removed under a prefix from seq `first` to `last`, which were both removed. Blocks for the disk.

        What was put and removed before LevelDB wrote a table is in one table, which nothing makes LevelDB write anew but a newer one
        over the same keys: so the ends are removed again.
        """
        ends = prefix + keys.pack_seq(first), prefix + keys.pack_seq(last)
        self._store.compact(*ends)
        batch = self._store.batch()
        for key in ends:
            batch.delete(key)
        self._store.write(batch)
        self._store.compact(*ends)

    def snapshot(self) -> Reader:
        """What is on disk now, whatever is written later."""
        return self._store.snapshot()

    def size(self) -> int:
        """Bytes that the store's files take."""
        return self._store.size()

    def free(self) -> int:
        """Bytes that this user may still write to the store's disk.

        Raises:
            EngramError: `storage` when the store is not in its place any more, so that what is written would be lost; `unavailable` when
                nobody can tell.
        """
        directory = self._store.directory
        try:
            found, inode = os.statvfs(directory), os.stat(directory).st_ino
        except (FileNotFoundError, NotADirectoryError) as error:
            raise EngramError("storage", f"the store in {directory} is gone: {error.strerror}") from error
        except OSError as error:
            raise EngramError("unavailable", f"the store in {directory} cannot be looked at: {error.strerror}; try again") from error
        if inode != self._inode:
            raise EngramError("storage", f"the store in {directory} is gone: another directory is in its place")
        return found.f_bavail * found.f_frsize

    def _open_format(self, directory: Path) -> str:
        stored = self._store.get(keys.FORMAT)
        if stored is None:
            empty = next(self._store.scan(b"", b"\xff" * 8), None) is None
            what = "has lost all that was in it; it is damaged" if empty else "is a LevelDB that is not Engram's; choose another --data-dir"
            raise EngramError("storage", f"the store in {directory} {what}")
        if stored != b"%d" % FORMAT:
            raise EngramError(
                "storage",
                f"the store in {directory} has format {stored.decode(errors='replace')}, this engramd reads format {FORMAT}; "
                "use the engramd that wrote it",
            )
        history_bytes = self._store.get(keys.HISTORY)
        if history_bytes is None:
            raise EngramError("storage", f"the store in {directory} has lost its history id; it is damaged")
        return str(history_bytes.decode())

    def _find_end(self) -> tuple[int, int]:
        last = next(self.records(0, keys.LAST_SEQ, reverse=True), None)
        return (0, 0) if last is None else (last[0], last[1].ts)


def _ends(prefix: bytes, first: int, last: int) -> tuple[bytes, bytes]:
    """The first and the last key under a prefix that a seq follows, for a range of seqs."""
    return prefix + keys.pack_seq(max(first, 0)), prefix + keys.pack_seq(min(last, keys.LAST_SEQ))


def _make(directory: Path) -> None:
    """Make an empty store beside its place, and move it there whole: what stands there always has its format and history."""
    fresh = directory.with_name(f"{directory.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700, parents=True)
        store = Store(fresh, new=True)
        batch = store.batch()
        batch.put(keys.FORMAT, b"%d" % FORMAT)
        batch.put(keys.HISTORY, secrets.token_hex(6).encode())
        store.write(batch)
        store.close()
        fresh.rename(directory)
        fd = os.open(directory.parent, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    except OSError as error:
        raise EngramError("storage", f"no store can be made in {directory}: {error.strerror or error}") from error


class Batch:
    """Events on their way to disk, all or none. Begun by `Log.batch`; `commit` may run in another thread."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._batch = log._store.batch()
        self._last_ts = log.last_ts
        self.events: list[Appended] = []
        self.size = 0  # bytes of the records' bodies
        self.units: dict[int, Record] = {}  # those that it puts or rewrites

    def append(self, ts: int, event: Event) -> Appended:
        """Give the event the next seq, fold it into the pending state, and encode it with its secondary keys."""
        log = self._log
        seq = log._head = log._head + 1
        is_put = type(event) is UnitPut  # as most are
        if not is_put and isinstance(
            event, (UnitsTrimmed, EventsTrimmed, UnitRedacted)
        ):  # which say how what there is is to be from now on
            log.last_rewrite = seq
            for key, value in rewrites.of(log, self.units, seq, ts, event):
                if value is None:
                    self._batch.delete(key)
                else:
                    self._batch.put(key, value)
        apply(log._pending, seq, ts, event)
        record = records.encode_event(seq, ts, event)
        unit = record.body if is_put else log.newest(event.unit).body if isinstance(event, UnitAdded) else None
        return self._write(seq, record, event, unit)

    def replay(self, seq: int, record: Record, event: Event) -> bool:
        """Take an event over from another log, at its seq, which must be beyond the last one.

        Returns:
            Whether it follows from those before it; see `refold`.
        """
        log = self._log
        log._head = seq
        unit = log.unit_so_far(record, event)
        folded = refold(log._pending, seq, record.ts, event, records.is_there(record, event, unit, log.entry_at))
        self._write(seq, record, event, unit, folded.stands)
        return folded.follows

    def pass_over(self, last: int) -> None:
        """What follows gets seqs behind `last`, though the log may lack that one."""
        self._log._head = max(self._log._head, last)

    def _write(self, seq: int, record: Record, event: Event, unit: bytes | None, stands: bool = True) -> Appended:
        """Have an event written that is folded, with its keys if it stands."""
        put = self._batch.put
        put(keys.LOG + keys.pack_seq(seq), records.pack(record))
        if type(event) is UnitPut:
            self.units[seq] = record
        if stands:
            for key, value in records.keys_of(seq, record, event, unit):
                put(key, value)
        self._last_ts = record.ts
        self.size += len(record.body)
        appended = Appended(seq, record, event, unit)
        self.events.append(appended)
        return appended

    def seal(self) -> None:
        """Add the state rows; nothing can be appended after this."""
        for key, value in self._log._pending.seal():
            if value is None:
                self._batch.delete(key)
            else:
                self._batch.put(key, value)

    def commit(self) -> None:
        """Write and sync; blocks for the disk. Raises EngramError("storage") when either fails: the outcome is then unknown."""
        self._log._store.write(self._batch)

    def settle(self) -> None:
        """The commit succeeded: advance the log's end."""
        self._log._unsettled.remove(self)
        self._log._pending.settle()
        if self.events:
            self._log.last_seq = self.events[-1].seq
            self._log.last_ts = self._last_ts
