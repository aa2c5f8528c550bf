"""Figures of a live daemon beside the floors of the same machine, in one run: puts, fan-out, queries, start, memory.

python -m benchmarks.live [--quick] [--json FILE] [--dir DIR] [--redis PROGRAM]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from engramd.protocol.errors import EngramError
from engramd.storage import keys
from engramd.storage.log import Log

from . import figures, helpers, loops, wire
from .figures import BenchmarkError, Round, Rounds, Row, row, spread
from .launcher import read_stamps
from .loops import Dialect, clock
from .options import add_dir, add_json, installed, run_main
from .processes import Daemon, Helper, Place, bounded
from .versus import redis

MS = 1e6  # nanoseconds
MB = 1e6  # bytes
CLIENTS = 16
WINDOW = 1000  # requests in flight when pipelining; the daemon's limit is 1024
BATCH = 100
BESIDE_SECONDS = 0.4  # for single puts beside a client that pipelines
SUBSCRIBERS = {1: (0.003, 1.0), 50: (0.005, 1.0), 500: (0.02, 5.0)}  # count: (seconds between puts, goal for p99 in ms)
FILL = 1000  # units a put when a store is filled
CONTEXTS = [f"project-{number}" for number in range(8)]
LAST = 100  # units a query asks for
READY_MS, MEMORY_MB = 500, 40

sync = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True)
class Plan:
    """How much is measured. Seconds bound one loop of one round; loops of single requests also end after `requests`.

    Attributes:
        fan_units: puts to each number of subscribers in a round.
        stores: sizes in units, and the seconds that filling each may take.
        restarts: starts of each store, warm and cold.
        limit: seconds for everything.
    """

    rounds: int = 9
    requests: int = 500
    seconds: float = 0.5
    fan_rounds: int = 5
    fan_units: int = 60
    stores: tuple[tuple[int, float], ...] = ((10_000, 10), (1_000_000, 100))
    queries: int = 200
    restarts: int = 5
    limit: float = 235


QUICK = Plan(
    rounds=5,
    requests=200,
    seconds=0.12,
    fan_rounds=5,
    fan_units=12,
    stores=((10_000, 3), (100_000, 10)),
    queries=50,
    restarts=1,
    limit=39.5,
)


def sync_floor(number: int, most: int, seconds: float) -> list[int]:
    """The time to append 400 bytes to a file and sync it, one after the other."""
    data = b"x" * 400
    taken: list[int] = []
    end = clock() + int(seconds * 1e9)
    while len(taken) < most and clock() < end:
        start = clock()
        os.write(number, data)
        sync(number)
        taken.append(clock() - start)
    return taken


ECHO = Dialect(wire.receive, lambda answer: None, wire.cut)


# Puts


def puts(place: Place, plan: Plan, server: str | None, rows: list[Row]) -> None:
    """Single, concurrent, pipelined and batched puts, beside the floors and Redis, interleaved."""
    rounds = Rounds()
    with ExitStack() as stack:
        number = os.open(place.store("floor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        stack.callback(os.close, number)
        path = place.socket()
        stack.enter_context(Helper()).run(helpers.echo, path)
        echoing = loops.connect(path)
        daemon = stack.enter_context(Daemon(place, place.store("puts")))
        time.sleep(0.3)
        idle = daemon.memory()
        client = stack.enter_context(wire.Client(daemon.socket))
        load = stack.enter_context(Helper())
        other = stack.enter_context(redis.Redis(place, server, place.store("redis"))) if server else None
        added = loops.connect(other.socket) if other else None

        frames = wire.put_frames("live", "agent-0", 256)
        ring = wire.put_frames("live", "agent-0", 2 * WINDOW, range(1, 2 * WINDOW + 1))
        batches = wire.batch_frames("live", "agent-0", 40, BATCH, range(1, 41))
        adds, many_adds = redis.add_frames(256), redis.add_frames(2 * WINDOW)
        most, seconds = plan.requests, plan.seconds

        def one(name: str, dialect: Dialect, sock: socket.socket, with_frames: Sequence[bytes]) -> Round:
            return spread(name, loops.serial(dialect, sock, with_frames, most, seconds))

        def several(name: str, work: Callable[..., None], *arguments: object) -> Round:
            taken, rate = load.run(work, *arguments)
            return {**spread(name, taken), f"{name}.rate": rate}

        for _ in range(plan.rounds):
            each: Round = {}
            each |= spread("sync", sync_floor(number, most, seconds))
            each |= one("echo", ECHO, echoing, frames)
            each |= one("put", wire.ENGRAM, client.socket, frames)
            if added and other:
                each |= one("redis", redis.REDIS, added, adds)
            each |= several("put16", helpers.putters, daemon.socket, "live", CLIENTS, seconds)
            if added and other:
                each |= several("redis16", helpers.writers, redis.writer, (other.socket,), CLIENTS, seconds)
            each["piped.rate"] = loops.pipelined(wire.ENGRAM, client.socket, ring, WINDOW, seconds)
            if added and other:
                each["redispiped.rate"] = loops.pipelined(redis.REDIS, added, many_adds, WINDOW, seconds)
            load.run(helpers.pipeliner, daemon.socket, "live", WINDOW, BESIDE_SECONDS + 0.2)
            time.sleep(0.1)
            beside = wire.paced(client.socket, frames[0], most, 0.002, BESIDE_SECONDS)
            each |= spread("beside", [answered - sent for sent, answered, _ in beside])
            each["beside.rate"] = load.get()
            each["batch1.rate"] = BATCH * loops.pipelined(wire.ENGRAM, client.socket, batches, 1, seconds)
            each["batch10.rate"] = BATCH * loops.pipelined(wire.ENGRAM, client.socket, batches, 10, seconds)
            rounds.add(each)
        loaded = daemon.memory()
    rows += _put_rows(rounds)
    rows += [
        _memory("memory of an idle daemon, empty store", idle),
        _memory("memory of that daemon after these puts", loaded, goal=False),
    ]


def _put_rows(rounds: Rounds) -> list[Row]:
    ratio = rounds.ratio
    floor = "fdatasync + echo, p50"
    no_redis = "" if "redis.p50" in rounds else "Redis (no redis-server found)"
    found = [
        row(rounds, "fdatasync after appending 400 bytes", "sync"),
        row(rounds, "echo by a trio server, Unix socket", "echo"),
        row(
            rounds,
            "durable put, 1 client",
            "put",
            ratio=ratio("put.p50", "sync.p50", "echo.p50"),
            most=1.5,
            against=floor,
        ),
        row(
            rounds,
            f"durable put, {CLIENTS} clients",
            "put16",
            ratio=ratio("put16.rate", "redis16.rate"),
            least=1,
            against=no_redis or "Redis, appendfsync always",
        ),
        row(
            rounds,
            f"durable put, pipelined, {WINDOW} in flight",
            "piped",
            ratio=ratio("piped.rate", "redispiped.rate"),
            least=1,
            against=no_redis or "Redis, appendfsync always",
        ),
        row(
            rounds,
            "durable put beside a client that pipelines",
            "beside",
            ratio=ratio("beside.p50", "put.p50"),
            against="1 client, p50; the figure is the other client's",
        ),
        row(
            rounds,
            f"units, {BATCH} a put, 1 in flight",
            "batch1",
            ratio=ratio("batch1.rate", "piped.rate"),
            against="pipelined puts",
        ),
        row(
            rounds,
            f"units, {BATCH} a put, 10 in flight",
            "batch10",
            ratio=ratio("batch10.rate", "piped.rate"),
            against="pipelined puts",
        ),
        Row(
            f"one client's put beside {CLIENTS - 1} others",
            ratio=ratio("put16.p50", "put.p50"),
            against="1 client, p50",
        ),
    ]
    if not no_redis:
        found += [
            row(rounds, "Redis XADD, 1 client", "redis", ratio=ratio("put.p50", "redis.p50"), against="put / Redis, p50"),
            row(rounds, f"Redis XADD, {CLIENTS} clients", "redis16"),
            row(rounds, f"Redis XADD, pipelined, {WINDOW} in flight", "redispiped"),
        ]
    return found


def _memory(what: str, sizes: tuple[int, int], goal: bool = True) -> Row:
    resident, own = sizes
    return Row(
        what,
        value=resident / MB,
        unit=" MB",
        ratio=resident / MB / MEMORY_MB,
        against=f"{MEMORY_MB} MB; {own / MB:.0f} MB are no file's pages",
        most=1 if goal else None,
    )


# Fan-out


def fan_out(place: Place, plan: Plan, rows: list[Row]) -> None:
    """From a unit's durable moment, which the daemon stamps, until the last of several subscribers has it."""
    rounds = Rounds()
    stamps = place.store("stamps")
    watched = ["--stamps", str(stamps)]
    with Daemon(place, place.store("fanout"), watched) as daemon, wire.Client(daemon.socket) as client, Helper() as readers:
        frame = wire.put_frames("fan", "agent-0", 1)[0]
        loops.serial(wire.ENGRAM, client.socket, [frame], 50, 1)
        held = (0, 0)
        for _ in range(plan.fan_rounds):
            alone = wire.paced(client.socket, frame, plan.fan_units, 0.003)
            each = spread("put.0", [answered - sent for sent, answered, _ in alone])
            for count, (gap, _) in SUBSCRIBERS.items():
                bound = 10 + plan.fan_units * gap * 4
                readers.run(helpers.receivers, daemon.socket, "fan", count, plan.fan_units, bound)
                written = wire.paced(client.socket, frame, plan.fan_units, gap)
                held = daemon.memory()
                arrivals: list[list[int]] = readers.get(bound + 5)
                if any(len(stream) != plan.fan_units for stream in arrivals):
                    raise BenchmarkError("a subscriber did not get every unit")
                durable = read_stamps(stamps)
                moments = [durable[seq] for _, _, seq in written]
                each |= spread(f"put.{count}", [answered - sent for sent, answered, _ in written])
                each |= spread(f"last.{count}", [max(stream[at] for stream in arrivals) - moment for at, moment in enumerate(moments)])
                each |= spread(f"any.{count}", [stream[at] - moment for stream in arrivals for at, moment in enumerate(moments)])
                each |= spread(f"sent.{count}", [max(stream[at] for stream in arrivals) - sent for at, (sent, _, _) in enumerate(written)])
            rounds.add(each)
    for count, (_, most_ms) in SUBSCRIBERS.items():
        rows.append(_fan_row(rounds, count, most_ms))
        if count > 1:
            rows.append(row(rounds, f"durable → any of {count} subscribers has it", f"any.{count}"))
        rows.append(row(rounds, f"put sent → last of {count} has it" if count > 1 else "put sent → it has it", f"sent.{count}"))
        rows.append(_beside_row(rounds, count))
    rows.append(_memory(f"memory of a daemon with {max(SUBSCRIBERS)} subscribers", held, goal=False))


