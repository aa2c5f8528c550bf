"""Figures of readers: fan-out beside stalled ones, a reader that sleeps while much is written, and the replay of a cold context.

python -m benchmarks.readers [--units N] [--rounds N] [--dir DIR]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

from engram_cli.client import Client
from engramd.protocol.framing import encode, frame
from engramd.storage import keys
from engramd.storage.log import Log

from . import figures, helpers, live, loops, wire
from .figures import BenchmarkError, Round, Rounds, Row, row, spread
from .launcher import read_stamps
from .live import MB, SUBSCRIBERS
from .loops import LARGE, clock
from .options import add_dir, positive, run_main
from .processes import Daemon, Helper, Place, bounded

CONTEXT = "read"
BATCH = 1000  # units a put when a store is filled
FAN_UNITS = 60  # puts to each number of subscribers in a round
BALLAST = 8  # puts of BATCH units after which whoever does not read is stalled for good
PYTHON_UNITS = 50_000  # that the Python client replays
LIMIT = 1200.0  # seconds for everything


# What runs in other processes


def sleepers(pipe: Connection, path: str, context: str, count: int) -> None:
    """So many subscribers that never read, though they give all the credit there is. Says "ready"; ends with the pipe."""
    clients = [wire.Client(path, f"sleeper-{number}") for number in range(count)]
    request = frame(encode({"id": 1, "op": "tail", "contexts": [context], "follow": True, "credit": helpers.CREDIT}))
    for client in clients:
        client.socket.sendall(request)
    pipe.send("ready")
    pipe.recv()


def sleeper(pipe: Connection, path: str, context: str, units: int) -> None:
    """A subscriber that reads nothing before it is told to, then everything. Says "ready", then the units that came, and the seconds."""
    with wire.Client(path, "sleeper") as client:
        client.socket.sendall(_tail(context, follow=True))
        pipe.send("ready")
        pipe.recv()
        pipe.send(_drain(client, units))


def replay(pipe: Connection, path: str, context: str, units: int) -> None:
    """Read a whole context: says how many units came, in how many seconds, from the request to the last of them."""
    with wire.Client(path, "replayer") as client:
        start = clock()
        client.socket.sendall(_tail(context, follow=False))
        count, _ = _drain(client, units)
        pipe.send((count, (clock() - start) / 1e9))


def _tail(context: str, follow: bool) -> bytes:
    return frame(encode({"id": 1, "op": "tail", "contexts": [context], "after": 0, "follow": follow, "credit": helpers.CREDIT}))


def _drain(client: wire.Client, units: int) -> tuple[int, float]:
    """Read until so many units have come, or the stream ends; each must have a higher seq than the one before."""
    sock, rest, count, last, unpaid = client.socket, b"", 0, 0, 0
    start = clock()
    while count < units:
        data = sock.recv(LARGE)
        if not data:
            raise BenchmarkError("the daemon hung up")
        unpaid += len(data)
        if unpaid > helpers.CREDIT // 4:
            sock.sendall(frame(encode({"id": 1, "op": "credit", "bytes": unpaid})))
            unpaid = 0
        rest += data
        at = 0
        while at + 4 <= len(rest):
            stop = at + 4 + int.from_bytes(rest[at : at + 4])
            if stop > len(rest):
                break
            if wire.ENTRY in rest[at : min(stop, at + 128)]:
                dot = rest.index(b".", rest.index(b"fcursor", at))
                seq = int(rest[dot + 1 : rest.index(b"dkind", dot)])
                if seq <= last:
                    raise BenchmarkError(f"{seq} came after {last}")
                last = seq
                count += 1
            elif wire.SUCCESS in rest[at : min(stop, at + 64)]:
                return count, (clock() - start) / 1e9
            at = stop
        rest = rest[at:]
    return count, (clock() - start) / 1e9


def objects(pipe: Connection, path: str, context: str, units: int) -> None:
    """The same through the Python client, whose units are objects."""
    with Client(path, agent="objects", autostart=False) as client:
        start = clock()
        count = sum(1 for _, _ in zip(range(units), client.tail(context, after=0, follow=False), strict=False))
        pipe.send((count, (clock() - start) / 1e9))


# The figures


def fan_out(place: Place, rounds: int, rows: list[Row]) -> None:
    """From a unit's durable moment until the last of several subscribers has it, with and without some that are stalled."""
    found = Rounds()
    stamps = place.store("stamps")
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(place, place.store("fan"), ["--stamps", str(stamps)]))
        client = stack.enter_context(wire.Client(daemon.socket))
        readers = stack.enter_context(Helper())
        put = wire.put_frames(CONTEXT, "writer", 1)[0]
        ballast = wire.batch_frames(CONTEXT, "writer", 1, BATCH)[0]
        loops.serial(wire.ENGRAM, client.socket, [put], 50, 1)
        for _ in range(rounds):
            each: Round = {}
            for count, (gap, _) in SUBSCRIBERS.items():
                for stalled in (0, max(1, count // 10)):
                    with ExitStack() as round_stack:
                        if stalled:
                            round_stack.enter_context(Helper()).run(sleepers, daemon.socket, CONTEXT, stalled)
                            loops.serial(wire.ENGRAM, client.socket, [ballast], BALLAST, 60, warm=0)
                            _expect_lag(client)
                        bound = 20 + FAN_UNITS * gap * 4
                        readers.run(helpers.receivers, daemon.socket, CONTEXT, count, FAN_UNITS, bound)
                        written = wire.paced(client.socket, put, FAN_UNITS, gap)
                        arrivals: list[list[int]] = readers.get(bound + 5)
                    if any(len(stream) != FAN_UNITS for stream in arrivals):
                        raise BenchmarkError("a subscriber did not get every unit")
                    durable = read_stamps(stamps)
                    moments = [durable[seq] for _, _, seq in written]
                    name = f"{count}.{'stalled' if stalled else 'none'}"
                    each |= spread(name, [max(stream[at] for stream in arrivals) - moment for at, moment in enumerate(moments)])
            found.add(each)
    for count, (_, most_ms) in SUBSCRIBERS.items():
        goal = {"ratio": found.ratio(f"{count}.none.p99", plus=most_ms * live.MS), "most": 1, "against": f"{most_ms:g} ms, p99"}
        rows.append(row(found, f"durable → last of {count} has it", f"{count}.none", **goal))
        words = f"the same, {max(1, count // 10)} more stalled"
        beside = found.ratio(f"{count}.stalled.p50", f"{count}.none.p50")
        rows.append(row(found, words, f"{count}.stalled", ratio=beside, against="without them, p50"))


def _expect_lag(client: wire.Client) -> None:
    """Wait until the subscribers that do not read have fallen behind."""
    deadline = time.monotonic() + 20
    while client.request("status")["status"]["lag"] == 0:
        if time.monotonic() > deadline:
            raise BenchmarkError("nobody fell behind")
        time.sleep(0.05)


def slow_reader(place: Place, units: int, rows: list[Row]) -> None:
    """A store is filled while one subscriber sleeps; then that reads everything. And a cold replay of the same context."""
    data = place.store("slow")
    daemon = Daemon(place, data)
    try:
        with wire.Client(daemon.socket) as client, Helper() as reader:
            idle = daemon.memory()[1]
            reader.run(sleeper, daemon.socket, CONTEXT, units)
            frames = wire.batch_frames(CONTEXT, "writer", 4, BATCH, range(1, 5))
            start = clock()
            loops.pipelined(wire.ENGRAM, client.socket, frames, 4, LIMIT, units // BATCH)
            written = (clock() - start) / 1e9
            slept = daemon.memory()[1]
            reader.say("read")
            count, seconds = reader.get(LIMIT)
            if count != units:
                raise BenchmarkError(f"the sleeper got {count} units of {units}")
        awake, peak = daemon.memory()[1], daemon.peak()
    finally:
        daemon.stop()
    rows += [
        Row(f"{units:,} units written beside a reader that sleeps", value=units / written),
        Row("memory of the daemon then, no file's pages", value=slept / MB, unit=" MB", ratio=slept / idle, against="the idle daemon's"),
        Row(
            f"it wakes up and reads all {units:,}, in order", value=units / seconds, ratio=written / seconds, against="the rate of writing"
        ),
        Row(
            "memory of the daemon after that, no file's pages",
            value=awake / MB,
            unit=" MB",
            ratio=awake / idle,
            against="the idle daemon's",
        ),
        Row("the most memory it had, pages of mapped files included", value=peak / MB, unit=" MB"),
    ]
    cold(place, data, units, rows)


def cold(place: Place, directory: Path, units: int, rows: list[Row]) -> None:
    """The replay of a context whose store the system has forgotten, beside a bare scan of it."""
    live.drop_cache(directory)
    log = Log(directory / "log")
    try:
        start = clock()
        scanned = sum(1 for _ in log.scan(keys.entries(CONTEXT), 1, keys.LAST_SEQ))
        floor = scanned / ((clock() - start) / 1e9)
    finally:
        log.close()
    live.drop_cache(directory)
    with Daemon(place, directory) as daemon, Helper() as reader:
        count, seconds = reader.run(replay, daemon.socket, CONTEXT, units + 1)
        if count != units:
            raise BenchmarkError(f"the replay had {count} units of {units}")
        made, took = reader.run(objects, daemon.socket, CONTEXT, min(units, PYTHON_UNITS))
    rows += [
        Row(f"LevelDB scan of {units:,} entries, cache dropped, no daemon", value=floor),
        Row(f"cold replay of {units:,} units", value=count / seconds, ratio=floor * seconds / count, against="scan / replay"),
        Row(
            f"replay through the Python client, {made:,} units",
            value=made / took,
            ratio=(count / seconds) * took / made,
            against="bare / client",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; missing a goal is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--units", type=positive, default=1_000_000, help="that the sleeper misses and the replay reads (default: a million)"
    )
    parser.add_argument("--rounds", type=positive, default=5, help="of the fan-out")
    add_dir(parser)
    options = parser.parse_args(arguments)
    units = max(1, options.units // BATCH) * BATCH
    rows: list[Row] = []
    failed = None
    try:
        with bounded(LIMIT), Place(options.dir) as place:
            fan_out(place, options.rounds, rows)
            slow_reader(place, units, rows)
    except (BenchmarkError, OSError) as error:
        failed = str(error)
    about = figures.machine()
    print(f"Python {about['python']}, {about['system']}, {about['processors']} processors, load {about['load'][0]}")
    print(figures.table(rows))
    if failed:
        print(f"benchmarks.readers: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_main("benchmarks.readers", main)
