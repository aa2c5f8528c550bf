"""BM25 over the postings, in the form Lucene uses: over the query's terms, idf * times / (times + k1 * (1 - b + b * length / mean)).

One segment after the other is scored into a small array. Once as many docs are found as are asked for, the score of the worst of them is a
bar: terms that together cannot lift a doc over it (the common ones) are looked up only for docs that the others have brought close to it.
That skips work and never changes a result (Turtle and Flood, "Query evaluation: strategies and optimizations", 1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import postings as segmented
from .columns import distinct
from .postings import Block, Postings

K1 = 1.5
B = 0.75
FEW = 512  # docs of a segment that a filter leaves: of more, all are scored, and those that it does not allow are left out then
LOOK_UP = 8  # looking up a doc takes about as long as scoring so many in a row

Docs = NDArray[np.int64]
Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Wanted(NamedTuple):
    """A term to look for, and what it counts beside the others (1: as much as its rarity says)."""

    term: bytes
    weight: float


class Found(NamedTuple):
    """Docs, best first (newer ones first where scores are equal), and their scores."""

    docs: Docs
    scores: Scores


def idf(docs: int, having: int) -> float:
    """How much a term says that `having` of `docs` docs have."""
    return math.log(1 + (docs - having + 0.5) / (having + 0.5))


class Looked(NamedTuple):
    """What some docs have: their scores, and for each wanted term, in their order, a row that says which of the docs have it."""

    scores: Scores
    has: Mask


class _Term(NamedTuple):
    weight: float  # the most that it can add to a score
    row: int  # its place among all that were asked for
    blocks: list[Block | None]  # by segment


class Scorer:
    """One query's scores.

    Args:
        lengths: of every doc, in atoms.
        mean: of the lengths of all docs that have any.
        wanted: the terms; none twice.

    Attributes:
        idf: of each term, in the order of `wanted`; 0 for one that no doc has.
    """

    def __init__(self, postings: Postings, lengths: NDArray[np.float32], mean: float, docs: int, wanted: Sequence[Wanted]) -> None:
        self._lengths = lengths
        self._floor, self._slope = K1 * (1 - B), K1 * B / max(mean, 1e-9)
        self._segments = postings.segments()
        self._terms: list[_Term] = []
        self.idf: list[float] = []
        for row, (term, weight) in enumerate(wanted):
            blocks = [postings.block(segment, term) for segment in self._segments]
            having = sum(len(block.low) for block in blocks if block is not None)
            self.idf.append(idf(docs, having) if having else 0.0)
            if having:
                self._terms.append(_Term(weight * self.idf[-1], row, blocks))
        self._terms.sort(key=lambda term: -term.weight)

    def best(self, count: int, mask: Mask | None) -> Found:
        """The best docs of those that `mask` allows (None: all)."""
        kept_docs: list[Docs] = []
        kept: list[Scores] = []
        bar, held = 0.0, 0
        for segment in reversed(self._segments):
            allowed = None if mask is None else mask[segment << segmented.SEGMENT_BITS : (segment + 1) << segmented.SEGMENT_BITS]
            if allowed is not None and not allowed.any():
                continue
            low, scores = self._segment(segment, allowed, bar)
            kept_docs.append(low + (segment << segmented.SEGMENT_BITS))
            kept.append(scores)
            held += len(low)
            if held > count:
                docs, all_scores = np.concatenate(kept_docs), np.concatenate(kept)
                cut = _top(docs, all_scores, count)
                kept_docs, kept, held = [docs[cut]], [all_scores[cut]], count
                bar = float(kept[0].min())
        if not kept:
            return Found(np.zeros(0, np.int64), np.zeros(0, np.float32))
        docs, all_scores = np.concatenate(kept_docs), np.concatenate(kept)
        cut = _top(docs, all_scores, count)
        docs, all_scores = docs[cut], all_scores[cut]
        order = np.lexsort((-docs, -all_scores))
        return Found(docs[order], all_scores[order])

    def of(self, docs: Docs) -> Looked:
        """What some docs have, in their order."""
        scores = np.zeros(len(docs), np.float32)
        has = np.zeros((len(self.idf), len(docs)), np.bool_)
        segments = docs >> segmented.SEGMENT_BITS
        for segment in distinct(segments):
            at = np.flatnonzero(segments == segment)
            low = docs[at] & segmented.SEGMENT - 1
            lengths = self._segment_lengths(int(segment))[low]
            for term in self._terms:
                block = term.blocks[segment]
                if block is not None:
                    has[term.row, at], shares = self._looked_up(term.weight, block, low, lengths)
                    scores[at] += shares
        return Looked(scores, has)

    def _segment_lengths(self, segment: int) -> NDArray[np.float32]:
        return self._lengths[segment << segmented.SEGMENT_BITS : (segment + 1) << segmented.SEGMENT_BITS]

    def _segment(self, segment: int, allowed: Mask | None, bar: float) -> tuple[Docs, Scores]:
        """The docs of a segment that may be over the bar (all that have a term, at least), with their scores."""
        terms = [(term.weight, block) for term in self._terms if (block := term.blocks[segment]) is not None]
        lengths = self._segment_lengths(segment)
        scores = np.zeros(len(lengths), np.float32)
        left = sum(weight for weight, _ in terms)
        close = None if allowed is None or np.count_nonzero(allowed) > FEW else np.flatnonzero(allowed)
        for weight, block in terms:
            if bar > 0 and left <= bar:
                close = _over(bar - left, scores, close, allowed)
            if close is None or len(close) * LOOK_UP > len(block.low):
                scores[block.low] += self._share(weight, block.times, lengths[block.low])
            elif len(close):
                scores[close] += self._looked_up(weight, block, close, lengths[close])[1]
            left -= weight
        close = _over(bar, scores, close, allowed)
        return close, scores[close]

    def _share(self, weight: float, times: NDArray[np.uint8], lengths: NDArray[np.float32]) -> Scores:
        counted = times.astype(np.float32)
        norm = lengths * np.float32(self._slope)
        norm += np.float32(self._floor)
        norm += counted
        counted *= np.float32(weight)
        counted /= norm
        return counted

    def _looked_up(self, weight: float, block: Block, low: Docs, lengths: NDArray[np.float32]) -> tuple[Mask, Scores]:
        """Which of some docs of a segment have a term, and what that adds to their scores."""
        at = np.searchsorted(block.low, low.astype(np.uint16))
        at[at == len(block.low)] = 0
        has = block.low[at] == low
        return has, np.where(has, self._share(weight, block.times[at], lengths), np.float32(0))


def _over(bar: float, scores: Scores, close: Docs | None, allowed: Mask | None) -> Docs:
    """Which docs of a segment have a score over the bar: of those that are close to it, or of all that are allowed."""
    if close is not None:
        return close[scores[close] > bar]
    over = scores > bar
    return np.flatnonzero(over if allowed is None else over & allowed)


def _top(docs: Docs, scores: Scores, count: int) -> Docs:
    """Which of the docs are the best; of equal ones, the newer."""
    if len(docs) <= count:
        return np.arange(len(docs))
    nth = np.partition(scores, len(scores) - count)[len(scores) - count]
    over = np.flatnonzero(scores > nth)
    equal = np.flatnonzero(scores == nth)
    equal = equal[np.argsort(-docs[equal], kind="stable")][: count - len(over)]
    return np.concatenate([over, equal])