def _fan_row(rounds: Rounds, count: int, most_ms: float) -> Row:
    name = f"last.{count}"
    return row(
        rounds,
        f"durable → last of {count} subscribers has it" if count > 1 else "durable → 1 subscriber has it",
        name,
        ratio=rounds.ratio(f"{name}.p99", plus=most_ms * MS),
        most=1,
        against=f"{most_ms:g} ms, p99",
    )


def _beside_row(rounds: Rounds, count: int) -> Row:
    return row(
        rounds,
        f"paced put beside {count} subscriber{'s' * (count > 1)}",
        f"put.{count}",
        ratio=rounds.ratio(f"put.{count}.p50", "put.0.p50"),
        against="a paced put without any, p50",
    )


# Stores


@dataclass
class Store:
    """A store that was filled with `units` in `seconds`, the daemon that has it open, and the memory which that had then."""

    data: Path
    daemon: Daemon
    units: int = 0
    seconds: float = 0.0
    memory: tuple[int, int] = (0, 0)

    def stop(self) -> None:
        """Stop whichever daemon has it open."""
        self.daemon.stop()

    @property
    def size(self) -> str:
        """Its size in words."""
        return f"{self.units / 1e6:g}M units" if self.units >= 1_000_000 else f"{self.units // 1000}k units"


