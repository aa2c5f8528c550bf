"""The index: everything that searches need of the log, held by the worker, and behind the log by what it has not been told yet.

In memory: arrays with a value for each unit (its seq, context, agent, type, length), the tail of the postings, the vocabulary, the
proposing part of the vectors. On disk, in a LevelDB of its own: the postings, and what the arrays are read from at a start; beside it, the
rows of the vectors. `flush` writes all that is new in one batch, together with the seq up to which the log is covered, so that a crash at
any moment costs some reading of the log and nothing else. docs/storage.md has every key.
"""

from __future__ import annotations

import logging
import shutil
import struct
from collections.abc import Iterable, Sequence
from functools import reduce
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import cbor2
import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import EngramError
from ..protocol.unit import TYPES
from ..storage.leveldb import Damage, Store
from ..storage.records import UNIT_ADDED, UNIT_PUT, UNIT_REDACTED, UNIT_REMOVED, UNITS_TRIMMED
from . import postings as segmented
from . import tokens
from .columns import Column, distinct
from .embedder import Embedder, rows_of
from .fuzzy import Vocabulary
from .postings import Postings
from .vectors import MAX_PIECES, Vectors

logger = logging.getLogger("engramd.search")

FORMAT = 3
STATE = b"!state"  # -> map: format, history, embedder, covers, docs
COLUMNS = b"d"  # first doc(4) -> map of arrays
NAME = b"n"  # number(4) -> kind and name
ADDED = b"a"  # seq of the addition(8) -> doc(4) context's number(4)
REMOVED = b"r"  # seq of the entry that was removed(8) -> seq of the removal(8)
ERASED = b"k"  # doc(4) -> empty
TRIMMED = b"t"  # doc(4) -> empty
WORD = b"w"  # word -> empty

WORN = 10_000  # docs that the log has no more, and at least half of all, make an index worth making anew
FLUSH_DOCS = 1024  # new docs after which everything is written
FLUSH_EVENTS = 65_536  # events without a new doc after which that is noted
COMPARED = 16  # names that are compared one by one: for more, looking them up is quicker
MAX_TEXT = 256 * 1024  # characters of a payload that are read
PIECE = 2000  # characters of a text that one vector stands for
EMBED_DOCS = 64  # texts embedded at once

Mask = NDArray[np.bool_]
_PLACE = struct.Struct(">II")
_COLUMNS = (("seq", np.int64), ("context", np.int32), ("agent", np.int32), ("type", np.uint8), ("length", np.float32))


class Wanted(NamedTuple):
    """Which units: a `list`'s filter. None or empty means no condition.

    Attributes:
        first, last: seqs that an entry must be between, both included.
        upto: the last seq that a unit may be born at: later ones are not in the order that a cursor stands in.
    """

    contexts: Sequence[str] = ()
    agents: Sequence[str] = ()
    types: Sequence[str] = ()
    meta: Sequence[tuple[str, str]] = ()
    related_to: bytes | None = None
    first: int = 0
    last: int = 2**63 - 1
    upto: int = 2**63 - 1


EVERYTHING = Wanted()


