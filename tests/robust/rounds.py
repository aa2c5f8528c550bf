"""Rounds: the faults of each, its outcome, and what is held against the guarantees in the end."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import validators
from validators import BrokenError

from engramd.protocol.errors import EngramError

from .faults import FAULTS
from .history import Era, Exchange, Recorded
from .players import EVERYBODY, Cast, until
from .world import World


def deal(seed: str, extra: int) -> list[str]:
    """The faults of a round, in order: each kind once, and some of them more often."""
    rng = random.Random(seed)
    kinds = [*FAULTS, *rng.choices([*FAULTS], k=extra)]
    rng.shuffle(kinds)
    return kinds


@dataclass
class Outcome:
    """What a round came to.

    Attributes:
        checked: how often each guarantee was held against a history.
        broken: those that were not kept, and how; a round that could not be played has no name for it.
        kept: where its history and its stores are, if something was broken.
    """

    seed: str
    faults: Counter[str] = field(default_factory=Counter)
    exchanges: list[Exchange] = field(default_factory=list)
    lives: int = 0
    histories: int = 0
    checked: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[str, str]] = field(default_factory=list)
    kept: Path | None = None


def play(seed: str, kinds: Sequence[str], preload: str, cast: Cast = EVERYBODY) -> Outcome:
    """Play a round with these kinds of faults, in this order."""
    outcome = Outcome(seed)
    home = Path(tempfile.mkdtemp(prefix="egr-", dir="/tmp"))
    try:
        with World(seed, home, preload) as world:
            outcome.faults = world.faults
            world.start()
            world.past.eras.append(Era(world.history()))
            world.launch(cast)
            world.goes_on()
            for kind in kinds:
                FAULTS[kind](world)
                world.faults[kind] += 1
                world.goes_on()
            world.finish()
            world.check_store()
        judge(outcome, Recorded.read(world.records, world.past))
    except (AssertionError, EngramError, OSError, subprocess.SubprocessError) as error:
        outcome.broken.append(("", f"{type(error).__name__}: {error}"))
    except (KeyboardInterrupt, SystemExit) as interrupted:
        if not outcome.broken:
            with suppress(BrokenError):  # a search worker that has just started makes its index before it notices the end of its daemon
                until(lambda: not _is_used(home), "the last process to end", 3)
            shutil.rmtree(home, ignore_errors=True)
        if home.exists():
            interrupted.add_note(f"history and stores of the interrupted round are in {home}")
        raise
    if outcome.broken:
        outcome.kept = home
    else:
        shutil.rmtree(home)
    return outcome


def _is_used(home: Path) -> bool:
    """Whether a process has the directory among its arguments."""
    found = False
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it is gone
            found = found or bytes(home) in path.read_bytes()
    return found


def judge(outcome: Outcome, recorded: Recorded) -> None:
    """Hold every guarantee against every history of a round."""
    outcome.exchanges, outcome.lives = recorded.exchanges, len(recorded.past.pids)
    for history in recorded.histories():
        outcome.histories += 1
        for guarantee in validators.GUARANTEES:
            outcome.checked[guarantee.__name__] += 1
            try:
                guarantee(history)
            except BrokenError as error:
                outcome.broken.append((guarantee.__name__, str(error)))
