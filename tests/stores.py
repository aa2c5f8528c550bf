"""Writing to a log in tests without a committer, and models to compare it with."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cbor2

from engramd.protocol.backup import MANIFEST, Manifest, Segment, segment_name
from engramd.state import machine
from engramd.state.contexts import ContextCreated, UnitAdded, UnitRemoved
from engramd.state.filters import Filter
from engramd.state.machine import Command, Event
from engramd.state.units import UnitPut
from engramd.storage import backup
from engramd.storage.backup import Restored, Source, read_chunk
from engramd.storage.check import Check
from engramd.storage.leveldb import Store
from engramd.storage.log import Appended, Log


@contextmanager
def temporary_log() -> Iterator[Log]:
    """A new log for one Hypothesis example, which cannot have a fixture's."""
    with tempfile.TemporaryDirectory() as directory:
        log = Log(Path(directory))
        try:
            yield log
        finally:
            log.close()


def commit(log: Log, ts: int, *events: Event) -> list[Appended]:
    """Append events as one batch, on disk when this returns."""
    batch = log.batch()
    appended = [batch.append(ts, event) for event in events]
    batch.seal()
    batch.commit()
    batch.settle()
    return appended


def execute(log: Log, ts: int, *commands: Command) -> list[Appended]:
    """Decide commands one after another and commit their events as one batch; what is refused leaves nothing."""
    batch = log.batch()
    for command in commands:
        decision = machine.decide(log.pending, command)
        for event in decision if isinstance(decision, list) else ():
            batch.append(ts, event)
    batch.seal()
    batch.commit()
    batch.settle()
    return batch.events


def created(context: str) -> ContextCreated:
    """The event that a first put leads with."""
    return ContextCreated(context, "a", context, {})


def unit_put(context: str, number: int, size: int = 0) -> UnitPut:
    """A unit whose payload is its number, padded to `size`."""
    return UnitPut(context, "a", number.to_bytes(16), "message", {}, f"{number}".ljust(size, "."), ())


class ModelEntry(NamedTuple):
    """An entry as any reader must see it; `unit` is decoded."""

    seq: int
    context: str
    kind: str
    unit: dict[str, Any]


@dataclass
class Model:
    """The entries of a log, worked out from its events alone.

    Attributes:
        gone: entries that were removed since, as (context, seq).
    """

    entries: list[ModelEntry] = field(default_factory=list)
    gone: set[tuple[str, int]] = field(default_factory=set)
    units: dict[int, dict[str, Any]] = field(default_factory=dict)

    def take(self, appended: list[Appended]) -> None:
        """Follow the log by some events."""
        for seq, record, event, _ in appended:
            if isinstance(event, UnitPut):
                unit: dict[str, Any] = cbor2.loads(record.body)
                self.units[seq] = unit
                self.entries.append(ModelEntry(seq, event.context, "unit_put", unit))
            elif isinstance(event, UnitAdded):
                unit = {**self.units[event.unit], "entry": seq, "entry_context": event.context}
                self.entries.append(ModelEntry(seq, event.context, "unit_added", unit))
            elif isinstance(event, UnitRemoved):
                self.gone.add((event.context, event.entry))

    def find(self, contexts: list[str] | None, want: Filter, first: int, last: int, present: bool) -> list[ModelEntry]:
        """The entries that a range asks for, oldest first."""
        return [
            entry
            for entry in self.entries
            if first <= entry.seq <= last
            and (contexts is None or entry.context in contexts)
            and fits(want, entry.unit)
            and not (present and (entry.context, entry.seq) in self.gone)
        ]


def fits(want: Filter, unit: dict[str, Any]) -> bool:
    """Whether the unit fits; written apart from `Filter.matches`, to be a check on it."""
    targets = [edge["target"] for edge in unit["relationships"]]
    return (
        (not want.agents or unit["agent"] in want.agents)
        and (not want.types or unit["type"] in want.types)
        and set(want.meta) <= set(unit["meta"].items())
        and (want.related_to is None or want.related_to in targets)
    )


# Backups


def saved(log: Log, target: Path, **members: Any) -> Path:
    """A backup of a log, written plainly."""
    target.mkdir()
    frames, count = bytearray(), 0
    reached = 0
    while reached < log.last_seq:
        chunk = read_chunk(log, reached, log.last_seq)
        frames += chunk.frames
        reached = chunk.reached
    count = sum(1 for _ in log.records(1, log.last_seq))
    return written(target, bytes(frames), count, log.last_seq, log.history, **members)


def written(target: Path, frames: bytes, count: int, last: int, history: str = "0" * 12, **members: Any) -> Path:
    """A backup of one segment."""
    digest = hashlib.sha256(frames).hexdigest()
    segments = (Segment(segment_name(1, last, digest), 1, last, count, len(frames), digest),) if last else ()
    for segment in segments:
        (target / segment.file).write_bytes(frames)
    (target / MANIFEST).write_bytes(Manifest(history, 1, last, "engramd test", segments, **members).encode())
    return target


def restored(path: Path, directory: Path) -> Restored:
    """Restore a backup into a data directory."""
    directory.mkdir(exist_ok=True)
    with closing(Source(path)) as source:
        *_, made = backup.restore(source, directory, 10**15)
    assert isinstance(made, Restored)
    return made


def checked(directory: Path) -> Check:
    """A check of a store that nobody has open."""
    with closing(Store(directory)) as store:
        check = Check(store)
        for _ in check.run():
            pass
    return check
