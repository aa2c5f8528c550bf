"""What the rounds of a run come to, as Markdown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import validators

from .faults import FAULTS
from .rounds import Outcome

REGION = "tests.robust"  # of a document that has the tables
OPERATIONS = {
    "put": "put",
    "redact": "redact",
    "context_add": "add a unit to a context",
    "context_pin": "pin",
    "context_unpin": "unpin",
    "context_retain": "retain",
    "get": "get",
    "list": "list",
    "search": "search",
    "tail": "tail",
    "consume": "consume",
    "ack": "acknowledge",
    "lock": "lock",
    "renew": "renew",
    "unlock": "unlock",
}


@dataclass
class Report:
    """The sum of the rounds so far.

    Attributes:
        operations: of each, how many were answered, refused with an error, and never answered.
        items: how many items streams gave.
    """

    command: str
    rounds: int = 0
    lives: int = 0
    histories: int = 0
    items: int = 0
    seconds: float = 0
    faults: Counter[str] = field(default_factory=Counter)
    operations: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in OPERATIONS})
    checked: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Add a round."""
        self.rounds += 1
        self.lives += outcome.lives
        self.histories += outcome.histories
        self.faults += outcome.faults
        self.checked += outcome.checked
        self.broken.update(name for name, _ in outcome.broken)
        for one in outcome.exchanges:
            came = "answered" if one.result is not None else "refused" if one.error else "open"
            self.operations[one.op][came] += 1
            self.items += len(one.items)

    def markdown(self) -> str:
        """The tables."""
        did = f"`{self.command}`: {self.rounds} rounds in {self.seconds / 60:.0f} minutes, with {self.lives} processes of the daemon and "
        did += f"{self.histories} histories; streams gave {self.items:,} items."
        faults = _table(["fault", "times"], [[kind, self.faults[kind]] for kind in FAULTS])
        operations = _table(
            ["operation", "answered", "refused", "no answer"],
            [[f"`{name}`", came["answered"], came["refused"], came["open"]] for name, came in self.operations.items()],
        )
        guarantees = _table(
            ["validator", "histories", "violations"],
            [[title(one.__name__), self.checked[one.__name__], self.broken[one.__name__]] for one in validators.GUARANTEES],
        )
        unplayed = f"\nRounds that could not be played to the end: {self.broken['']}.\n" if self.broken[""] else ""
        return f"{did}\n\n{faults}\n{operations}\n{guarantees}{unplayed}"


def title(name: str) -> str:
    """A validator's name as docs have it."""
    return name.replace("_", " ").capitalize()


def _table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in line)} |\n" for line in lines)
