"""Group commit: decide in arrival order on the pending head, one synced batch, answer, publish."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import trio

from ..protocol.errors import EngramError
from ..state.machine import Command, decide
from ..state.outcome import Refused, Seen
from ..storage.log import Appended, Batch, Log
from .counters import Counters

logger = logging.getLogger("engramd.committer")

Result: TypeAlias = Sequence[Appended] | Refused | Seen
Done = Callable[[Result | EngramError], None]

MAX_GROUP_BYTES = 8 * 1024 * 1024  # a forming group beyond this makes its clients wait
MAX_GROUP_EVENTS = 8192
SHORT_SYNC = 0.0005  # seconds
LONG_SYNC = 2 * SHORT_SYNC  # as what longer ones count
SHORT_BATCH = 64  # events; LevelDB takes about 5 µs for each beside the sync
SHORT_BYTES = 64 * 1024  # of units
NEWEST = 0.2  # weight of the newest sync in what is expected of the next
AHEAD = 60_000_000  # microseconds the log may be ahead of the wall clock without a warning


def wall_clock() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


async def write_in_thread(batch: Batch) -> None:
    """Sync in a worker thread, while the loop decides the next group. Not cancellable: a write under way always ends."""
    await _in_thread(batch.commit)


async def _in_thread(commit: Callable[[], object]) -> None:
    with trio.CancelScope(shield=True):  # else it might not even begin
        await trio.to_thread.run_sync(commit)


class AdaptiveWriter:
    """Syncs on the loop while syncs are short, else in a worker thread; docs/adr/0007 has the figures.

    A sync that is shorter than handing it to a thread and back is cheapest where it is; a long one would keep the loop from all else.
    What is expected of the next is learnt from short batches; one that takes very long says little of a disk that is else fast.
    """

    def __init__(self) -> None:
        self._expected = SHORT_SYNC

    async def __call__(self, batch: Batch) -> None:
        """Write a batch. Not cancellable: a write under way always ends."""
        if self.is_short(batch):
            self.commit(batch)
        else:
            await _in_thread(lambda: self.commit(batch))

    def is_short(self, batch: Batch) -> bool:
        """Whether to write it on the loop."""
        return self._expected < SHORT_SYNC and _is_small(batch)

    def commit(self, batch: Batch) -> float:
        """Write a batch; blocks for the disk, for as many seconds as this returns."""
        started = time.monotonic()
        batch.commit()
        took = time.monotonic() - started
        if _is_small(batch):
            self._expected += NEWEST * (min(took, LONG_SYNC) - self._expected)
        return took


def _is_small(batch: Batch) -> bool:
    return len(batch.events) <= SHORT_BATCH and batch.size <= SHORT_BYTES


async def write_inline(batch: Batch) -> None:
    """Sync on the loop; for tests in virtual time."""
    with trio.CancelScope(shield=True):
        await trio.lowlevel.checkpoint()
    batch.commit()


class _Group:
    """Commands that share one sync: those with events, and those whose outcome rests on events before them."""

    def __init__(self, log: Log) -> None:
        self.batch = log.batch()
        self.done: list[tuple[Done, Result]] = []


class _Together:
    """Around the submission of commands that have arrived together. Entered by one task at a time, without waiting in between."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer

    def __enter__(self) -> None:
        self._committer._gathers = True

    def __exit__(self, *_: object) -> None:
        self._committer._gathers = False
        self._committer._after()  # who has only asked does not wait for the disk
        self._committer._gathered()
        self._committer._after()


