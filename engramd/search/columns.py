"""Arrays that grow: one value for each unit of the index, kept in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ROOM = 1.2  # a full array grows by this factor: what is spare is at most so much of the whole


class Column:
    """An array with room at its end.

    Args:
        dtype: of its values.
    """

    def __init__(self, dtype: DTypeLike) -> None:
        self._held: NDArray[Any] = np.zeros(1024, dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, value: Any) -> None:
        """Add one value."""
        self._reserve(self._size + 1)
        self._held[self._size] = value
        self._size += 1

    def extend(self, values: NDArray[Any]) -> None:
        """Add many values."""
        end = self._size + len(values)
        self._reserve(end)
        self._held[self._size : end] = values
        self._size = end

    @property
    def values(self) -> NDArray[Any]:
        """The values, not copied; good until the next append."""
        return self._held[: self._size]

    def _reserve(self, size: int) -> None:
        if size > len(self._held):
            grown = np.zeros(int(size * ROOM) + 1024, self._held.dtype)
            grown[: self._size] = self._held[: self._size]
            self._held = grown


def distinct(docs: NDArray[Any]) -> NDArray[Any]:
    """Each doc once, in order. `np.unique` hashes, and takes a hundred times as long for some thousands of small numbers."""
    docs = np.sort(docs)
    first = np.ones(len(docs), np.bool_)
    first[1:] = docs[1:] != docs[:-1]
    return docs[first]
