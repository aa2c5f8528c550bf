"""Relationships between units: walking them breadth first, and the changes of files, a bounded step at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from typing import Any

import cbor2

from ..protocol.paths import normal
from ..shapes import NamedTuple
from ..state.view import UNITS, UnitHead
from . import keys
from .log import Log
from .records import FILE_CHANGE

STEP_ROWS = 256  # a step looks at so many edges, wanted or not
STEP_BYTES = 256 * 1024  # and ends after the unit that passes this
MOST_ROWS = 200_000  # edges that one walk looks at


class Edge(NamedTuple):
    """A relationship as it was put: `source` is the unit that has it."""

    type: str
    source: bytes
    target: bytes
    meta: dict[str, str]


class Reached(NamedTuple):
    """A unit that a walk came to: how far it is, and by which edge it was reached."""

    unit: bytes
    distance: int
    edge: Edge


class Walk:
    """A walk along relationships from one unit, nearest first. Each unit is come to once, so no cycle holds it up.

    Args:
        start: the encoded unit to start from, which is not itself found.
        out, into: whether edges are followed that a unit has, and that lead to it.
        types: of the edges; empty means all.
        depth: how many edges away the farthest may be.
        limit: the most units to find.
        size: bytes after which it ends, too.
        sees: which units it may come to; others are as if they were not there.

    Attributes:
        found: what it has come to so far.
        more: it ended before everything was found.
    """

    def __init__(
        self,
        log: Log,
        start: bytes,
        *,
        out: bool,
        into: bool,
        types: Iterable[str] = (),
        depth: int,
        limit: int,
        size: int,
        sees: Callable[[UnitHead], bool],
    ) -> None:
        self.found: list[Reached] = []
        self.more = False
        self._log = log
        self._sees = sees
        self._out, self._into = out, into
        self._types = frozenset(types)
        self._depth = depth
        self._limit = limit
        self._room = size
        self._cost = 0
        self._rows = 0
        first: bytes = cbor2.loads(start)["id"]
        self._seen = {first}
        self._todo = deque([(first, 0)])
        self._way = self._go()

    def advance(self) -> bool:
        """Take one step; True when the walk is over."""
        rows, size = STEP_ROWS, STEP_BYTES
        for cost in self._way:
            rows -= 1
            size -= cost
            self._rows += 1
            if self._rows >= MOST_ROWS:
                self.more = True
            if self.more:
                return True
            if rows <= 0 or size <= 0:
                return False
        return True

    def _go(self) -> Iterator[int]:
        """Walk; yields, for each edge that was looked at, the bytes that were read for it."""
        while self._todo:
            unit_id, distance = self._todo.popleft()
            if distance == self._depth:
                continue
            for edges in (self._edges_of(unit_id) if self._out else (), self._edges_to(unit_id) if self._into else ()):
                for edge, far, unit in edges:
                    if edge is not None and far not in self._seen:
                        self._reach(far, distance + 1, edge)
                    yield unit
                    if self.more:
                        return

    def _reach(self, far: bytes, distance: int, edge: Edge) -> None:
        unit = self._unit(far)
        if unit is None:
            return
        if len(self.found) == self._limit or self._room <= 0:
            self.more = True
            return
        self._seen.add(far)
        self._todo.append((far, distance))
        self.found.append(Reached(unit, distance, edge))
        self._room -= len(unit)

    def _edges_of(self, unit_id: bytes) -> Iterator[tuple[Edge | None, bytes, int]]:
        """The edges that a unit has: the edge if it is wanted, the unit at its other end, and the bytes read."""
        unit = self._unit(unit_id)
        if unit is None:
            return
        for edge in cbor2.loads(unit)["relationships"]:
            target = edge["target"]
            yield (Edge(edge["type"], unit_id, target, edge["meta"]) if self._wants(edge["type"]) else None), target, len(unit)

    def _edges_to(self, unit_id: bytes) -> Iterator[tuple[Edge | None, bytes, int]]:
        """The edges that lead to a unit, in the same form. The key says who has one, and the unit there of which type it is."""
        seen, after = set[int](), b""
        while True:
            page = list(self._log.sources(unit_id, after, STEP_ROWS))  # no iterator stays open between steps
            for after, seq in page:  # noqa: B007  (where the next page goes on)
                unit = None if seq in seen else self._log.unit(seq)
                if unit is None:
                    yield None, unit_id, 0
                    continue
                seen.add(seq)
                source = cbor2.loads(unit)
                for edge in source["relationships"]:
                    if edge["target"] == unit_id:
                        wanted = self._wants(edge["type"])
                        yield (Edge(edge["type"], source["id"], unit_id, edge["meta"]) if wanted else None), source["id"], len(unit)
            if len(page) < STEP_ROWS:
                return

    def _wants(self, type: str) -> bool:
        return not self._types or type in self._types

    def _unit(self, unit_id: bytes) -> bytes | None:
        head = self._log.durable.get(UNITS, unit_id)
        return None if head is None or not self._sees(head) else self._log.unit(head.seq)


def changes(log: Log, paths: Iterable[str], last: int, limit: int, sees: Callable[[UnitHead], bool]) -> tuple[list[int], int]:
    """The seqs of changes of a file, newest first, up to `last`.

    Args:
        paths: every path that may name the file, in normal form.
        limit: rows to look at.
        sees: which units there are.

    Returns:
        The seqs, and the seq down to which everything was looked at; 0 at the log's beginning.
    """
    wanted = frozenset(paths)
    scans = [(keys.seq_of(key) for key, _ in log.scan(keys.by_path(path), 1, last, reverse=True)) for path in wanted]
    found: list[int] = []
    for examined, seq in enumerate(merge(*scans, reverse=True), 1):
        unit = log.unit(seq)
        if unit is not None and seq not in found[-1:]:
            decoded = cbor2.loads(unit)
            if path_of(decoded) in wanted and sees(UnitHead(seq, decoded["context"])):
                found.append(seq)
        if examined == limit:
            return found, seq
    return found, 0


def path_of(unit: dict[str, Any]) -> str:
    """The path that a decoded unit changed, in normal form; nothing if it is no change of a file."""
    return normal(unit["meta"].get("path", "")) if unit["type"] == FILE_CHANGE else ""


def fences_of(log: Log, seq: int) -> tuple[int, ...]:
    """The tokens of the leases under which the unit at `seq` was put."""
    record = log.record(seq)
    extra: dict[str, Any] = cbor2.loads(record.extra) if record is not None and record.extra else {}
    return tuple(extra.get("fences", ()))
