"""What the rows ask of a peer, and how a server and a library do it."""

from __future__ import annotations

import itertools
import re
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

from .. import helpers, loops, wire
from ..figures import BenchmarkError
from ..loops import Requests, clock
from ..processes import Helper, Place, Running

CLIENTS = 16
WINDOW = 1000  # requests in flight, where a protocol has them
BATCH = 100  # records in one request, transaction or sync
LAST = 100
QUEUE_SECONDS = 0.01
FILL_SECONDS = 60

RECORDS = [{"context": "live", "agent": "agent-0", **draft} for draft in wire.drafts(1000)]
TEXT = RECORDS[0]["text"]


class Lock(ABC):
    """One client of a lock. A step that sends does not wait; the one after it does.

    Attributes:
        close: ends its connection.
    """

    def __init__(self, close: Callable[[], object]) -> None:
        self.close = close

    @abstractmethod
    def ask(self) -> None:
        """Ask for the lock, and to wait for it."""

    @abstractmethod
    def granted(self) -> None:
        """Wait until it is had."""

    @abstractmethod
    def release(self) -> None:
        """Give it back."""

    @abstractmethod
    def released(self) -> None:
        """Wait until that is done."""


class Absent(BenchmarkError):
    """A peer has no such thing; the message says why."""


class Peer(ABC):
    """A place to put records, open and ready.

    What it has not raises Absent.

    Attributes:
        name: the heading of its column.
        synced: whether a record is on disk when it is acknowledged, in words.
        unlike: loads whose figures are of something else than Engram's, and of what.
        about: program and version, if it has one.
        variables: of the environment of its commands.
        kept: what is closed with it.
    """

    name: ClassVar[str]
    synced: ClassVar[str]
    unlike: ClassVar[Mapping[str, str]] = {}
    about: str
    variables: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.kept = ExitStack()

    def close(self) -> None:
        """End it, and all connections to it."""
        self.kept.close()

    @abstractmethod
    def one(self, most: int, seconds: float) -> list[int]:
        """The nanoseconds of single records, one after the other, without WARM that are written before."""

    @abstractmethod
    def several(self, seconds: float) -> tuple[list[int], float]:
        """CLIENTS writers, each with one record under way: the nanoseconds of each record, and records per second."""

    @abstractmethod
    def batches(self, most: int, seconds: float) -> list[int]:
        """The nanoseconds of BATCH records that are written together, all or none."""

    @abstractmethod
    def last(self, most: int, seconds: float) -> list[int]:
        """The nanoseconds of reading the LAST newest records."""

    @abstractmethod
    def lock(self) -> Lock:
        """A client of a lock that nobody else wants."""

    @abstractmethod
    def commands(self) -> Mapping[str, list[str]]:
        """The command lines that `put` a record, and `get` one; the program by its full path."""

    @abstractmethod
    def fill(self, units: int) -> None:
        """Write so many records, BATCH at a time."""

    @abstractmethod
    def processor(self) -> int:
        """Nanoseconds of processor time that it has taken."""

    def piped(self, seconds: float) -> float:
        """Records per second of one writer with WINDOW in flight."""
        raise Absent("no requests in flight")

    def fan(self, readers: Helper, count: int, units: int, gap: float) -> list[int]:
        """From sending a record until the last of so many subscribers has it, in nanoseconds; `gap` seconds between the records."""
        raise Absent("nobody is told: readers poll")

    def handed(self, most: int) -> list[int]:
        """From a release until the client that waits for the lock has it, in nanoseconds."""
        raise Absent("no queue: waiters poll")

    def memory(self) -> tuple[int, int]:
        """Bytes of resident memory, and of it what no file backs."""
        raise Absent("nothing runs")

    def restart(self) -> int:
        """Nanoseconds from starting it again, with its data, until it answers."""
        raise Absent("nothing to start")