def fill(sock: socket.socket, units: int, seconds: float) -> tuple[int, float]:
    """Put units into several contexts in turn, FILL a put and 4 puts in flight. Ends early when the time is over.

    Returns:
        How many units were put, in how many seconds.
    """
    frames = []
    for at, context in enumerate(CONTEXTS * 4):
        frames += wire.batch_frames(context, f"agent-{at % 5}", 1, FILL, [at + 1])
    start = clock()
    rate = loops.pipelined(wire.ENGRAM, sock, frames, 4, seconds, max(1, units // FILL))
    taken = (clock() - start) / 1e9
    return round(rate * taken) * FILL, taken


def stores(place: Place, plan: Plan, server: str | None, rows: list[Row]) -> None:
    """The last units of a context in a small and a large store: warm, after a restart, and with the system's cache dropped."""
    frames = [wire.list_frame(context, LAST) for context in CONTEXTS]
    rounds = Rounds()
    made: list[Store] = []
    with ExitStack() as stack:
        for units, seconds in plan.stores:
            data = place.store(f"units-{units}")
            store = Store(data, Daemon(place, data))
            stack.callback(store.stop)
            made.append(store)
            with wire.Client(store.daemon.socket) as client:
                store.units, store.seconds = fill(client.socket, units, seconds)
                store.memory = store.daemon.memory()
                if len(client.request("list", context=CONTEXTS[0], limit=LAST, reverse=True)["units"]) != LAST:
                    raise BenchmarkError("the store lacks units")
        other = stack.enter_context(redis.Redis(place, server, place.store("redis-range"), fsync=None)) if server else None
        ranged = loops.connect(other.socket) if other else None
        if ranged:
            loops.pipelined(redis.REDIS, ranged, redis.add_frames(2 * WINDOW), WINDOW, 5, 10_000)
        time.sleep(1)  # for LevelDB to finish what filling left to compact
        for _ in range(max(5, plan.fan_rounds)):
            each: Round = {}
            for at, store in enumerate(made):
                with wire.Client(store.daemon.socket) as client:
                    each |= spread(f"last.{at}", loops.serial(wire.ENGRAM, client.socket, frames, plan.queries, 2))
            if ranged:
                words = ("XREVRANGE", redis.STREAM, "+", "-", "COUNT", str(LAST))
                each |= spread("redis", loops.serial(redis.REDIS_RANGE, ranged, [redis.command(*words)], plan.queries, 2))
            rounds.add(each)
        memories = [store.daemon.memory() for store in made]
        bare: list[float] = []
        for _ in range(plan.restarts):
            bare.append(_bare_python())
            figures_of_round: Round = {}
            for at, store in enumerate(made):
                for state in ("warm", "cold"):
                    figures_of_round |= _restart(place, store, state, f"{state}.{at}", frames)
            rounds.add(figures_of_round)
        idle = [store.daemon.memory() for store in made]
        for at, store in enumerate(made):
            store.stop()
            rounds.add(spread(f"scan.{at}", scan_floor(store.data, plan.queries)))
    for at, store in enumerate(made):
        rows += _store_rows(rounds, at, store, statistics.median(bare))
        rows.append(_memory(f"memory after filling it, {store.size}", store.memory, goal=False))
        rows.append(_memory(f"memory after those queries, {store.size}", memories[at], goal=False))
        rows.append(_memory(f"memory after a restart and {len(CONTEXTS)} queries, {store.size}", idle[at]))


def _bare_python() -> float:
    start = clock()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return clock() - start


def _restart(place: Place, store: Store, state: str, name: str, frames: Sequence[bytes]) -> Round:
    """Write a little, so that there is a log to replay; stop, start, and ask for each context once."""
    with wire.Client(store.daemon.socket) as client:
        fill(client.socket, 4 * FILL, 2)
    store.stop()
    if state == "cold":
        drop_cache(store.data)
    store.daemon = Daemon(place, store.data)
    with wire.Client(store.daemon.socket) as client:
        taken = [loops.serial(wire.ENGRAM, client.socket, [frame], 1, 10, warm=0)[0] for frame in frames]
    return {**spread(name, taken), f"{name}.first": taken[0], f"{name}.ready": store.daemon.ready_after}


def drop_cache(directory: Path) -> None:
    """Ask the system to forget the clean pages of a store, where it can be asked."""
    if sys.platform == "linux":
        for path in directory.rglob("*"):
            if path.is_file():
                number = os.open(path, os.O_RDONLY)
                os.fsync(number)
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(number)


def scan_floor(data: Path, most: int) -> list[int]:
    """The time to read the same entries from LevelDB with checksums, in this process and without any wire."""
    log = Log(data / "log")
    taken = []
    try:
        for turn in range(20 + most):
            prefix = keys.entries(CONTEXTS[turn % len(CONTEXTS)])
            start = clock()
            found = list(islice(log.scan(prefix, 1, keys.LAST_SEQ, reverse=True), LAST + 1))
            if turn >= 20:
                taken.append(clock() - start)
            if len(found) != LAST + 1:
                raise BenchmarkError("the store lacks units")
    finally:
        log.close()
    return taken


def _store_rows(rounds: Rounds, at: int, store: Store, bare: float) -> list[Row]:
    ratio, last = rounds.ratio, f"last.{at}"
    scan = rounds.median(f"scan.{at}.p50") or 1.0
    found = [
        Row(f"units, {FILL} a put, into {len(CONTEXTS)} contexts, {store.size}", value=store.units / store.seconds),
        row(rounds, f"last {LAST} units, {store.size}", last, ratio=ratio(f"{last}.p99", plus=MS), most=1, against="1 ms, p99"),
    ]
    if "redis.p50" in rounds:
        words = f"Redis XREVRANGE COUNT {LAST}, 10k entries"
        found += [
            row(rounds, words, "redis", ratio=ratio(f"{last}.p99", "redis.p99"), most=2, against="Engram / Redis, p99"),
            Row("the same", ratio=ratio(f"{last}.p50", "redis.p50"), most=2, against="Engram / Redis, p50"),
        ]
    found += [
        row(
            rounds,
            f"LevelDB scan of {LAST + 1}, no daemon, {store.size}",
            f"scan.{at}",
            ratio=ratio(f"{last}.p50", plus=scan),
            against="Engram / scan, p50",
        ),
    ]
    for state, words in (("warm", "after a restart"), ("cold", "the same, cache dropped")):
        name = f"{state}.{at}"
        found += [
            row(rounds, f"last {LAST}, each context once, {words}, {store.size}", name, against="p99 is the slowest context"),
            Row(f"the very first of these, {words}, {store.size}", p50=rounds.median(f"{name}.first")),
            Row(
                f"start to ready, {words}, {store.size}",
                p50=rounds.median(f"{name}.ready"),
                ratio=ratio(f"{name}.ready", plus=READY_MS * MS),
                most=1,
                against=f"{READY_MS} ms; {(rounds.median(f'{name}.ready') or 0) / bare:.0f} × python -c pass",
            ),
        ]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 0, or 1 when something could not be measured; missing a goal is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="less of everything, and stores of 10k and 100k units: under 40 s")
    add_json(parser)
    add_dir(parser)
    parser.add_argument(
        "--redis", type=installed, metavar="PROGRAM", help="the redis-server to hold against (default: the one on PATH, if there is one)"
    )
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    server = redis.find(options.redis)
    rows: list[Row] = []
    failed = None
    started = clock()
    try:
        with bounded(plan.limit), Place(options.dir) as place:
            puts(place, plan, server, rows)
            fan_out(place, plan, rows)
            stores(place, plan, server, rows)
    except (BenchmarkError, EngramError, OSError) as error:
        failed = str(error)
    about = figures.machine()
    print(f"Python {about['python']}, {about['system']}, {about['processors']} processors, load {about['load'][0]}")
    print(figures.table(rows))
    print(f"{(clock() - started) / 1e9:.0f} s. Figures are medians over interleaved rounds; README.md says what each row measures.")
    if options.json:
        figures.save(options.json, rows, quick=options.quick, failed=failed)
    if failed:
        print(f"benchmarks.live: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_main("benchmarks.live", main)
