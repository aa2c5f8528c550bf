"""What searches should find, worked out the slow way: every unit is looked at, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engramd.protocol.framing import encode
from engramd.protocol.unit import encode_unit
from engramd.search import tokens
from engramd.search.index import Index, Wanted
from engramd.search.keyword import K1, B
from engramd.search.ranking import Page, Request, search
from engramd.storage.records import UNIT_ADDED, UNIT_PUT, UNIT_REMOVED

T = TypeVar("T")


@dataclass
class Held:
    """A unit, and where it is: context to the seq of its entry there."""

    seq: int
    agent: str
    type: str
    meta: dict[str, str]
    text: str
    targets: list[bytes]
    places: dict[str, int]


@dataclass
class Ledger:
    """A log of units, as events that an index is fed, and what they come to."""

    units: list[Held] = field(default_factory=list)
    events: list[tuple[int, int, bytes]] = field(default_factory=list)
    last: int = 0

    def put(
        self,
        text: str | bytes,
        context: str = "c",
        agent: str = "a",
        type: str = "message",
        meta: dict[str, str] | None = None,
        targets: Sequence[bytes] = (),
    ) -> int:
        """Put a unit; gives its seq."""
        self.last += 1
        edges = [("references", target, {}) for target in targets]
        body = encode_unit(self.last.to_bytes(16), self.last, self.last, context, agent, type, meta or {}, text, edges)
        self.events.append((self.last, UNIT_PUT, body))
        shown = text if isinstance(text, str) else ""
        self.units.append(Held(self.last, agent, type, meta or {}, shown, list(targets), {context: self.last}))
        return self.last

    def add(self, unit: Held, context: str) -> None:
        """Add a unit to a context in which it is not."""
        self.last += 1
        body = {"context": context, "agent": "a", "unit": unit.seq, "birth": "c"}
        self.events.append((self.last, UNIT_ADDED, encode(body)))
        unit.places[context] = self.last

    def remove(self, unit: Held, context: str) -> None:
        """Remove a unit from a context in which it is."""
        self.last += 1
        body = {"context": context, "agent": "a", "unit": unit.seq, "entry": unit.places.pop(context)}
        self.events.append((self.last, UNIT_REMOVED, encode(body)))

    def fitting(self, wanted: Wanted) -> list[Held]:
        """The units that fit a filter."""
        return [unit for unit in self.units if _fits(unit, wanted)]

    def keyword(self, words: str, wanted: Wanted) -> list[tuple[float, int]]:
        """(score, seq of the unit) of what has any of the words, best first, newer first where scores are equal."""
        counted = {unit.seq: tokens.count(unit.text) for unit in self.units}
        lengths = [length for _, length in counted.values() if length]
        mean = sum(lengths) / max(len(lengths), 1)
        asked, _ = tokens.count(words)
        having = {term: sum(term in counts for counts, _ in counted.values()) for term in asked}
        atoms = set(tokens.atoms(words))
        rare = {term: math.log(1 + (len(self.units) - count + 0.5) / (count + 0.5)) for term, count in having.items()}
        most = sum(times * rare[term] for term, times in asked.items() if having[term] or term in atoms)
        found = []
        for unit in self.fitting(wanted):
            counts, length = counted[unit.seq]
            norm = K1 * (1 - B + B * length / max(mean, 1e-9))
            score = sum(
                times * rare[term] * min(counts[term], 255) / (min(counts[term], 255) + norm)
                for term, times in asked.items()
                if term in counts
            )
            if score:
                found.append((score / most, unit.seq))
        return sorted(found, key=lambda hit: (-hit[0], -hit[1]))

    def texts(self, seqs: Sequence[int]) -> list[str | None]:
        """What the daemon would send for entries."""
        by_entry = {entry: unit.text for unit in self.units for entry in unit.places.values()}
        return [by_entry.get(seq) for seq in seqs]


def _fits(unit: Held, wanted: Wanted) -> bool:
    entries = [entry for context, entry in unit.places.items() if not wanted.contexts or context in wanted.contexts]
    return (
        any(wanted.first <= entry <= wanted.last for entry in entries)
        and unit.seq <= wanted.upto
        and (not wanted.agents or unit.agent in wanted.agents)
        and (not wanted.types or unit.type in wanted.types)
        and all(unit.meta.get(key) == value for key, value in wanted.meta)
        and (wanted.related_to is None or wanted.related_to in unit.targets)
    )


def drive(steps: Generator[list[int], Sequence[str | None], T], texts: Callable[[Sequence[int]], list[str | None]]) -> T:
    """Run a search to its end, giving it the texts that it asks for."""
    try:
        seqs = next(steps)
        while True:
            seqs = steps.send(texts(seqs))
    except StopIteration as stop:
        page: T = stop.value
        return page


def find(index: Index, ledger: Ledger, query: str, **options: Any) -> Page:
    """A page of a search of the index."""
    return drive(search(index, Request(query, **options)), ledger.texts)


def feed(index: Index, ledger: Ledger) -> None:
    """Have the index absorb what it does not cover yet."""
    index.absorb([event for event in ledger.events if event[0] > index.covers], ledger.last)
