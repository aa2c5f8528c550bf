"""Vectors: exact ones in a file, and a FAISS index of them in memory that finds the nearest.

The file has one row of small whole numbers for each vector, which is all that is ever compared in the end: the FAISS index proposes, the
rows decide. Few vectors are proposed by an exact scan; many by cells that a training has found (`IndexIVFScalarQuantizer`), made and
tried out in a thread while the old index goes on answering.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger("engramd.search")

EXACT = 20_000  # vectors up to which every one is compared
RETRAIN = 3  # a trained index is trained anew when a cell has so many times more vectors than there are cells
TRAIN_ROWS = 64  # vectors for each cell that a training looks at
SAVE_AGAIN = 1.1  # a trained index is saved when it has grown by this factor
FILTERED = 0.05  # a filter that keeps less has every cell visited
LEAST_RECALL = 0.97  # of the best ten: a search visits as few cells as give that
MOST_VISITED = 65_536  # but not more than have so many vectors
FEW = 16_384  # allowed vectors that are scored exactly, row by row
KEPT = 192  # numbers of a vector that the cells keep: the ones that say most, found by the training
RERANKED = 1000  # rows that the cells propose at least, for the exact rows to decide
TRIED = 64  # queries with which an index is tried out
CHUNK_ROWS = 8192  # rows read at once where all are read

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


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
        self._mapped: Quantised = np.zeros((0, dim), np.int8)
        self._squares = Column(np.int32)  # of the first rows
        self._index: Any = self._load() or faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._saved = int(self._index.ntotal)  # rows of the saved index of cells
        self._thread: threading.Thread | None = None
        self._saving = False  # whether the thread reads the index
        self._trained: Any = None
        self._failed = 0  # rows there were when a training failed
        self.refresh()

    def close(self) -> None:
        """Release the file. A training under way is left to end with the process."""
        self._mapped = np.zeros((0, self.dim), np.int8)
        os.close(self._file)

    @property
    def kind(self) -> str:
        """How vectors are proposed now: `exact` or `cells`."""
        return "cells" if _cells(self._index) else "exact"

    @property
    def is_working(self) -> bool:
        """Whether a better index is being made, or this one saved."""
        return self._thread is not None

    # Writing

    def add(self, doc: int, rows: Quantised) -> None:
        """Add a doc's vectors; rows of zeros must be left out."""
        os.pwrite(self._file, rows.tobytes(), len(self._owners) * self.dim)
        self._owners.extend(np.full(len(rows), doc, np.int32))

    def refresh(self) -> None:
        """Have the index take in what was added since, and take a better index if one was made."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
            if self._saving:
                self._saved = int(self._index.ntotal)
            elif self._trained is None:
                self._failed = len(self._owners)
                logger.error("the vector index could not be trained; every vector is compared until there are many more")
            else:
                self._index, self._trained, self._saved = self._trained, None, 0
        if not (self._thread is not None and self._saving) and (_cells(self._index) or len(self._owners) <= 4 * EXACT):
            self._fill(self._index, len(self._owners))

    def sync(self) -> None:
        """Have the file's rows on disk."""
        os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    def checksum(self, first: int, last: int) -> int:
        """Of the rows from `first` to before `last`."""
        return zlib.crc32(os.pread(self._file, (last - first) * self.dim, first * self.dim))

    def erase(self, doc: int) -> None:
        """Make a doc's vectors zeros, on disk and in the index."""
        if self._thread is not None:
            self._thread.join()
            self.refresh()
        rows = np.flatnonzero(self._owners.values == doc)
        if not len(rows):
            return
        for row in rows:
            os.pwrite(self._file, bytes(self.dim), int(row) * self.dim)
        self._squares.values[rows[rows < len(self._squares)]] = 0
        self.sync()
        if _cells(self._index):
            self._index.remove_ids(faiss.IDSelectorBatch(rows.astype(np.int64)))
            self._index.ntotal = _ivf(self._index).ntotal = len(self._owners)  # the next row's number
            self._save(len(self._owners))
        else:
            self._index.reset()
            self.refresh()

    # Reading

    @property
    def owners(self) -> NDArray[np.int32]:
        """For each row, the doc it belongs to."""
        owners: NDArray[np.int32] = self._owners.values
        return owners

    @property
    def rows(self) -> Quantised:
        """All rows, mapped; there may be more of them than have owners."""
        return self._rows()

    @property
    def squares(self) -> NDArray[np.int32]:
        """Of each row, the sum of the squares of its numbers; worked out at first need."""
        for start in range(len(self._squares), len(self._owners), CHUNK_ROWS):
            part = self._rows()[start : min(start + CHUNK_ROWS, len(self._owners))].astype(np.int32)
            self._squares.extend(np.einsum("ij,ij->i", part, part))
        squares: NDArray[np.int32] = self._squares.values
        return squares

    def nearest(self, query: Floats, count: int, mask: Mask | None, least: float = 0.0) -> Near:
        """The docs with the nearest vectors among those that `mask` allows (None: all), at most `count`, none with a
        cosine below `least`."""
        owners = self._owners.values
        allowed = None if mask is None else mask.take(owners)
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

    def exactly(self, query: Floats, count: int, mask: Mask | None) -> Near:
        """As `nearest`, by comparing every row: slow, for tests and figures."""
        owners = self._owners.values
        rows = np.arange(len(owners)) if mask is None else np.flatnonzero(mask[owners])
        docs, best = _best_of_each(owners[rows], self.cosines(query, rows))
        order = np.lexsort((-docs, -best))[:count]
        order = order[best[order] > 0]
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

    def _proposed(self, query: Floats, count: int, allowed: Mask | None, part: float) -> Rows:
        """Rows that may be the nearest: what the index finds, and all rows that are not in it yet."""
        index, total = self._index, len(self._owners)
        known = min(int(index.ntotal), total)
        fresh = np.arange(known, total) if allowed is None else known + np.flatnonzero(allowed[known:])
        if not known:
            return fresh
        options: dict[str, Any] = {}
        if allowed is not None:
            bits = np.packbits(allowed[:known], bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(known, faiss.swig_ptr(bits))
        ivf = _ivf(index)
        params: Any = None
        if ivf is not None:
            visited, cells, count = ivf.nprobe, ivf.nlist, max(count, RERANKED)
            if part < FILTERED:
                visited = cells
            elif part < 1:
                visited = min(cells, math.ceil(visited / math.sqrt(part)))
            params = _visiting(visited, options)
        elif options:
            params = faiss.SearchParameters(**options)
        _, found = index.search(query.reshape(1, -1), min(count, known), params=params)
        rows: Rows = found[0]
        return np.concatenate([rows[rows >= 0], fresh])

    def _rows(self) -> Quantised:
        """The file, mapped."""
        if len(self._mapped) < len(self._owners):
            # Mapped beyond what is there yet, so that it need not be mapped anew for every row.
            size = (len(self._owners) * 5 // 4 + CHUNK_ROWS) * self.dim
            os.ftruncate(self._file, max(size, os.fstat(self._file).st_size))
            self._mapped = np.frombuffer(mmap.mmap(self._file, size, mmap.MAP_SHARED, mmap.PROT_READ), np.int8).reshape(-1, self.dim)
        return self._mapped

    def _unit_rows(self, first: int, last: int) -> Floats:
        raw = os.pread(self._file, (last - first) * self.dim, first * self.dim)
        return unit_rows(np.frombuffer(raw, np.int8).reshape(-1, self.dim))

    # The index

    def _fill(self, index: Any, last: int) -> None:
        """Add the rows that an index does not have yet, up to before `last`."""
        for start in range(index.ntotal, last, CHUNK_ROWS):
            index.add(self._unit_rows(start, min(last, start + CHUNK_ROWS)))

    @property
    def wants_work(self) -> bool:
        """Whether another index would be better, or this one is worth saving."""
        if self._thread is not None:
            return False
        cells, size = _cells(self._index), len(self._owners)
        if size <= self._failed * RETRAIN:
            return False
        return size > max(EXACT, RETRAIN * cells * cells) or (cells > 0 and size > self._saved * SAVE_AGAIN)

    def work(self) -> None:
        """Begin with that, in a thread: the end is noticed by `refresh`."""
        cells, size = _cells(self._index), len(self._owners)
        retrain = size > max(EXACT, RETRAIN * cells * cells)
        self._thread = threading.Thread(target=self._train if retrain else self._save, args=(size,), daemon=True)
        self._saving = not retrain
        self._thread.start()

    def _train(self, size: int) -> None:
        """Make an index of cells: find them from a sample, put all rows into them, and try out how many a search must visit."""
        cells = 2 ** round(math.log2(size) / 2)
        rng = np.random.default_rng(size)
        sample = np.sort(rng.choice(size, min(size, cells * TRAIN_ROWS), replace=False))
        learned = np.concatenate([self._unit_rows(int(row), int(row) + 1) for row in sample])
        kept = min(self.dim, KEPT)
        ivf = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(kept), kept, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
        )
        ivf.cp.spherical, ivf.cp.niter, ivf.cp.seed = True, 8, 1
        index = faiss.IndexPreTransform(faiss.PCAMatrix(self.dim, kept), ivf)
        index.train(learned)
        self._fill(index, size)
        while len(self._owners) - index.ntotal > CHUNK_ROWS:  # more have arrived meanwhile
            self._fill(index, len(self._owners))
        one, other = learned[rng.choice(len(learned), (2, TRIED))]
        noise = rng.standard_normal((TRIED, self.dim)).astype(np.float32) / np.float32(math.sqrt(self.dim))
        ivf.nprobe = self._tried_out(index, one + other / 2 + 2 * noise)  # queries are like some texts, but not very much
        self._trained = index

    def _tried_out(self, index: Any, queries: Floats) -> int:
        """The fewest cells that a search must visit to find the best ten nearly always."""
        size = index.ntotal
        best = np.full((len(queries), 10), -2, np.float32)
        for start in range(0, size, CHUNK_ROWS):
            scores = queries @ self._unit_rows(start, min(size, start + CHUNK_ROWS)).T
            best = -np.partition(-np.concatenate([best, scores], axis=1), 9, axis=1)[:, :10]
        worst = best.min(axis=1)
        visited, cells = 8, _cells(index)
        most = min(cells, cells * MOST_VISITED // size)
        while visited < most:
            _, found = index.search(queries, RERANKED, params=_visiting(visited, {}))
            hits = [int((self._dots(*pair) >= bar - 1e-6).sum()) for *pair, bar in zip(queries, found, worst, strict=True)]
            if sum(min(hit, 10) for hit in hits) >= LEAST_RECALL * 10 * len(queries):
                break
            visited *= 2
        return int(min(visited, most))

    def _dots(self, query: Floats, rows: Rows) -> Floats:
        """The exact products of some rows; for a thread, which must not touch the map."""
        raw = b"".join(os.pread(self._file, self.dim, int(row) * self.dim) for row in rows if row >= 0)
        found: Floats = unit_rows(np.frombuffer(raw, np.int8).reshape(-1, self.dim)) @ query
        return found

    def _save(self, size: int) -> None:
        path = self._directory / "cells"
        faiss.write_index(self._index, f"{path}.new")
        os.replace(f"{path}.new", path)

    def _load(self) -> Any:
        """The saved index of cells; None if there is none that can be used."""
        path = self._directory / "cells"
        if path.exists():
            try:
                index = faiss.read_index(str(path))
                if index.d == self.dim and _cells(index) and index.ntotal <= len(self._owners):
                    return index
            except RuntimeError:
                pass
            path.unlink()
        return None


def unit_rows(rows: Quantised) -> Floats:
    """Rows as vectors of length 1."""
    wide = rows.astype(np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    norms[norms == 0] = 1
    wide /= norms
    return wide


def _cells(index: Any) -> int:
    """How many cells an index has; 0 for the exact one."""
    ivf = _ivf(index)
    return 0 if ivf is None else int(ivf.nlist)


def _ivf(index: Any) -> Any:
    """The cells of an index; None for the exact one."""
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else None


def _visiting(cells: int, options: dict[str, Any]) -> Any:
    """Parameters of a search that visits so many cells."""
    inner = faiss.SearchParametersIVF(**{"nprobe": cells, **options})
    return faiss.SearchParametersPreTransform(**{"index_params": inner})


def _best_of_each(docs: NDArray[np.int32], cosines: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Each doc once, with the best of its cosines."""
    order = np.lexsort((-cosines, docs))
    docs, cosines = docs[order], cosines[order]
    first = np.ones(len(docs), np.bool_)
    first[1:] = docs[1:] != docs[:-1]
    return docs[first], cosines[first]
