"""How search grows: builds an index of many units, and prints its rate, memory, and the times of searches with and without filters.

    python -m benchmarks.search_scale --units 100000
    python -m benchmarks.search_scale --units 1000000 --keep DIR     # leave the index there; with --reuse, take the one that is there

Units are windows of the standard library's docstrings and code with paths, numbers and hashes between them: about 325 characters, a
vocabulary that grows with the log, topics that repeat. One process does everything, as the worker does. Times are processor times, so
that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engramd.protocol.unit import TYPES, encode_unit
from engramd.search import ranking
from engramd.search.embedder import StaticEmbedder
from engramd.search.index import Index, Wanted
from engramd.search.ranking import Request

from .figures import Row, machine, percentile, table
from .relevance.sets import functions

FEED = 128  # units a feed
CONTEXTS = 200
AGENTS = 40


def texts(count: int) -> Iterator[str]:
    """Payloads, always the same ones."""
    rng = random.Random(1)
    sources = [(one.path, f"{one.summary} {one.rest} {one.source}".split()) for one in functions()]
    sources = [(path, words) for path, words in sources if len(words) > 30]
    for number in range(count):
        path, words = sources[int(len(sources) * rng.random() ** 1.5)]
        at = rng.randrange(len(words) - 25)
        parts = words[at : at + rng.randint(20, 32)]
        parts.insert(rng.randrange(20), f"{path}:{rng.randint(1, 2000)}")
        if number % 5 == 0:
            parts.insert(rng.randrange(20), f"{rng.getrandbits(160):040x}")
        if number % 3 == 0:
            parts.append(f"took {rng.randint(1, 10**6)} ms, request {number}")
        yield " ".join(parts)[:700]


def units(count: int) -> Iterator[tuple[int, int, bytes]]:
    """Events as the worker is fed them."""
    rng = random.Random(2)
    for number, text in enumerate(texts(count), 1):
        context = f"context {int(CONTEXTS * rng.random() ** 3)}"  # some are large, most are small
        agent, type = f"agent {int(AGENTS * rng.random() ** 2)}", TYPES[int(len(TYPES) * rng.random() ** 2)]
        meta = {"suite": f"s{rng.randrange(50)}"} if number % 2 else {}
        yield number, 1, encode_unit(number.to_bytes(16), number, number, context, agent, type, meta, text, [])


def memory() -> int:
    """Bytes that are this process's own: resident, without what is mapped from files."""
    with open("/proc/self/statm", "rb") as statm:
        _, resident, shared, *_ = map(int, statm.read().split())
    return (resident - shared) * resource.getpagesize()


def build(index: Index, count: int) -> float:
    """Absorb units as the worker does, chores included; gives the processor seconds it took beside making the units."""
    spent, feed = 0.0, units(count)
    clock = time.process_time  # threads included; what other processes do to this one is not
    while batch := list(itertools.islice(feed, FEED)):
        began = clock()
        index.absorb(batch, batch[-1][0])
        if index.wants_flush:
            index.flush()
        if index.has_chores:
            index.do_chore()
        spent += clock() - began
        if batch[-1][0] % (FEED * 400) == 0:
            print(
                f"  {batch[-1][0]:>9,} units, {batch[-1][0] / spent:,.0f}/s, {memory() / 2**20:,.0f} MiB, {index.vectors.kind}", flush=True
            )
    began = clock()
    finish(index)
    return spent + clock() - began


def finish(index: Index) -> None:
    """Write what is new and do all chores."""
    index.flush()
    while index.has_chores or index.waits:
        if index.has_chores:
            index.do_chore()
        else:
            time.sleep(0.05)
            index.vectors.refresh()


def queries(count: int) -> list[str]:
    """Questions, pairs of words, identifiers, paths and typos, in turn."""
    rng = random.Random(3)
    chosen = rng.sample(functions(), count)
    made = []
    for number, one in enumerate(chosen):
        words = one.rest.split() or one.summary.split()
        made.append(
            (
                one.summary,
                " ".join(rng.sample(words, min(2, len(words)))),
                one.name,
                one.path.rsplit("/", 1)[-1],
                one.summary.replace("e", "", 1).replace("tr", "rt", 1),
            )[number % 5]
        )
    return [query for query in (" ".join(ranking.tokens.chunks(query)) for query in made) if query]


