"""Reading entries: by context, through the best secondary key, in either direction, a bounded step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import TypeVar

import cbor2

from ..protocol.unit import with_entry
from ..shapes import NamedTuple
from ..state.filters import EVERYTHING, Filter
from ..state.view import CONTEXTS
from . import keys, records
from .log import Log

STEP_ROWS = 512  # a step examines at most so many rows
STEP_BYTES = 256 * 1024  # and ends after the unit that passes this, wanted or not
MAX_SCANS = 16  # where more keys would have to be scanned at once for a context, its entries are read instead
MAX_CONDITIONS = 4  # that are looked up by their keys; the others are checked on each unit
MAX_JOINED = 2  # keys of a condition for which its next place is looked up, rather than the units of another condition
MAX_SCANS_OF_ALL = 64  # and for all contexts together, the log
ROWS_OF_A_SCAN = 64  # that could be read instead of beginning one

Rows = list[tuple[bytes, bytes]]  # keys with their values
Found = TypeVar("Found")


class Entry(NamedTuple):
    """An entry that was read: where it stands, its context, and the unit's bytes as they are sent."""

    seq: int
    context: str
    kind: str
    unit: bytes


class Step(NamedTuple):
    """What one step found, and the seq up to which (or, in reverse, down to which) everything was examined."""

    entries: list[Entry]
    reached: int


class Range(NamedTuple):
    """Which entries: those of `contexts` (None: all) that fit `filter`, seqs from `first` to `last`.

    Attributes:
        present: leave out entries that were removed from their context, up to `at`.
        kinds: only entries that arrived by an event of these kinds; None means all.
        sees: of all contexts, only those for which this says so.
    """

    contexts: Sequence[str] | None
    filter: Filter
    first: int
    last: int
    reverse: bool = False
    present: bool = False
    kinds: frozenset[str] | None = None
    at: int = keys.LAST_SEQ
    sees: Callable[[str], bool] | None = None


class Page(NamedTuple):
    """What one step found, of which nothing but the units matters."""

    units: list[bytes]
    reached: int


def step(log: Log, wanted: Range, limit: int = STEP_ROWS, rows: int = STEP_ROWS, size: int = STEP_BYTES) -> Step:
    """Read on, until `limit` entries are found, or `rows` rows or more than `size` bytes are examined."""
    context = _plain_context(log, wanted)
    if context is None:
        return _filtered_step(log, wanted, limit, rows, size)
    make = tuple.__new__  # what is called in the end, without a function of Python's in between for each entry

    def entries(rows: Rows, units: list[bytes]) -> list[Entry]:
        return [make(Entry, (keys.seq_of(key), context, "unit_put", unit)) for (key, _), unit in zip(rows, units, strict=True)]

    return Step(*_plain_step(log, context, wanted, min(limit, rows), size, entries, lambda entry: entry))


def page(log: Log, wanted: Range, limit: int, size: int) -> Page:
    """What `step` finds, in less time."""
    context = _plain_context(log, wanted)
    if context is None:
        entries, reached = _filtered_step(log, wanted, limit, STEP_ROWS, size)
        return Page([entry.unit for entry in entries], reached)
    return Page(*_plain_step(log, context, wanted, min(limit, STEP_ROWS), size, lambda rows, units: units, lambda entry: entry.unit))


def _plain_context(log: Log, wanted: Range) -> str | None:
    """The context of which nothing is filtered or hidden: the common question, answered from one scan."""
    if wanted.contexts is None or len(wanted.contexts) != 1 or wanted.kinds is not None or not wanted.filter.is_empty():
        return None
    context = wanted.contexts[0]
    return None if wanted.present and log.has_removals(context) else context


