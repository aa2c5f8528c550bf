"""How search grows: builds an index of many units, and prints its rate, memory, and the times of searches with and without filters.

    python -m benchmarks.search_scale --units 100000
    python -m benchmarks.search_scale --units 1000000 --keep DIR     # leave the index there; with --reuse, take the one that is there

Units are windows of the standard library's docstrings and code with paths, numbers and hashes between them: about 325 characters, a
vocabulary that grows with the log, topics that repeat. One process does everything, as the worker does, but what it costs to ask the
daemon for the texts of hits. Times are processor times, the least of three runs of each query, since a busy machine would change them;
with --wall, those that passed. For snippets and phrases other texts stand in for those that were indexed. The row "first asked" has each
query's first run, when the terms are read from the disk.
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engramd.protocol.unit import TYPES, encode_unit
from engramd.search import ranking
from engramd.search.embedder import StaticEmbedder
from engramd.search.index import EVERYTHING, Index, Wanted
from engramd.search.ranking import Request

from .figures import Row, machine, percentile, table
from .options import positive, run_main
from .relevance.sets import functions

Clock = Callable[[], int]  # nanoseconds

FEED = 128  # units a feed
PHRASES = 4  # one in so many of the texts with all words of a phrase has it: in those of `texts`, 28 % have
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


def opened(directory: Path) -> tuple[float, int]:
    """The seconds that opening an index takes, and the bytes that it holds then; to be called in a process that has made none."""
    embedder = StaticEmbedder()
    base, began = memory(), time.perf_counter()
    index = Index(directory, embedder)
    took = time.perf_counter() - began
    while index.has_chores:
        index.do_chore()
    return took, memory() - base


def queries(count: int) -> dict[str, list[str]]:
    """As many queries as asked for, shared out among kinds."""
    rng = random.Random(3)
    made: dict[str, list[str]] = {}
    kinds = ("question", "two words", "common words", "identifier", "path", "typos", "phrase", "exclusion")
    for number, one in enumerate(rng.sample(functions(), count)):
        plain = ranking.tokens.chunks(one.summary)
        words = ranking.tokens.chunks(one.rest) or plain
        two = " ".join(rng.sample(words, min(2, len(words))))
        queries = (
            " ".join(plain),
            two,
            " ".join(rng.sample(["the", "of", "a", "to", "is", "in", "return", "if", "self", "file"], 3)),
            one.name,
            one.path.rsplit("/", 1)[-1],
            " ".join(plain).replace("e", "", 1).replace("tr", "rt", 1),
            f'"{" ".join(plain[1:3])}"',
            f"{two} -{rng.choice(plain)}",
        )
        kind = number % len(kinds)
        made.setdefault(kinds[kind], []).append(queries[kind])
    return made


def timed(index: Index, said: list[str], asked: list[str], mode: str, wanted: Wanted, clock: Clock, runs: int = 3) -> list[float]:
    """Nanoseconds of each search, snippets included."""
    spent = []
    for query in asked:
        phrase = query.strip('"') if query.startswith('"') else ""
        times = []
        for _ in range(runs):
            began = clock()
            steps = ranking.search(index, Request(query, mode, wanted))
            try:
                seqs = next(steps)
                while True:
                    seqs = steps.send([said[seq % len(said)] + (f" {phrase}" if seq % PHRASES == 0 else "") for seq in seqs])
            except StopIteration:
                times.append(float(clock() - began))
        spent.append(min(times))
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


MEANT = ("question", "two words", "common words", "identifier", "path", "typos")  # kinds of queries without signs


FILTERS: dict[str, Wanted] = {
    "no filter": EVERYTHING,
    "two types (47 %)": Wanted(types=["message", "reasoning"]),
    "three contexts (10 %)": Wanted(contexts=["context 1", "context 2", "context 3"]),
    "a context (3 %)": Wanted(contexts=["context 2"]),
    "a label (1 %)": Wanted(meta=[("suite", "s7")]),
    "a small context (0.5 %)": Wanted(contexts=["context 40"]),
}


def main() -> None:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.search_scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    flags.add_argument("--units", type=positive, default=100_000)
    flags.add_argument("--queries", type=positive, default=200)
    flags.add_argument("--keep", type=Path, help="build here, and leave it")
    flags.add_argument("--wall", action="store_true", help="measure the time that passes; only on a machine that does nothing else")
    flags.add_argument("--reuse", action="store_true", help="do not build: take what --keep left")
    given = flags.parse_args()
    directory = given.keep or Path(tempfile.mkdtemp(prefix="engram-scale-"))
    if not given.keep:
        atexit.register(shutil.rmtree, directory)
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
    built = memory() - base
    index.close()
    with multiprocessing.get_context("spawn").Pool(1) as fresh:
        took, own = fresh.apply(opened, (directory,))
    rows.append(Row("opening the index", p50=took * 1e9))
    index = Index(directory, embedder)
    finish(index)
    kinds, said = queries(given.queries), list(texts(1000))
    asked = [query for queries in kinds.values() for query in queries]
    clock: Clock = time.perf_counter_ns if given.wall else time.process_time_ns

    def measure(what: str, asked: list[str], mode: str = "hybrid", wanted: Wanted = EVERYTHING, runs: int = 3) -> None:
        times = timed(index, said, asked, mode, wanted, clock, runs)
        p95 = percentile(times, 0.95)
        most = 1.0 if mode == "hybrid" else None
        against = "p95 of 20 ms (under p99: the p95)"
        rows.append(Row(what, p50=percentile(times, 0.5), p99=p95, ratio=p95 / 20e6, most=most, against=against))

    measure("hybrid, first asked", asked, runs=1)
    for name, wanted in FILTERS.items():
        measure(f"hybrid, {name}", asked, wanted=wanted)
    for kind, some in kinds.items():
        measure(f"hybrid, {kind}", some)
    for mode in ("keyword", "semantic"):
        measure(mode, asked, mode)
    found = recall(index, [query for kind in MEANT for query in kinds[kind][:10]])
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
    for what, held in (("opened", own), *([] if given.reuse else [("built", built)])):
        rows.append(
            Row(
                f"memory above the base, a unit, {what}",
                value=held / len(index),
                unit=" B",
                ratio=held / len(index) / 400,
                most=1,
                against="400 bytes",
            )
        )
    disk = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    rows.append(Row("disk, a unit", value=disk / len(index), unit=" B"))
    print(table(rows))
    index.close()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_main("benchmarks.search_scale", main)
