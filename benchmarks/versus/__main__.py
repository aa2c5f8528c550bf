"""Engram beside Redis, etcd, NATS JetStream, SQLite and a file with flock: same records, same durability, same clients, in turns.

python -m benchmarks.versus [--quick] [--peers NAME,...] [--json FILE] [--table FILE] [--plot FILE] [--dir DIR]
                            [--redis PROGRAM] [--etcd PROGRAM] [--nats PROGRAM]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from engramd.protocol.errors import EngramError

from .. import figures
from ..figures import BenchmarkError
from ..loops import clock
from ..options import add_dir, add_json, document, installed, output, run_main
from ..processes import Helper, Place, bounded
from . import engram, etcd, nats, redis
from .file import File
from .peer import Peer, Server
from .rows import QUICK, Loads, Plan, Table
from .sqlite import SQLite

NAMES = ("redis", "etcd", "nats", "sqlite", "file")
PROGRAMS = {"redis": ("redis-server", redis.find), "etcd": ("etcd", etcd.find), "nats": ("nats-server", nats.find)}
REGION = "benchmarks.versus"  # of the document that --table names

Opener = Callable[[str], Peer]  # from the name of a stage


def openers(place: Place, load: Helper, options: argparse.Namespace) -> tuple[dict[str, Opener], list[str]]:
    """How to open each peer there is, Engram first, and words on those there are not."""
    found: dict[str, Opener] = {}
    missing = []
    wanted = ["engram", *options.peers.split(",")]
    for name, program, kinds in (
        ("engram", engram.find(), [engram.Engram]),
        ("redis", redis.find(options.redis), [redis.Always, redis.Everysec]),
        ("etcd", etcd.find(options.etcd), [etcd.Etcd]),
        ("nats", nats.find(options.nats), [nats.JetStream]),
    ):
        if name in wanted and program is None:
            missing.append(f"{name}, as no program of it was found")
        elif name in wanted and program is not None:
            for kind in kinds:
                found[kind.name] = partial(_server, kind, place, program, load)
    if "sqlite" in wanted:
        found["SQLite"] = lambda stage: SQLite(str(place.store(f"{stage}-units.db")), load)
    if "file" in wanted:
        found["file"] = lambda stage: File(str(place.store(f"{stage}-units.jsonl")), load)
    return found, missing


def refused(options: argparse.Namespace) -> str:
    """Why what --peers names cannot be measured; nothing if it can."""
    wanted = options.peers.split(",")
    if unknown := {*wanted} - {*NAMES, ""}:
        return f"--peers knows {', '.join(NAMES)}, and no {', '.join(sorted(unknown))}"
    lacking = [usual for name, (usual, find) in PROGRAMS.items() if name in wanted and find(getattr(options, name)) is None]
    return f"--peers needs {' and '.join(lacking)}, not found on PATH: name the program, or install it" if lacking else ""


def _server(kind: type[Server], place: Place, program: str, load: Helper, stage: str) -> Peer:
    return kind(place, program, place.store(f"{stage}-{kind.__name__}"), load)


def opened(stack: ExitStack, found: dict[str, Opener], stage: str, table: Table) -> list[Peer]:
    """The peers, open until the end of the stack. One that does not start is left out from now on."""
    made: list[Peer] = []
    for name, opener in list(found.items()):
        try:
            peer = opener(stage)
        except (BenchmarkError, OSError) as error:
            if not made:
                raise
            table.missing.append(f"{name}: {error}")
            del found[name]
        else:
            stack.callback(peer.close)
            made.append(peer)
    return made


def measure(plan: Plan, place: Place, options: argparse.Namespace, table: Table) -> None:
    """All rows: those of writers, readers and locks in small stores, and then those of stores that hold much."""
    with Helper() as load, Helper() as readers:
        loads = Loads(plan, readers)
        found, missing = openers(place, load, options)
        table.missing += missing
        with ExitStack() as stack:
            peers = opened(stack, found, "small", table)
            table.in_turns(peers, plan.rounds, loads.one, loads.several, loads.piped, loads.batch, loads.lease, loads.handed)
            table.in_turns(peers, plan.fan_rounds, loads.fan)
            table.in_turns(peers, plan.commands, loads.cli)
        with ExitStack() as stack:
            peers = opened(stack, found, "filled", table)
            table.in_turns(peers, 1, loads.memory)
            table.in_turns(peers, plan.reads, loads.last)
            table.in_turns(peers, plan.restarts, loads.start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for. What was measured until something failed is printed too, and nothing written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versus", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, and stores of 10k units: under a minute")
    parser.add_argument(
        "--peers", metavar="NAME,...", help=f"only these, and none may be missing (default: what there is of {','.join(NAMES)})"
    )
    add_json(parser)
    parser.add_argument(
        "--table",
        type=document(REGION),
        metavar="FILE",
        help=f"write a Markdown table between the lines <!-- {REGION} --> of this document",
    )
    parser.add_argument("--plot", type=output, metavar="FILE", help="write a plot of the ratios here, as SVG")
    add_dir(parser)
    for name, (usual, _) in PROGRAMS.items():
        parser.add_argument(f"--{name}", type=installed, metavar="PROGRAM", help=f"the {usual} to run (default: the one on PATH)")
    options = parser.parse_args(arguments)
    if options.peers is None:
        options.peers = ",".join(NAMES)
    elif wrong := refused(options):
        parser.error(wrong)
    plan = QUICK if options.quick else Plan()
    table, started, failed = Table(plan), clock(), None
    try:
        with bounded(plan.limit), Place(options.dir) as place:
            measure(plan, place, options, table)
    except (BenchmarkError, EngramError, OSError) as error:
        failed = error
    rows = table.rows()
    print(figures.table(rows))
    for each in table.missing:
        print(f"Not measured: {each}.")
    print(f"{(clock() - started) / 1e9:.0f} s. Ratio: how many times as long, or as much, as Engram. Medians over interleaved rounds.")
    if failed is not None:
        print(f"benchmarks.versus: {failed}", file=sys.stderr)
        return 1
    if options.table:
        figures.put_region(options.table, REGION, table.markdown())
    if options.plot:
        Path(options.plot).write_text(table.plot(), encoding="utf-8")
    if options.json:
        figures.save(options.json, rows, quick=options.quick, peers=table.abouts, missing=table.missing)
    return 0


if __name__ == "__main__":
    run_main("benchmarks.versus", main)
