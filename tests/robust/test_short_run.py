"""A short run: half of the faults in a round that is always the same, the other half in one that never is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from preload import lacking

from .faults import FAULTS
from .report import Report
from .rounds import deal, play
from .world import libraries

ROOT = Path(__file__).parents[2]
CHANCE = str(random.SystemRandom().randrange(10**9))
FEW = {
    "writer": ("writer1", "writer2"),
    "hasty": ("hasty",),
    "reader": ("everything", "labels"),
    "follower": ("follower",),
    "member": ("all 1", "all 2", "keyed 1"),
    "holder": ("holder1", "holder2"),
    "looker": ("looker",),
    "keeper": ("keeper",),
    "eraser": ("eraser",),
}


@pytest.mark.parametrize(("seed", "part"), [("7", 0), (CHANCE, 1)], ids=["fixed", "random"])
def test_the_guarantees_hold_under_faults(tmp_path: Path, seed: str, part: int) -> None:
    kinds = [kind for kind in deal(seed, 0) if [*FAULTS].index(kind) % 2 == part]
    outcome = play(seed, kinds, libraries(tmp_path), FEW)
    assert not outcome.broken, f"seed {seed}, faults {kinds}; history and stores are in {outcome.kept}: {outcome.broken[0]}"
    came = {one.op for one in outcome.exchanges if one.result is not None}
    assert came >= {"put", "get", "list", "ack", "lock", "redact", "context_retain"}, "else this shows nothing"
    assert sum(len(one.items) for one in outcome.exchanges) > 200
    report = Report("here")
    report.add(outcome)
    assert report.markdown().startswith(f"`here`: 1 rounds in 0 minutes, with {outcome.lives} processes")
    assert f"| Durable | {outcome.histories} | 0 |\n" in report.markdown()


def test_without_a_compiler_the_run_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.robust", "--minutes", "0"]
    done = subprocess.run(command, env={**os.environ, "PATH": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "install" in done.stderr or sys.platform != "linux"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--minutes", "-1"), ("--minutes", "nan"), ("--minutes", "inf"), ("--round", "0"), ("--round", "-1"), ("--table", "README.md")],
)
def test_what_makes_no_run_is_refused(option: str, value: str) -> None:
    command = [sys.executable, "-m", "tests.robust", option, value]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: argument {option}: " in done.stderr.splitlines()[-1]


@pytest.mark.skipif(bool(lacking()), reason=lacking())
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_leaves_nothing(number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "tests.robust"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as run:
        records = _first_record(run)
        os.killpg(run.pid, number) if number == signal.SIGINT else run.send_signal(number)  # as a terminal does
        said = run.communicate(timeout=60)
    assert (run.returncode, said) == (code, (b"", b""))
    assert not records.parent.parent.exists()


def _first_record(run: subprocess.Popen[bytes]) -> Path:
    """The record of some client of a run, as soon as there is one."""
    deadline = time.monotonic() + 60
    while run.poll() is None and time.monotonic() < deadline:
        for words in _command_lines(run.pid):
            if records := [Path(word) for word in words if word.endswith(".jsonl") and Path(word).exists()]:
                return records[0]
        time.sleep(0.05)
    raise AssertionError("the run started no client")


def _command_lines(parent: int) -> Iterator[list[str]]:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with suppress(OSError):  # it is gone
            yield Path(f"/proc/{child}/cmdline").read_text().split("\0")
