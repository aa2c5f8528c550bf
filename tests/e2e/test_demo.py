"""The demo: what a newcomer runs first."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from commandline import Shell


@pytest.fixture
def temporary(alone: Shell) -> Path:
    """Where the demo makes its directory."""
    made = alone.home / "t"
    made.mkdir()
    alone.env["TMPDIR"] = str(made)
    return made


def test_the_demo_shows_everything_and_leaves_nothing(alone: Shell, temporary: Path) -> None:
    done = alone.ok("demo")
    assert done.seconds < 15
    assert "8 units in the log, 8 seen by the watcher: none lost, none twice, in order." in done.out
    assert len([line for line in done.lines if line.startswith("    watcher | ")]) == 8
    assert list(temporary.iterdir()) == []
    assert list(alone.home.iterdir()) == [temporary]


def test_an_interrupted_demo_cleans_up_and_dies_of_the_signal(alone: Shell, temporary: Path) -> None:
    demo = alone.start("demo")
    demo.expect(lambda lines: any("engram put" in line for line in lines), "the first put")
    os.kill(demo.pid, signal.SIGINT)
    assert (demo.wait(), demo.errors) == (-signal.SIGINT, [])
    assert list(temporary.iterdir()) == []