class Server(Peer):
    """A peer that is a process, and speaks one of the dialects.

    Attributes:
        queue_seconds: from asking for a lock that is held until one is surely in its queue.
        place, program, data: where its sockets go, what to run, and where its store is.
        running: its process.
        address: what the functions below take.
        writer, piper, batcher, reader: make a connection that puts single records, one or many at a time, or BATCH of them, or asks for
            the LAST.
        stream: makes a subscriber.
    """

    queue_seconds: ClassVar[float] = QUEUE_SECONDS
    running: Running
    address: tuple[Any, ...]
    writer: Callable[..., Requests]
    piper: Callable[..., Requests]
    batcher: Callable[..., Requests]
    reader: Callable[..., Requests]
    stream: Callable[..., helpers.Stream]

    def __init__(self, place: Place, program: str, data: Path, load: Helper) -> None:
        super().__init__()
        self.place, self.program, self.data = place, program, data
        self.numbers = itertools.count(1)  # of those who lock
        self._load = load
        self._made: dict[str, Requests] = {}
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        self.about = f"{self.name.partition(',')[0]} {' '.join(re.findall(r'[0-9]+[.][0-9]+[.][0-9]+', said)[:1])}"
        self.start()

    @abstractmethod
    def start(self) -> int:
        """Start it, and return the nanoseconds until it was ready."""

    def queue(self) -> tuple[Lock, Lock]:
        """Two clients of one lock."""
        return self.lock(), self.lock()

    def close(self) -> None:
        super().close()
        self._made = {}
        self.running.stop()

    def requests(self, kind: str, *more: Any) -> Requests:
        """The connection of that kind, whose frames go on where they were left."""
        if kind not in self._made:
            self._made[kind] = made = getattr(type(self), kind)(*more, *self.address)
            self.kept.callback(made.socket.close)
        return self._made[kind]

    def one(self, most: int, seconds: float) -> list[int]:
        return loops.serial(*self.requests("writer", 0), most, seconds)

    def several(self, seconds: float) -> tuple[list[int], float]:
        taken, rate = self._load.run(helpers.writers, type(self).writer, self.address, CLIENTS, seconds)
        return taken, rate

    def piped(self, seconds: float) -> float:
        dialect, sock, frames = self.requests("piper")
        return loops.pipelined(dialect, sock, [*frames], WINDOW, seconds)

    def batches(self, most: int, seconds: float) -> list[int]:
        return loops.serial(*self.requests("batcher"), most, seconds, warm=1)

    def last(self, most: int, seconds: float) -> list[int]:
        return loops.serial(*self.requests("reader"), most, seconds)

    def handed(self, most: int) -> list[int]:
        taken = []
        with ExitStack() as stack:
            holder, waiter = (stack.enter_context(closing(lock)) for lock in self.queue())
            holder.ask()
            holder.granted()
            for _ in range(most):
                waiter.ask()
                time.sleep(self.queue_seconds)
                start = clock()
                holder.release()
                waiter.granted()
                taken.append(clock() - start)
                holder.released()
                holder, waiter = waiter, holder
            holder.release()
            holder.released()
        return taken

    def fan(self, readers: Helper, count: int, units: int, gap: float) -> list[int]:
        dialect, sock, frames = self.requests("writer", 0)
        bound = 30 + units * gap * 4
        readers.run(helpers.gather, type(self).stream, self.address, count, units, bound)
        moments = []
        for each in islice(cycle(frames), units):
            time.sleep(gap)
            moments.append(clock())
            sock.sendall(each)
            dialect.check(dialect.receive(sock))
        arrivals: list[list[int]] = readers.get(bound + 5)
        if any(len(stream) != units for stream in arrivals):
            raise BenchmarkError(f"{self.name}: a subscriber did not get every record")
        return [max(stream[at] for stream in arrivals) - moment for at, moment in enumerate(moments)]

    def fill(self, units: int) -> None:
        if len(loops.serial(*self.requests("batcher"), units // BATCH, FILL_SECONDS, warm=0)) < units // BATCH:
            raise BenchmarkError(f"{self.name} did not take {units} records within {FILL_SECONDS} s")

    def processor(self) -> int:
        return self.running.processor()

    def memory(self) -> tuple[int, int]:
        return self.running.memory()

    def restart(self) -> int:
        self.close()
        return self.start()


class Library(Peer):
    """A peer that whoever uses it opens: nothing runs, nobody is told, and a request is a call.

    Attributes:
        writer: opens it once more.
    """

    writer: Callable[[str], helpers.Writer]

    def __init__(self, path: str, load: Helper) -> None:
        super().__init__()
        self.path = path
        self._load = load
        self._put, close = type(self).writer(path)
        self.kept.callback(close)

    def one(self, most: int, seconds: float) -> list[int]:
        records = cycle(RECORDS)
        for _ in range(loops.WARM):
            self._put([next(records)])
        return loops.timed(lambda: self._put([next(records)]), most, seconds)

    def several(self, seconds: float) -> tuple[list[int], float]:
        taken, rate = self._load.run(helpers.threads, type(self).writer, self.path, RECORDS[:64], CLIENTS, seconds)
        return taken, rate

    def batches(self, most: int, seconds: float) -> list[int]:
        return loops.timed(lambda: self._put(RECORDS[:BATCH]), most, seconds)

    def fill(self, units: int) -> None:
        for _ in range(units // BATCH):
            self._put(RECORDS[:BATCH])

    def processor(self) -> int:
        return time.process_time_ns()