def timed(index: Index, asked: list[str], mode: str, wanted: Wanted) -> list[float]:
    """Nanoseconds of processor time of each search, without the texts of its hits."""
    spent = []
    for query in asked:
        began = time.thread_time_ns()
        steps = ranking.search(index, Request(query, mode, wanted))
        try:
            next(steps)
        except StopIteration:
            pass
        spent.append(float(time.thread_time_ns() - began))
    return spent


def recall(index: Index, asked: list[str]) -> float:
    """Which part of the ten nearest vectors of queries the index finds."""
    vectors = index.vectors
    found = []
    for query in asked:
        vector = index.embedder.embed([query])[0]
        if vector.any():
            best = set(vectors.exactly(vector, 10, None).docs.tolist())
            found.append(len(best & set(vectors.nearest(vector, 10, None).docs.tolist())) / max(len(best), 1))
    return float(np.mean(found))


FILTERS: dict[str, Wanted] = {
    "no filter": Wanted(),
    "the largest context (17 %)": Wanted(contexts=["context 0"]),
    "a small context (0.2 %)": Wanted(contexts=["context 120"]),
    "one type (33 %)": Wanted(types=["message"]),
    "a label (1 %)": Wanted(meta=[("suite", "s7")]),
    "an agent and a type (1 %)": Wanted(agents=["agent 9"], types=["tool_result"]),
}


def main() -> None:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.search_scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    flags.add_argument("--units", type=int, default=100_000)
    flags.add_argument("--queries", type=int, default=200)
    flags.add_argument("--keep", type=Path, help="build here, and leave it")
    flags.add_argument("--reuse", action="store_true", help="do not build: take what --keep left")
    given = flags.parse_args()
    directory = given.keep or Path(tempfile.mkdtemp(prefix="engram-scale-"))
    print(machine())
    list(texts(1))  # reads the standard library, which is not the index's memory
    embedder = StaticEmbedder()
    base = memory()
    index = Index(directory, embedder)
    rows: list[Row] = []
    if not given.reuse:
        spent = build(index, given.units)
        rows.append(
            Row(
                f"indexing {len(index):,} units",
                value=len(index) / spent,
                ratio=len(index) / spent / 2000,
                least=1,
                against="2,000 units/s",
            )
        )
    finish(index)
    index.close()
    del index
    began = time.perf_counter()
    index = Index(directory, embedder)
    rows.append(Row("opening the index", p50=(time.perf_counter() - began) * 1e9))
    opened = memory() - base
    asked = queries(given.queries)
    for name, wanted in FILTERS.items():
        for mode in ("hybrid", "keyword", "semantic") if name == "no filter" else ("hybrid",):
            timed(index, asked[:20], mode, wanted)
            times = timed(index, asked, mode, wanted)
            p95 = percentile(times, 0.95)
            most = 1.0 if mode == "hybrid" else None
            rows.append(
                Row(
                    f"{mode}, {name}",
                    p50=percentile(times, 0.5),
                    p99=p95,
                    ratio=p95 / 20e6,
                    most=most,
                    against="p95 of 20 ms (under p99: the p95)",
                )
            )
    found = recall(index, asked[:40])
    rows.append(
        Row(
            "recall@10 of the vector index",
            value=100 * found,
            unit=" %",
            ratio=found / 0.95,
            least=1,
            against="0.95",
        )
    )
    own = opened
    rows.append(
        Row(
            "memory above the base, a unit, opened",
            value=own / len(index),
            unit=" B",
            ratio=own / len(index) / 400,
            most=1,
            against="400 bytes",
        )
    )
    disk = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    rows.append(Row("disk, a unit", value=disk / len(index), unit=" B"))
    print(table(rows))
    index.close()
    if not given.keep:
        shutil.rmtree(directory)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
