"""Ranking for packs: exact whole numbers, and nothing of what came later."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import Ledger

from engramd.protocol.errors import EngramError
from engramd.protocol.packs import LABEL
from engramd.search import tokens
from engramd.search.embedder import StaticEmbedder, quantise
from engramd.search.embedders import made
from engramd.search.index import Index
from engramd.search.packs import BITS, ONE, Request, log2, rank

WORDS = ["lock", "daemon", "parser", "socket", "deadbeef12", "log.py", "getUserName", "日本語", "disk", "the", "error", "timeout", "retry"]


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_logarithms(one: int, other: int) -> None:
    high, low = max(one, other), min(one, other)
    assert log2(high, low) / ONE == pytest.approx(math.log2(high / low), abs=2 / ONE)


def fill(ledger: Ledger, rng: random.Random, count: int) -> None:
    """Puts, additions and removals at random, in two contexts."""
    for _ in range(count):
        draw = rng.random()
        unit = rng.choice(ledger.units) if ledger.units else None
        if unit is None or draw < 0.7:
            text = " ".join(rng.choices(WORDS, k=rng.randrange(0, 12)))
            ledger.put(text if rng.random() < 0.95 else b"\xff", context=rng.choice("cd"))
        elif draw < 0.85 and unit.places:
            ledger.remove(unit, rng.choice(sorted(unit.places)))
        elif others := {"c", "d"} - unit.places.keys():
            ledger.add(unit, rng.choice(sorted(others)))


def absorb(index: Index, ledger: Ledger, flush_every: int = 10**9) -> None:
    for start in range(0, len(ledger.events), 50):
        part = ledger.events[start : start + 50]
        index.absorb(part, part[-1][0])
        if start % flush_every == 0:
            index.flush()


def naive(ledger: Ledger, embedder: StaticEmbedder, query: str, contexts: str, limit: int) -> list[int]:
    """The same ranks, worked out one unit at a time with numbers of any size."""
    there = [unit for unit in ledger.units if unit.places.keys() & set(contexts)]
    counted = {unit.seq: tokens.count(unit.text) for unit in there}
    lengths = [length for _, length in counted.values() if length]
    mean = max((sum(lengths) << 4) // max(len(lengths), 1), 1)
    atoms = set(tokens.atoms(query))
    having = {term: sum(term in counts for counts, _ in counted.values()) for term in tokens.count(query)[0]}
    asked = {term: times for term, times in tokens.count(query)[0].items() if having[term] or term in atoms}
    idf = {term: times * log2(2 * len(lengths) + 2, 2 * having[term] + 1) for term, times in asked.items()}
    vector = quantise(embedder.sums([query]))[0].astype(object)
    own = math.isqrt(int(vector @ vector) << 20)
    scored = []
    for unit in there:
        counts, length = counted[unit.seq]
        keyword = 0
        for term in asked:
            if times := counts.get(term, 0):
                keyword += (times * 8 * mean << BITS) // (times * 8 * mean + 3 * mean + 9 * (length << 4)) * idf[term]
        keyword //= max(sum(idf.values()), 1)
        row = quantise(embedder.sums([unit.text]))[0].astype(object)
        norm = math.isqrt(int(row @ row) << 20) * own
        cosine = min((max(int(row @ vector), 0) << BITS + 20) // norm, ONE) if norm else 0
        whole = bool(asked) and all(term in counts for term in asked)
        score = 45 * keyword + 35 * cosine + 20 * ONE * whole
        if keyword or cosine >= ONE // 5:
            scored.append((-score, -unit.seq))
    return [-seq for score, seq in sorted(scored) if score][:limit]


@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_exact_whatever_the_index_is_like(
    ledger: Ledger, open_index: Callable[[], Index], tmp_path: Path, embedder: StaticEmbedder, seed: int
) -> None:
    rng = random.Random(seed)
    fill(ledger, rng, 120)
    asked = [
        Request(query, [*contexts], ledger.last, limit, False)
        for query in ("daemon lock", "lock", "log.py retry 日本語", "unknownword")
        for contexts in ("c", "cd")
        for limit in (1, 10, 50)
    ]
    expected = [naive(ledger, embedder, one.query, "".join(one.contexts), one.limit) for one in asked]
    assert any(expected)
    fill(ledger, rng, 80)  # later
    index = open_index()
    absorb(index, ledger, flush_every=100)
    assert [rank(index, one) for one in asked] == expected
    index.flush()
    again = open_index()
    assert [rank(again, one) for one in asked] == expected, "after a restart"
    other = Index(tmp_path / "other", embedder, "0123456789ab")
    for event in ledger.events:
        other.absorb([event], event[0])
    assert [rank(other, one) for one in asked] == expected, "made anew, in other pieces"
    other.close()


def test_recorded_manifests_count_for_nothing(ledger: Ledger, open_index: Callable[[], Index]) -> None:
    for _ in range(3):
        ledger.put("the daemon lost its lock")
    index = open_index()
    absorb(index, ledger)
    before = rank(index, Request("daemon lock", ["c"], 10**9, 50, False))
    ledger.put('{"query": "daemon lock"}', type="system", meta=dict([LABEL]))
    index.absorb(ledger.events[-1:], ledger.last)
    assert rank(index, Request("daemon lock", ["c"], 10**9, 50, False)) == before == [3, 2, 1]
    assert 4 in rank(index, Request("daemon lock", ["c"], 10**9, 50, True))


def test_products_of_int8_are_exact_in_float32() -> None:
    rng = np.random.default_rng(0)
    rows = rng.choice(np.array([-127, 127, 126, 1], np.int8), (500, 384))
    rows[0] = 127
    exact = rows.astype(np.int64) @ rows[0].astype(np.int64)
    assert np.array_equal((rows.astype(np.float32) @ rows[0].astype(np.float32)).astype(np.int64), exact)
    assert exact[0] == 384 * 127 * 127 < 2**24


def test_other_embedders_are_refused(tmp_path: Path) -> None:
    index = Index(tmp_path / "search", made("http:m:8@http://127.0.0.1:9/v1"), "0123456789ab")
    with pytest.raises(EngramError) as refused:
        rank(index, Request("x", ["c"], 9, 9, False))
    assert refused.value.code == "invalid"
    index.close()
