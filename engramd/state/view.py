"""What decisions read and what events change: typed tables of rows, seen through two small protocols.

`decide` gets a `View`: point reads over the state rows, with the rows of events that are not yet on disk laid on top. `apply` gets a
`State`, which can also write. Rows are immutable; a change replaces the row.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from ..shapes import NamedTuple
from .resources import Index

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Table(Generic[K, V]):
    """A named table; the type parameters are those of its keys and rows."""

    name: str


class Context(NamedTuple):
    """A context as its events left it.

    Attributes:
        last_entry: the seq of its last entry; 0 before the first.
        entries: of the units that are in it.
        removed: entries of units that were taken out of it, and that retention has not taken.
        size: bytes of the units of all of these.
        trimmed: the highest seq of an entry that retention took; 0 for none.
    """

    display_name: str
    meta: dict[str, str]
    created_at: int
    updated_at: int
    last_entry: int = 0
    entries: int = 0
    removed: int = 0
    size: int = 0
    trimmed: int = 0


class Agent(NamedTuple):
    """When an agent first and last gave a sign of life, a unit or its presence (microseconds), and how many units it put."""

    first_seen: int
    last_seen: int
    units: int


class Present(NamedTuple):
    """An agent that is there; `since` in microseconds."""

    since: int


class UnitHead(NamedTuple):
    """What decisions need of a unit.

    Attributes:
        context: where it was born.
        size: bytes of its payload and labels, as they were put.
        entries: how many entries it has, its birth included, that retention has not taken. The unit lives as long as one is left.
        born: whether its birth is still one of them.
        dedupe: the digest of the dedupe key that it is the first unit of.
        redacted: the seq of the event that erased it; 0 for none.
    """

    seq: int
    context: str
    size: int = 0
    entries: int = 1
    born: bool = True
    dedupe: bytes | None = None
    redacted: int = 0


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
        key: what its holder called the request, or nothing.
    """

    holder: str
    claim: Claim
    ttl: int
    session: str | None
    bound: bool
    reason: str
    granted_at: int
    key: str = ""


# Who holds or waits, where it matters who waits for whom: the session, or the agent where there is none.
Party: TypeAlias = tuple[str, str]


def party(agent: str, session: str | None) -> Party:
    """The party that acts."""
    return ("agent", agent) if session is None else ("session", session)


REMEMBERED = 1024  # leases that have ended


class Holdings(Index[int]):
    """The tokens of the leases that are held, by what they are on.

    Attributes:
        leases: all of them by token, rising.
        keys: the token of the lease that an agent asked for with a key.
        parties: those of each party.
        holders: the tokens of each agent, rising.
        ended: how the last leases ended, and who did it, to be told to who still has the token; a restart forgets it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.leases: dict[int, Lease] = {}
        self.keys: dict[tuple[str, str], int] = {}
        self.parties: dict[Party, dict[int, None]] = {}
        self.holders: dict[str, dict[int, None]] = {}
        self.ended: dict[int, tuple[str, str]] = {}

    def begin(self, token: int, lease: Lease) -> None:
        """A lease is held from now on."""
        self.add(token, lease.claim.resources)
        self.leases[token] = lease
        if lease.key:
            self.keys[lease.holder, lease.key] = token
        self.parties.setdefault(party(lease.holder, lease.session), {})[token] = None
        self.holders.setdefault(lease.holder, {})[token] = None

    def end(self, token: int, lease: Lease, how: str, agent: str) -> None:
        """It is no longer held."""
        self.ended[token] = how, agent
        if len(self.ended) > REMEMBERED:
            del self.ended[next(iter(self.ended))]
        self.remove(token, lease.claim.resources)
        del self.leases[token]
        if self.keys.get((lease.holder, lease.key)) == token:
            del self.keys[lease.holder, lease.key]
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
        missed: how many entries that it wants retention has taken since then, before they were done.
    """

    epoch: int
    cursor: int
    done: Ranges
    updated_at: int
    missed: int = 0

    def is_done(self, entry: int) -> bool:
        """Whether an entry is."""
        at = bisect_left(self.done, (entry + 1,))
        return entry <= self.cursor or (at > 0 and self.done[at - 1][1] >= entry)


class Parked(NamedTuple):
    """An entry that was delivered too often. `again`: it is to be delivered once more."""

    entry: int
    deliveries: int
    parked_at: int
    again: bool


class Member(NamedTuple):
    """A membership: the seq of the event that began it, and when that was."""

    since: int
    joined_at: int


class Pin(NamedTuple):
    """A pin: the seq of the event that set it."""

    since: int


class Place(NamedTuple):
    """A unit's place in a context: the seq of its entry there, 0 where it was taken out."""

    entry: int


class PastPin(NamedTuple):
    """A pin that has ended, under the seq of the event that ended it."""

    unit: int
    since: int


class PastMember(NamedTuple):
    """A membership that has ended, under the seq of the event that ended it."""

    agent: str
    since: int


class Retention(NamedTuple):
    """What a context keeps, no more of each than this; None means no limit.

    Attributes:
        age: microseconds.
        units: entries, with those that were taken out.
        bytes: of units.
    """

    age: int | None
    units: int | None
    bytes: int | None


class Trimmed(NamedTuple):
    """What retention has taken in the whole log.

    Attributes:
        entries: the highest seq of an entry that it took from any context.
        events: up to here every event was looked at whether it is still needed.
        gone: the highest seq of an event, which was no entry, that it took.
    """

    entries: int = 0
    events: int = 0
    gone: int = 0


class Erasure(NamedTuple):
    """That a unit was redacted: the seq of the event, and the context it was born in."""

    event: int
    context: str


class Token(NamedTuple):
    """A token that was issued and not revoked.

    Attributes:
        holder: the agent that it is for.
        digest: SHA-256 of the whole token.
        rights, contexts, paths: as `Access` has them.
        expires_at: microseconds since the epoch; None: never.
    """

    holder: str
    digest: bytes
    rights: tuple[str, ...]
    contexts: tuple[str, ...]
    paths: tuple[str, ...]
    expires_at: int | None
    note: str
    issued_at: int


CONTEXTS: Table[str, Context] = Table("contexts")
AGENTS: Table[str, Agent] = Table("agents")
UNITS: Table[bytes, UnitHead] = Table("units")
MEMBERS: Table[tuple[str, str], Member] = Table("members")  # as long as the agent is one
PINS: Table[tuple[str, int], Pin] = Table("pins")  # as long as the unit is pinned
PLACES: Table[tuple[str, int], Place] = Table("places")
PAST_MEMBERS: Table[tuple[str, int], PastMember] = Table("past_members")  # these two are only written: no decision reads them
PAST_PINS: Table[tuple[str, int], PastPin] = Table("past_pins")
DEDUPE: Table[tuple[str, bytes], Deduped] = Table("dedupe")  # by the digest of the key
LEASES: Table[int, Lease] = Table("leases")  # by token
PRESENCE: Table[str, Present] = Table("presence")
CONSUMERS: Table[str, Consumer] = Table("consumers")
PROGRESS: Table[str, Progress] = Table("progress")
PARKED: Table[str, tuple[Parked, ...]] = Table("parked")
RETENTION: Table[str, Retention] = Table("retention")
TRIMMED: Table[str, Trimmed] = Table("trimmed")  # one row, under no name
ERASURES: Table[int, Erasure] = Table("erasures")  # by the unit's seq, as long as its bytes may be in a file
TOKENS: Table[str, Token] = Table("tokens")  # by name


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
