"""What indexing costs the writers: puts to a daemon whose search worker takes in every unit, beside puts to one without a worker.

python -m benchmarks.search_beside [--rounds N] [--puts N] [--dir DIR]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from engram_cli.client import Client

from . import figures
from .figures import Rounds, Row, row, spread
from .loops import clock
from .options import add_dir, positive, run_main
from .processes import Daemon, Place, bounded
from .search_scale import texts

LIMIT = 600.0  # seconds for everything
PAUSE = 0.002  # seconds between two puts: an agent that is busy, not a load


def puts(client: Client, payloads: Sequence[str]) -> list[int]:
    """Nanoseconds of each put."""
    spent = []
    for text in payloads:
        start = clock()
        client.put("c", text)
        spent.append(clock() - start)
        time.sleep(PAUSE)
    return spent


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_beside", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--puts", type=positive, default=500, help="puts of each daemon in each round")
    add_dir(parser)
    options = parser.parse_args(arguments)
    payloads, rounds, behind = list(texts(options.puts)), Rounds(), 0
    with (
        bounded(LIMIT),
        Place(options.dir) as place,
        Daemon(place, place.store("off")) as off,
        Daemon(place, place.store("on")) as on,
        Client(off.socket, autostart=False) as without,
        Client(on.socket, autostart=False) as beside,
    ):
        puts(without, payloads[:50]), puts(beside, payloads[:50])
        beside.search("lock", wait=30_000)  # which starts the worker
        for _ in range(options.rounds):
            rounds.add({**spread("off", puts(without, payloads)), **spread("on", puts(beside, payloads))})
            behind = max(behind, beside.status()["search"]["behind"])
    rows = [
        row(rounds, "paced put, no search worker", "off"),
        row(rounds, "paced put beside a worker that indexes", "on", ratio=rounds.ratio("on.p50", "off.p50"), against="p50 without"),
        Row("the same", p99=rounds.median("on.p99"), ratio=rounds.ratio("on.p99", "off.p99"), most=1.5, against="p99 without"),
        Row("events that the index was behind, at most", value=behind, unit=""),
    ]
    print(figures.machine())
    print(figures.table(rows))
    return 0


if __name__ == "__main__":
    run_main("benchmarks.search_beside", main)
