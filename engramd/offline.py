"""What is done to a store while no daemon has it: `python -m engramd.offline`, which `engram restore` and `engram doctor` start.

It says what it does in JSON, one object a line, on standard output: `progress` (how far, out of how much), `records` (frames of a salvage,
in Base64), and in the end `done` or `error`. Commands put that into words.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from . import config as configuration
from .protocol.address import private_dir
from .protocol.backup import frame
from .protocol.errors import EngramError
from .storage import backup
from .storage.check import Check
from .storage.home import missed
from .storage.leveldb import Store
from .storage.lockfile import DataLock
from .storage.salvage import Salvage

T = TypeVar("T")
BATCH = 4096  # keys that a repair writes at once
FRAMES_BYTES = 1024 * 1024
EVERY = 0.1  # seconds between words of progress


def say(**said: Any) -> None:
    """One object for whoever started this."""
    print(json.dumps(said), flush=True)


def followed(steps: Iterable[tuple[int, int] | T]) -> T | None:
    """Take all steps, tell of progress, and give what was made in the end."""
    made, told = None, 0.0
    for step in steps:
        if type(step) is not tuple:
            made = step
        elif (now := time.monotonic()) - told > EVERY:
            told = now
            say(progress=list(step))
    return made  # type: ignore[return-value]  # a step is a plain tuple


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Have the data directory for ourselves."""
    lock = DataLock(directory)
    try:
        yield
    finally:
        lock.release()


def restore(directory: Path, path: Path) -> None:
    """Make a store from a backup."""
    with closing(backup.Source(path)) as source:
        fresh = _made(directory)
        with held(directory), _undone(fresh):
            made = followed(backup.restore(source, directory, time.time_ns() // 1000))
    assert made is not None
    say(done={**made._asdict(), "data_dir": str(directory), "lost": source.manifest.lost})


def _made(directory: Path) -> list[Path]:
    """Make a data directory, and those above it that are missing, for this user alone. Gives what is new with it, the innermost first."""
    lock, log = directory / "lock", directory / "log"
    missing = [path for path in (log, directory, *directory.parents) if not path.exists()]
    fresh = [*([] if lock.exists() else [lock]), *missing]
    for path in reversed(missing):
        private_dir(path)
    private_dir(log)
    return fresh


@contextmanager
def _undone(fresh: list[Path]) -> Iterator[None]:
    """What is new is removed where the work fails, unless there is something in it. The lock is still held then."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in fresh:
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
        raise


def verify(path: Path) -> None:
    """Read a whole backup."""
    with closing(backup.Source(path)) as source:
        followed(backup.verify(source))
        manifest = source.manifest
        records = sum(segment.records for segment in manifest.segments)
        say(
            done={"events": records, "last": manifest.last, "made_at": manifest.made_at, "history": manifest.history, "lost": manifest.lost}
        )


def check(directory: Path, repair: bool) -> None:
    """Check a store, and mend what is derived from its log."""
    if vanished := missed(directory):
        raise vanished
    if not (directory / "log").is_dir() or not any((directory / "log").iterdir()):
        raise EngramError("not_found", f"there is no store in {directory}", path=str(directory))
    with held(directory), closing(Store(directory / "log")) as store:
        mended = 0
        if repair:
            mended = _repair(store)
        found = Check(store)
        followed(found.run())
    say(done={**found.report(), "mended": mended, "data_dir": str(directory)})


def _repair(store: Store) -> int:
    waiting: list[tuple[bytes, bytes | None]] = []

    def write() -> None:
        batch = store.batch()
        for key, value in waiting:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        store.write(batch)
        waiting.clear()

    def mend(key: bytes, value: bytes | None) -> None:
        waiting.append((key, value))
        if len(waiting) >= BATCH:
            write()

    found = Check(store, mend)
    followed(found.run())
    write()
    return found.mended


def salvage(directory: Path, scratch: Path) -> None:
    """Give all that can be read of a store."""
    if not (directory / "log").is_dir():
        raise EngramError("not_found", f"there is no store in {directory}", path=str(directory))
    with held(directory):
        try:
            with closing(Salvage(directory / "log", scratch)) as saved:
                say(found={"history": saved.history, "last": saved.last})
                chunk, size, reached = [], 0, 0
                for reached, record in saved.records():
                    chunk.append(frame(reached, record))
                    size += len(record)
                    if size > FRAMES_BYTES:
                        say(records=base64.b64encode(b"".join(chunk)).decode(), reached=reached)
                        chunk, size = [], 0
                say(records=base64.b64encode(b"".join(chunk)).decode(), reached=saved.last)
                say(done={"last": saved.last, "lost": saved.lost})
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Do one thing and exit: 0, or 1 after an `error`."""
    parser = argparse.ArgumentParser(prog="engramd.offline", allow_abbrev=False)
    parser.add_argument("what", choices=("restore", "verify", "check", "repair", "salvage"))
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--data-dir")
    given = parser.parse_args(arguments)
    try:
        if given.what == "verify":
            verify(given.path)
        else:
            loaded, _, _ = configuration.load([] if given.data_dir is None else ["--data-dir", given.data_dir])
            directory = loaded.data_path()
            if given.what == "restore":
                restore(directory, given.path)
            elif given.what == "salvage":
                salvage(directory, given.path)
            else:
                check(directory, given.what == "repair")
    except EngramError as error:
        say(error=error.to_wire())
        sys.exit(1)
    except BrokenPipeError:  # whoever started this was killed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        say(error=EngramError("storage", f"{error.strerror or error}{where}").to_wire())
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
