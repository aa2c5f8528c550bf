"""What the daemon counts and times as it happens, at less than a microsecond each; `metrics` tells it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from ..protocol.errors import EngramError

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WAITS = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0)  # seconds that people wait for each other
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Histogram:
    """How often values fell between bounds.

    Attributes:
        counts: by bucket, the last of which has no upper bound.
        sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[float, int]]:
        """The upper bounds, the last one infinite, each with how many values were at most that."""
        return list(zip([*self.bounds, float("inf")], accumulate(self.counts), strict=True))


class Counters:
    """What is counted and timed as it happens.

    Attributes:
        requests: answered requests, by operation and by `ok` or the code of the error.
        seconds: by operation, how long the daemon took for requests that succeeded; streams and waits for locks are not timed.
        refused: connections that were not served, by the code of the error.
        commit_events, commit_seconds: of each batch, its events and how long the disk took.
        commit_failures: batches that the disk refused.
        lock_waits: seconds that those waited who got their lock.
        consumers_missed: entries that retention took before a consumer which wanted them had done them.
        loop_late: how late the loop was, looked at once a second: long where something held it up, or the process stood still.
        sockets_renewed: how often the socket's file was gone and was made anew.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, Histogram] = {}
        self.refused: Counter[str] = Counter()
        self.commit_events = Histogram(SIZES)
        self.commit_seconds = Histogram(SECONDS)
        self.commit_failures = 0
        self.lock_waits = Histogram(WAITS)
        self.loop_late = Histogram(SECONDS)
        self.consumers_missed = 0
        self.sockets_renewed = 0

    def answered(self, op: str, took: float | None, error: EngramError | None) -> None:
        """A request was answered, after `took` seconds; None for one that is not timed."""
        self.requests[op, "ok" if error is None else error.code] += 1
        if took is not None and error is None:
            timed = self.seconds.get(op)
            if timed is None:
                timed = self.seconds[op] = Histogram(SECONDS)
            timed.observe(took)

    def committed(self, events: int, seconds: float) -> None:
        """A batch is on disk."""
        self.commit_events.observe(events)
        self.commit_seconds.observe(seconds)
