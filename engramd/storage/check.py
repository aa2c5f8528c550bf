"""Checking a store: every block, every record, and everything that is derived from them, in bounded steps and bounded memory.

The log is folded once more. Of the rows that this gives, only those are held in memory which differ from the rows that are stored: where
all is well, those of contexts, agents and the like that later events will change.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import cbor2

from ..protocol.errors import EngramError
from ..shapes import NamedTuple
from ..state.contexts import UnitRemoved
from ..state.machine import Event
from ..state.refold import refold
from ..state.units import UnitPut
from ..state.view import DEDUPE, UNITS, Holdings, Table
from . import keys, records
from .backup import Gaps
from .leveldb import Reader
from .log import FORMAT
from .records import Record
from .rows import PREFIXES, encode_row, row_key, row_of

K = TypeVar("K")
V = TypeVar("V")

STEP_KEYS = 256
STEP_BYTES = 64 * 1024
STEP_EVENTS = 4
MAX_FINDINGS = 1000  # more are counted, but not described
MAX_WRONG_ROWS = 100_000
CACHED_ROWS = 8192

# What is looked at, in this order.
CHECKS = ("format", "blocks", "gaps", "events", "keys", "rows")
DERIVED = (keys.ENTRY, keys.GONE, keys.BY_AGENT, keys.BY_TYPE, keys.BY_META, keys.BY_TARGET, keys.BY_PATH, keys.ADDED)
# What retention takes with it: the rows of these tables cannot be told from a log that it has trimmed.
_FORGOTTEN = {
    records.UNITS_TRIMMED: frozenset({keys.CONTEXTS, keys.AGENTS, keys.MEMBERS, keys.PAST_MEMBERS}),
    records.EVENTS_TRIMMED: frozenset(PREFIXES),
}
_MARKS = {keys.FORMAT, keys.HISTORY}
_NAMES = {
    keys.ENTRY: "the entry",
    keys.GONE: "the mark of a removed entry",
    keys.BY_AGENT: "the key by agent",
    keys.BY_TYPE: "the key by type",
    keys.BY_META: "the key by label",
    keys.BY_TARGET: "the key by relationship",
    keys.BY_PATH: "the key by path",
    keys.ADDED: "the key of an addition",
}


class Finding(NamedTuple):
    """Something that is wrong.

    Attributes:
        check: one of CHECKS.
        message: what is wrong.
    """

    check: str
    message: str


class _Expected:
    """The state as the log gives it, beside the rows that are stored: a `State` to fold into.

    Rows of units and dedupe keys are written once, before anything reads them; of the others it is known which were written. So a row that
    is stored as it should be need not be held.
    """

    def __init__(self, store: Reader) -> None:
        self.held = Holdings()
        self.different: dict[bytes, bytes | None] = {}
        self.written: set[bytes] = set()
        self.rows: Counter[bytes] = Counter()  # by prefix, those that there should be of units and dedupe keys
        self._store = store
        self._cache: dict[bytes, bytes | None] = {}

    def _stored(self, at: bytes) -> bytes | None:
        if at not in self._cache:
            if len(self._cache) >= CACHED_ROWS:
                self._cache.clear()
            self._cache[at] = self._store.get(at)
        return self._cache[at]

    def get(self, table: Table[K, V], key: K) -> V | None:
        """The row, or None."""
        at = row_key(table, key)
        if at in self.different:
            value = self.different[at]
        elif table in (UNITS, DEDUPE) or at in self.written:
            value = self._stored(at)
        else:
            return None
        return None if value is None else row_of(table, value)

    def put(self, table: Table[K, V], key: K, row: V) -> None:
        """Write or replace the row."""
        at = row_key(table, key)
        if table not in (UNITS, DEDUPE):
            self.written.add(at)
        value, stored = encode_row(row), self._stored(at)
        self._note(at, stored if _is_older(table, stored, value) else value)

    def delete(self, table: Table[K, Any], key: K) -> None:
        """Remove the row."""
        self._note(row_key(table, key), None)

    def _note(self, at: bytes, value: bytes | None) -> None:
        if self._stored(at) == value:
            self.different.pop(at, None)
        else:
            self.different[at] = value


class Check:
    """One check of a store.

    Args:
        store: what is checked; nobody else may write to it meanwhile, so of a daemon's it is a snapshot.
        mend: told of every key that should be otherwise, with the value that it should have, None for none.

    Attributes:
        findings: what is wrong, at most MAX_FINDINGS.
        wrong: how many things are wrong, by check.
        events: how many events the log has; `last`: the seq of the last one.
        mended: how many keys were given to `mend`.
        skipped: checks that could not be made, since what they rest on is damaged.
    """

    def __init__(self, store: Reader, mend: Callable[[bytes, bytes | None], None] | None = None) -> None:
        self.findings: list[Finding] = []
        self.wrong: Counter[str] = Counter()
        self.events = self.last = self.mended = 0
        self.skipped: list[str] = []
        self._store = store
        self._mend = mend
        self._keys: Counter[bytes] = Counter()  # by prefix, those that there are
        self._due: Counter[bytes] = Counter()  # those of DERIVED that there should be
        self._state = _Expected(store)
        self._inexact: frozenset[bytes] = frozenset()  # tables that rest on events which retention has removed
        self._lossy = False  # whether the log says that events before its end are lost

    def run(self) -> Iterator[tuple[int, int]]:
        """Make all checks; yields after every step how far it is, and out of how much."""
        if not self._format():
            self.skipped = ["blocks", "gaps", "events", "keys", "rows"]
            return
        yield from self._blocks()
        if self.wrong["blocks"]:
            self.skipped = ["gaps", "events", "keys", "rows"]
            return
        yield from self._log()
        if self.skipped:
            return
        yield from self._strays()
        for at, value in self._state.different.items():
            if at[:1] not in self._inexact:
                self._row(at, value)
        yield self.last, self.last

    def report(self) -> dict[str, Any]:
        """What was found, as a map of plain values."""
        results = {name: "wrong" if self.wrong[name] else "skipped" if name in self.skipped else "ok" for name in CHECKS}
        return {
            "events": self.events,
            "last_seq": self.last,
            "checks": [{"check": name, "result": result, "wrong": self.wrong[name]} for name, result in results.items()],
            "findings": [{"check": found.check, "message": found.message} for found in self.findings],
        }

    def _row(self, at: bytes, value: bytes | None) -> None:
        what = "is wrong" if value is not None else "should not be there"
        if value is not None and self._store.get(at) is None:
            what = "is missing"
        self._found("rows", f"the row {_shown(at)} of {PREFIXES[at[:1]]} {what}", at, value)

    def _found(self, check: str, message: str, key: bytes | None = None, value: bytes | None = None) -> None:
        self.wrong[check] += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(check, message))
        if self._mend is not None and key is not None:
            self._mend(key, value)
            self.mended += 1

    # Every block, whose checksums LevelDB compares as it is read

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """A damaged block may be met again under each prefix that has keys in it: that is one thing wrong."""
        met: dict[str, list[bytes]] = {}
        first: bytes | None = b""
        while first is not None:
            reached, following = first, None
            try:
                for key, value in self._steps(first, b"\xff" * 17):
                    if key is None:
                        yield 0, 0
                        continue
                    reached = key
                    self._keys[key[:1]] += 1
                    self._see(key, value)
            except EngramError as error:
                met.setdefault(error.message.partition(". ")[0], []).append(reached)
                following = next((prefix for prefix in sorted({*DERIVED, *PREFIXES, keys.LOG}) if prefix > reached), None)
            first = following
        for what, places in met.items():
            again = f", and at {len(places) - 1} further places" if len(places) > 1 else ""
            self._found("blocks", f"{what}: behind {_place(places[0])}{again}")

    def _steps(self, first: bytes, last: bytes) -> Iterator[tuple[bytes | None, bytes]]:
        """Keys and values; a key of None ends a step."""
        count = size = 0
        for key, value in self._store.scan(first, last):
            yield key, value
            count, size = count + 1, size + len(value)
            if count >= STEP_KEYS or size >= STEP_BYTES:
                count = size = 0
                yield None, b""

    def _format(self) -> bool:
        """Whether the store has a format that is known, or has lost it. What another format means by its keys nobody here knows."""
        stored = self._store.get(keys.FORMAT)
        if stored is None:
            self._found("format", "the store has lost its format", keys.FORMAT, b"%d" % FORMAT)
        elif stored != b"%d" % FORMAT:
            self._found("format", f"the store has format {_shown(stored)}, this Engram reads format {FORMAT}; use the Engram that wrote it")
            return False
        if self._store.get(keys.HISTORY) is None:
            self._found("format", "the store has lost its history id", keys.HISTORY, secrets.token_hex(6).encode())
        return True

    def _see(self, key: bytes, value: bytes) -> None:
        prefix = key[:1]
        if prefix == keys.LOG:
            self.events += 1
            self.last = max(self.last, keys.seq_of(key))
            self._inexact |= _FORGOTTEN.get(value[0], frozenset())
            self._lossy = self._lossy or (value[:1] == bytes((records.LOG_RESTORED,)) and bool(_lost(value)))
        elif prefix not in DERIVED and prefix not in PREFIXES and key not in _MARKS:
            self._found("keys", f"the key {_shown(key)} belongs to nothing", key)

    # Every event, with what it should have

    def _log(self) -> Iterator[tuple[int, int]]:
        gaps, last_ts = Gaps(), 0
        for count, (key, value) in enumerate(self._store.prefixed(keys.LOG)):
            seq = keys.seq_of(key)
            try:
                record = records.unpack(value)
                event = records.decode_event(record)
            except Exception as error:
                self._found("events", f"event {seq} cannot be read: {error!r:.100}")
                self.skipped = ["keys", "rows"]
                continue
            if record.ts < last_ts:
                self._found("events", f"the time of event {seq} is before that of the one before it")
            last_ts = record.ts
            gaps.see(seq, event)
            self._event(seq, record, event)
            if len(self._state.different) > MAX_WRONG_ROWS:
                self._found("rows", f"more than {MAX_WRONG_ROWS} rows are wrong; the rest is not looked at")
                self.skipped = ["keys", "rows"]
                return
            if count % STEP_EVENTS == 0:
                yield seq, self.last
        for first, end in gaps.unexplained(self.last):
            self._found("gaps", f"the events {first} to {end} are missing, and nothing says why" if first < end else _missing(first))

    def _event(self, seq: int, record: Record, event: Event) -> None:
        unit = self._unit(record, event)
        folded = refold(self._state, seq, record.ts, event, records.is_there(record, event, unit, self._record))
        if not folded.follows and not self._lossy and not self._inexact:
            self._found("events", f"event {seq} ({record.kind}) does not follow from those before it")
        for key, value in records.keys_of(seq, record, event, unit) if folded.stands else ():
            self._due[key[:1]] += 1
            stored = self._store.get(key)
            if stored is None:
                self._due[key[:1]] -= 1
                self._found("keys", f"{_NAMES[key[:1]]} of event {seq} is missing", key, value)
            elif stored != value:
                self._found("keys", f"{_NAMES[key[:1]]} of event {seq} is wrong", key, value)
        if isinstance(event, UnitPut):
            self._due[keys.UNITS] += 1
            self._due[keys.DEDUPE] += event.dedupe is not None

    def _keys_of(self, seq: int, record: Record, event: Event, unit: bytes | None) -> records.Pairs:
        """The keys that an event should have; none for a removal whose entry was trimmed since."""
        if isinstance(event, UnitRemoved) and not records.stands(self._record(event.entry)):
            return []
        return records.keys_of(seq, record, event, unit)

    def _unit(self, record: Record, event: Event) -> bytes | None:
        """The encoded unit of an entry."""
        if record.code == records.UNIT_PUT:
            return record.body
        if record.code != records.UNIT_ADDED:
            return None
        birth = self._record(cbor2.loads(record.body)["unit"])
        return birth.body if birth is not None and birth.code == records.UNIT_PUT else None

    def _record(self, seq: int) -> Record | None:
        stored = self._store.get(keys.LOG + keys.pack_seq(seq))
        return None if stored is None else records.unpack(stored)

    # What belongs to no event

    def _strays(self) -> Iterator[tuple[int, int]]:
        for prefix in (*DERIVED, keys.UNITS, keys.DEDUPE):
            missing = sum(
                1 for at, value in self._state.different.items() if at[:1] == prefix and value is not None and not self._store.get(at)
            )
            if self._keys[prefix] > self._due[prefix] - missing:
                yield from self._stray_of(prefix)
        for prefix in PREFIXES:
            if prefix not in (keys.UNITS, keys.DEDUPE) and prefix not in self._inexact:
                for key, _ in self._steps(prefix, prefix + b"\xff" * 16):
                    if key is None:
                        yield self.last, self.last
                    elif key not in self._state.written:
                        self._found("rows", f"the row {_shown(key)} of {PREFIXES[prefix]} belongs to nothing", key)

    def _stray_of(self, prefix: bytes) -> Iterator[tuple[int, int]]:
        """Keys beyond those that there should be: each is compared with the event that it leads to."""
        check = "rows" if prefix in PREFIXES else "keys"
        for count, (key, value) in enumerate(self._store.scan(prefix, prefix + b"\xff" * 16)):
            if not self._is_due(key, value):
                self._found(check, f"the key {_shown(key)} belongs to nothing", key)
            if count % STEP_EVENTS == 0:
                yield self.last, self.last

    def _is_due(self, key: bytes, value: bytes) -> bool:
        try:
            seq = cbor2.loads(value)[0] if key[:1] in PREFIXES else keys.seq_of(value if key[:1] == keys.GONE else key)
            stored = self._store.get(keys.LOG + keys.pack_seq(seq))
            if stored is None:
                return False
            record = records.unpack(stored)
            event = records.decode_event(record)
            if key[:1] == keys.UNITS:
                return isinstance(event, UnitPut) and row_key(UNITS, event.id) == key
            if key[:1] == keys.DEDUPE:
                return isinstance(event, UnitPut) and event.dedupe is not None and row_key(DEDUPE, (event.context, event.dedupe)) == key
            return key in dict(self._keys_of(seq, record, event, self._unit(record, event)))
        except Exception:  # whatever stands there is not what an engramd wrote
            return False


def _is_older(table: Table[Any, Any], stored: bytes | None, value: bytes) -> bool:
    """Whether what is stored is the same row, without members that a later version has appended."""
    if stored is None or stored[:1] >= value[:1]:  # the head of an array says how many it has
        return False
    try:
        return bool(row_of(table, stored) == row_of(table, value))
    except Exception:  # whatever stands there is not what an engramd wrote
        return False


def _missing(seq: int) -> str:
    return f"event {seq} is missing, and nothing says why"


def _lost(value: bytes) -> Any:
    return cbor2.loads(records.unpack(value).body)["lost"]


def _place(key: bytes) -> str:
    """What a key is of, for people."""
    prefix = key[:1]
    if prefix == keys.LOG and len(key) == 9:
        return f"event {keys.seq_of(key)} of the log"
    what = _NAMES.get(prefix) or (f"the row of {PREFIXES[prefix]}" if prefix in PREFIXES else "the key")
    return f"{what} {_shown(key)}"


def _shown(key: bytes) -> str:
    """A key for people: what of it is text, and the rest in hexadecimal digits."""
    return "".join(chr(byte) if 32 < byte < 127 else f"\\x{byte:02x}" for byte in key[:80]) or "(the first)"
