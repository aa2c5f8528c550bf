"""What operations cost in stores of different sizes, and how fast that grows: one store is filled step by step, and measured at each.

python -m benchmarks.scale [--sizes 10000,100000,1000000] [--json FILE] [--plot FILE] [--table FILE] [--dir DIR]

Searching has a program of its own: `benchmarks.search_scale`.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from engramd.protocol.errors import EngramError
from engramd.protocol.framing import encode, frame
from engramd.storage.check import Check
from engramd.storage.leveldb import Store

from . import figures, loops, plots, wire
from .figures import BenchmarkError, amount, duration
from .live import CONTEXTS, FILL, LAST, WINDOW, fill
from .loops import clock
from .options import add_dir, add_json, document, output, positive, run_main
from .processes import Daemon, Place, bounded

SIZES = (10_000, 100_000, 1_000_000)
SECONDS = 0.6  # of one row at one size
MOST = 200  # requests of it
LEASES = 100  # units for each lease that is held
STARTS = 3
SLACK = 0.25  # how much an exponent may be above what is expected: a million units have some more levels in LevelDB, and timing has noise
NOISE = 1.5  # by how much more than expected the cost must differ from the first size to the last: less is noise where they are close
LIMIT = 1800  # seconds
REST = 0.5  # seconds in which a daemon that is at rest works for less than a tenth of that
RARE = "rarely-seen"  # an agent with a few units, all among the first
REGION = "cost-against-size"
EPILOG = "Sizes that are small or close together, and a machine that is busy, say little about growth, whatever is marked."

FLAT, LINEAR = 0, 1


@dataclass
class Cost:
    """What one thing costs at each size.

    Attributes:
        expected: the exponent: FLAT for what finds its place by a key, LINEAR for what reads everything.
        values: nanoseconds (the median), or bytes, for each size.
        slowest: nanoseconds, the 99th percentile, where single requests were timed.
        worked: nanoseconds of the processor that the daemon's loop used for one, where that is known. What disturbs the machine disturbs
            these the least, so how fast something grows is told by them.
        is_time: else it is bytes.
    """

    what: str
    expected: int
    values: list[float] = field(default_factory=list)
    slowest: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)
    is_time: bool = True

    def shown(self, value: float) -> str:
        """A value with its unit."""
        return duration(value) if self.is_time else amount(value / 1e6, " MB")

    def exponent(self, sizes: Sequence[int]) -> float:
        """By which power of the size it grows: the slope of the line that fits best, both on logarithmic axes."""
        points = [(math.log(size), math.log(value)) for size, value in zip(sizes, self._told(sizes), strict=True)]
        return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else 0.0

    def grows_too_fast(self, sizes: Sequence[int]) -> bool:
        """Whether the exponent is above what is expected, and that by more than noise."""
        told, expected = self._told(sizes), (sizes[-1] / sizes[0]) ** self.expected
        return self.exponent(sizes) > self.expected + SLACK and told[-1] > NOISE * expected * told[0]

    def _told(self, sizes: Sequence[int]) -> list[float]:
        known = all(self.worked) and len(self.worked) == len(sizes)
        return [max(value, 1.0) for value in (self.worked if known else self.values)]


class Costs(dict[str, Cost]):
    """All costs, in the order in which they are first noted."""

    def note(
        self,
        what: str,
        value: float,
        expected: int = FLAT,
        slowest: float | None = None,
        worked: float | None = None,
        is_time: bool = True,
    ) -> None:
        """Add what was measured at the next size."""
        cost = self.setdefault(what, Cost(what, expected, is_time=is_time))
        cost.values.append(value)
        if slowest is not None:
            cost.slowest.append(slowest)
        if worked is not None:
            cost.worked.append(worked)


def request(op: str, **fields: Any) -> bytes:
    """A request's frame."""
    return frame(encode({"id": 1, "op": op, **fields}))


