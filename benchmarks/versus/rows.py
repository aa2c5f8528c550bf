"""The rows: what each is of, how it is measured on all peers in turns, and the table and plot that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .. import figures, plots
from ..commands import spawn
from ..figures import BenchmarkError, Round, Rounds, Row, amount, duration, factor, spread
from ..loops import WARM, clock, timed
from ..processes import Helper, Overtime
from .peer import BATCH, CLIENTS, LAST, WINDOW, Absent, Lock, Peer

SETTLE_SECONDS = 0.3  # before memory is looked at
PROCESSES = 5  # of each command, in a round
MB = 1e6


@dataclass(frozen=True)
class Plan:
    """How much is measured. Seconds bound one load of one peer in one round; loops of single requests also end after `most`.

    Attributes:
        rounds: of the writes and locks.
        handed: hand-overs in a round.
        fan: for each number of subscribers, the records in a round and the seconds between them.
        commands: rounds of processes.
        units: records there are when the last ones are read, and memory and start are looked at.
        reads, restarts: rounds of these.
        limit: seconds for everything.
    """

    rounds: int = 12
    most: int = 300
    seconds: float = 0.3
    handed: int = 10
    fan_rounds: int = 4
    fan: Mapping[int, tuple[int, float]] = field(default_factory=lambda: {1: (60, 0.003), 50: (40, 0.005), 500: (25, 0.02)})
    commands: int = 8
    units: int = 100_000
    reads: int = 9
    restarts: int = 5
    limit: float = 600


QUICK = Plan(
    rounds=2,
    most=100,
    seconds=0.1,
    handed=4,
    fan_rounds=1,
    fan={1: (20, 0.003), 50: (10, 0.005), 500: (5, 0.02)},
    commands=1,
    units=10_000,
    reads=2,
    restarts=1,
    limit=120,
)


class Line(NamedTuple):
    """One row of the table.

    Attributes:
        key: the load it is of, and after a dot which figure of it.
        short: its words in the plot.
        more: whether more is better: a rate.
    """

    key: str
    words: str
    short: str
    more: bool = False
    unit: str = ""


def lines(plan: Plan) -> list[Line]:
    """The rows, in their order."""
    filled = f"{plan.units // 1000}k"
    return [
        Line("one", "append, 1 client, one after the other", "append, 1 client"),
        Line("several", f"append, {CLIENTS} clients, each with one under way", f"append, {CLIENTS} clients", more=True, unit="/s"),
        Line("piped", f"append, 1 client, {WINDOW} in flight", "append, pipelined", more=True, unit="/s"),
        Line("batch", f"append, {BATCH} together, all or none", f"append, {BATCH} together"),
        *(
            Line(f"fan.{count}", f"sent → {'it' if count == 1 else f'the last of {count}'} has it", f"fan-out to {count}")
            for count in plan.fan
        ),
        Line("last", f"read the last {LAST} of {filled}", f"last {LAST}"),
        Line("lease", "lock + unlock, nobody waits", "lock + unlock"),
        Line("handed", "unlock → the next has the lock", "hand-over of a lock"),
        Line("cli.put", "a process that puts one", "process: put"),
        Line("cli.get", "a process that gets one", "process: get"),
        Line("memory", f"memory with {filled} records", "memory in all", unit=" MB"),
        Line("memory.grown", f"of it for the {filled} records", "memory of records", unit=" MB"),
        Line("start", f"start to ready with {filled} records", "start"),
        Line("one.cpu", "processor time of one record, 1 client", "processor, 1 client"),
        Line("piped.cpu", f"the same, {WINDOW} in flight", "processor, pipelined"),
    ]


class Loads:
    """What is run on a peer in one round; the names are the keys of the rows."""

    def __init__(self, plan: Plan, readers: Helper) -> None:
        self._plan = plan
        self._readers = readers
        self._locks: dict[Peer, Lock] = {}

    def one(self, peer: Peer) -> Round:
        before = peer.processor()
        taken = peer.one(self._plan.most, self._plan.seconds)
        return {**spread("one", taken), "one.cpu.p50": (peer.processor() - before) / (len(taken) + WARM)}

    def several(self, peer: Peer) -> Round:
        taken, rate = peer.several(self._plan.seconds)
        return {**spread("several", taken), "several.value": rate}

    def piped(self, peer: Peer) -> Round:
        before, start = peer.processor(), clock()
        rate = peer.piped(self._plan.seconds)
        records = rate * (clock() - start) / 1e9
        return {"piped.value": rate, "piped.cpu.p50": (peer.processor() - before) / records}

    def batch(self, peer: Peer) -> Round:
        return spread("batch", peer.batches(self._plan.most, self._plan.seconds))

    def lease(self, peer: Peer) -> Round:
        if peer not in self._locks:
            self._locks[peer] = peer.lock()
        lock = self._locks[peer]

        def leased() -> None:
            lock.ask()
            lock.granted()
            lock.release()
            lock.released()

        return spread("lease", timed(leased, self._plan.most, self._plan.seconds))

    def handed(self, peer: Peer) -> Round:
        return spread("handed", peer.handed(self._plan.handed))

    def fan(self, peer: Peer) -> Round:
        each: Round = {}
        for count, (units, gap) in self._plan.fan.items():
            each |= spread(f"fan.{count}", peer.fan(self._readers, count, units, gap))
        return each

    def cli(self, peer: Peer) -> Round:
        each: Round = {}
        for name, command in peer.commands().items():
            each |= spread(f"cli.{name}", [spawn(command, peer.variables) * 1e6 for _ in range(PROCESSES)])
        return each

    def memory(self, peer: Peer) -> Round:
        time.sleep(SETTLE_SECONDS)
        try:
            empty = peer.memory()[1] / MB
        finally:  # who has no memory of its own is filled too, for the rows that follow
            peer.fill(self._plan.units)
        time.sleep(SETTLE_SECONDS)
        full = peer.memory()[1] / MB
        return {"memory.value": full, "memory.grown.value": full - empty}

    def last(self, peer: Peer) -> Round:
        return spread("last", peer.last(self._plan.most, self._plan.seconds))

    def start(self, peer: Peer) -> Round:
        return {"start.p50": peer.restart()}


class Table:
    """What was measured of which peer, and words where nothing was.

    Attributes:
        abouts: name to program and version, in the order of the columns; the first one is Engram.
        synced: name to whether a record is on disk when it is acknowledged.
        missing: what could not be measured, and why.
    """

    def __init__(self, plan: Plan) -> None:
        self.lines = lines(plan)
        self.abouts: dict[str, str] = {}
        self.synced: dict[str, str] = {}
        self.missing: list[str] = []
        self._rounds = Rounds()
        self._words: dict[tuple[str, str], str] = {}
        self._unlike: dict[tuple[str, str], str] = {}

    def in_turns(self, peers: Sequence[Peer], times: int, *loads: Callable[[Peer], Round]) -> None:
        """Each load on all peers, one right after the other, so many times; each peer comes first in some round."""
        for peer in peers:
            self.abouts[peer.name], self.synced[peer.name] = peer.about, peer.synced
            self._unlike |= {(peer.name, load): words for load, words in peer.unlike.items()}
        for number in range(times):
            each: Round = {}
            first = number % len(peers)
            for load in loads:
                for peer in [*peers[first:], *peers[:first]]:
                    each |= {f"{peer.name} {key}": value for key, value in self._measured(peer, load).items()}
            self._rounds.add(each)

    def _measured(self, peer: Peer, load: Callable[[Peer], Round]) -> Round:
        at = peer.name, load.__name__
        try:
            return {} if at in self._words else load(peer)
        except Absent as absent:
            self._words[at] = str(absent)
        except (BenchmarkError, OSError) as error:
            if isinstance(error, Overtime) or peer.name == next(iter(self.abouts)):
                raise
            self._words[at] = "failed"
            self.missing.append(f"{peer.name}, {load.__name__}: {error}")
        return {}

    def row(self, line: Line, peer: str) -> Row:
        """One cell. Its ratio is above 1 where Engram is ahead: how many times as long, or as much, the peer takes."""
        engram, median = next(iter(self.abouts)), self._rounds.median
        key = "value" if line.unit else "p50"
        ours, theirs = f"{engram} {line.key}.{key}", f"{peer} {line.key}.{key}"
        ratio = self._rounds.ratio(ours, theirs) if line.more else self._rounds.ratio(theirs, ours)
        load = peer, line.key.partition(".")[0]
        words = self._words.get(load) or self._unlike.get(load, "")
        p50, p99, value = (median(f"{peer} {line.key}.{part}") for part in ("p50", "p99", "value"))
        return Row(line.words, p50, p99, value, line.unit or "/s", None if peer == engram else ratio, words)

    def rows(self) -> list[Row]:
        """All cells, below a heading for each line."""
        made = []
        for line in self.lines:
            made.append(Row(line.words))
            made += [replace(self.row(line, peer), what=f"  {peer}") for peer in self.abouts]
        return made

    def markdown(self) -> str:
        """The table of the documentation."""
        about = figures.machine()
        names = list(self.abouts)
        found = [["", *names], ["---"] * (len(names) + 1), ["on disk when it is acknowledged", *self.synced.values()]]
        found += [[line.words, *(shown(self.row(line, name)) for name in names)] for line in self.lines]
        words = [f"{about['processors']} processors, load {about['load'][0]}, Python {about['python']}, {about['system']}"]
        words += [", ".join(filter(None, dict.fromkeys(self.abouts.values())))]
        notes = "".join(f"\n\nNot measured: {each}." for each in self.missing)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in found) + f"\n\nTaken on {'; '.join(words)}.{notes}"

    def plot(self) -> str:
        """The ratios of what is alike, as SVG."""
        ratios = {}
        for name in [name for name, synced in self.synced.items() if synced == "yes"][1:]:
            cells = [self.row(line, name) for line in self.lines]
            ratios[name.replace("`", "")] = [None if cell.against else cell.ratio for cell in cells]
        title = "How many times as long, or as much, others take as Engram"
        return plots.bars(title, [line.short for line in self.lines], ratios, "less than Engram", "more than Engram")


def shown(cell: Row) -> str:
    """A cell of the Markdown table: a figure, p50 and p99, and the ratio; or words."""
    times = " / ".join(duration(each) for each in (cell.p50, cell.p99) if each is not None)
    ratio = "" if cell.ratio is None else f"**{factor(cell.ratio)}×**"
    return "<br>".join(each for each in (amount(cell.value, cell.unit), times, ratio, cell.against) if each)
