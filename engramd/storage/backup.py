"""Reading the log for a backup, and making a log from one."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import cbor2

from ..protocol.backup import MANIFEST, MAX_MANIFEST, Manifest, Segment, damaged, frame, parse_manifest, records_of
from ..protocol.errors import EngramError
from ..protocol.unit import id_in
from ..shapes import NamedTuple
from ..state.contexts import UnitAdded
from ..state.machine import Event
from ..state.redaction import UnitRedacted
from ..state.restored import LogRestored, decide_restored
from ..state.retention import EventsTrimmed, UnitsTrimmed
from ..state.units import UnitPut
from ..state.view import UNITS
from . import keys, records
from .foreign import read_event
from .log import Batch, Log
from .records import Record

STEP_BYTES = 64 * 1024
STEP_RECORDS = 256
BATCH_EVENTS = 2048
BATCH_BYTES = 4 * 1024 * 1024
BLOCK = 1024 * 1024

# Events that change what stands at earlier seqs: the member that says where. A backup that has those seqs reads them anew.
CHANGES = {records.UNITS_TRIMMED: "removed", records.EVENTS_TRIMMED: "removed", records.UNIT_REDACTED: "unit"}


class Chunk(NamedTuple):
    """Some of the log.

    Attributes:
        frames: its records, in frames.
        reached: the seq up to which they are all there are.
        changed: earlier seqs whose records are no more what they were.
    """

    frames: bytes
    reached: int
    changed: list[int]


def read_chunk(log: Log, after: int, last: int) -> Chunk:
    """The next records behind a seq, up to `last`: one step's worth."""
    found: list[bytes] = []
    changed: list[int] = []
    size, reached = 0, after
    for key, value in log.scan(keys.LOG, after + 1, last):
        reached = keys.seq_of(key)
        found.append(frame(reached, value))
        size += len(value)
        if (member := CHANGES.get(value[0])) is not None:
            seqs = cbor2.loads(records.unpack(value).body)[member]
            changed += [seqs] if isinstance(seqs, int) else seqs
        if size >= STEP_BYTES or len(found) >= STEP_RECORDS:
            return Chunk(b"".join(found), reached, changed)
    return Chunk(b"".join(found), last, changed)


class Source:
    """A backup's directory, opened for reading. What stands in it may be hostile: only regular files are read, and no link is followed.

    Attributes:
        manifest: what it should hold.

    Raises:
        EngramError: `not_found` where there is no backup; `storage` when it is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise EngramError("not_found", f"there is no backup in {path}: {error.strerror}") from None
        try:
            self.manifest: Manifest = parse_manifest(b"".join(self._blocks(MANIFEST, MAX_MANIFEST)))
        except FileNotFoundError:
            self.close()
            raise EngramError("not_found", f"there is no backup in {path}: it has no {MANIFEST}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Every record with its seq, in order. Raises EngramError("storage") where the backup is damaged or incomplete."""
        for segment in self.manifest.segments:
            try:
                yield from records_of(segment, self._segment(segment))
            except FileNotFoundError:
                raise damaged(f"{segment.file} is missing") from None

    def _segment(self, segment: Segment) -> Iterator[bytes]:
        return self._blocks(segment.file, segment.size)

    def _blocks(self, name: str, most: int) -> Iterator[bytes]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise damaged(f"{name}: {error.strerror}") from None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            os.close(fd)
            raise damaged(f"{name} is not a regular file, or larger than the {most} bytes it may have")
        with os.fdopen(fd, "rb") as file:
            while block := file.read(BLOCK):
                yield block


class Restored(NamedTuple):
    """What a restore made: see `Manifest`; `history` is the new one, `leases` is how many ended, `skipped` how many events did not follow
    from those before them, which only a salvaged backup may have."""

    history: str
    events: int
    last: int
    leases: int
    skipped: int


class Gaps:
    """Which seqs are missing, and whether something accounts for each.

    Args:
        lost: ranges that are known to be.
    """

    def __init__(self, lost: tuple[tuple[int, int], ...] = ()) -> None:
        self._missing: list[tuple[int, int]] = []
        self._known = list(lost)
        self._last = 0

    @property
    def are_losses(self) -> bool:
        """Whether events are known to be lost, so that others may not follow from those before them."""
        return bool(self._known)

    def see(self, seq: int, event: object) -> None:
        """A record is there."""
        if seq > self._last + 1:
            self._missing.append((self._last + 1, seq - 1))
        self._last = seq
        self._known += covered_by(event)

    def unexplained(self, last: int) -> list[tuple[int, int]]:
        """The ranges of missing seqs, up to `last`, that nothing accounts for."""
        missing = [*self._missing, *([(self._last + 1, last)] if self._last < last else [])]
        known = merged(self._known)
        found, at = [], 0
        for first, end in missing:
            while first <= end:
                while at < len(known) and known[at][1] < first:
                    at += 1
                if at == len(known) or known[at][0] > end:
                    found.append((first, end))
                    break
                if known[at][0] > first:
                    found.append((first, known[at][0] - 1))
                first = known[at][1] + 1
        return found


