"""Eight careless processes, four resources, and a hand that kills them and the daemon: no two leases conflict, no stale token writes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from daemons import WAIT, Blocking, Daemon
from validators import exclusive

WORKERS = 8
SECONDS = 6.0
SEED = 4


class Workers:
    """The processes, each replaced as soon as it is killed."""

    def __init__(self, socket_path: Path, errors: Path) -> None:
        self._socket_path = socket_path
        self._errors = errors
        self._started = 0
        self.processes = [self._start() for _ in range(WORKERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        self._started += 1
        here = Path(__file__).parent
        with self._errors.open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, str(here / "lock_worker.py"), str(self._socket_path), f"worker{self._started}", str(self._started)],
                env={**os.environ, "PYTHONPATH": str(here.parent)},
                stderr=errors,
            )

    def replace(self, at: int) -> None:
        """Kill one without warning, and start another."""
        self.processes[at].kill()
        self.processes[at].wait(WAIT)
        self.processes[at] = self._start()

    def end(self) -> None:
        """Kill all of them."""
        for process in self.processes:
            process.kill()
            process.wait(WAIT)


def quiet(client: Blocking) -> tuple[set[int], list[dict[str, Any]]]:
    """The tokens that are listed, and the log, at one moment: what those left behind who were killed still goes on."""
    while True:
        before = client.ask("status")["status"]["last_seq"]
        listed = {info["token"] for info in client.ask("locks")["locks"]}
        events = client.replay(events=True)
        if client.ask("status")["status"]["last_seq"] == before:
            return listed, events


def test_no_two_leases_conflict_whoever_is_killed(daemon: Daemon, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    assert daemon.start() == "ready"
    errors = tmp_path / "errors"
    workers = Workers(daemon.socket_path, errors)
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.05, 0.3))
            if rng.random() < 0.15:
                daemon.kill()
                assert daemon.start() == "ready"
            else:
                workers.replace(rng.randrange(WORKERS))
    finally:
        workers.end()
    assert errors.read_text() == "", "a worker met what it should not have"
    with daemon.connect() as client:
        listed, events = quiet(client)
        held = exclusive(events)
        assert listed <= set(held)
        kinds = Counter(event["kind"] for event in events)
        assert min(kinds["lock_granted"], kinds["lock_released"], kinds["lock_expired"], kinds["unit_put"]) > 5, kinds
        whole = client.ask("lock", resources=["/r", "@gpu"], wait=True, timeout="5s")
        assert whole["token"] > max(held, default=0), "whatever its holders left behind ends by itself"
    daemon.stop()
