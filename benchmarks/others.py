"""Engram beside what else one may use, each with every record synced: Redis, NATS JetStream, SQLite, and a file with flock.

python -m benchmarks.others [--rounds N] [--dir DIR] [--redis PROGRAM] [--nats PROGRAM]
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from . import figures, helpers, loops, nats, redis, wire
from .figures import Round, Rounds, Row, row, spread
from .loops import clock
from .processes import Daemon, Helper, Place, bounded

WRITERS = 8
WINDOW = 1000  # requests in flight, where a protocol has them
BATCH = 100  # records in one transaction or one sync, where it has not
LAST = 100
KEPT = 5000  # records there are, at least, when the last ones are read
MOST, SECONDS = 150, 0.15  # of one load in one round
LIMIT = 300.0  # seconds for everything

sync = getattr(os, "fdatasync", os.fsync)


class Way(Protocol):
    """A place to put records.

    Attributes:
        name: of its rows.
    """

    name: str

    def one(self) -> list[int]:
        """The nanoseconds of single records, one after the other."""

    def several(self) -> float:
        """Records per second of WRITERS writers, each with one under way."""

    def many(self) -> float:
        """Records per second of one writer who has many at once."""

    def last(self) -> list[int] | None:
        """The nanoseconds of reading the last LAST records; None where that is not measured."""


# Servers


class Server:
    """A server that speaks one of the dialects."""

    def __init__(
        self,
        name: str,
        dialect: loops.Dialect,
        sock: socket.socket,
        frames: Callable[[int], list[bytes]],
        load: Helper,
        putters: tuple[Any, ...],
        reading: tuple[loops.Dialect, bytes] | None,
    ) -> None:
        self.name = name
        self._dialect = dialect
        self._socket = sock
        self._single, self._ring = frames(256), frames(2 * WINDOW)
        self._load = load
        self._putters = putters
        self._reading = reading

    def one(self) -> list[int]:
        return loops.serial(self._dialect, self._socket, self._single, MOST, SECONDS)

    def several(self) -> float:
        rate: float = self._load.run(*self._putters, WRITERS, SECONDS)[1]
        return rate

    def many(self) -> float:
        return loops.pipelined(self._dialect, self._socket, self._ring, WINDOW, SECONDS)

    def last(self) -> list[int] | None:
        return None if self._reading is None else loops.serial(self._reading[0], self._socket, [self._reading[1]], MOST, SECONDS)


def engram_frames(count: int) -> list[bytes]:
    """Puts with ids that differ within a window."""
    return wire.put_frames("live", "agent-0", count, range(1, count + 1))


# Libraries

RECORDS = [{"context": "live", "agent": "agent-0", **draft} for draft in wire.drafts(256)]

Put = Callable[[Sequence[dict[str, Any]]], None]


def sqlite_open(path: str) -> sqlite3.Connection:
    """A connection to a table of records; a commit is on disk when it returns."""
    made = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("PRAGMA synchronous=FULL")
    made.execute("CREATE TABLE IF NOT EXISTS units (seq INTEGER PRIMARY KEY, ts INTEGER, context, agent, type, meta, text)")
    made.execute("CREATE INDEX IF NOT EXISTS of_context ON units (context, seq)")
    return made


def sqlite_put(path: str) -> Put:
    """Puts records in one transaction."""
    connection = sqlite_open(path)

    def put(records: Sequence[dict[str, Any]]) -> None:
        rows = [
            (time.time_ns() // 1000, record["context"], record["agent"], record["type"], json.dumps(record["meta"]), record["text"])
            for record in records
        ]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO units (ts, context, agent, type, meta, text) VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")

    return put


def file_put(path: str) -> Put:
    """Appends records as lines to a file that all lock, and syncs them."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def put(records: Sequence[dict[str, Any]]) -> None:
        lines = b"".join(json.dumps({"ts": time.time_ns() // 1000, **record}).encode() + b"\n" for record in records)
        fcntl.flock(number, fcntl.LOCK_EX)
        os.write(number, lines)
        sync(number)
        fcntl.flock(number, fcntl.LOCK_UN)

    return put


def writers(pipe: Connection, make: Callable[[str], Put], path: str, count: int, seconds: float) -> None:
    """So many writers, each with one record under way: sends the nanoseconds of each, and records per second."""
    taken: list[int] = []
    puts = [make(path) for _ in range(count)]
    end = clock() + int(seconds * 1e9)

    def write(put: Put) -> None:
        number = 0
        while (start := clock()) < end:
            put([RECORDS[number % len(RECORDS)]])
            taken.append(clock() - start)
            number += 1

    began = clock()
    threads = [threading.Thread(target=write, args=(put,)) for put in puts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((taken, len(taken) / ((clock() - began) / 1e9)))


class Library:
    """A store that is opened by whoever uses it."""

    def __init__(self, name: str, make: Callable[[str], Put], path: Path, load: Helper, last: Callable[[str], int]) -> None:
        self.name = name
        self._make = make
        self._path = str(path)
        self._put = make(self._path)
        self._load = load
        self._last = last
        for _ in range(KEPT // BATCH):
            self._put(RECORDS[:BATCH])

    def one(self) -> list[int]:
        return self._timed(lambda number: self._put([RECORDS[number % len(RECORDS)]]))

    def several(self) -> float:
        rate: float = self._load.run(writers, self._make, self._path, WRITERS, SECONDS)[1]
        return rate

    def many(self) -> float:
        taken = self._timed(lambda _: self._put(RECORDS[:BATCH]))
        return BATCH * len(taken) / (sum(taken) / 1e9)

    def last(self) -> list[int]:
        def read(_: int) -> None:
            found = self._last(self._path)
            if found != LAST:
                raise figures.BenchmarkError(f"{self.name}: {found} records instead of {LAST}")

        return self._timed(read)

    @staticmethod
    def _timed(work: Callable[[int], None]) -> list[int]:
        taken: list[int] = []
        end = clock() + int(SECONDS * 1e9)
        while len(taken) < MOST and (start := clock()) < end:
            work(len(taken))
            taken.append(clock() - start)
        return taken


def sqlite_last() -> Callable[[str], int]:
    """Reads the last records of a context, over one connection."""
    connections: dict[str, sqlite3.Connection] = {}

    def last(path: str) -> int:
        connection = connections.setdefault(path, connections.get(path) or sqlite_open(path))
        return len(connection.execute("SELECT * FROM units WHERE context = 'live' ORDER BY seq DESC LIMIT 100").fetchall())

    return last


def file_last(path: str) -> int:
    """Reads the end of the file, and the records in it."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 64 * 1024))
        return len([json.loads(line) for line in file.read().splitlines()[-LAST:]])


# All of them


def ways(stack: ExitStack, place: Place, options: argparse.Namespace) -> list[Way]:
    """Those that can be measured here, Engram first."""
    load = stack.enter_context(Helper())
    daemon = stack.enter_context(Daemon(place, place.store("engram")))
    client = stack.enter_context(wire.Client(daemon.socket))
    reading = (wire.ENGRAM, wire.list_frame("live", LAST))
    found: list[Way] = [
        Server("Engram", wire.ENGRAM, client.socket, engram_frames, load, (helpers.putters, daemon.socket, "live"), reading)
    ]
    if (program := redis.find(options.redis)) is not None:
        other = stack.enter_context(redis.Redis(place, program, place.store("redis")))
        sock = stack.enter_context(loops.connect(other.socket))
        request = redis.command("XREVRANGE", redis.STREAM, "+", "-", "COUNT", str(LAST))
        found.append(
            Server("Redis", redis.REDIS, sock, redis.add_frames, load, (redis.putters, other.socket), (redis.REDIS_RANGE, request))
        )
    if (program := nats.find(options.nats)) is not None:
        server = stack.enter_context(nats.Nats(place, program, place.store("nats")))
        sock = stack.enter_context(nats.connect(server.port, stays=True))
        found.append(Server("NATS JetStream", nats.NATS, sock, nats.publish_frames, load, (nats.putters, server.port), None))
    found.append(Library("SQLite", sqlite_put, place.store("units.db"), load, sqlite_last()))
    found.append(Library("file + flock", file_put, place.store("units.jsonl"), load, file_last))
    return found


def measure(found: Sequence[Way]) -> Round:
    """One round: each load of all ways, one right after the other, since what a sync costs changes by the minute."""
    each: Round = {}
    for way in found:
        each |= spread(f"{way.name} one", way.one())
    for way in found:
        each[f"{way.name} several.rate"] = way.several()
    for way in found:
        each[f"{way.name} many.rate"] = way.many()
    for way in found:
        if (read := way.last()) is not None:
            each |= spread(f"{way.name} last", read)
    return each


def rows(rounds: Rounds, names: Sequence[str]) -> list[Row]:
    """The table: every load, every way. A ratio above 1 means that Engram is that much faster."""
    made = []
    for load, words in (
        ("one", "one record after the other, each synced"),
        ("several", f"{WRITERS} writers, each with one record under way"),
        ("many", f"one writer with many ({WINDOW} in flight, or {BATCH} in a transaction)"),
        ("last", f"reading the last {LAST}"),
    ):
        made.append(Row(words))
        for name in names:
            key, ours = f"{name} {load}", f"Engram {load}"
            if f"{key}.p50" in rounds:
                made.append(row(rounds, f"  {name}", key, ratio=rounds.ratio(f"{key}.p50", f"{ours}.p50"), against="Engram = 1, p50"))
            elif f"{key}.rate" in rounds:
                made.append(row(rounds, f"  {name}", key, ratio=rounds.ratio(f"{ours}.rate", f"{key}.rate"), against="Engram = 1, rate"))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.others", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--dir", metavar="DIR", help="put the stores on this directory's file system (default: the temporary directory)")
    parser.add_argument("--redis", metavar="PROGRAM", help="the redis-server to run (default: the one on PATH)")
    parser.add_argument("--nats", metavar="PROGRAM", help="the nats-server to run (default: the one on PATH)")
    options = parser.parse_args(arguments)
    rounds = Rounds()
    with bounded(LIMIT), Place(options.dir) as place, ExitStack() as stack:
        found = ways(stack, place, options)
        for number in range(options.rounds):
            first = number % len(found)
            rounds.add(measure([*found[first:], *found[:first]]))
    print(figures.machine())
    print(figures.table(rows(rounds, [way.name for way in found])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
