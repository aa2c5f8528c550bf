"""Vectors: exact rows, the index that proposes them, its training, its file, and what damage does."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from engramd.protocol.errors import EngramError
from engramd.search import vectors as module
from engramd.search.columns import Column
from engramd.search.embedder import quantise
from engramd.search.vectors import Vectors

DIM = 32


def made(directory: Path, count: int, owners: Column | None = None) -> tuple[Vectors, Column]:
    """Vectors in groups of like ones, two for every tenth doc."""
    owners = Column(np.int32) if owners is None else owners
    vectors = Vectors(directory, DIM, owners)
    rng = np.random.default_rng(1)
    groups = rng.standard_normal((40, DIM))
    for doc in range(count):
        rows = groups[doc % 40] + rng.standard_normal((2 if doc % 10 == 0 else 1, DIM))
        vectors.add(doc, quantise(rows))
    vectors.refresh()
    return vectors, owners


def trained(vectors: Vectors) -> None:
    """Let every chore be done."""
    while vectors.wants_work or vectors.is_working:
        if not vectors.is_working:
            vectors.work()
        while vectors.is_working:
            vectors.refresh()
            time.sleep(0.001)  # a thread of FAISS, which nothing can be asked to wait for


def queries(count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(2)
    made = rng.standard_normal((count, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def same(vectors: Vectors, query: np.ndarray, mask: np.ndarray | None = None, count: int = 10) -> float:
    """Which part of the nearest is found."""
    best = vectors.exactly(query, count, mask)
    found = vectors.nearest(query, count, mask)
    assert np.all(np.diff(found.cosines) <= 0)
    assert mask is None or mask[found.docs].all()
    return len(set(best.docs.tolist()) & set(found.docs.tolist())) / len(best.docs) if len(best.docs) else 1.0


def test_few_vectors_are_compared_exactly(tmp_path: Path) -> None:
    vectors, _ = made(tmp_path, 500)
    assert vectors.kind == "exact"
    for part in (None, 2, 50, 400):
        mask = None if part is None else np.arange(500) % part == 0
        for query in queries():
            assert same(vectors, query, mask) == 1
    found = vectors.nearest(queries()[0], 500, None)
    assert len(set(found.docs.tolist())) == len(found.docs), "a doc with two vectors is one hit"
    assert found.cosines.tolist() == pytest.approx(vectors.of(queries()[0], found.docs).tolist(), abs=1e-6)


def test_many_vectors_are_found_by_cells_that_are_trained_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT", 1000)
    monkeypatch.setattr(module, "FEW", 50)
    vectors, owners = made(tmp_path, 3000)
    assert vectors.wants_work
    vectors.work()
    assert np.mean([same(vectors, query) for query in queries(5)]) == 1, "the old index answers meanwhile"
    trained(vectors)
    assert vectors.kind == "cells"
    for part, least in ((None, 0.95), (3, 0.95), (15, 0.95), (25, 0.99), (100, 1.0)):
        mask = None if part is None else np.arange(3000) % part == 0
        assert np.mean([same(vectors, query, mask) for query in queries()]) >= least, part
    far = np.arange(3000) % 40 == 7
    assert np.mean([same(vectors, query, far) for query in queries()]) == 1, "what a filter keeps may be far from the query"
    for doc in range(3000, 3100):
        vectors.add(doc, quantise(queries(2)[doc == 3099 :][:1] + (0 if doc > 3097 else doc * queries(3)[2:] / 3000)))
    assert vectors.nearest(queries(2)[1], 1, None).docs.tolist() == [3099], "rows that the index lacks are compared all the same"
    vectors.refresh()
    assert vectors.nearest(queries(2)[1], 1, None).docs.tolist() == [3099]
    assert vectors.nearest(queries(2)[0], 1, None).docs.tolist() == [3098]
    vectors.erase(3099)
    assert vectors.nearest(queries(2)[1], 1, None).docs.tolist() != [3099]
    vectors.close()
    again = Vectors(tmp_path, DIM, owners)
    assert again.kind == "cells"
    assert again.nearest(queries(2)[0], 1, None).docs.tolist() == [3098]
    assert again.nearest(queries(2)[1], 1, None).docs.tolist() != [3099]
    assert np.mean([same(again, query) for query in queries()]) >= 0.95
    again.close()
    whole = (tmp_path / "cells").read_bytes()
    middle = len(whole) // 2
    for damage in (b"rubbish", b"", whole[:-9], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], bytes(len(whole))):
        (tmp_path / "cells").write_bytes(damage)
        damaged = Vectors(tmp_path, DIM, owners)
        assert (damaged.kind, same(damaged, queries(1)[0])) == ("exact", 1)
        assert not (tmp_path / "cells").exists()
        damaged.close()


def test_an_index_that_cannot_be_saved_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "EXACT", 1000)
    (tmp_path / "cells.new").mkdir()
    vectors, _ = made(tmp_path, 1500)
    trained(vectors)
    assert (vectors.kind, vectors.wants_work) == ("cells", False)
    assert "could not be saved" in caplog.text
    vectors.close()


def test_rows_that_nobody_owns_are_cut_off_and_missing_ones_are_an_error(tmp_path: Path) -> None:
    vectors, owners = made(tmp_path, 10)
    vectors.close()
    fewer = Column(np.int32)
    fewer.extend(owners.values[:5])
    vectors = Vectors(tmp_path, DIM, fewer)
    assert (tmp_path / "vectors").stat().st_size == 5 * DIM
    vectors.close()
    with pytest.raises(EngramError, match="shorter"):
        Vectors(tmp_path, DIM, owners)
