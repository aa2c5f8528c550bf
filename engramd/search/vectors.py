"""Vectors: exact ones in a file, and a FAISS index of them in memory that finds the nearest.

The file has one row of small whole numbers for each vector, which is all that is ever compared in the end: the FAISS index proposes, the
rows decide. Few vectors are proposed by an exact scan; many by cells that a training has found (`IndexIVFPQFastScan`), made in a
thread while the old index goes on answering.
"""

from __future__ import annotations

import errno
import logging
import math
import mmap
import os
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from ..allocator import give_back
from ..protocol.errors import EngramError
from ..storage.leveldb import Damage
from .columns import Column, distinct
from .embedder import Floats, Quantised

faiss.omp_set_num_threads(1)

logger = logging.getLogger("engramd.search")

MAX_PIECES = 4  # vectors of one doc
EXACT = 20_000  # vectors up to which every one is compared
RETRAIN = 3  # a trained index is trained anew when a cell has so many times more vectors than there are cells
TRAIN_ROWS = 40  # vectors for each cell that a training looks at
SAVE_AGAIN = 1.1  # a trained index is saved when it has grown by this factor
FARTHER = 0.15  # the part that a filter keeps, to this power, is by how much more cells are visited
VISITED = 3  # one in so many cells is visited: with fewer, pairs of words that have little in common are not found well enough
FEW = 16_384  # allowed docs whose vectors are all compared
KEPT = 256  # numbers of a vector that the cells keep, two in four bits: the ones that say most, found by the training
RERANKED = 1000  # rows that the cells propose at least, for the exact rows to decide
CRC_BYTES = 4  # behind the saved index
READ_BYTES = 1024 * 1024  # of it, at once
CHUNK_ROWS = 8192  # rows read at once where all are read
CACHED_ROWS = 512  # rows compared at once: as floats they stay in the processor's cache

