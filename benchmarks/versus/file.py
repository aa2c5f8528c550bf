"""A file with `flock`, synced after each append: the floor of all that keeps records."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from .. import loops
from ..figures import BenchmarkError
from ..helpers import Writer
from ..loops import clock
from .peer import LAST, QUEUE_SECONDS, TEXT, Absent, Library, Lock

TAIL = 64 * 1024  # bytes that hold the LAST records

sync = getattr(os, "fdatasync", os.fsync)


def writer(path: str) -> Writer:
    """Appends records as lines, under the lock, and syncs them."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def put(records: Sequence[Mapping[str, Any]]) -> None:
        lines = b"".join(json.dumps({"ts": time.time_ns() // 1000, **record}).encode() + b"\n" for record in records)
        fcntl.flock(number, fcntl.LOCK_EX)
        os.write(number, lines)
        sync(number)
        fcntl.flock(number, fcntl.LOCK_UN)

    return Writer(put, partial(os.close, number))


class Flock(Lock):
    """The kernel's lock of a file, which nothing writes down and which goes with the process."""

    def __init__(self, path: str) -> None:
        self._number = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        super().__init__(partial(os.close, self._number))

    def ask(self) -> None:
        """Nothing is sent: to ask is to wait."""

    def granted(self) -> None:
        fcntl.flock(self._number, fcntl.LOCK_EX)

    def release(self) -> None:
        fcntl.flock(self._number, fcntl.LOCK_UN)

    def released(self) -> None:
        """That is so already."""


def waits(pipe: Connection, path: str, count: int) -> None:
    """Take the lock whenever a word comes, and send when that was."""
    lock = Flock(path)
    pipe.send("ready")
    for _ in range(count):
        pipe.recv()
        lock.granted()
        now = clock()
        lock.release()
        pipe.send(now)
    lock.close()


class File(Library):
    """A file of lines."""

    name = "file + `flock`"
    synced = "yes"
    about = ""
    unlike: ClassVar[Mapping[str, str]] = dict.fromkeys(("lease", "handed"), "in memory")
    writer = staticmethod(writer)

    def last(self, most: int, seconds: float) -> list[int]:
        def read() -> None:
            with open(self.path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                if len(file.read().splitlines()[-LAST:]) != LAST:
                    raise BenchmarkError("file: records are missing")

        return loops.timed(read, most, seconds)

    def lock(self) -> Lock:
        return self.kept.enter_context(closing(Flock(f"{self.path}.lock")))

    def handed(self, most: int) -> list[int]:
        lock = self.lock()
        self._load.run(waits, f"{self.path}.lock", most)
        taken = []
        for _ in range(most):
            lock.granted()
            self._load.say("now")
            time.sleep(QUEUE_SECONDS)
            start = clock()
            lock.release()
            taken.append(self._load.get() - start)
        return taken

    def commands(self) -> dict[str, list[str]]:
        shell, program = shutil.which("sh"), shutil.which("flock")
        if shell is None or program is None:
            raise Absent("no flock on PATH")
        script = 'exec 9>>"$1"; flock 9; printf "%s\\n" "$2" >&9; sync -d "$1"'
        return {"put": [shell, "-c", script, "sh", self.path, TEXT], "get": [shell, "-c", 'tail -n 1 "$1"', "sh", self.path]}
