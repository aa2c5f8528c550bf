"""Runs a daemon as `python -m engramd` does, with one thing changed or watched; engramd itself is as it is.

python -m benchmarks.launcher [--way WAY] [--slow MS] [--stamps FILE] [--profile FILE] -- ENGRAMD-OPTION...
"""

from __future__ import annotations

import argparse
import cProfile
import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from unittest import mock

from engramd import __main__ as program
from engramd import daemon
from engramd.service.engine import Engine
from engramd.storage.log import Batch

from .ways import WAYS

STAMP = struct.Struct("=QQ")  # the last seq of a batch, and when it was durable (nanoseconds of the monotonic clock)


def read_stamps(path: Path) -> dict[int, int]:
    """When the batch that ended with each seq was durable, from the file that `--stamps` names."""
    return dict(STAMP.iter_unpack(path.read_bytes()))


def _slowed(commit: Callable[[Batch], None], seconds: float) -> Callable[[Batch], None]:
    def slow(batch: Batch) -> None:
        time.sleep(seconds)
        commit(batch)

    return slow


def _stamped(commit: Callable[[Batch], None], path: str) -> Callable[[Batch], None]:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def stamped(batch: Batch) -> None:
        commit(batch)
        now = time.monotonic_ns()
        os.write(number, STAMP.pack(batch.events[-1].seq, now))

    return stamped


def main(arguments: Sequence[str]) -> int:
    """Run the daemon and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launcher", description=__doc__)
    parser.add_argument("--way", choices=WAYS, help="how to sync; engramd's own way unless said otherwise")
    parser.add_argument("--slow", type=float, default=0.0, metavar="MS", help="let every sync block so much longer, as a slow disk does")
    parser.add_argument("--stamps", metavar="FILE", help="append to this file when each batch was durable")
    parser.add_argument("--profile", metavar="FILE", help="profile the loop's thread with cProfile and write the figures to this file")
    split = list(arguments).index("--")
    options = parser.parse_args(arguments[:split])
    commit: Callable[[Batch], None] = Batch.commit
    if options.slow:
        commit = _slowed(commit, options.slow / 1e3)
    if options.stamps:
        commit = _stamped(commit, options.stamps)
    write: Callable[[Batch], Awaitable[None]] | None = WAYS[options.way]() if options.way else None
    engine = partial(Engine, write=write) if write else Engine
    profile = cProfile.Profile() if options.profile else None
    with mock.patch.object(Batch, "commit", commit), mock.patch.object(daemon, "Engine", engine):
        if profile is None:
            return program.main(arguments[split + 1 :])
        try:
            return profile.runcall(program.main, arguments[split + 1 :])
        finally:
            profile.dump_stats(options.profile)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