Mask = NDArray[np.bool_]
Docs = NDArray[np.int64]
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
        EngramError: `storage`, when the file has fewer rows than it should (then it is a `Damage`) or the disk refuses a write.
    """

    def __init__(self, directory: Path, dim: int, owners: Column) -> None:
        self._directory, self.dim, self._owners = directory, dim, owners
        path = directory / "vectors"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < len(owners) * dim:
            os.close(self._file)
            raise Damage("storage", f"{path} is shorter than it should be")
        os.ftruncate(self._file, len(owners) * dim)
        self._mapped: Quantised = np.zeros((0, dim), np.int8)
        self._squares = Column(np.int32)  # of the first rows
        self._index: Any = self._load() or _exact(dim)
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
        self._write(rows.tobytes(), len(self._owners))
        self._owners.extend(np.full(len(rows), doc, np.int32))

    def _write(self, data: bytes, row: int) -> None:
        try:
            if os.pwrite(self._file, data, row * self.dim) < len(data):  # which only a full disk does
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise EngramError("storage", f"the disk refused a write to {self._directory / 'vectors'}: {error.strerror}") from error

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
                give_back()  # of a training, a good part of what there is
        if not (self._thread is not None and self._saving) and (_cells(self._index) or len(self._owners) <= 4 * EXACT):
            self._fill(self._index, len(self._owners))

    def sync(self) -> None:
        """Have the file's rows on disk."""
        os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    def checksum(self, first: int, last: int) -> int:
        """Of the rows from `first` to before `last`."""
        return zlib.crc32(os.pread(self._file, (last - first) * self.dim, first * self.dim))

    def erase(self, docs: Sequence[int]) -> None:
        """Make the vectors of some docs zeros, on disk and in the index."""
        if self._thread is not None:
            self._thread.join()
            self.refresh()
        rows = np.flatnonzero(np.isin(self._owners.values, docs))
        if not len(rows):
            return
        for row in rows:
            self._write(bytes(self.dim), int(row))
        self._squares.values[rows[rows < len(self._squares)]] = 0
        self.sync()
        if _cells(self._index):
            self._index.remove_ids(faiss.IDSelectorBatch(np.array(docs, np.int64)))
            self._index.ntotal = _ivf(self._index).ntotal = len(self._owners)  # the next row's number
            (self._directory / "cells").unlink(missing_ok=True)  # whether or not there is room for the next
            self._save(len(self._owners))
        else:
            self._index = _exact(self.dim)
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
        if not query.any():  # of a text that means nothing to the embedder
            return Near(np.zeros(0, np.int64), np.zeros(0, np.float32))
        having = len(self._owners) if mask is None else int(np.count_nonzero(mask))
        if mask is not None and having <= FEW:
            docs = np.flatnonzero(mask)
        else:
            docs = self._proposed(query, MAX_PIECES * count, mask, having / max(len(self._owners), 1))
        return self._nearest_of(query, docs, count, least)

    def exactly(self, query: Floats, count: int, mask: Mask | None) -> Near:
        """As `nearest`, by comparing every row: slow, for tests and figures."""
        docs = distinct(self._owners.values)
        return self._nearest_of(query, docs if mask is None else docs[mask[docs]], count, 0.0)

    def _nearest_of(self, query: Floats, docs: Docs, count: int, least: float) -> Near:
        cosines = self.of(query, docs)
        keep = np.flatnonzero((cosines > 0) & (cosines >= least))
        keep = keep[np.lexsort((-docs[keep], -cosines[keep]))][:count]
        return Near(docs[keep].astype(np.int64), cosines[keep])

    def of(self, query: Floats, docs: Docs) -> Floats:
        """The cosines of some docs' best vectors; 0 for docs that have none."""
        owners = self._owners.values
        docs = docs.astype(owners.dtype)  # for other numbers, all of the owners would be copied
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
        all_rows = self._rows()
        for start in range(0, len(rows), CACHED_ROWS):
            part = all_rows[rows[start : start + CACHED_ROWS]].astype(np.float32)
            norms = np.sqrt(np.einsum("ij,ij->i", part, part))
            norms[norms == 0] = 1
            out[start : start + CACHED_ROWS] = part @ query / norms
        return out

    def _proposed(self, query: Floats, count: int, mask: Mask | None, part: float) -> Docs:
        """Docs that may be the nearest, each once: those that the index finds, and all whose vectors are not in it yet."""
        index = self._index
        fresh = distinct(self._owners.values[int(index.ntotal) :])
        fresh = fresh if mask is None else fresh[mask[fresh]]
        options: dict[str, Any] = {}
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits))
        ivf = _ivf(index)
        if ivf is None:
            found = self._found(query, min(count, int(index.ntotal)), faiss.SearchParameters(**options) if options else None)
        else:
            count, visited = min(max(count, RERANKED), int(index.ntotal)), min(ivf.nlist, math.ceil(ivf.nprobe / min(part, 1.0) ** FARTHER))
            found = self._found(query, count, _visiting(visited, options))
            if len(found) < count and visited < ivf.nlist:  # what the filter keeps is elsewhere
                found = self._found(query, count, _visiting(ivf.nlist, options))
        return distinct(np.concatenate([found, fresh]))

    def _found(self, query: Floats, count: int, params: Any) -> Docs:
        """What the index finds; a doc may be in it several times."""
        if not count:
            return np.zeros(0, np.int64)
        docs: Docs = self._index.search(query.reshape(1, -1), count, params=params)[1][0]
        return docs[docs >= 0]

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
            stop = min(last, start + CHUNK_ROWS)
            index.add_with_ids(self._unit_rows(start, stop), self._owners.values[start:stop].astype(np.int64))

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
        """Make an index of cells: find them from a sample, and put all rows into them."""
        cells = 2 ** round(math.log2(size) / 2)
        rng = np.random.default_rng(size)
        sample = np.sort(rng.choice(size, min(size, cells * TRAIN_ROWS), replace=False))
        learned = unit_rows(self._read(sample))
        kept = 2 * max(1, min(self.dim, KEPT) // 2)
        ivf = faiss.IndexIVFPQFastScan(faiss.IndexFlatIP(kept), kept, cells, kept // 2, 4, faiss.METRIC_INNER_PRODUCT)
        ivf.by_residual = False
        ivf.cp.spherical, ivf.cp.niter, ivf.cp.seed = True, 8, 1
        index = faiss.IndexPreTransform(faiss.PCAMatrix(self.dim, kept), ivf)
        index.train(learned)
        self._fill(index, size)
        while len(self._owners) - index.ntotal > CHUNK_ROWS:  # more have arrived meanwhile
            self._fill(index, len(self._owners))
        ivf.nprobe = max(8, cells // VISITED)
        self._trained = index

    def _read(self, rows: Rows) -> Quantised:
        raw = b"".join(os.pread(self._file, self.dim, int(row) * self.dim) for row in rows)
        return np.frombuffer(raw, np.int8).reshape(-1, self.dim)

    def _save(self, size: int) -> None:
        path, fresh = self._directory / "cells", self._directory / "cells.new"
        try:
            faiss.write_index(self._index, str(fresh))
            crc = _crc(fresh, fresh.stat().st_size)
            with fresh.open("ab") as file:
                file.write(crc.to_bytes(CRC_BYTES))
            os.replace(fresh, path)
        except (OSError, RuntimeError) as error:  # it can be made again from the rows
            logger.warning("the vector index could not be saved: %s", str(error).splitlines()[-1])
            with suppress(OSError):
                fresh.unlink()

    def _load(self) -> Any:
        """The saved index of cells; None if there is none that can be used."""
        path = self._directory / "cells"
        if path.exists():
            if _is_whole(path):
                index = faiss.read_index(str(path))
                if index.d == self.dim and _cells(index) and index.ntotal <= len(self._owners):
                    return index
            path.unlink()
        return None


def _is_whole(path: Path) -> bool:
    """Whether a saved index is as it was written."""
    size = path.stat().st_size - CRC_BYTES
    with path.open("rb") as file:
        file.seek(max(size, 0))
        return size > 0 and file.read() == _crc(path, size).to_bytes(CRC_BYTES)


def _crc(path: Path, size: int) -> int:
    """The checksum of a file's first bytes."""
    with path.open("rb") as file:
        crc = 0
        while size and (part := file.read(min(size, READ_BYTES))):
            crc, size = zlib.crc32(part, crc), size - len(part)
        return crc


def unit_rows(rows: Quantised) -> Floats:
    """Rows as vectors of length 1."""
    wide = rows.astype(np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    norms[norms == 0] = 1
    wide /= norms
    return wide


def _exact(dim: int) -> Any:
    """An index that compares all. Its numbers are those of docs, as in every one."""
    return faiss.IndexIDMap(faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT))


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
