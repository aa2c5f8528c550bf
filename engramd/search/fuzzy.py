"""The vocabulary that mistyped words are mapped to: every word of letters that was ever indexed, by length.

Numbers, hashes and identifiers with digits are not in it, so that it grows with the language of the log and not with the log. A look-up
compares only words of about the same length that share enough pairs of letters, which is one pass over an array of 64-bit signatures;
rapidfuzz judges those that are left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import DamerauLevenshtein

from .columns import Column
from .tokens import is_word

MAX_VOCABULARY = 500_000  # words; what is new after that is found exactly, not by its look
MAX_VARIANTS = 4  # of one query word
LEAST_SIMILAR = 0.7


class Variant(NamedTuple):
    """A word of the vocabulary and how like the asked one it is, up to 1."""

    word: str
    similarity: float


class Vocabulary:
    """The words, in memory."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._words: dict[int, list[str]] = {}
        self._signatures: dict[int, Column] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, words: Iterable[str]) -> list[str]:
        """Take in what is new and a word; gives what was taken."""
        fresh = []
        for word in words:
            if word not in self._known and is_word(word) and len(self._known) < MAX_VOCABULARY:
                self._known.add(word)
                size = len(word)
                self._words.setdefault(size, []).append(word)
                self._signatures.setdefault(size, Column(np.uint64)).append(_signature(word))
                fresh.append(word)
        return fresh

    def remove(self, words: Iterable[str]) -> set[str]:
        """Forget words; gives those that were known."""
        gone = self._known.intersection(words)
        self._known -= gone
        for size in {len(word) for word in gone}:
            kept = np.array([word not in gone for word in self._words[size]])
            self._words[size] = [word for word in self._words[size] if word not in gone]
            signatures = Column(np.uint64)
            signatures.extend(self._signatures[size].values[kept])
            self._signatures[size] = signatures
        return gone

    def variants(self, word: str) -> list[Variant]:
        """The words that are most like this one, best first, itself left out."""
        if not is_word(word):
            return []
        edits = 1 if len(word) <= 5 else 2 if len(word) <= 10 else 3
        candidates: list[str] = []
        signature = np.uint64(_signature(word))
        for size in range(len(word) - edits, len(word) + edits + 1):
            if size in self._words:
                # One edit changes at most three pairs (two neighbours that swap places); what is longer or shorter, two.
                missing = np.bitwise_count(signature & ~self._signatures[size].values)
                words = self._words[size]
                candidates += [words[at] for at in np.flatnonzero(missing <= 3 * edits)]
        found = process.extract(
            word, candidates, scorer=DamerauLevenshtein.normalized_similarity, score_cutoff=LEAST_SIMILAR, limit=MAX_VARIANTS + 1
        )
        return [Variant(other, similarity) for other, similarity, _ in found if other != word][:MAX_VARIANTS]


def _signature(word: str) -> int:
    """A bit for each pair of neighbouring letters, the ends included; several pairs share a bit."""
    bits = 0
    for left, right in zip(f"\0{word}", f"{word}\0", strict=True):
        bits |= 1 << ((ord(left) * 31 + ord(right)) * 0x9E3779B1 >> 12 & 63)
    return bits
