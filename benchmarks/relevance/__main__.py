"""Prints recall@10, MRR and nDCG@10 of each mode of search on labelled sets, beside bm25s if that is installed.

python -m benchmarks.relevance [SET...]
"""

from __future__ import annotations

import argparse
import atexit
import math
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from engramd.protocol.unit import encode_unit
from engramd.search import ranking, tokens
from engramd.search.embedder import StaticEmbedder
from engramd.search.index import Index

from ..options import run_main
from .sets import SETS, Labelled, LeftOut, labelled

DEPTH = 100  # hits that are looked at for the right one


def ranks(index: Index, one: Labelled, mode: str) -> list[int]:
    """The place of the right text for each query; 0 where it is not among the first."""
    found = []
    for query, answer in zip(one.queries, one.answers, strict=True):
        words = " ".join(tokens.chunks(query))  # what people type has no signs that mean something to the query's language
        try:
            seqs = next(ranking.search(index, ranking.Request(words, mode, limit=DEPTH)))
        except StopIteration:
            seqs = []
        found.append(seqs.index(answer + 1) + 1 if answer + 1 in seqs[:DEPTH] else 0)
    return found


def bm25s_ranks(one: Labelled) -> list[int] | None:
    """The same by bm25s with its own tokens; None where it is not installed."""
    try:
        import bm25s  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    model = bm25s.BM25()
    model.index(bm25s.tokenize(one.texts, show_progress=False), show_progress=False)
    hits, _ = model.retrieve(bm25s.tokenize(one.queries, show_progress=False), k=min(DEPTH, len(one.texts)), show_progress=False)
    return [list(row).index(answer) + 1 if answer in row else 0 for row, answer in zip(hits.tolist(), one.answers, strict=True)]


def figures(places: Iterable[int]) -> tuple[float, float, float]:
    """recall@10, MRR and nDCG@10."""
    found = list(places)
    top = [place for place in found if 0 < place <= 10]
    return (
        len(top) / len(found),
        sum(1 / place for place in found if place) / len(found),
        sum(1 / math.log2(1 + place) for place in top) / len(found),
    )


def main() -> None:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.relevance", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    flags.add_argument("sets", nargs="*", default=list(SETS), help=f"{', '.join(SETS)}; all of them unless said otherwise")
    embedder = StaticEmbedder()
    print(f"{'set':8} {'texts':>6} {'queries':>7}  {'mode':10} {'recall@10':>9} {'MRR':>6} {'nDCG@10':>8}")
    for name in flags.parse_args().sets:
        try:
            one = labelled(name)
        except LeftOut as why:
            print(f"{name:8} left out: {why}")
            continue
        directory = Path(tempfile.mkdtemp(prefix="engram-relevance-"))
        atexit.register(shutil.rmtree, directory)
        index = Index(directory, embedder)
        for seq, text in enumerate(one.texts, 1):
            index.absorb([(seq, 1, encode_unit(seq.to_bytes(16), seq, seq, "c", "a", "message", {}, text, []))], seq)
        shown = {mode: ranks(index, one, mode) for mode in ("keyword", "semantic", "hybrid")} | {"bm25s": bm25s_ranks(one)}
        for mode, places in shown.items():
            if places is not None:
                recall, mrr, ndcg = figures(places)
                print(f"{one.name:8} {len(one.texts):>6} {len(one.queries):>7}  {mode:10} {recall:9.3f} {mrr:6.3f} {ndcg:8.3f}", flush=True)
        index.close()


if __name__ == "__main__":
    run_main("benchmarks.relevance", main)
