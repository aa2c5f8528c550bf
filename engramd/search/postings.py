"""The inverted index: for each term, which units have it and how often, in the worker's LevelDB.

Units are numbered in the order of their births (**docs**), and come in **segments** of 65,536. A block holds the docs of one term within
one segment: first the low 16 bits of each doc, then how often it has the term, one byte each. New units gather in memory (the tail) and
are written as one block for each term; when a segment is full, its blocks are merged to one for each term, in small steps.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..storage.leveldb import Store

SEGMENT_BITS = 16
SEGMENT = 1 << SEGMENT_BITS
POSTING = b"p"  # segment(4) : term NUL first doc's low bits(2) -> block
MERGED = b"m"  # segment(4) -> empty: it has one block for each term
_ONE = struct.Struct("<HB")  # a block of one doc
CACHE_BYTES = 48 * 1024 * 1024
MERGE_TERMS = 512  # in one step of a merge


class Block(NamedTuple):
    """The docs of one term in one segment, in order: their low bits, and how often they have it."""

    low: NDArray[np.uint16]
    times: NDArray[np.uint8]


def unpack(value: bytes) -> Block:
    """Read a stored block."""
    count = len(value) // 3
    return Block(np.frombuffer(value, "<u2", count), np.frombuffer(value, np.uint8, count, 2 * count))


def pack(block: Block) -> bytes:
    """Write a block."""
    return block.low.astype("<u2").tobytes() + block.times.tobytes()


def joined(blocks: list[Block]) -> Block:
    """Blocks of one term and segment, in order, as one."""
    if len(blocks) == 1:
        return blocks[0]
    return Block(np.concatenate([block.low for block in blocks]), np.concatenate([block.times for block in blocks]))


class Postings:
    """All blocks of all terms.

    Args:
        store: the worker's LevelDB, which belongs to the whole index.
        docs: how many docs are in its blocks.
    """

    def __init__(self, store: Store, docs: int) -> None:
        self._store = store
        self._written = docs  # docs in blocks on disk; later ones are in the tail
        self._last = docs - 1
        self._tail: dict[bytes, list[int]] = {}  # term: doc << 8 | times
        self._cache: OrderedDict[tuple[int, bytes], Block | None] = OrderedDict()
        self._cached_bytes = 0
        self._unmerged = [segment for segment in range(docs >> SEGMENT_BITS) if not self._is_merged(segment)]
        self._merging: bytes | None = None  # the first key of the next step

    # Writing

    def add(self, doc: int, counts: Mapping[bytes, int]) -> None:
        """Note which terms a doc has, and how often. Docs come in order, each once."""
        self._last, tail, head = doc, self._tail, doc << 8
        for term, times in counts.items():
            value = head | (times if times < 256 else 255)
            found = tail.get(term)
            if found is None:
                tail[term] = [value]
            else:
                found.append(value)

    def flush(self, batch: Any, docs: int) -> None:
        """Put the tail into a write batch of the index. It must be written before anything else is done here."""
        first, last = self._written >> SEGMENT_BITS, max(docs - 1, 0) >> SEGMENT_BITS
        put = batch.put
        for segment in range(first, last + 1):
            prefix = _prefix(segment)
            for term, values in self._tail.items():
                if first != last:
                    values = [value for value in values if value >> 8 + SEGMENT_BITS == segment]
                if len(values) == 1:
                    value = values[0]
                    put(prefix + term + b"\0" + (value >> 8 & SEGMENT - 1).to_bytes(2), _ONE.pack(value >> 8 & SEGMENT - 1, value & 255))
                elif values:
                    packed = np.array(values, np.int64)
                    block = Block((packed >> 8 & SEGMENT - 1).astype("<u2"), packed.astype(np.uint8))
                    put(prefix + term + b"\0" + int(block.low[0]).to_bytes(2), block.low.tobytes() + block.times.tobytes())
        self._tail.clear()
        self._unmerged += range(self._written >> SEGMENT_BITS, docs >> SEGMENT_BITS)
        self._drop_cached(first)
        self._written = docs

    # Reading

    def segments(self) -> range:
        """The segments that have docs, those of the tail included."""
        return range((self._last >> SEGMENT_BITS) + 1)

    def block(self, segment: int, term: bytes) -> Block | None:
        """The docs of a segment that have a term; None for none."""
        stored = self._stored(segment, term)
        fresh = self._fresh(segment, term)
        if stored is None or fresh is None:
            return stored or fresh
        return joined([stored, fresh])

    def terms(self, segment: int, prefix: bytes, most: int) -> list[bytes]:
        """Some terms of a segment on disk that start with a prefix, in order, at most `most`."""
        found: list[bytes] = []
        start = _prefix(segment) + prefix
        after: bytes | None = None
        while len(found) < most:
            row = next(self._store.prefixed(start, after), None)
            if row is None:
                break
            term = prefix + row[0][:-3]
            found.append(term)
            after = row[0][:-3] + b"\1"  # behind every block of this term
        return found

    def tail_terms(self, prefix: bytes, most: int) -> list[bytes]:
        """Some terms of the tail that start with a prefix."""
        found = sorted(term for term in self._tail if term.startswith(prefix))
        return found[:most]

    def _stored(self, segment: int, term: bytes) -> Block | None:
        key = segment, term
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        blocks = [unpack(value) for _, value in self._store.prefixed(_prefix(segment) + term + b"\0")]
        found = joined(blocks) if blocks else None
        self._cache[key] = found
        self._cached_bytes += _cost(key, found)
        while self._cached_bytes > CACHE_BYTES:
            self._cached_bytes -= _cost(*self._cache.popitem(last=False))
        return found

    def _fresh(self, segment: int, term: bytes) -> Block | None:
        values = self._tail.get(term)
        if not values:
            return None
        packed = np.array(values, np.int64)
        packed = packed[packed >> 8 + SEGMENT_BITS == segment]
        return Block((packed >> 8 & SEGMENT - 1).astype(np.uint16), (packed & 255).astype(np.uint8)) if len(packed) else None

    def _drop_cached(self, first: int) -> None:
        """Forget what is cached of segments from `first` on."""
        for key in [key for key in self._cache if key[0] >= first]:
            self._cached_bytes -= _cost(key, self._cache.pop(key))

    # Merging

    @property
    def merging(self) -> bool:
        """Whether there is anything to merge."""
        return bool(self._unmerged)

    def merge_step(self) -> None:
        """Merge some terms of the oldest full segment. What a crash leaves is merged again; nothing is read twice or lost."""
        segment = self._unmerged[0]
        prefix = _prefix(segment)
        batch, last, terms = self._store.batch(), b"", 0
        blocks: dict[bytes, bytes] = {}
        for rest, value in self._store.prefixed(prefix, self._merging):
            term = rest[:-3]
            if term != last:
                if terms == MERGE_TERMS:
                    self._merging = last + b"\0\xff\xff"
                    break
                self._write_merged(batch, prefix, blocks)
                last, terms = term, terms + 1
            blocks[rest] = value
        else:
            self._merging = None
            self._unmerged.pop(0)
            batch.put(MERGED + segment.to_bytes(4), b"")
        self._write_merged(batch, prefix, blocks)
        self._store.write(batch)

    @staticmethod
    def _write_merged(batch: Any, prefix: bytes, blocks: dict[bytes, bytes]) -> None:
        """Replace the blocks of one term by one, under the key of the first."""
        if len(blocks) > 1:
            first = next(iter(blocks))
            batch.put(prefix + first, pack(joined([unpack(value) for value in blocks.values()])))
            for rest in blocks:
                if rest != first:
                    batch.delete(prefix + rest)
        blocks.clear()

    def _is_merged(self, segment: int) -> bool:
        return self._store.get(MERGED + segment.to_bytes(4)) is not None

    # Erasing

    def spans(self, docs: Iterable[int]) -> set[tuple[bytes, bytes]]:
        """The first and last keys that the blocks of the docs' segments can have."""
        prefixes = {_prefix(doc >> SEGMENT_BITS) for doc in docs}
        return {(prefix, prefix + b"\xff" * 8) for prefix in prefixes}

    def erase(self, docs: Iterable[int]) -> set[bytes]:
        """Take docs that are on disk out of every block, in one pass over their segments; gives the terms of blocks that had no others."""
        lows: dict[int, list[int]] = {}
        for doc in docs:
            lows.setdefault(doc >> SEGMENT_BITS, []).append(doc & SEGMENT - 1)
        return {term for segment, erased in lows.items() for term in self._erase(segment, erased)}

    def _erase(self, segment: int, lows: list[int]) -> Iterator[bytes]:
        erased = np.zeros(SEGMENT, np.bool_)
        erased[lows] = True
        prefix, batch = _prefix(segment), self._store.batch()
        for rest, value in self._store.prefixed(prefix):
            block = unpack(value)
            lost = erased[block.low]
            if lost.any():
                batch.delete(prefix + rest)
                if lost.all():
                    yield rest[:-3]
                else:
                    kept = Block(block.low[~lost], block.times[~lost])
                    batch.put(_key(segment, rest[:-3], int(kept.low[0])), pack(kept))
        self._store.write(batch)
        self._drop_cached(segment)


def _prefix(segment: int) -> bytes:
    """Of a segment's blocks. The colon, because the last byte of a prefix must not be 0xff."""
    return POSTING + segment.to_bytes(4) + b":"


def _key(segment: int, term: bytes, low: int) -> bytes:
    return _prefix(segment) + term + b"\0" + low.to_bytes(2)


def _cost(key: tuple[int, bytes], block: Block | None) -> int:
    return 200 + len(key[1]) + (0 if block is None else 3 * len(block.low))
