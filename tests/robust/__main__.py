"""`python -m tests.robust --seed N --minutes M [--table FILE]`: rounds until the time is over, and a table of what they came to."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from preload import lacking

from benchmarks.figures import put_region
from benchmarks.options import document, finite, positive, run_main

from .report import REGION, Report
from .rounds import deal, play
from .world import libraries

EXTRA = 9  # faults of a round beside one of each kind
EXITS = "exit codes: 0 no guarantee was broken; 1 one was, or a round could not be played; 2 the run cannot be made; 130 it was interrupted"


def main() -> int:
    """0 when no guarantee was broken, 2 where the run cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m tests.robust", description=__doc__, epilog=EXITS, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="what decides the faults and what clients draw")
    parser.add_argument("--minutes", type=finite, default=1, help="a round that has begun is played to its end")
    parser.add_argument("--round", type=positive, help="play this round alone")
    parser.add_argument("--table", type=document(REGION), metavar="FILE", help="a file whose marked region is rewritten")
    given = parser.parse_args()
    if lacking():
        print(f"{parser.prog}: {lacking()}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _ended)
    extent = f"--minutes {given.minutes:g}" if given.round is None else f"--round {given.round}"
    report = Report(f"python -m tests.robust --seed {given.seed} {extent}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        preload = libraries(Path(made))
        number = given.round or 1
        while True:
            _play(report, given.seed, number, preload)
            report.seconds = time.monotonic() - began
            if given.round is not None or report.seconds >= given.minutes * 60:
                break
            number += 1
    print(report.markdown())
    if given.table is not None:
        put_region(given.table, REGION, report.markdown())
    return bool(report.broken)


def _ended(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _play(report: Report, seed: int, number: int, preload: str) -> None:
    began = time.monotonic()
    outcome = play(f"{seed}/{number}", deal(f"{seed}/{number}", EXTRA), preload)
    report.add(outcome)
    seconds, puts = time.monotonic() - began, report.operations["put"]["answered"]
    print(f"round {number}: {sum(outcome.faults.values())} faults in {seconds:.0f} s; {puts} puts so far", file=sys.stderr, flush=True)
    for name, how in outcome.broken:
        print(f"broken: {name or 'the round'}: {how[:2000]}", file=sys.stderr)
    if outcome.broken:
        print(f"its history and stores are in {outcome.kept}", file=sys.stderr)
        print(f"once more: python -m tests.robust --seed {seed} --round {number}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main("tests.robust", main)
