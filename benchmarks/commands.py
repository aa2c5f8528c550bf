"""What a command costs as a whole process, beside what Python costs to start: `python -m benchmarks.commands [--rounds N]`.

Run it with the Python of an environment that Engram is installed in; `engram` beside that Python is measured, against a daemon of its
own in a temporary directory. Each round starts every command once, in turn, and a ratio is that of medians; so a machine whose speed
drifts slows all of them alike. `benchmarks.versus` has the commands of others beside them. An editable install adds its import hook to
every Python start: install from a wheel to see what users get.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .options import positive, run_main

BIN = Path(sys.executable).parent
BASE = "python -c pass"
GOALS = {"get": 1.15, "list": 1.3, "tail, first line": 1.3, "__complete": 2.0}


def spawn(command: list[str], variables: Mapping[str, str] | None = None) -> float:
    """Milliseconds that a command takes from its start to its end, with these variables besides; its output goes nowhere."""
    started = time.perf_counter()
    actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    pid = os.posix_spawn(command[0], command, {**os.environ, **(variables or {})}, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    taken = (time.perf_counter() - started) * 1000
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    return taken


def fdatasync(directory: str) -> float:
    """Milliseconds of one fdatasync after an append of 400 bytes, beside the store."""
    fd = os.open(f"{directory}/floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, b"x" * 400)
        started = time.perf_counter()
        os.fdatasync(fd)
        return (time.perf_counter() - started) * 1000
    finally:
        os.close(fd)


def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit("a server did not start")
        time.sleep(0.05)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What commands cost as processes.")
    parser.add_argument("--rounds", type=positive, default=60)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as directory:
        os.environ.update(ENGRAM_SOCKET=f"{directory}/s", ENGRAM_DATA_DIR=f"{directory}/data", ENGRAM_CONFIG=os.devnull, ETCDCTL_API="3")
        engram = str(BIN / "engram")
        for number in range(20):
            subprocess.run([engram, "put", "work", f"unit {number}"], check=True, stdout=subprocess.DEVNULL)
        pid = int(dict(line.split("\t") for line in _out(engram, "status").splitlines())["pid"])
        try:
            _measure(directory, engram, rounds)
        finally:
            os.kill(pid, signal.SIGTERM)
            _until(lambda: not os.path.exists(f"{directory}/s"))


def _out(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _measure(directory: str, engram: str, rounds: int) -> None:
    commands = {
        BASE: [sys.executable, "-c", "pass"],
        "get": [engram, "get", "2"],
        "put": [engram, "put", "work", "hello"],
        "list": [engram, "list", "work", "--limit", "20"],
        "tail, first line": [engram, "tail", "-n", "1", "work"],
        "__complete": [engram, "__complete", "contexts", ""],
        "status (through Typer)": [engram, "status"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    floor: list[float] = []
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].append(spawn(command))
        floor.append(fdatasync(directory))
    base, sync = statistics.median(times[BASE]), statistics.median(floor)
    print(f"{rounds} rounds; medians in ms; ratio to {BASE!r}; one fdatasync here: {sync:.2f} ms\n")
    for name, taken in times.items():
        median = statistics.median(taken)
        goal = GOALS.get(name, (1.15 * base + sync) / base if name == "put" else None)
        verdict = "" if goal is None else f"goal {goal:.2f}  {'met' if median / base <= goal else 'missed'}"
        print(f"{name:24} {median:8.2f}  {median / base:6.2f}  {verdict}".rstrip())


if __name__ == "__main__":
    run_main("benchmarks.commands", main)
