"""Ranking for packs: as `ranking` does it, but exact, in whole numbers, and with nothing that came after a seq.

Everything is counted over the units that stood in the chosen contexts when the log ended at that seq: how many there are, how long they
are on average, how many have a term. So neither other contexts, nor later units, nor how the index lies on disk changes a rank. Words are
taken as they are: what a mistyped one may stand for depends on the words of the whole log.

- BM25 in fixed point: logarithms by squaring whole numbers, divisions that round down.
- Products of int8 vectors by float32: a sum of 384 products of numbers up to 127 is at most 384 * 127 * 127 = 6,193,536, less than 2 to the
  24th, and so is every part of it. Floats hold such numbers exactly, so no order of adding, width of registers or fused operation matters.
- Square roots of IEEE doubles are rounded correctly everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import EngramError
from ..protocol.packs import LABEL
from . import postings as segmented
from . import tokens
from .embedder import Quantised, StaticEmbedder, rows_of
from .index import Index, Mask, label_term
from .postings import Block

BITS = 16  # of the fraction in fixed point
ONE = 1 << BITS
KEYWORD, SEMANTIC, WHOLE = 45, 35, 20  # shares of a score, as in `ranking` where no text is very near
LEAST_COSINE = ONE // 5  # a text that is less like the query, and has none of its words, does not count
ROWS = 256  # vectors multiplied at once: they stay in the cache of the processor
FEW = 4  # contiguous rows are read as they lie, unless more than so many times too many

Ints = NDArray[np.int64]


class Request(NamedTuple):
    """What is asked: the best `limit` units of the contexts, as of the seq `at`. `manifests`: recorded ones count, too."""

    query: str
    contexts: Sequence[str]
    at: int
    limit: int
    manifests: bool


def rank(index: Index, request: Request) -> list[int]:
    """The seqs of the units that fit a query best, best first, newer ones first among equals.

    Raises:
        EngramError: `invalid` when the index has another embedder than the built-in one.
    """
    if not isinstance(index.embedder, StaticEmbedder):
        raise EngramError(
            "invalid", f"query: {index.embedder.name} does not give the same vectors everywhere; only the built-in embedder does"
        )
    there = index.placed_at(request.contexts, request.at)
    if not request.manifests:
        there &= ~index.having(label_term(*LABEL))
    keyword, whole = _keyword(index, request.query, there)
    scores = KEYWORD * keyword + WHOLE * ONE * whole
    cosines = _cosines(index, request.query, there & (scores + SEMANTIC * ONE >= _least(scores[keyword > 0], request.limit)))
    scores += SEMANTIC * cosines
    scores[(keyword == 0) & (cosines < LEAST_COSINE)] = 0
    docs = np.flatnonzero(scores >= max(_least(scores, request.limit), 1))
    best = docs[np.lexsort((-docs, -scores[docs]))][: request.limit]
    return [index.seq_of(int(doc)) for doc in best]


def _least(scores: Ints, limit: int) -> int:
    """What a score must be at least, to be one of the best `limit`."""
    return int(np.partition(scores, -limit)[-limit]) if len(scores) >= limit else 0


def log2(numerator: int, denominator: int) -> int:
    """The logarithm of a fraction that is at least 1, to the base of 2, in fixed point, rounded down."""
    whole = (numerator // denominator).bit_length() - 1
    value = (numerator << 60) // (denominator << whole)  # from 1 to 2, with 60 bits of fraction
    result = whole
    for _ in range(BITS):
        value = value * value >> 60
        result <<= 1
        if value >> 61:
            result += 1
            value >>= 1
    return result


def _keyword(index: Index, query: str, there: Mask) -> tuple[Ints, Ints]:
    """Of every doc: what the words of a query give, of ONE at most; and whether (1 or 0) it has them all."""
    scores = np.zeros(len(there), np.int64)
    has = np.zeros(len(there), np.int64)
    lengths = np.where(there, index.lengths, 0).astype(np.int64)
    total = int(lengths.sum())
    docs = int(np.count_nonzero(lengths))
    mean = max((total << 4) // max(docs, 1), 1)  # with 4 bits of fraction
    asked = most = 0
    atoms = set(tokens.atoms(query))
    for term, times in tokens.count(query)[0].items():
        blocks = _blocks(index, term.encode(), there)
        having = sum(len(at) for at, _ in blocks)
        if not having and term not in atoms:
            continue  # a whole chunk that nobody has counts by its parts alone
        asked += 1
        idf = times * log2(2 * docs + 2, 2 * having + 1)
        most += idf
        for at, often in blocks:
            # BM25 with k1 = 1.5 and b = 0.75, numerator and denominator times 8: often / (often + 0.375 + 1.125 * length / mean)
            often = often.astype(np.int64)
            scores[at] += (often * (8 * mean) << BITS) // (often * (8 * mean) + 3 * mean + 9 * (lengths[at] << 4)) * idf
            has[at] += 1
    scores //= max(most, 1)
    return scores, (has == asked).astype(np.int64) if asked else np.zeros(len(there), np.int64)


def _blocks(index: Index, term: bytes, there: Mask) -> list[tuple[Ints, NDArray[np.uint8]]]:
    """The docs that are there and have a term, and how often, by segment."""
    found = []
    for segment in index.postings.segments():
        block: Block | None = index.postings.block(segment, term)
        if block is not None:
            docs = block.low.astype(np.int64) + (segment << segmented.SEGMENT_BITS)
            fits = there[docs]
            found.append((docs[fits], block.times[fits]))
    return found


def _cosines(index: Index, query: str, there: Mask) -> Ints:
    """Of every doc: the best cosine of its vectors with the query's, in fixed point; 0 where it is less."""
    out = np.zeros(len(there), np.int64)
    (row,) = rows_of(index.embedder, [query])
    vector = row.astype(np.float32)
    own = _root(np.array([vector @ vector]))[0]
    owners = index.vectors.owners
    wanted = np.flatnonzero(there[owners])
    if not own or not len(wanted):
        return out
    dots = np.zeros(len(wanted), np.int64)
    for start in range(0, len(wanted), ROWS):
        rows = wanted[start : start + ROWS]
        part, picked = _read(index.vectors.rows, rows)
        dots[start : start + ROWS] = (part @ vector)[picked]
    norms = _root(index.vectors.squares[wanted])
    cosines = (np.maximum(dots, 0) << BITS + 20) // np.maximum(norms * own, 1)
    np.maximum.at(out, owners[wanted], np.minimum(cosines, ONE))
    return out


def _read(all_rows: Quantised, rows: Ints) -> tuple[NDArray[np.float32], Any]:
    """Some rows as floats, and which of what was read they are."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    if last - first <= FEW * len(rows):
        return all_rows[first:last].astype(np.float32), rows - first
    return all_rows[rows].astype(np.float32), slice(None)


def _root(squares: NDArray[Any]) -> Ints:
    """Square roots of whole numbers, in fixed point with 10 bits of fraction, rounded down."""
    return np.sqrt(squares.astype(np.float64) * (1 << 20)).astype(np.int64)