class Growing:
    """A store that grows, and its daemon.

    Attributes:
        units: how many it has; the few that later questions are about are not counted.
        last: the seq of its last event.
        net: the id of a unit to which some thirty others lead.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.data = place.store("growing")
        self.daemon = Daemon(place, self.data)
        self.units = self.last = self._held = 0
        with wire.Client(self.daemon.socket) as client:
            self._begin(client)

    def _begin(self, client: wire.Client) -> None:
        """What later questions are about: a few units of a rare agent, a net of relationships, a put with a key, a consumer."""
        for context in CONTEXTS:
            client.request("put", context=context, agent=RARE, text="seldom", type="error", meta={"task": "T-1"})
        client.request("put", context=CONTEXTS[0], units=[{"text": "x", "meta": {"task": "early"}}] * 40)
        client.request("put", context="once", text="x", dedupe="key")
        client.request("consumer_create", consumer="behind", contexts=CONTEXTS[:1])
        ids = [client.request("put", context="net", text="first")["id"]]
        self.net = ids[0]
        for number in range(30):
            edges = [{"type": "causes", "target": ids[number // 3]}]
            ids.append(client.request("put", context="net", text=f"follows {number}", relationships=edges)["id"])

    def grow(self, units: int) -> float:
        """Fill it until it has so many units. Gives nanoseconds a unit."""
        began, before = clock(), self.units
        with wire.Client(self.daemon.socket) as client:
            while self.units < units:
                added, _ = fill(client.socket, units - self.units, LIMIT)
                self.units += added
            taken = (clock() - began) / max(1, self.units - before)
            self.last = client.request("status")["status"]["last_seq"]
        return taken

    def rest(self) -> None:
        """Wait until LevelDB has tidied up after what was written, and the disk has it: that is a part of filling, not of what follows."""
        os.sync()
        worked = REST
        while worked > REST / 10:
            before = self.daemon.processor()
            time.sleep(REST)
            worked = (self.daemon.processor() - before) / 1e9

    def hold(self, client: wire.Client, count: int) -> None:
        """Have so many leases held, every other one a glob."""
        for start in range(self._held, count, WINDOW):
            names = [f"/repo/package{nth % 97}/held{nth}{'_*' * (nth % 2)}.py" for nth in range(start, min(start + WINDOW, count))]
            frames = [frame(encode({"id": at, "op": "lock", "resources": [name], "ttl": "1d"})) for at, name in enumerate(names, 1)]
            loops.pipelined(wire.ENGRAM, client.socket, frames, len(frames) // 2 + 1, LIMIT, len(frames))
        self._held = max(count, self._held)

    def start_again(self, killed: bool) -> float:
        """End the daemon, in order or not, and start it again; gives nanoseconds until it is ready. There is always a log to replay."""
        with wire.Client(self.daemon.socket) as client:
            fill(client.socket, 4 * FILL, 5)
        if killed:
            self.daemon.kill()
        else:
            self.daemon.stop()
        self.daemon = Daemon(self.place, self.data)
        return float(self.daemon.ready_after)


# Single requests, whose frames are made before the clock starts


def questions(store: Growing, sample: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[bytes]]]:
    """What is asked at each size, with some frames of it each."""
    middle, end = store.last // 2, store.last - 200
    first = CONTEXTS[0]
    ids, seqs = [unit["id"] for unit in sample], [unit["seq"] for unit in sample]
    yield "put", wire.put_frames("aside", "agent-0", 256)
    yield "put that was seen before", [request("put", context="once", text="x", dedupe="key")]
    yield "get by id", [request("get", ids=[one]) for one in ids]
    yield "get by seq", [request("get", ids=[one]) for one in seqs]
    yield f"last {LAST}", [wire.list_frame(context, LAST) for context in CONTEXTS]
    yield f"{LAST} from the middle on", [request("list", context=context, after=middle, limit=LAST) for context in CONTEXTS]
    yield "last 20 of an agent", [request("list", context=first, agent="agent-0", limit=20, reverse=True)]
    yield "all of a rare agent", [request("list", context=first, agent=RARE)]
    yield "last 20 of two types", [request("list", context=first, type=["error", "message"], limit=20, reverse=True)]
    yield "last 20 with a label", [request("list", context=first, meta={"task": "early"}, limit=20, reverse=True)]
    yield "with a label, of a rare agent", [request("list", context=first, meta={"task": "T-1"}, agent=RARE)]
    yield "of a rare agent, of a type", [request("list", context=first, agent=RARE, type="error")]
    yield "20 since an instant", [request("list", context=first, since=unit["ts"], limit=20) for unit in sample]
    yield "related to a unit", [request("related", of=store.net, direction="in", depth=3, limit=20)]
    yield "tail: the last 10 of a context", [request("tail", contexts=[first], last=10)]
    yield "tail: the last 10 of all", [request("tail", last=10)]
    yield "tail: from a cursor", [request("tail", after=end, contexts=CONTEXTS)]
    yield "tail: the last 5 of a rare agent, all contexts", [request("tail", last=5, agent=RARE)]
    yield "context show", [request("context_show", context=context) for context in CONTEXTS]
    yield "context list", [request("context_list")]
    yield "agents", [request("agents")]
    yield "who holds a path", [request("locks", resources=["/repo/package3/held3.py"])]
    yield "a consumer that is behind", [request("consumer_show", consumer="behind")]
    yield "status", [request("status")]
    yield "pack of 8,000 tokens", [request("pack", contexts=[context], budget=8000) for context in CONTEXTS]
    yield "backup of the last 200 events", [request("backup", after=end)]


def answered(sock: Any) -> bytes:
    """One whole answer; the items of a stream before it are passed over."""
    data = b""
    while True:
        while len(data) >= 4 and len(data) >= (end := 4 + int.from_bytes(data[:4])):
            if b"bok" in data[: min(end, 64)]:  # else it is an item of a stream
                return data[:end]
            data = data[end:]
        more = sock.recv(loops.LARGE)
        if not more:
            raise BenchmarkError("the daemon hung up")
        data += more


ASKING = loops.Dialect(answered, wire.check, wire.cut)


def ask(store: Growing, costs: Costs) -> None:
    """Time single requests."""
    chance = Random(store.last)
    with wire.Client(store.daemon.socket) as client:
        sample: list[dict[str, Any]] = []
        while len(sample) < 64:
            after = chance.randrange(store.last - 100)
            sample += client.request("list", context=chance.choice(CONTEXTS), after=after, limit=1)["units"]
        for what, frames in questions(store, sample):
            loops.serial(ASKING, client.socket, frames, min(MOST, len(frames)), SECONDS, warm=1)
            _note(store, costs, what, loops.serial, ASKING, client.socket, frames, MOST, SECONDS, 0)
        ring = wire.put_frames("aside", "agent-0", 2 * WINDOW, range(1, 2 * WINDOW + 1))
        costs.note("put, 1000 in flight, each", 1e9 / loops.pipelined(wire.ENGRAM, client.socket, ring, WINDOW, SECONDS))
    costs.note("memory that no file backs", store.daemon.memory()[1], is_time=False)


def _note(store: Growing, costs: Costs, what: str, timed: Callable[..., list[int]], *arguments: Any) -> None:
    """Time requests, and note what one takes, and how much of that the daemon works."""
    before = store.daemon.worked()
    taken = timed(*arguments)
    worked = (store.daemon.worked() - before) / len(taken)
    costs.note(what, statistics.median(taken), slowest=figures.percentile(taken, 0.99), worked=worked)


def leases(store: Growing, costs: Costs) -> None:
    """Time one lease beside others that are held, the more the larger the store is."""
    with wire.Client(store.daemon.socket) as client:
        store.hold(client, store.units // LEASES)
        _note(store, costs, f"lock + unlock, one held for each {LEASES} units", _lock_and_unlock, client)


def _lock_and_unlock(client: wire.Client) -> list[int]:
    """One lease beside those that are held."""
    taken: list[int] = []
    end = clock() + int(SECONDS * 1e9)
    while clock() < end and len(taken) < MOST:
        start = clock()
        token = client.request("lock", resources=[f"/repo/package{len(taken) % 97}/free.py"])["token"]
        client.request("unlock", token=token)
        taken.append(clock() - start)
    return taken


def starts(store: Growing, costs: Costs) -> None:
    """From a new process to one that is ready."""
    for what, killed in (("start to ready", False), ("start to ready after SIGKILL", True)):
        found = [(store.start_again(killed), store.daemon.worked()) for _ in range(STARTS)]
        costs.note(what, statistics.median(taken for taken, _ in found), worked=statistics.median(worked for _, worked in found))


def doctor(store: Growing, costs: Costs) -> None:
    """A check of everything, in this process: with nobody to give way to."""
    store.daemon.stop()
    with closing(Store(store.data / "log")) as opened:
        began, check = clock(), Check(opened)
        for _ in check.run():
            pass
        costs.note("doctor", clock() - began, LINEAR)
    if check.findings:
        raise BenchmarkError(f"the check found: {check.findings[0].message}")
    store.daemon = Daemon(store.place, store.data)


def measure(sizes: Sequence[int], directory: str | None, said: Callable[[str], None]) -> Costs:
    """Fill a store step by step, and measure at each."""
    costs = Costs()
    with Place(directory) as place:
        store = Growing(place)
        try:
            for size in sizes:
                began = clock()
                costs.note("filling, 1000 units a put, each", store.grow(size))
                store.rest()
                filled = clock()
                ask(store, costs)
                starts(store, costs)
                leases(store, costs)  # the last, since those that are held stay so, and each start reads them
                asked = clock()
                doctor(store, costs)
                took = [f"{(end - start) / 1e9:.0f} s" for start, end in ((began, filled), (filled, asked), (asked, clock()))]
                said(f"{size:,} units: filled in {took[0]}, asked for {took[1]}, checked in {took[2]}")
        finally:
            store.daemon.stop()
    return costs


# What is shown


def rows_of(costs: Costs, sizes: Sequence[int]) -> list[tuple[str, ...]]:
    """The cells of the table, headings first."""
    heads = ("what", *(f"{size:,} units" for size in sizes), "p99 there", "processor there", "exponent", "expected")
    found = [heads]
    for cost in costs.values():
        exponent = cost.exponent(sizes)
        grows = f"{exponent:.2f}" + (" **grows**" if cost.grows_too_fast(sizes) else "")
        slowest = duration(cost.slowest[-1]) if cost.slowest else ""
        worked = duration(cost.worked[-1]) if cost.worked else ""
        found.append((cost.what, *map(cost.shown, cost.values), slowest, worked, grows, "linear" if cost.expected else "flat"))
    return found


def text_of(rows: Sequence[Sequence[str]]) -> str:
    """Aligned plain text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_of(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---", *["---:"] * (len(rows[0]) - 2), "---"]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def plot_of(costs: Costs, sizes: Sequence[int]) -> str:
    """Cost against size, of what is timed."""
    timed = {cost.what: cost.values for cost in costs.values() if cost.is_time}
    return plots.lines("Cost against size", sizes, timed, "units in the store", "time", figures.duration, height=620)


def sizes_of(text: str) -> list[int]:
    """What --sizes says."""
    sizes = [positive(size) for size in text.split(",")]
    if any(size % FILL for size in sizes) or sizes != sorted({*sizes}):
        raise argparse.ArgumentTypeError(f"{text!r}: sizes are whole thousands, each above the one before")
    return sizes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 0, or 1 when something could not be measured; that something grows too fast is no failure."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=about, epilog=EPILOG)
    usual = ",".join(map(str, SIZES))
    parser.add_argument("--sizes", type=sizes_of, default=usual, help="units at which to measure, rising, in whole thousands")
    add_json(parser)
    parser.add_argument("--plot", type=output, metavar="FILE", help="write the plot here, as SVG")
    parser.add_argument(
        "--table", type=document(REGION), metavar="FILE", help=f"write the table into this document, where <!-- {REGION} --> stands"
    )
    add_dir(parser)
    options = parser.parse_args(arguments)
    sizes = options.sizes
    try:
        with bounded(LIMIT):
            costs = measure(sizes, options.dir, lambda words: print(words, flush=True))
    except (BenchmarkError, EngramError, OSError) as error:
        print(f"benchmarks.scale: {error}", file=sys.stderr)
        return 1
    table = rows_of(costs, sizes)
    print(text_of(table))
    if sizes[0] < SIZES[0] or sizes[-1] < 100 * sizes[0]:
        print(EPILOG)
    if options.json:
        figures.save_as(options.json, sizes=sizes, costs=[vars(cost) | {"exponent": cost.exponent(sizes)} for cost in costs.values()])
    if options.plot:
        Path(options.plot).write_text(plot_of(costs, sizes), encoding="utf-8")
    if options.table:
        figures.put_region(options.table, REGION, markdown_of(table))
    return 0


if __name__ == "__main__":
    run_main("benchmarks.scale", main)