def _plain_step(
    log: Log,
    context: str,
    wanted: Range,
    limit: int,
    size: int,
    several: Callable[[Rows, list[bytes]], list[Found]],
    one: Callable[[Entry], Found],
) -> tuple[list[Found], int]:
    """A step over all of one context, many rows at a time. What is wanted of rows that have their units, and of an entry, is for the caller
    to say."""
    found: list[Found] = []
    prefix, first, last = keys.entries(context), wanted.first, wanted.last
    while True:
        most = min(limit - len(found), max(size // records.INLINE, 1))  # which are not too many, however large
        rows = log.rows(prefix, first, last, wanted.reverse, most)
        units = records.units_here(rows)
        if len(units) == len(rows):
            found += several(rows, units)
            size -= sum(map(len, units))
        else:
            entries, examined = _one_by_one(log, context, rows, size)
            found += map(one, entries)
            size -= sum(len(entry.unit) for entry in entries)
            if size <= 0:
                most, rows = examined, rows[:examined]
        if len(rows) < most:
            return found, wanted.first if wanted.reverse else wanted.last
        reached = keys.seq_of(rows[-1][0])
        if len(found) >= limit or size <= 0:
            return found, reached
        first, last = (first, reached - 1) if wanted.reverse else (reached + 1, last)


def _one_by_one(log: Log, context: str, rows: Rows, size: int) -> tuple[list[Entry], int]:
    """The entries of rows of which some only say where their unit stands, and how many rows they took, ending after the unit that passes
    `size` bytes."""
    found: list[Entry] = []
    for examined, (key, value) in enumerate(rows, 1):
        entry = _entry_at(log, context, keys.seq_of(key), records.read_entry(value))
        if entry is not None:
            found.append(entry)
            size -= len(entry.unit)
        if size <= 0:
            return found, examined
    return found, len(rows)


def _filtered_step(log: Log, wanted: Range, limit: int, rows: int, size: int) -> Step:
    found: list[Entry] = []
    reached = wanted.first - 1 if not wanted.reverse else wanted.last + 1
    for examined, (seq, cost, entry) in enumerate(_walk(log, wanted), 1):
        reached = seq
        size -= cost
        if entry is not None and (wanted.kinds is None or entry.kind in wanted.kinds):
            found.append(entry)
        if len(found) >= limit or examined >= rows or size <= 0:
            return Step(found, reached)
    return Step(found, wanted.first if wanted.reverse else wanted.last)


def _entry_at(log: Log, context: str, seq: int, at: bytes | int) -> Entry | None:
    return Entry(seq, context, "unit_put", at) if isinstance(at, bytes) else _elsewhere(log, context, seq, at)


def _elsewhere(log: Log, context: str, seq: int, at: int) -> Entry | None:
    """An entry whose unit stands in the log alone, or in another context; None if retention or erasure took it between the two reads."""
    unit = log.unit(at)
    if unit is None:
        return None
    return Entry(seq, context, "unit_put", unit) if at == seq else Entry(seq, context, "unit_added", with_entry(unit, seq, context))


_Examined = tuple[int, int, Entry | None]  # a row's seq, the bytes that it cost to look at, and its entry if it is wanted


def _walk(log: Log, wanted: Range) -> Iterator[_Examined]:
    """Every row examined."""
    contexts = _contexts_with_keys(log, wanted) if wanted.contexts is None else wanted.contexts
    if contexts is None:
        yield from _walk_log(log, wanted)
        return
    sources = [_walk_context(log, context, wanted) for context in contexts]
    if len(sources) == 1:
        yield from sources[0]
    else:
        # An entry before what only says how far another context was looked at: a step may end at either.
        yield from merge(*sources, key=lambda row: (row[0], (row[2] is None) != wanted.reverse), reverse=wanted.reverse)


def _contexts_with_keys(log: Log, wanted: Range) -> Sequence[str] | None:
    """All contexts, where their secondary keys leave fewer rows to look at than the log has in the range; else None."""
    scans = min(map(len, _conditions("", wanted.filter)), default=0)
    if not 0 < scans <= MAX_SCANS:
        return None
    most = min(MAX_SCANS_OF_ALL // scans, (min(wanted.last, log.last_seq) - wanted.first) // ROWS_OF_A_SCAN // scans)
    found = [key.decode() for key in islice(log.durable.keys(CONTEXTS), max(most, 0) + 1)]
    if len(found) > most:
        return None
    return found if wanted.sees is None else [context for context in found if wanted.sees(context)]


def _walk_log(log: Log, wanted: Range) -> Iterator[_Examined]:
    for seq, record in log.records(wanted.first, wanted.last, wanted.reverse):
        entry = entry_of(log, seq, record, wanted.filter)
        if entry is not None and wanted.sees is not None and not wanted.sees(entry.context):
            entry = None
        if entry is not None and wanted.present and log.is_gone(entry.context, seq, wanted.at):
            entry = None
        yield seq, len(entry.unit if entry else record.body), entry


def entry_of(log: Log, seq: int, record: records.Record, want: Filter) -> Entry | None:
    """The entry that an event of the log is, if it is one and fits."""
    if record.code == records.UNIT_PUT:
        if records.is_trimmed(record):
            return None
        if want.is_empty():
            return Entry(seq, records.context_in(record.body), "unit_put", record.body)
        decoded = cbor2.loads(record.body)
        return Entry(seq, decoded["context"], "unit_put", record.body) if want.matches(decoded) else None
    if record.code == records.UNIT_ADDED:
        added = cbor2.loads(record.body)
        unit = log.unit(added["unit"])
        if unit is not None and want.matches(cbor2.loads(unit)):
            return Entry(seq, added["context"], record.kind, with_entry(unit, seq, added["context"]))
    return None


def present_entry(log: Log, seq: int) -> Entry | None:
    """The entry at a seq; None if there is none, or its unit was removed from that context since."""
    record = log.record(seq)
    entry = None if record is None else entry_of(log, seq, record, EVERYTHING)
    return None if entry is None or log.is_gone(entry.context, seq) else entry


def _walk_context(log: Log, context: str, wanted: Range) -> Iterator[_Examined]:
    hide = wanted.present and log.has_removals(context)
    for seq, at in _rows(log, context, wanted):
        if at is None:
            yield seq, 0, None
            continue
        entry = _entry_at(log, context, seq, at)
        cost = len(entry.unit) if entry else 0
        if entry is None or not wanted.filter.matches(cbor2.loads(entry.unit)) or (hide and log.is_gone(context, seq, wanted.at)):
            yield seq, cost, None
        else:
            yield seq, cost, entry


def _rows(log: Log, context: str, wanted: Range) -> Iterator[tuple[int, bytes | int | None]]:
    """Seqs of candidate entries with their unit, or where it stands; None for a seq up to which there is no candidate.

    They are those that stand under the key of every condition which takes few scans, or else of the one which takes the fewest.
    """
    conditions = _conditions(context, wanted.filter)
    narrow = [prefixes for prefixes in conditions if len(prefixes) <= MAX_JOINED][:MAX_CONDITIONS]
    if len(narrow) > 1:
        yield from _joined(log, narrow, wanted)
        return
    prefixes = min(conditions, key=len, default=[])
    if not 0 < len(prefixes) <= MAX_SCANS:
        for key, value in log.scan(keys.entries(context), wanted.first, wanted.last, wanted.reverse):
            yield keys.seq_of(key), records.read_entry(value)
        return
    scans = [_pointers(log, prefix, wanted) for prefix in prefixes]
    yield from merge(*scans, reverse=wanted.reverse)


def _conditions(context: str, want: Filter) -> list[list[bytes]]:
    """For each condition of a filter, the keys under one of which stands everything in a context that fits it."""
    found = [[keys.by_target(context, want.related_to)]] if want.related_to is not None else []
    found += [[keys.by_meta(context, *label)] for label in want.meta]
    found += [[keys.by_agent(context, agent) for agent in want.agents]] if want.agents else []
    return found + ([[keys.by_type(context, type) for type in want.types]] if want.types else [])


def _joined(log: Log, conditions: list[list[bytes]], wanted: Range) -> Iterator[tuple[int, int | None]]:
    """What stands under a key of each condition. Each in turn is asked for its next place, from where the others have come to: so it takes
    about as many looks as the rarest of them has entries."""
    forward = -1 if wanted.reverse else 1
    at = wanted.last if wanted.reverse else wanted.first
    agreed, turn = 0, 0
    while True:
        first, last = (wanted.first, at) if wanted.reverse else (at, wanted.last)
        nexts = (next(_pointers(log, prefix, wanted._replace(first=first, last=last)), None) for prefix in conditions[turn])
        found = (min if forward > 0 else max)((place for place in nexts if place is not None), default=None)
        if found is None:
            return
        turn = (turn + 1) % len(conditions)
        if found[0] != at:
            at, agreed = found[0], 0
            yield at - forward, None
        agreed += 1
        if agreed == len(conditions):
            yield found
            at, agreed = at + forward, 0


def _pointers(log: Log, prefix: bytes, wanted: Range) -> Iterator[tuple[int, int]]:
    for key, value in log.scan(prefix, wanted.first, wanted.last, wanted.reverse):
        seq = keys.seq_of(key)
        yield seq, keys.seq_of(value) if value else seq