class Committer:
    """The only writer of the log.

    Args:
        publish: told of every batch's events once they are on disk, after their writers: a writer waits for its answer, and there may
            be many subscribers.
        after: called whenever there may be answers or items to send.
        clock: microseconds since the epoch.
        write: syncs a batch, and is not cancellable.
        counters: told of every batch.

    Attributes:
        together: entered around what arrives together, so that it shares a sync; a short one is done right there.
        failed: why no more writes are taken, if none are.
        on_failure: told of that; again where a write that was under way then fails, too.
    """

    def __init__(
        self,
        log: Log,
        publish: Callable[[Sequence[Appended]], None],
        after: Callable[[], None],
        counters: Counters,
        clock: Callable[[], int] = wall_clock,
        write: Callable[[Batch], Awaitable[None]] | None = None,
    ) -> None:
        self._log = log
        self._publish = publish
        self._after = after
        self._clock = clock
        writer = write or AdaptiveWriter()
        self._write = writer
        self._adaptive = writer if isinstance(writer, AdaptiveWriter) else None
        self._counters = counters
        self._forming = _Group(log)
        self._flying: _Group | None = None
        self._gathers = False
        self.together = _Together(self)
        self._wake = trio.Event()
        self._is_idle = True
        self._at_rest = trio.lowlevel.ParkingLot()  # who waits until nothing is under way
        self.has_room = True
        self._for_room = trio.lowlevel.ParkingLot()
        self._last_ts = log.last_ts
        self._warned = -math.inf
        self.failed: EngramError | None = None
        self._lost: EngramError | None = None  # the failed write that ends `run`
        self.on_failure: Callable[[EngramError], None] = lambda error: None

    @property
    def ahead(self) -> int:
        """Microseconds that the last event is ahead of the wall clock; 0 where it is not."""
        return max(0, self._last_ts - self._clock())

    def now(self) -> int:
        """The instant for the next command: the wall clock, but never before the last event."""
        wall = self._clock()
        if wall >= self._last_ts:
            return wall
        if self._last_ts - wall > AHEAD and trio.current_time() - self._warned > 60:
            self._warned = trio.current_time()
            logger.warning("the log's last event is %.0f s ahead of the wall clock; new events get its time", (self._last_ts - wall) / 1e6)
        return self._last_ts

    def submit(self, command: Command, now: int, done: Done) -> Sequence[Appended]:
        """Decide a command now; `done` gets the outcome when everything it rests on is on disk, which may be at once.

        Args:
            now: what `now()` gave, in the same step of the loop.
            done: gets the events, `Refused` or `Seen`, or an EngramError: `storage` when writes are refused, `outcome_unknown` when the
                disk refused this one. It must not raise or wait.

        Returns:
            The events that it led to, which are not on disk yet.
        """
        if self.failed is not None:
            done(self.failed)
            return ()
        try:
            return self._submit(command, now, done)
        except Exception as error:
            # Half a command may be in the forming group and the pending state: nothing may be built on them any more.
            logger.exception("a command could not be decided")
            done(self.refuse_writes(error if isinstance(error, EngramError) else EngramError("internal", f"a write failed: {error!r}")))
            return ()

    def _submit(self, command: Command, now: int, done: Done) -> Sequence[Appended]:
        decision = decide(self._log.pending, command)
        if isinstance(decision, (Refused, Seen)) or not decision:
            self._when_durable(done, decision or ())
            return ()
        now = max(now, self._last_ts)  # whatever was decided since; a log in which time falls could not be restored
        group = self._forming
        append = group.batch.append
        appended = [append(now, event) for event in decision]
        self._last_ts = now
        group.done.append((done, appended))
        if group.batch.size > MAX_GROUP_BYTES or len(group.batch.events) > MAX_GROUP_EVENTS:
            self.has_room = False
        self._is_idle = False
        if not self._gathers:
            self._wake.set()
        return appended

    async def carry_out(self, command: Command) -> Sequence[Appended]:
        """Have a command decided; gives what came of it when that is on disk.

        A cancelled wait leaves the command as it is: decided, and written.

        Raises:
            EngramError: the refusal, or what went wrong.
        """
        outcome: list[Result | EngramError] = []
        told = trio.Event()

        def done(result: Result | EngramError) -> None:
            outcome.append(result)
            told.set()

        self.submit(command, self.now(), done)
        await told.wait()
        result = outcome[0]
        if isinstance(result, Refused):
            raise EngramError(result.code, result.message, **result.details)
        if isinstance(result, EngramError):
            raise result
        assert not isinstance(result, Seen), "only a put can have been seen"
        return result

    def settled(self, done: Done) -> None:
        """Call `done`, with no events, when everything that was decided so far is on disk, which may be at once; or with why it is not."""
        if self.failed is not None:
            done(self.failed)
        else:
            self._when_durable(done, ())

    def _when_durable(self, done: Done, result: Result) -> None:
        if self._is_idle:
            done(result)
        else:
            self._forming.done.append((done, result))

    def refuse_writes(self, error: EngramError) -> EngramError:
        """Take no more writes, because the store is damaged. What was not yet handed to the disk is refused; reads go on.

        Returns:
            The error that writes are answered with from now on.
        """
        if self.failed is not None:
            return self.failed
        self.failed = EngramError(error.code, f"{error.message}. Writes are refused until the daemon is started on a sound store")
        logger.critical("%s", self.failed.message)
        refused, self._forming = self._forming.done, _Group(self._log)
        for done, _ in refused:
            done(self.failed)
        self.on_failure(self.failed)
        self._make_room()
        if self._flying is None:
            self._rest()
        self._after()
        return self.failed

    async def room(self) -> None:
        """Wait until the forming group can take more. A checkpoint only if it has to wait."""
        while not self.has_room:
            await self._for_room.park()

    async def drained(self) -> None:
        """Wait until nothing is forming or being written. A checkpoint only if something is."""
        while not self._is_idle:
            await self._at_rest.park()

    async def run(self) -> None:
        """Commit groups until cancelled; a group that is being written is finished first.

        Raises:
            EngramError: `storage` when the disk refuses a write. Everything in flight is then answered with `outcome_unknown`.
        """
        while True:
            await self._wake.wait()
            while self._forming.done and self._lost is None:
                await self._commit()
            if self._lost is not None:
                raise self._lost
            self._wake = trio.Event()
            self._rest()

    async def _commit(self) -> None:
        group, took = self._take_off(), 0.0
        try:
            group.batch.seal()
            if group.batch.events:
                started = time.monotonic()
                await self._write(group.batch)
                took = time.monotonic() - started
            group.batch.settle()
        except Exception as error:
            self._lose(error)
        else:
            self._land(group, took)

    def _gathered(self) -> None:
        """What has arrived together was submitted: write it here if that is short, else leave it to `run`."""
        group, writer = self._forming, self._adaptive
        if not group.done or self._flying is not None:
            return
        if writer is None or not writer.is_short(group.batch):
            self._wake.set()
            return
        self._take_off()
        try:
            group.batch.seal()
            took = writer.commit(group.batch) if group.batch.events else 0.0
            group.batch.settle()
        except Exception as error:
            self._lose(error)
            return
        self._land(group, took)
        if self._forming.done:  # an outcome has led to more
            self._wake.set()
        else:
            self._rest()

    def _take_off(self) -> _Group:
        """Have what is forming written from now on, and another group form."""
        group = self._flying = self._forming
        self._forming = _Group(self._log)
        self._make_room()
        return group

    def _land(self, group: _Group, seconds: float) -> None:
        """A group is on disk, which took so long: answer, then publish."""
        if group.batch.events:
            self._counters.committed(len(group.batch.events), seconds)
        self._flying = None
        for done, result in group.done:
            done(result)
        self._after()  # the writers need not wait until it is worked out what all subscribers get
        self._publish(group.batch.events)
        self._after()

    def _make_room(self) -> None:
        self.has_room = True
        if self._for_room:
            self._for_room.unpark_all()

    def _rest(self) -> None:
        self._is_idle = True
        if self._at_rest:
            self._at_rest.unpark_all()

    def _lose(self, error: Exception) -> None:
        """A write has failed, which ends `run`."""
        self._counters.commit_failures += 1
        if not isinstance(error, EngramError):
            cause, error = error, EngramError("internal", f"a write failed: {error!r}")
            error.__cause__ = cause
        self._lost = error
        self._fail(error)
        self._wake.set()

    def _fail(self, error: EngramError) -> None:
        """Nothing is acknowledged any more: what was in flight has an unknown outcome."""
        self.failed = error
        unknown = EngramError(
            "outcome_unknown",
            f"{error.message}; what was asked for may or may not be there after a restart",
        )
        for group in (self._flying, self._forming):
            for done, _ in group.done if group else ():
                done(unknown)
        self.on_failure(error)
        self._rest()
        self._make_room()
        self._after()
