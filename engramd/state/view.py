"""What decisions read and what events change: typed tables of rows, seen through two small protocols.

`decide` gets a `View`: point reads over the state rows, with the rows of events that are not yet on disk laid on top. `apply` gets a
`State`, which can also write. Rows are immutable; a change replaces the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from .resources import Index

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
    """When an agent first and last gave a sign of life, a unit or its presence (microseconds), and how many units it put."""

    first_seen: int
    last_seen: int
    units: int


class Present(NamedTuple):
    """An agent that is there; `since` in microseconds."""

    since: int


class UnitHead(NamedTuple):
    """What decisions need of a unit: where it is and where it was born."""

    seq: int
    context: str


class Deduped(NamedTuple):
    """The units that a dedupe key stands for: the first one's seq, and how many follow it without a gap."""

    first_seq: int
    units: int


class Claim(NamedTuple):
    """What a lease is for: all of the resources, in a mode.

    Attributes:
        mode: `exclusive`, `shared`, or `slots`.
        slots: how many may have one of them at a time; 0 in the other modes.
    """

    resources: tuple[str, ...]
    mode: str
    slots: int = 0


class Lease(NamedTuple):
    """A lease that is held.

    Attributes:
        ttl: microseconds that it lasts without a renewal.
        session: that of the connection which asked for it, if it had one.
        bound: whether it ends with that session, and lasts while the session does.
        granted_at: microseconds since the epoch.
    """

    holder: str
    claim: Claim
    ttl: int
    session: str | None
    bound: bool
    reason: str
    granted_at: int


# Who holds or waits, where it matters who waits for whom: the session, or the agent where there is none.
Party: TypeAlias = tuple[str, str]


def party(agent: str, session: str | None) -> Party:
    """The party that acts."""
    return ("agent", agent) if session is None else ("session", session)


class Holdings(Index[int]):
    """The tokens of the leases that are held, by what they are on.

    Attributes:
        tokens: all of them, rising.
        parties: those of each party.
        holders: the tokens of each agent, rising.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[int, None] = {}
        self.parties: dict[Party, dict[int, None]] = {}
        self.holders: dict[str, dict[int, None]] = {}

    def begin(self, token: int, lease: Lease) -> None:
        """A lease is held from now on."""
        self.add(token, lease.claim.resources)
        self.tokens[token] = None
        self.parties.setdefault(party(lease.holder, lease.session), {})[token] = None
        self.holders.setdefault(lease.holder, {})[token] = None

    def end(self, token: int, lease: Lease) -> None:
        """It is no longer held."""
        self.remove(token, lease.claim.resources)
        del self.tokens[token]
        who = party(lease.holder, lease.session)
        del self.parties[who][token]
        if not self.parties[who]:
            del self.parties[who]
        del self.holders[lease.holder][token]
        if not self.holders[lease.holder]:
            del self.holders[lease.holder]


Ranges = tuple[tuple[int, int], ...]  # of seqs, first and last, in order and apart from each other


class Consumer(NamedTuple):
    """What a consumer is.

    Attributes:
        contexts: none means all.
        filter: as `Filter.to_map` gives it.
        key: `agent`, `meta:K`, or empty: units of one agent, or with one value of the label K, go to one member at a time, in order.
        visibility: microseconds that a member may have a unit before another gets it.
        deliveries: after so many, a unit is parked.
    """

    contexts: tuple[str, ...]
    filter: dict[str, Any]
    key: str
    visibility: int
    deliveries: int
    created_at: int


class Progress(NamedTuple):
    """How far a consumer is.

    Attributes:
        epoch: the seq of its creation or last reset.
        cursor: everything up to this seq is done.
        done: what is done beyond it.
    """

    epoch: int
    cursor: int
    done: Ranges
    updated_at: int


class Parked(NamedTuple):
    """An entry that was delivered too often. `again`: it is to be delivered once more."""

    entry: int
    deliveries: int
    parked_at: int
    again: bool


# (added_seq, removed_seq or None), oldest first: a pin or a membership through time.
Intervals = tuple[tuple[int, int | None], ...]

CONTEXTS: Table[str, Context] = Table("contexts")
AGENTS: Table[str, Agent] = Table("agents")
UNITS: Table[bytes, UnitHead] = Table("units")
MEMBERS: Table[tuple[str, str], Intervals] = Table("members")
PINS: Table[tuple[str, int], Intervals] = Table("pins")
PLACES: Table[tuple[str, int], Intervals] = Table("places")
DEDUPE: Table[tuple[str, str], Deduped] = Table("dedupe")
LEASES: Table[int, Lease] = Table("leases")  # by token
PRESENCE: Table[str, Present] = Table("presence")
CONSUMERS: Table[str, Consumer] = Table("consumers")
PROGRESS: Table[str, Progress] = Table("progress")
PARKED: Table[str, tuple[Parked, ...]] = Table("parked")


class View(Protocol):
    """Point reads over the state."""

    held: Holdings  # of the rows in LEASES; only `apply` changes it

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
        self.held = Holdings()

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
