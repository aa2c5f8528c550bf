"""Vectors: exact ones in a file, and a FAISS index of them in memory that finds the nearest.

The file has one row of small whole numbers for each vector, which is all that is ever compared in the end: the FAISS index proposes, the
rows decide. Few vectors are proposed by an exact scan; many by cells that a training has found (`IndexIVFScalarQuantizer`), made and
tried out in a thread while the old index goes on answering.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import EngramError
from .columns import Column
from .embedder import Floats, Quantised

faiss.omp_set_num_threads(1)

EXACT = 20_000  # vectors up to which every one is compared
RETRAIN = 4  # a trained index is trained anew when there are so many times more vectors
TRAIN_ROWS = 64  # vectors for each cell that a training looks at
LEAST_RECALL = 0.97  # of the best ten, for the number of cells that a search visits
FEW = 4096  # allowed vectors that are scored exactly, row by row
TRIED = 64  # queries with which an index is tried out
CHUNK_ROWS = 8192  # rows read at once where all are read

Mask = NDArray[np.bool_]


class Near(NamedTuple):
    """Docs, nearest first, and the cosine of each one's best vector."""

    docs: NDArray[np.int64]
    cosines: Floats


class Vectors:
    """All vectors of the index.

    Args:
        directory: where the file and the saved index are.
        dim: numbers in a vector.
        owners: for each row that counts, the doc it belongs to. Rows beyond these are what a crash left, and are cut off.

    Raises:
        EngramError: `storage` when the file has fewer rows than it should.
    """

    def __init__(self, directory: Path, dim: int, owners: Column) -> None:
        self._directory, self.dim, self._owners = directory, dim, owners
        path = directory / "vectors"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < len(owners) * dim:
            os.close(self._file)
            raise EngramError("storage", f"{path} is shorter than it should be")
        os.ftruncate(self._file, len(owners) * dim)
        self._map: mmap.mmap | None = None
        self._mapped: Quantised = np.zeros((0, dim), np.int8)
        self._index: Any = self._load() or _exact_index(dim)
        self._fill(self._index, self._index.ntotal, len(owners))
        self._training: threading.Thread | None = None
        self._trained: Any = None

    def close(self) -> None:
        """Release the file. A training under way is left to end with the process."""
        self._mapped = np.zeros((0, self.dim), np.int8)
        os.close(self._file)

    @property
    def kind(self) -> str:
        """How vectors are proposed now: `exact` or `cells`."""
        return "cells" if _cells(self._index) else "exact"

    @property
    def in_training(self) -> bool:
        """Whether a better index is being made."""
        return self._training is not None

    # Writing

    def add(self, doc: int, rows: Quantised) -> None:
        """Add a doc's vectors; rows of zeros must be left out."""
        os.pwrite(self._file, rows.tobytes(), len(self._owners) * self.dim)
        self._owners.extend(np.full(len(rows), doc, np.int32))

    def refresh(self) -> None:
        """Put what was added since into the index, so that searches see it."""
        self._take_trained()
        if self._index.ntotal < len(self._owners):
            self._fill(self._index, self._index.ntotal, len(self._owners))

    def sync(self) -> None:
        """Have the file's rows on disk."""
        os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    def checksum(self, first: int, last: int) -> int:
        """Of the rows from `first` to before `last`."""
        return zlib.crc32(os.pread(self._file, (last - first) * self.dim, first * self.dim))

    def erase(self, doc: int) -> None:
        """Make a doc's vectors zeros, on disk and in the index."""
        rows = np.flatnonzero(self._owners.values == doc)
        for row in rows:
            os.pwrite(self._file, bytes(self.dim), int(row) * self.dim)
        self.sync()
        if len(rows):
            self._index = _exact_index(self.dim) if self.kind == "exact" else self._index
            if self.kind == "exact":
                self._fill(self._index, 0, len(self._owners))
            else:
                self._index.remove_ids(faiss.IDSelectorBatch(rows.astype(np.int64)))
                self._index.ntotal = len(self._owners)

    # Reading

    def nearest(self, query: Floats, count: int, mask: Mask | None, least: float = 0.0) -> Near:
        """The docs with the nearest vectors among those that `mask` allows (None: all), at most `count`, none with a cosine below `least`."""
        owners = self._owners.values
        allowed = None if mask is None else mask[owners]
        if allowed is not None:
            rows = np.flatnonzero(allowed) if (having := int(np.count_nonzero(allowed))) <= FEW else None
        else:
            rows, having = None, len(owners)
        if rows is None:
            rows = self._proposed(query, min(2 * count + 16, having), allowed, having / max(len(owners), 1))
        cosines = self.cosines(query, rows)
        docs, best = _best_of_each(owners[rows], cosines)
        keep = (best > 0) & (best >= least)
        docs, best = docs[keep], best[keep]
        order = np.lexsort((-docs, -best))[:count]
        return Near(docs[order].astype(np.int64), best[order])

    def of(self, query: Floats, docs: NDArray[np.int64]) -> Floats:
        """The cosines of some docs' best vectors; 0 for docs that have none."""
        owners = self._owners.values
        low = np.searchsorted(owners, docs, "left")
        high = np.searchsorted(owners, docs, "right")
        out = np.zeros(len(docs), np.float32)
        most = int((high - low).max(initial=0))
        for nth in range(most):
            has = np.flatnonzero(low + nth < high)
            found = self.cosines(query, (low + nth)[has])
            out[has] = found if nth == 0 else np.maximum(out[has], found)
        return out

    def cosines(self, query: Floats, rows: NDArray[np.int64]) -> Floats:
        """The exact cosines of some rows, in their order."""
        out = np.zeros(len(rows), np.float32)
        for start in range(0, len(rows), CHUNK_ROWS):
            part = self._rows()[rows[start : start + CHUNK_ROWS]].astype(np.float32)
            norms = np.sqrt(np.einsum("ij,ij->i", part, part))
            norms[norms == 0] = 1
            out[start : start + CHUNK_ROWS] = part @ query / norms
        return out

    def _proposed(self, query: Floats, count: int, allowed: Mask | None, part: float) -> NDArray[np.int64]:
        cells = _cells(self._index)
        options: dict[str, Any] = {}
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
        if not cells:
            params = faiss.SearchParameters(**options) if options else None
        else:
            visited = self._index.nprobe
            if part < 0.05:
                visited = cells
            elif part < 1:
                visited = min(cells, math.ceil(visited / math.sqrt(part)))
            params = faiss.SearchParametersIVF(**{"nprobe": visited, **options})
        _, found = self._index.search(query.reshape(1, -1), count, params=params)
        rows: NDArray[np.int64] = found[0]
        return rows[rows >= 0]

    def _rows(self) -> Quantised:
        """The file, mapped."""
        if len(self._mapped) < len(self._owners):
            self._map = mmap.mmap(self._file, len(self._owners) * self.dim, mmap.MAP_SHARED, mmap.PROT_READ)
            self._mapped = np.frombuffer(self._map, np.int8).reshape(-1, self.dim)
        return self._mapped

    # The index

    def _fill(self, index: Any, first: int, last: int) -> None:
        for start in range(first, last, CHUNK_ROWS):
            stop = min(last, start + CHUNK_ROWS)
            index.add(self._unit_rows(start, stop))

    def _unit_rows(self, first: int, last: int) -> Floats:
        raw = os.pread(self._file, (last - first) * self.dim, first * self.dim)
        return unit_rows(np.frombuffer(raw, np.int8).reshape(-1, self.dim))

    def wants_training(self) -> bool:
        """Whether there are so many more vectors that another index would be better."""
        if self._training is not None:
            return False
        cells, size = _cells(self._index), len(self._owners)
        return size > EXACT if not cells else size > RETRAIN * 16 * cells * cells

    def train(self) -> None:
        """Begin to make a better index, in a thread."""
        self._training = threading.Thread(target=self._train, args=(len(self._owners),), daemon=True)
        self._training.start()

    def _train(self, size: int) -> None:
        cells = max(64, 2 ** round(math.log2(size / 16) / 2))
        rng = np.random.default_rng(size)
        sample = np.sort(rng.choice(size, min(size, cells * TRAIN_ROWS), replace=False))
        learned = np.concatenate([self._unit_rows(int(row), int(row) + 1) for row in sample])
        quantizer = faiss.IndexFlatIP(self.dim)
        index = faiss.IndexIVFScalarQuantizer(quantizer, self.dim, cells, faiss.ScalarQuantizer.QT_4bit, faiss.METRIC_INNER_PRODUCT)
        index.cp.spherical, index.cp.niter, index.cp.seed = True, 8, 1
        index.train(learned)
        self._fill(index, 0, size)
        index.nprobe = self._tried_out(index, learned[rng.choice(len(learned), min(TRIED, len(learned)), replace=False)], size)
        self._trained = index

    def _tried_out(self, index: Any, queries: Floats, size: int) -> int:
        """How many cells a search must visit to find the best ten nearly always."""
        return 32

    def _take_trained(self) -> None:
        if self._training is not None and not self._training.is_alive():
            self._training = None
            if self._trained is not None:
                self._index, self._trained = self._trained, None
                self._save()

    def _save(self) -> None:
        path = self._directory / "cells"
        faiss.write_index(self._index, f"{path}.new")
        os.replace(f"{path}.new", path)

    def _load(self) -> Any:
        return None


def unit_rows(rows: Quantised) -> Floats:
    """Rows as vectors of length 1."""
    wide = rows.astype(np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    norms[norms == 0] = 1
    wide /= norms
    return wide


def _exact_index(dim: int) -> Any:
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _cells(index: Any) -> int:
    """How many cells an index has; 0 for the exact one."""
    return int(getattr(index, "nlist", 0))


def _best_of_each(docs: NDArray[np.int32], cosines: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Each doc once, with the best of its cosines."""
    order = np.lexsort((-cosines, docs))
    docs, cosines = docs[order], cosines[order]
    first = np.ones(len(docs), np.bool_)
    first[1:] = docs[1:] != docs[:-1]
    return docs[first], cosines[first]
