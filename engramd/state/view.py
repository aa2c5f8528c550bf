"""What decisions read and what events change: typed tables of rows, seen through two small protocols.

`decide` gets a `View`: point reads over the state rows, with the rows of events that are not yet on disk laid on top. `apply` gets a
`State`, which can also write. Rows are immutable; a change replaces the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Table(Generic[K, V]):
    """A named table; the type parameters are those of its keys and rows."""

    name: str


class Context(NamedTuple):
    """A context as its events left it. `last_entry` is the seq of its last entry, 0 before the first; `removed` counts entries that
    were taken out again."""

    display_name: str
    meta: dict[str, str]
    created_at: int
    updated_at: int
    last_entry: int = 0
    entries: int = 0
    removed: int = 0


class Agent(NamedTuple):
    """When an agent first and last put a unit (microseconds), and how many it put."""

    first_seen: int
    last_seen: int
    units: int


class UnitHead(NamedTuple):
    """What decisions need of a unit: where it is and where it was born."""

    seq: int
    context: str


class Deduped(NamedTuple):
    """The units that a dedupe key stands for: the first one's seq, and how many follow it without a gap."""

    first_seq: int
    units: int


# (added_seq, removed_seq or None), oldest first: a pin or a membership through time.
Intervals = tuple[tuple[int, int | None], ...]

CONTEXTS: Table[str, Context] = Table("contexts")
AGENTS: Table[str, Agent] = Table("agents")
UNITS: Table[bytes, UnitHead] = Table("units")
MEMBERS: Table[tuple[str, str], Intervals] = Table("members")
PINS: Table[tuple[str, int], Intervals] = Table("pins")
PLACES: Table[tuple[str, int], Intervals] = Table("places")
DEDUPE: Table[tuple[str, str], Deduped] = Table("dedupe")


class View(Protocol):
    """Point reads over the state."""

    def get(self, table: Table[K, V], key: K) -> V | None:
        """The row, or None."""


class State(View, Protocol):
    """Reads and writes over the state."""

    def put(self, table: Table[K, V], key: K, row: V) -> None:
        """Write or replace the row."""

    def delete(self, table: Table[K, Any], key: K) -> None:
        """Remove the row; nothing happens where there is none."""


class MemoryState:
    """The state in a dictionary: for tests, and for folding a log without a store."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, Any], Any] = {}

    def get(self, table: Table[K, V], key: K) -> V | None:
        row: V | None = self.rows.get((table.name, key))
        return row

    def put(self, table: Table[K, V], key: K, row: V) -> None:
        self.rows[table.name, key] = row

    def delete(self, table: Table[K, Any], key: K) -> None:
        self.rows.pop((table.name, key), None)


def is_open(intervals: Intervals | None) -> bool:
    """Whether the last interval has not ended."""
    return bool(intervals) and intervals[-1][1] is None  # type: ignore[index]  # narrowed by bool()


def opened(intervals: Intervals | None, seq: int) -> Intervals:
    """The intervals with a new one that starts at `seq`."""
    return (*(intervals or ()), (seq, None))


def closed(intervals: Intervals, seq: int) -> Intervals:
    """The intervals with the last one ended at `seq`."""
    return (*intervals[:-1], (intervals[-1][0], seq))
