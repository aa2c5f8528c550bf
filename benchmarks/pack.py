"""How long a pack takes: 32,000 tokens of a context of 100,000 units, without a query and with one.

    python -m benchmarks.pack
    python -m benchmarks.pack --units 10000 --budget 8000

Fills a store, starts a daemon over it, and asks it for packs of different seqs, so that most units of one were in the last one, as when an
agent asks before each step; and once with nothing remembered. Times are of the wall clock, from the request to the whole answer; `cpu` is
what the daemon (and the search worker) used of the processor for one. The goals are 10 ms and 50 ms on an idle machine.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engram_cli.client import Client
from engramd.protocol.unit import TYPES, new_id
from engramd.state import machine, units
from engramd.storage.log import Log

from .figures import percentile
from .options import positive, run_main
from .search_scale import texts

START = 1_767_225_600_000_000
BATCH = 2000


def fill(directory: Path, count: int) -> None:
    """A log of one context; every fifth unit responds to an earlier one."""
    log = Log(directory)
    earlier: list[bytes] = []
    drafts: list[units.Draft] = []
    for number, text in enumerate(texts(count)):
        edges = (units.Edge("responds_to", earlier[number % len(earlier)], {}),) if number % 5 == 0 and earlier else ()
        drafts.append(
            units.Draft(new_id(START + number), TYPES[number % 7], {"path": "src/parser.py"} if number % 9 == 0 else {}, text, edges)
        )
        if len(drafts) == BATCH or number == count - 1:
            batch = log.batch()
            decision = machine.decide(log.pending, units.Put("c", "a", tuple(drafts)))
            assert isinstance(decision, list)
            for event in decision:
                batch.append(START + number, event)
            batch.seal()
            batch.commit()
            batch.settle()
            earlier, drafts = [draft.id for draft in drafts], []
    log.close()


def ticks(*pids: int) -> float:
    """Seconds of the processor that processes have used."""
    used = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--units", type=positive, default=100_000)
    arguments.add_argument("--budget", type=positive, default=32_000)
    arguments.add_argument("--rounds", type=positive, default=40)
    given = arguments.parse_args()
    place = Path(tempfile.mkdtemp(prefix="engram-"))
    atexit.register(shutil.rmtree, place)
    fill(place / "log", given.units)
    daemon = subprocess.Popen(
        [sys.executable, "-P", "-m", "engramd", "--socket", str(place / "s"), "--data-dir", str(place), "--config", os.devnull]
    )
    try:
        with Client(str(place / "s"), agent="benchmark", autostart=False) as client:
            client.resume()
            last = client.pack("c", budget=1000).manifest["inputs"]["at"]
            first = timed(client, given.budget, last - 50_000 if last > 100_000 else last // 2)
            print(f"without a query, nothing remembered: {first * 1e3:.1f} ms")
            show(client, given, last, "without a query", 10.0, daemon.pid)
            began = time.perf_counter()
            client.pack("c", budget=1000, query="parser", wait=3_600_000)
            print(f"(the index of {given.units} units took {time.perf_counter() - began:.0f} s)")
            show(client, given, last, "with a query", 50.0, daemon.pid, client.status()["search"]["pid"], query="why does the parser fail")
    finally:
        daemon.terminate()
        daemon.wait()


def timed(client: Client, budget: int, at: int, **options: str) -> float:
    """Seconds that one pack takes."""
    began = time.perf_counter()
    client.pack("c", budget=budget, at=at, **options)
    return time.perf_counter() - began


def show(client: Client, given: argparse.Namespace, last: int, what: str, goal: float, *pids: int, **options: str) -> None:
    """Time packs, in turn with the smallest question there is."""
    took, echo = [], []
    before = ticks(*pids)
    for number in range(given.rounds):
        took.append(timed(client, given.budget, last - given.rounds + number, **options))
        began = time.perf_counter()
        client.names("contexts")
        echo.append(time.perf_counter() - began)
    cpu = (ticks(*pids) - before) / given.rounds * 1e3
    half, most, least = percentile(took, 0.5) * 1e3, percentile(took, 0.99) * 1e3, min(took) * 1e3
    ratio = percentile(took, 0.5) / percentile(echo, 0.5)
    print(
        f"{what}: p50 {half:.1f} ms, p99 {most:.1f} ms, least {least:.1f} ms, cpu {cpu:.1f} ms; {ratio:.0f} x a question about names; "
        f"least / goal {least / goal:.2f}, cpu / goal {cpu / goal:.2f}"
    )


if __name__ == "__main__":
    run_main("benchmarks.pack", main)
