"""Durable puts under several ways to sync, on this disk and on an emulated slow one, so that the way can be chosen by figures.

python -m benchmarks.commit_ways [--quick] [--json FILE] [--dir DIR] [--slow MS]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from engramd.protocol.errors import EngramError

from . import figures, helpers, loops, wire
from .figures import BenchmarkError, Round, Rounds, Row, row, spread
from .live import CLIENTS, ECHO, WINDOW, sync_floor
from .loops import clock
from .options import add_dir, add_json, finite, run_main
from .processes import Daemon, Helper, Place, bounded
from .ways import WAYS

FIRST = "to_thread"  # what the others are held against
LIMIT = 235.0


def measure(place: Place, ways: Sequence[str], slow: float, count: int, most: int, seconds: float) -> Rounds:
    """Every load on every way in turn, `count` times over.

    Args:
        slow: milliseconds that every sync blocks longer.
        most, seconds: bounds of one loop.
    """
    rounds = Rounds()
    with ExitStack() as stack:
        number = os.open(place.store(f"floor-{slow:g}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        stack.callback(os.close, number)
        path = place.socket()
        stack.enter_context(Helper()).run(helpers.echo, path)
        echoing = loops.connect(path)
        load = stack.enter_context(Helper())
        clients: dict[str, wire.Client] = {}
        sockets: dict[str, str] = {}
        for way in ways:
            daemon = stack.enter_context(Daemon(place, place.store(f"{way}-{slow:g}"), ["--way", way, "--slow", f"{slow:g}"]))
            sockets[way] = daemon.socket
            clients[way] = stack.enter_context(wire.Client(daemon.socket))
        frames = wire.put_frames("live", "agent-0", 256)
        ring = wire.put_frames("live", "agent-0", 2 * WINDOW, range(1, 2 * WINDOW + 1))
        for turn in range(count):
            each: Round = {}
            first = turn % len(ways)
            for way in [*ways[first:], *ways[:first]]:  # each way comes first in some round
                sock = clients[way].socket
                each |= spread(f"{way}.sync", sync_floor(number, most, seconds / 4))
                each |= spread(f"{way}.echo", loops.serial(ECHO, echoing, frames, most, seconds / 4))
                each |= spread(f"{way}.one", loops.serial(wire.ENGRAM, sock, frames, most, seconds))
                taken, rate = load.run(helpers.putters, sockets[way], "live", CLIENTS, seconds)
                each |= spread(f"{way}.several", taken) | {f"{way}.several.rate": rate}
                each[f"{way}.piped.rate"] = loops.pipelined(wire.ENGRAM, sock, ring, WINDOW, seconds)
            rounds.add(each)
    return rounds


def report(rounds: Rounds, ways: Sequence[str], slow: float) -> list[Row]:
    """The rows: the floors, then each load under each way, with its ratio to FIRST in the same round."""
    disk = f", +{slow:g} ms" if slow else ""
    rows = [row(rounds, "fdatasync after appending 400 bytes", f"{FIRST}.sync"), row(rounds, "echo by a trio server", f"{FIRST}.echo")]
    for way in ways:
        ratio = rounds.ratio(f"{way}.one.p50", f"{way}.sync.p50", f"{way}.echo.p50", plus=slow * 1e6)
        most = 1.5 if not slow else None
        rows.append(row(rounds, f"put, 1 client{disk}: {way}", f"{way}.one", ratio=ratio, most=most, against="fdatasync + echo, p50"))
    for way in ways:
        ratio = rounds.ratio(f"{way}.several.rate", f"{FIRST}.several.rate")
        rows.append(row(rounds, f"put, {CLIENTS} clients{disk}: {way}", f"{way}.several", ratio=ratio, against=FIRST))
    for way in ways:
        ratio = rounds.ratio(f"{way}.piped.rate", f"{FIRST}.piped.rate")
        rows.append(row(rounds, f"put, pipelined, {WINDOW} in flight{disk}: {way}", f"{way}.piped", ratio=ratio, against=FIRST))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 0, or 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commit_ways", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under 40 s")
    add_json(parser)
    add_dir(parser)
    parser.add_argument(
        "--slow", type=finite, default=4.0, metavar="MS", help="how much longer a sync blocks on the slow disk (default: 4)"
    )
    parser.add_argument("--ways", default=",".join(WAYS), help=f"which ways, with commas (default: {','.join(WAYS)})")
    options = parser.parse_args(arguments)
    ways = options.ways.split(",")
    if not set(ways) <= set(WAYS) or FIRST not in ways:
        parser.error(f"--ways must name {FIRST}, and none but {', '.join(WAYS)}")
    count, most, seconds = (5, 150, 0.1) if options.quick else (9, 500, 0.4)
    rows: list[Row] = []
    failed = None
    started = clock()
    try:
        with bounded(LIMIT), Place(options.dir) as place:
            for slow in (0.0, options.slow):
                rows += report(measure(place, ways, slow, count, most, seconds), ways, slow)
    except (BenchmarkError, EngramError, OSError) as error:
        failed = str(error)
    print(figures.table(rows))
    print(f"{(clock() - started) / 1e9:.0f} s. Figures are medians over interleaved rounds; README.md says what each row measures.")
    if options.json:
        figures.save(options.json, rows, quick=options.quick, failed=failed)
    if failed:
        print(f"benchmarks.commit_ways: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_main("benchmarks.commit_ways", main)
