"""Texts as vectors: what an embedder is, and the one that is built in.

The built-in embedder is a bag of learned word vectors, held as whole numbers. It works in whole numbers until the very end, so that the
same text gives the same vector on every machine. It needs numpy and its weights, no network, no threads, and no tokenizer library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Quantised = NDArray[np.int8]

WEIGHTS = Path(__file__).parent / "data" / "engram-static-384.npz"
MAX_WORD = 64  # characters of a word that are read; longer ones are hashes and the like
MAX_CACHE = 100_000  # words remembered with their rows; the memory is emptied when it is full
SCALE_BITS = 24  # a word's weight is its learned scale times 2 to this power, as a whole number

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")


class Embedder(Protocol):
    """Gives texts vectors; texts that mean the same have vectors of much the same direction.

    Attributes:
        name: with `version`, says which vectors may be compared; both are stored with the index, which is rebuilt when they change.
        dim: numbers in a vector.
    """

    name: str
    version: str
    dim: int

    def embed(self, texts: Sequence[str]) -> Floats:
        """One row for each text, of length 1; all zeros for a text that means nothing to the embedder."""


def quantise(vectors: NDArray[Any]) -> Quantised:
    """Rows as small whole numbers of the same direction: the largest of each becomes 127 or -127. Zero rows stay zero."""
    wide = vectors.astype(np.float64)
    most = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    most[most == 0] = 1
    made: Quantised = np.rint(wide * 127 / most).astype(np.int8)
    return made


class StaticEmbedder:
    """The built-in embedder. For one thread.

    Args:
        path: the weights: `vocab` (UTF-8 words joined by newlines), `E` (int8, a row for each) and `scale` (float16, one for each row).

    Attributes:
        dim: 384.
    """

    name = "engram-static"
    version = "384-1"

    def __init__(self, path: Path = WEIGHTS) -> None:
        with np.load(path) as weights:
            words = weights["vocab"].tobytes().decode().split("\n")
            self._rows: Quantised = weights["E"]
            scale = weights["scale"].astype(np.float64)
        if not len(words) == len(self._rows) == len(scale):
            raise ValueError(f"{path}: vocabulary and rows do not match")
        self._scale = np.rint(scale * 2**SCALE_BITS)
        self._row_of = {word: row for row, word in enumerate(words)}
        self._pieces: dict[str, tuple[int, ...]] = {}
        self.dim: int = self._rows.shape[1]

    def embed(self, texts: Sequence[str]) -> Floats:
        """One row for each text; see `Embedder`."""
        sums = self.sums(texts)
        norms = np.sqrt((sums * sums).sum(axis=1, keepdims=True))
        norms[norms == 0] = 1
        made: Floats = (sums / norms).astype(np.float32)
        return made

    def sums(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The vectors before they are scaled: whole numbers far below 2 to the 53rd, so no order of adding changes them."""
        out = np.zeros((len(texts), self.dim))
        for number, text in enumerate(texts):
            rows, counts = self._look_up(text)
            if rows:
                index = np.array(rows)
                weights = np.rint(np.sqrt(np.array(counts, np.float64)) * self._scale[index])
                out[number] = weights @ self._rows[index].astype(np.float64)
        return out

    def _look_up(self, text: str) -> tuple[list[int], list[int]]:
        """The rows of a text's distinct words, and how often each word occurs."""
        found: dict[tuple[int, ...], int] = {}
        pieces = self._pieces
        for word in _WORD.findall(text):
            rows = pieces.get(word)
            if rows is None:
                rows = self._split(word)
            if rows:
                found[rows] = found.get(rows, 0) + 1
        flat: list[int] = []
        counts: list[int] = []
        for rows, times in found.items():
            flat += rows
            counts += [times] * len(rows)
        return flat, counts

    def _split(self, word: str) -> tuple[int, ...]:
        """The rows of a word: its own, else those of the longest pieces from the left."""
        if len(self._pieces) >= MAX_CACHE:
            self._pieces.clear()
        plain = _normal(word)
        row = self._row_of.get(plain)
        found = (row,) if row is not None else tuple(self._greedy(plain[:MAX_WORD]))
        self._pieces[word] = found
        return found

    def _greedy(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                row = self._row_of.get(prefix + word[start:end])
                if row is not None:
                    found.append(row)
                    start = end
                    break
            else:
                break  # a character that the vocabulary lacks: keep what was found so far
        return found


def rows_of(embedder: Embedder, texts: Sequence[str]) -> Quantised:
    """Texts as rows of small whole numbers. Those of the built-in embedder are made of whole numbers, and so the same on every machine."""
    return quantise(embedder.sums(texts) if isinstance(embedder, StaticEmbedder) else embedder.embed(texts))


def _normal(word: str) -> str:
    word = word.lower()
    if word.isascii():
        return word
    return "".join(char for char in unicodedata.normalize("NFD", word) if unicodedata.category(char) != "Mn")