class Index:
    """The open index.

    Args:
        directory: where it is; made if need be. One of another history, of another embedder, that covers more than the log has, or of an
            unknown format is thrown away and begun anew.
        history: the log's.
        last_seq: the log's.

    Attributes:
        covers: the seq up to which the log was absorbed.

    Raises:
        EngramError: `storage`, here and from every method, when it is damaged (then it is a `Damage`, and `throw_away` is the remedy) or
            the disk fails.
    """

    def __init__(self, directory: Path, embedder: Embedder, history: str = "", last_seq: int = 2**63 - 1) -> None:
        self._directory = directory
        self.embedder = embedder
        identity = {"format": FORMAT, "history": history, "embedder": [embedder.name, embedder.version, embedder.dim]}
        self._identity = identity
        self._store = _open(directory)
        try:
            state = self._read_state()
            if state is not None and ({name: state.get(name) for name in identity} != identity or state["covers"] > last_seq):
                self._store.close()
                throw_away(directory)
                self._store, state = _open(directory), None
            self._restore(state or {"covers": 0, "docs": 0, "rows": 0})
        except EngramError:
            self._store.close()
            raise

    def close(self) -> None:
        """Release the files, without writing what is new."""
        self.vectors.close()
        self._store.close()

    # Opening

    def _read_state(self) -> dict[str, Any] | None:
        stored = self._store.get(STATE)
        return None if stored is None else cbor2.loads(stored)

    def _restore(self, state: dict[str, Any]) -> None:
        self.covers: int = state["covers"]
        self._flushed = self.covers
        self._columns = {name: Column(dtype) for name, dtype in _COLUMNS}
        self._owners = Column(np.int32)
        self._unchecked: list[int] = []  # first docs of what was written together, where vectors and checksum are still to be compared
        for first, value in self._store.prefixed(COLUMNS):
            stored = cbor2.loads(value)
            for name, dtype in _COLUMNS:
                self._columns[name].extend(np.frombuffer(stored[name], dtype))
            self._owners.extend(np.frombuffer(stored["owners"], np.int32))
            self._unchecked.append(int.from_bytes(first))
        docs = len(self._columns["seq"])
        if docs != state["docs"]:
            raise Damage("storage", f"the search index in {self._directory} has lost a part")
        self._gone = Column(np.bool_)  # whether a doc's birth entry was removed
        self._gone.extend(np.zeros(docs, np.bool_))
        self._names: dict[tuple[str, str], int] = {}
        self._name_of: list[tuple[str, str]] = []
        for _, value in self._store.prefixed(NAME):
            self._number(*cbor2.loads(value))
        self._stored_names = len(self._name_of)
        self._added: dict[int, list[int]] = {}  # doc: which rows of the arrays below
        self._entries = {"seq": Column(np.int64), "doc": Column(np.int32), "context": Column(np.int32), "gone": Column(np.bool_)}
        for key, value in self._store.prefixed(ADDED):
            self._add_entry(int.from_bytes(key), *_PLACE.unpack(value))
        self._new_rows: list[tuple[bytes, bytes]] = []
        self._removed = {"entry": Column(np.int64), "at": Column(np.int64)}
        for entry, at in sorted(self._store.prefixed(REMOVED), key=lambda removal: removal[1]):
            self._remove_entry(int.from_bytes(entry), int.from_bytes(at))
        self._flushed_docs = docs
        self._flushed_rows = len(self._owners)
        self.vocabulary = Vocabulary()
        self.vocabulary.add(key.decode() for key in self._store.keys(WORD))
        self._new_words: list[str] = []
        self.postings = Postings(self._store, docs)
        self.vectors = Vectors(self._directory, self.embedder.dim, self._owners)
        if self._unchecked:  # the last are those that a crash may have cost; the others are looked at by and by
            self._check(self._unchecked.pop())
        lengths = self._columns["length"].values
        self._tokens, self._with_text = float(lengths.sum(dtype=np.float64)), int(np.count_nonzero(lengths))
        for key in self._store.keys(ERASED):
            self._set_erased(int.from_bytes(key))
        self._is_stale = False
        self._trimmed = sum(1 for _ in self._store.keys(TRIMMED))
        self._texts: list[tuple[int, str]] = []  # docs whose vectors are still to be made
        self._mute = False  # whether the embedder has failed to make them

    def _check(self, first: int) -> None:
        """Compare the vectors of docs that were written together with their checksum."""
        key = COLUMNS + first.to_bytes(4)
        stored = cbor2.loads(self._store.get(key) or b"")
        if self.vectors.checksum(*self._rows_of(first, stored)) != stored["check"]:
            raise Damage("storage", f"the vectors in {self._directory} are damaged")

    def _rows_of(self, first: int, stored: dict[str, Any]) -> tuple[int, int]:
        """The first row of docs that were written together, and the one behind their last."""
        docs = len(stored["length"]) // 4
        start, stop = np.searchsorted(self._owners.values, np.array((first, first + docs), np.int32))
        return int(start), int(stop)

    # What is in it

    def __len__(self) -> int:
        return len(self._columns["seq"])

    @property
    def lengths(self) -> NDArray[np.float32]:
        """Of every doc, in atoms."""
        return self._columns["length"].values

    @property
    def mean(self) -> float:
        """The mean length of the docs that have text."""
        return self._tokens / max(self._with_text, 1)

    def seq_of(self, doc: int) -> int:
        """Where a doc's unit was born."""
        return int(self._columns["seq"].values[doc])

    def doc_of(self, seq: int) -> int | None:
        """The doc of the unit that was born at a seq."""
        seqs = self._columns["seq"].values
        at = int(np.searchsorted(seqs, seq))
        return at if at < len(seqs) and seqs[at] == seq else None

    # Absorbing

    def absorb(self, events: Iterable[tuple[int, int, bytes]], upto: int) -> None:
        """Take in events as (seq, code, body), in order; afterwards the log is covered up to `upto`. What is covered is passed over."""
        redacted: list[int] = []
        covered = self.covers  # one seq may come twice: an entry, and that it was taken out since
        for seq, code, body in events:
            if seq <= covered:
                continue
            if code == UNIT_PUT:
                self._absorb_unit(seq, cbor2.loads(body))
            elif code == UNIT_ADDED:
                event = cbor2.loads(body)
                doc = self.doc_of(event["unit"])
                if doc is not None:
                    context = self._number("context", event["context"])
                    self._add_entry(seq, doc, context)
                    self._new_rows.append((ADDED + seq.to_bytes(8), _PLACE.pack(doc, context)))
            elif code == UNIT_REMOVED:
                self._absorb_removal(cbor2.loads(body)["entry"], seq)
            elif code == UNITS_TRIMMED:
                self._absorb_trim(cbor2.loads(body), seq)
            elif code == UNIT_REDACTED:
                redacted.append(cbor2.loads(body)["unit"])
            self.covers = seq
        self.covers = max(self.covers, upto)
        if not self._mute:
            self._embed()
        if redacted and self._texts:  # without their vectors, what is new cannot be written, nor anything be erased
            self._is_stale = True
        elif redacted:
            self.erase(redacted)

    def _absorb_removal(self, entry: int, at: int) -> None:
        self._remove_entry(entry, at)
        self._new_rows.append((REMOVED + entry.to_bytes(8), at.to_bytes(8)))

    def _absorb_trim(self, event: dict[str, Any], at: int) -> None:
        """Hide what the log has no more. It leaves the files when the index is made anew."""
        for entry, _ in event["entries"]:
            self._absorb_removal(entry, at)
        for seq in event["removed"]:
            if (doc := self.doc_of(seq)) is not None:
                self._trimmed += 1
                self._new_rows.append((TRIMMED + doc.to_bytes(4), b""))

    @property
    def is_worn(self) -> bool:
        """Whether it should be made anew: too much of it is gone from the log, or it cannot be rid of something."""
        return self._is_stale or self._trimmed > max(WORN, len(self) // 2)

    def _absorb_unit(self, seq: int, unit: dict[str, Any]) -> None:
        doc = len(self)
        text = unit.get("text", "")[:MAX_TEXT]
        counts, length = tokens.count(text)
        terms = {term.encode(): times for term, times in counts.items()}
        terms |= {label_term(key, value): 1 for key, value in unit["meta"].items()}
        terms |= {target_term(edge["target"]): 1 for edge in unit["relationships"]}
        self.postings.add(doc, terms)
        self._new_words += self.vocabulary.add(counts)
        columns = self._columns
        columns["seq"].append(seq)
        columns["context"].append(self._number("context", unit["context"]))
        columns["agent"].append(self._number("agent", unit["agent"]))
        columns["type"].append(TYPES.index(unit["type"]) if unit["type"] in TYPES else 255)
        columns["length"].append(length)
        self._gone.append(False)
        self._tokens += length
        self._with_text += length > 0
        if length:
            self._texts += ((doc, text[at : at + PIECE]) for at in range(0, min(len(text), PIECE * MAX_PIECES), PIECE))
        if len(self._texts) >= EMBED_DOCS and not self._mute:
            self._embed()

    def _embed(self) -> None:
        """Make the vectors of the texts that wait for them. While the embedder does not answer, they wait, and nothing is written."""
        if self._texts:
            try:
                rows = rows_of(self.embedder, [text for _, text in self._texts])
            except EngramError as error:
                if not self._mute:
                    logger.warning("%s", error.message)
                self._mute = True
                return
            self._mute = False
            for (doc, _), row in zip(self._texts, rows, strict=True):
                if row.any():
                    self.vectors.add(doc, row[None])
            self._texts.clear()
        self.vectors.refresh()

    def _number(self, kind: str, name: str) -> int:
        number = self._names.get((kind, name))
        if number is None:
            number = self._names[kind, name] = len(self._name_of)
            self._name_of.append((kind, name))
        return number

    def _add_entry(self, seq: int, doc: int, context: int) -> None:
        self._added.setdefault(doc, []).append(len(self._entries["seq"]))
        for name, value in (("seq", seq), ("doc", doc), ("context", context), ("gone", False)):
            self._entries[name].append(value)

    def _remove_entry(self, entry: int, at: int) -> None:
        self._removed["entry"].append(entry)
        self._removed["at"].append(at)
        doc = self.doc_of(entry)
        if doc is not None:
            self._gone.values[doc] = True
            return
        seqs = self._entries["seq"].values
        at = int(np.searchsorted(seqs, entry))
        if at < len(seqs) and seqs[at] == entry:
            self._entries["gone"].values[at] = True

    # Writing

    @property
    def wants_flush(self) -> bool:
        """Whether enough is new to be written."""
        return not self._texts and (len(self) - self._flushed_docs >= FLUSH_DOCS or self.covers - self._flushed >= FLUSH_EVENTS)

    def flush(self) -> None:
        """Write all that is new in one batch. Before it, the rows of the vectors: a row without a batch is cut off at the next start.

        Nothing is written while texts wait for an embedder that does not answer: they would never get their vectors.
        """
        if self._texts:
            return
        first, docs, rows = self._flushed_docs, len(self), len(self._owners)
        batch = self._store.batch()
        if docs > first:
            self.vectors.sync()
            stored = {name: self._columns[name].values[first:].tobytes() for name, _ in _COLUMNS}
            stored["owners"] = self._owners.values[self._flushed_rows :].tobytes()
            check = self.vectors.checksum(self._flushed_rows, rows)
            batch.put(COLUMNS + first.to_bytes(4), cbor2.dumps({**stored, "check": check}))
        for number in range(self._stored_names, len(self._name_of)):
            batch.put(NAME + number.to_bytes(4), cbor2.dumps(list(self._name_of[number])))
        for key, value in self._new_rows:
            batch.put(key, value)
        for word in self._new_words:
            batch.put(WORD + word.encode(), b"")
        self.postings.flush(batch, docs)
        batch.put(STATE, cbor2.dumps({**self._identity, "covers": self.covers, "docs": docs}))
        self._store.write(batch)
        self._flushed, self._flushed_docs, self._flushed_rows = self.covers, docs, rows
        self._stored_names = len(self._name_of)
        self._new_rows.clear()
        self._new_words.clear()

    @property
    def flushed_docs(self) -> int:
        """How many docs are on disk."""
        return self._flushed_docs

    # Chores

    @property
    def has_chores(self) -> bool:
        """Whether there is something to do that can be done at any time."""
        return self.postings.merging or self.vectors.wants_work or bool(self._unchecked)

    @property
    def stuck(self) -> bool:
        """Whether the embedder must answer again before more is absorbed."""
        return self._mute

    @property
    def waits(self) -> bool:
        """Whether something goes on in a thread whose end must be looked for."""
        return self.vectors.is_working or self._mute

    def do_chore(self) -> None:
        """Do a small part of it."""
        if self._mute:
            self._embed()
        elif self.vectors.wants_work:
            self.vectors.work()
        elif self.postings.merging:
            self.postings.merge_step()
        elif self._unchecked:
            self._check(self._unchecked.pop())

    def facts(self) -> dict[str, Any]:
        """What `status` tells of it."""
        return {"units": len(self), "vectors": len(self._owners), "vector_index": self.vectors.kind, "embedder": self.embedder.name}

    def erase(self, seqs: Sequence[int]) -> int:
        """Take the units that were born at these seqs out of everything: postings, words, vectors, memory and files; gives how many.

        Their places stay, empty, so that no other moves. What is new is written first, and moved into table files, so that a crash leaves
        whole units or nothing, and what is erased stands in other files than what takes its place.
        """
        docs = sorted({doc for seq in seqs if (doc := self.doc_of(seq)) is not None})
        if not docs:
            return 0
        self._texts = [(doc, text) for doc, text in self._texts if doc not in docs]
        self.flush()
        self._store.flush()
        gone = self._erase(docs)
        for span in self.postings.spans(docs) | {(WORD, WORD + b"\xff" * 8)}:
            self._store.compact(*span)
        self._store.reopen()
        if self._store.notes(gone):
            self._store.rewrite()
        return len(docs)

    def _erase(self, docs: Sequence[int]) -> set[bytes]:
        """Take docs out of everything but the files; gives the terms that a segment has no more."""
        self.vectors.erase(docs)
        gone = self.postings.erase(docs)
        batch = self._store.batch()
        for word in self.vocabulary.remove(term.decode() for term in gone if term[0] > 2 and not self.having_count(term)):
            batch.delete(WORD + word.encode())
        for doc in docs:
            batch.put(ERASED + doc.to_bytes(4), b"")
            self._set_erased(doc)
        self._check_anew(batch, docs)
        self._store.write(batch)
        return gone

    def _check_anew(self, batch: Any, docs: Sequence[int]) -> None:
        """Put the checksums of the rows that some docs were written with."""
        firsts = np.array([int.from_bytes(key) for key in self._store.keys(COLUMNS)])
        for first in firsts[distinct(np.searchsorted(firsts, docs, "right") - 1)].tolist():
            key = COLUMNS + first.to_bytes(4)
            stored = cbor2.loads(self._store.get(key) or b"")
            batch.put(key, cbor2.dumps({**stored, "check": self.vectors.checksum(*self._rows_of(first, stored))}))

    def _set_erased(self, doc: int) -> None:
        self._gone.values[doc] = True
        length = float(self._columns["length"].values[doc])
        self._tokens -= length
        self._with_text -= length > 0
        self._columns["length"].values[doc] = 0
        for at in self._added.get(doc, ()):
            self._entries["gone"].values[at] = True

    # Filtering

    def mask(self, wanted: Wanted) -> Mask | None:
        """Which docs have a present entry that fits; None when all have."""
        places = self._placed(wanted)
        parts = [] if places is None else [places]
        if wanted[1:5] != EVERYTHING[1:5]:
            parts.append(self.fitting(wanted))
        if wanted.upto < self.covers:
            parts.append(self._columns["seq"].values <= wanted.upto)
        return all_of(parts) if parts else None

    def fitting(self, wanted: Wanted) -> Mask:
        """Which docs fit by agent, type, labels and relationships, wherever they are."""
        parts: list[Mask] = []
        if wanted.agents:
            parts.append(_among(self._columns["agent"].values, self._numbers("agent", wanted.agents), len(self._name_of)))
        if wanted.types:
            parts.append(_among(self._columns["type"].values, [TYPES.index(type) for type in wanted.types], 256))
        for key, value in wanted.meta:
            parts.append(self.having(label_term(key, value)))
        if wanted.related_to is not None:
            parts.append(self.having(target_term(wanted.related_to)))
        return all_of(parts) if parts else np.ones(len(self), np.bool_)

    def _numbers(self, kind: str, names: Sequence[str]) -> list[int]:
        return [number for name in names if (number := self._names.get((kind, name))) is not None]

    def _placed(self, wanted: Wanted) -> Mask | None:
        """Which docs have a present entry in the contexts and between the seqs; None when all have."""
        seqs = self._columns["seq"].values
        everywhere = not wanted.contexts
        if everywhere and wanted.first <= 1 and wanted.last >= self.covers and not self._gone.values.any():
            return None
        fits = ~self._gone.values
        if not everywhere:
            numbers = self._numbers("context", wanted.contexts)
            fits &= _among(self._columns["context"].values, numbers, len(self._name_of))
        low, high = np.searchsorted(seqs, wanted.first), np.searchsorted(seqs, wanted.last, "right")
        fits[:low] = False
        fits[high:] = False
        entries = self._entries
        if len(entries["seq"]):
            at = entries["seq"].values
            chosen = ~entries["gone"].values & (at >= wanted.first) & (at <= wanted.last)
            if not everywhere:
                chosen &= _among(entries["context"].values, numbers, len(self._name_of))
            fits[entries["doc"].values[chosen]] = True
        return fits

    def placed_at(self, contexts: Sequence[str], at: int) -> Mask:
        """Which docs were in one of the contexts when the log ended at `at`."""
        numbers, later = self._numbers("context", contexts), int(np.searchsorted(self._removed["at"].values, at, "right"))
        still = self._removed["entry"].values[later:]  # removed since
        seqs, entries = self._columns["seq"].values, self._entries
        there = ~self._gone.values
        there[np.flatnonzero(np.isin(seqs, still))] = True
        there &= (seqs <= at) & _among(self._columns["context"].values, numbers, len(self._name_of))
        arrived = entries["seq"].values
        added = (~entries["gone"].values | np.isin(arrived, still)) & (arrived <= at)
        there[entries["doc"].values[added & _among(entries["context"].values, numbers, len(self._name_of))]] = True
        return there

    def having(self, term: bytes) -> Mask:
        """Which docs have a term."""
        out = np.zeros(len(self), np.bool_)
        for segment in self.postings.segments():
            block = self.postings.block(segment, term)
            if block is not None:
                out[block.low.astype(np.int64) + (segment << segmented.SEGMENT_BITS)] = True
        return out

    def having_count(self, term: bytes) -> int:
        """How many docs have a term."""
        blocks = (self.postings.block(segment, term) for segment in self.postings.segments())
        return sum(len(block.low) for block in blocks if block is not None)

    def starting(self, prefix: str, most: int) -> list[str]:
        """Some terms that start with a prefix."""
        raw, found = prefix.encode(), set()
        for segment in reversed(self.postings.segments()):
            found |= set(self.postings.terms(segment, raw, most))
            if len(found) >= most:
                break
        return [term.decode() for term in sorted(found | set(self.postings.tail_terms(raw, most)))[:most]]

    def entry(self, doc: int, wanted: Wanted) -> int:
        """The seq of the entry by which a doc fits: its birth's if that fits, else that of its first addition which does."""
        numbers = self._numbers("context", wanted.contexts)
        seq = int(self._columns["seq"].values[doc])
        fits = not wanted.contexts or int(self._columns["context"].values[doc]) in numbers
        if fits and not self._gone.values[doc] and wanted.first <= seq <= wanted.last:
            return seq
        for at in self._added.get(doc, ()):
            entry = int(self._entries["seq"].values[at])
            fits = not wanted.contexts or int(self._entries["context"].values[at]) in numbers
            if fits and not self._entries["gone"].values[at] and wanted.first <= entry <= wanted.last:
                return entry
        return seq


def all_of(parts: Sequence[Mask]) -> Mask:
    """What fits all of some conditions, of which there is at least one."""
    return reduce(np.logical_and, parts)


def _among(values: NDArray[Any], chosen: Sequence[int], count: int) -> Mask:
    """Which of some small numbers, all below `count`, are among those chosen."""
    if len(chosen) > COMPARED:
        wanted = np.zeros(count, np.bool_)
        wanted[list(chosen)] = True
        return wanted.take(values)
    found = np.zeros(len(values), np.bool_)
    for number in chosen:
        found |= values == number
    return found


def label_term(key: str, value: str) -> bytes:
    """The term of units with a label. No text has it: it begins with a control character."""
    raw = key.encode()
    return b"\1" + blake2b(len(raw).to_bytes(2) + raw + value.encode(), digest_size=16).digest()


def target_term(target: bytes) -> bytes:
    """The term of units with a relationship to a unit."""
    return b"\2" + target


def throw_away(directory: Path) -> None:
    """Remove an index; the next one is made from the log. The lock beside it stays."""
    shutil.rmtree(directory / "index", ignore_errors=True)
    for name in ("vectors", "cells"):
        (directory / name).unlink(missing_ok=True)


def _open(directory: Path) -> Store:
    """The index's LevelDB. One whose making was cut short is made anew."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "index"
    for left in ("index.new", "index.old"):  # by a crash, while it was written anew
        shutil.rmtree(directory / left, ignore_errors=True)
    if not (path / "CURRENT").exists():
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        (directory / "vectors").unlink(missing_ok=True)
        return Store(path, new=True)
    return Store(path)
