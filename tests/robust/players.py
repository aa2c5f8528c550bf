"""The clients as whoever plays the faults has them: processes that are started, killed, replaced and told to end."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from daemons import Daemon, python
from validators import BrokenError

from .clients import CONSUMERS, FILTERS
from .record import Record

PATIENCE = 60.0  # seconds for what should take one; only a failure waits so long
Cast = Mapping[str, Sequence[str]]  # roles, and the names of who has them
EVERYBODY: Cast = {
    "writer": ("writer1", "writer2"),
    "hasty": ("hasty",),
    "reader": (*FILTERS,),
    "follower": ("follower",),
    "member": tuple(f"{consumer} {number}" for consumer in CONSUMERS for number in (1, 2)),
    "holder": ("holder1", "holder2", "holder3"),
    "looker": ("looker",),
    "keeper": ("keeper",),
    "eraser": ("eraser",),
}


def until(done: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Poll until something is so. Raises BrokenError when it takes too long."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise BrokenError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


class Player:
    """A client: the process that it is at the moment, and its record."""

    def __init__(self, role: str, name: str, seed: str, daemon: Daemon, records: Path) -> None:
        self.role = role
        self.name = name
        self._path = records / f"{name}.jsonl"
        self._stderr = records / f"{name}.stderr"
        self._arguments = seed, daemon.socket_path, self._path
        self._lives = itertools.count(1)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = python("robust.clients", self.role, self.name, next(self._lives), *self._arguments)
        with self._stderr.open("ab") as stderr:
            env = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]),
            }
            null = subprocess.DEVNULL
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=stderr, env=env, process_group=0)

    def replace(self) -> None:
        """Kill it without warning, and start another."""
        Record(self._path).note("killed")
        self.process.kill()
        self._wait()
        self.process = self._start()

    def tell_to_end(self) -> None:
        """Have it come to an end."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        """Kill it, however it stands."""
        self.process.kill()
        self._wait()

    def _wait(self) -> None:
        self.process.wait(PATIENCE)
        if self.process.stdin is not None:
            self.process.stdin.close()

    def has_ended(self) -> bool:
        """Whether it has come to its end. Raises BrokenError when that was a bad one."""
        if self.process.poll() not in (None, 0):
            raise BrokenError(f"{self.name} ended with {self.process.returncode}: {self._stderr.read_text()[-2000:]}")
        return self.process.returncode == 0