def covered_by(event: object) -> tuple[tuple[int, int], ...]:
    """The ranges of missing seqs that an event accounts for."""
    if isinstance(event, LogRestored):
        return event.lost
    if isinstance(event, UnitsTrimmed):
        return tuple((seq, seq) for seq in event.removed)
    if isinstance(event, EventsTrimmed):
        return ((1, event.last), *((seq, seq) for seq in event.removed))
    return ()


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges in order, those that touch made one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


Progress = Iterator[tuple[int, int]]


def verify(source: Source) -> Progress:
    """Read a whole backup and every event in it; yields how far it is, and what there is.

    Raises:
        EngramError: `storage` when it is damaged or incomplete.
    """
    manifest, gaps = source.manifest, Gaps(source.manifest.lost)
    for seq, _, _, _ in _events(source, gaps):
        if seq % BATCH_EVENTS == 0:
            yield seq, manifest.last
    _explained(gaps, manifest.last)
    yield manifest.last, manifest.last


def _events(source: Source, gaps: Gaps) -> Iterator[tuple[int, bytes, Record, Event]]:
    """Every event of a backup with its seq and record; gaps are told of each."""
    last_ts = 0
    for seq, value in source.records():
        record, event = read_event(seq, value)
        if record.ts < last_ts:
            raise damaged(f"the time of event {seq} is before that of the one before it")
        last_ts = record.ts
        gaps.see(seq, event)
        yield seq, value, record, event


def _explained(gaps: Gaps, last: int) -> None:
    for first, end in gaps.unexplained(last)[:1]:
        raise damaged(f"the events {first} to {end} are missing")


def restore(source: Source, directory: Path, now: int) -> Iterator[tuple[int, int] | Restored]:
    """Make the store `log` of a data directory from a backup; its lock must be held. It has all events at their seqs, and a new history.

    The store is made beside its place and moved there when it is whole. Yields how far it is, and in the end what it made.

    Raises:
        EngramError: `exists` when there is a store already; `storage` when the backup is damaged, incomplete, or does not hold together.
    """
    place, fresh = directory / "log", directory / "log.restoring"
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise EngramError(
            "exists", f"{directory} has a store already; restore into another --data-dir, or move {place} away first", path=str(place)
        )
    for leftover in (fresh, fresh.with_name(f"{fresh.name}.new")):
        shutil.rmtree(leftover, ignore_errors=True)
    log = Log(fresh)
    try:
        made = yield from _replay(source, log, now)
    except BaseException:
        log.close()
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    log.close()
    fresh.rename(place)
    fd = os.open(directory, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(fd)
    os.close(fd)
    yield made


def _replay(source: Source, log: Log, now: int) -> Generator[tuple[int, int], None, Restored]:
    manifest, gaps = source.manifest, Gaps(source.manifest.lost)
    batch, size, events, skipped, last_ts, odd = log.batch(), 0, 0, 0, 0, ""
    for seq, value, record, event in _events(source, gaps):
        last_ts = record.ts
        if wrong := _contradiction(log, event):
            raise damaged(f"event {seq} {wrong}")
        if not batch.replay(seq, record, event):
            odd = odd or f"event {seq} ({record.kind}) does not follow from those before it"
            skipped += 1
        events, size = events + 1, size + len(value)
        if len(batch.events) >= BATCH_EVENTS or size > BATCH_BYTES:
            batch, size = _commit(log, batch), 0
            yield seq, manifest.last
    _explained(gaps, manifest.last)
    if odd and not gaps.are_losses:
        raise damaged(odd)
    batch = _commit(log, batch)
    batch.pass_over(manifest.last)  # which may be lost
    leases = len(log.pending.held.leases)
    for ending in decide_restored(log.pending, manifest.history, manifest.last, manifest.lost):
        batch.append(max(last_ts, now), ending)
    _commit(log, batch)
    return Restored(log.history, events, manifest.last, leases, skipped)


def _contradiction(log: Log, event: Event) -> str:
    """What an event says that cannot be, by the units there are."""
    if isinstance(event, UnitPut):
        return "puts a unit that is there already" if log.pending.get(UNITS, event.id) is not None else ""
    if not isinstance(event, UnitAdded | UnitRedacted):
        return ""
    unit = log.put_so_far(event.unit)
    if unit is not None and id_in(unit) != event.id:
        return f"says of unit {event.unit} that it is another"
    if unit is not None and isinstance(event, UnitRedacted) and "redacted" not in cbor2.loads(unit):
        return f"has erased unit {event.unit}, which is not"
    return ""


def _commit(log: Log, batch: Batch) -> Batch:
    """Have a batch on disk, and begin the next."""
    batch.seal()
    batch.commit()
    batch.settle()
    return log.batch()
