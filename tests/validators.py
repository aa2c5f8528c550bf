"""The guarantees, each as a function that raises `BrokenError` when a recorded history does not keep it.

A history is what clients saw: the log as one reader replayed it in the end, what writers were told, and what every subscriber received,
connection by connection. Nothing here knows how the daemon works.

Moments are numbers that rise with time, the same for all clients. What was sent has a moment before that, what was received one after it
was there; so the one is early and the other late, and what is said to have come before something else has.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

Unit = dict[str, Any]


class BrokenError(AssertionError):
    """A guarantee that was not kept, and how."""


@dataclass(frozen=True)
class Entry:
    """One entry of the log, or of a stream; `unit` is decoded."""

    seq: int
    context: str
    kind: str
    unit: Unit


@dataclass
class Session:
    """One connection of a subscriber.

    Attributes:
        after: the seq from which it resumed: what the cursor it gave stands for.
        until: the last seq that a cursor it was given stands for; `after` if there was none.
        told: that retention had removed something, and `after` is where it was told to go on.
        error: the code with which the daemon ended it, if it did.
    """

    after: int
    until: int
    received: list[Entry] = field(default_factory=list)
    told: bool = False
    error: str = ""


@dataclass
class Subscriber:
    """A reader that was cut off and came back. No filter means everything.

    Attributes:
        contexts: which ones it asked for; none means all.
        agents, types, meta, kinds: its filter; the kinds are of the events by which entries arrive.
    """

    name: str
    contexts: Sequence[str] = ()
    agents: Sequence[str] = ()
    types: Sequence[str] = ()
    meta: dict[str, str] = field(default_factory=dict)
    kinds: Sequence[str] = ()
    sessions: list[Session] = field(default_factory=list)

    def wants(self, entry: Entry) -> bool:
        """Whether an entry is one it asked for."""
        unit = entry.unit
        return (
            (not self.contexts or entry.context in self.contexts)
            and (not self.agents or unit["agent"] in self.agents)
            and (not self.types or unit["type"] in self.types)
            and (not self.kinds or entry.kind in self.kinds)
            and all(unit["meta"].get(key) == value for key, value in self.meta.items())
        )

    def filter(self) -> dict[str, Any]:
        """Its filter as members of a request."""
        given = {"agent": self.agents, "type": self.types, "meta": self.meta, "kinds": self.kinds, "contexts": self.contexts}
        return {name: dict(wanted) if name == "meta" else list(wanted) for name, wanted in given.items() if wanted}

    def received(self) -> list[Entry]:
        """Everything it got, over all its connections."""
        return [entry for session in self.sessions for entry in session.received]


@dataclass(frozen=True)
class Acknowledged:
    """What a writer was told of one unit, and the moment of that."""

    writer: str
    key: str
    context: str
    id: bytes
    seq: int
    answered: float = 0


@dataclass(frozen=True)
class Put:
    """A put as it was sent.

    Attributes:
        texts: the payloads of its units, each of which is put nowhere else.
        released: the token of the lease that was to end in its batch; 0 for none.
        sent, answered: moments; `answered` only where it was accepted, and not as a retry of one that had been written.
    """

    context: str
    texts: tuple[str, ...]
    released: int = 0
    sent: float = 0
    answered: float = math.inf


@dataclass(frozen=True)
class Placed:
    """A unit that was added to a context, which was answered."""

    context: str
    id: bytes


@dataclass(frozen=True)
class Read:
    """What a get, a page of a context's newest units, or a search gave. Of `ids`, `context` and `word`, one says what was asked.

    Attributes:
        sent: the moment.
        found: the ids.
        floor: of a page, the seq of its oldest entry; 0 when it goes down to the first.
        behind: of a search, how much it said that it had not seen.
    """

    client: str
    sent: float
    found: frozenset[bytes]
    ids: frozenset[bytes] = frozenset()
    context: str = ""
    floor: int = 0
    word: str = ""
    behind: int = 0

    def covers(self, told: Acknowledged) -> bool:
        """Whether it should have found a unit that is there."""
        if self.word:
            return self.behind == 0 and self.word in told.key.split()
        return told.context == self.context and told.seq > self.floor if self.context else told.id in self.ids


@dataclass(frozen=True)
class Foreign:
    """A stream that was asked to go on at a cursor of another history: what it gave, and the code of the error, if it came to one."""

    name: str
    after: str
    items: int
    error: str


@dataclass(frozen=True)
class Outage:
    """A time, from a moment to another, in which nothing could be written."""

    began: float
    ended: float


@dataclass(frozen=True)
class Life:
    """A process of the daemon: what ended it, the exit code that this leads to (negative: a signal), and its own.

    Attributes:
        words: what it has to say in the end.
        said: all that it said.
    """

    ended_by: str
    expected: int
    code: int
    words: str = ""
    said: str = ""


@dataclass(frozen=True)
class Damaged:
    """What a damaged store still gave: the events that were read from it, and all there were before."""

    before: list[dict[str, Any]]
    read: list[dict[str, Any]]


@dataclass(frozen=True)
class Restored:
    """That a history goes on from a backup, or from what was saved of a damaged store.

    Attributes:
        before: every event of the history before, up to its end.
        upto: the seq up to which the backup has it.
        lost: the seqs of which it says that they are lost, now or before.
    """

    before: list[dict[str, Any]]
    upto: int
    lost: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Delivery:
    """A unit that a member of a consumer got.

    Attributes:
        connection: on which; each has a number of its own.
        number: the place of this among everything that the history's members got and were told, in order of time.
    """

    connection: int
    entry: Entry
    deliveries: int
    number: int


@dataclass
class Consumer:
    """What the members of a consumer saw, all together.

    Attributes:
        key: the label by which units come in order, if there is one.
        asked, acked: the seqs that a member acknowledged, and those whose acknowledgement was answered, with the number of the moment.
        cut: the connections that ended, with the number of the moment.
        restarts: the numbers of the moments when all of them did.
        done: the seqs that were done before the history began.
    """

    name: str
    contexts: Sequence[str] = ()
    key: str | None = None
    delivered: list[Delivery] = field(default_factory=list)
    acked: dict[int, int] = field(default_factory=dict)
    asked: dict[int, int] = field(default_factory=dict)
    cut: dict[int, int] = field(default_factory=dict)
    restarts: list[int] = field(default_factory=list)
    done: set[int] = field(default_factory=set)

    def wants(self, entry: Entry) -> bool:
        """Whether an entry is one it asked for."""
        return not self.contexts or entry.context in self.contexts

    def is_cut(self, before: Delivery, after: Delivery) -> bool:
        """Whether the connection of one delivery ended before another."""
        ends = [*self.restarts, self.cut.get(before.connection, after.number)]
        return any(before.number < number < after.number for number in ends)

    def released(self, wanted: Iterable[Entry]) -> dict[int, float]:
        """Of every entry, the number of the moment from which it may come: when all of its key before it were acknowledged."""
        latest: dict[str | None, float] = defaultdict(float)
        found = {}
        for entry in wanted:
            label = None if self.key is None else entry.unit["meta"].get(self.key)
            found[entry.seq] = latest[label]
            if label is not None:
                acknowledged = 0 if entry.seq in self.done else self.asked.get(entry.seq, math.inf)
                latest[label] = max(latest[label], acknowledged)
        return found


@dataclass(frozen=True)
class Trim:
    """A trim event: the entries of a context that went, and the seqs that are missing since."""

    context: str
    entries: frozenset[int]
    removed: frozenset[int]


@dataclass
class History:
    """Everything that was recorded.

    Attributes:
        log: every entry, as one reader replayed it in the end.
        end: the seq at which the log ended then.
        attempts: how often each dedupe key (context, key) was put.
        present: the seqs of all events that the log has then; None where that was not recorded.
        trims: its trim events.
        events: all events, as a stream of events gives them: `{cursor, kind, seq, ts, data}`, or `{cursor, kind, unit}`.
        is_whole: whether readers had time to read to the end.
    """

    log: list[Entry] = field(default_factory=list)
    end: int = 0
    acknowledged: list[Acknowledged] = field(default_factory=list)
    attempts: dict[tuple[str, str], int] = field(default_factory=dict)
    subscribers: list[Subscriber] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    present: set[int] | None = None
    trims: list[Trim] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    tenures: list[Tenure] = field(default_factory=list)
    foreign: list[Foreign] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)
    restored: Restored | None = None
    is_whole: bool = True

    @property
    def lost(self) -> frozenset[int]:
        """The seqs of events that damage took before the history began."""
        return frozenset() if self.restored is None else self.restored.lost

    def was_trimmed(self, entry: Entry) -> bool:
        """Whether retention took an entry from its context."""
        return any(trim.context == entry.context and entry.seq in trim.entries for trim in self.trims)


def _seqs(entries: Iterable[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


def seq_of(event: dict[str, Any]) -> int:
    """The seq of an event, as a stream gives it."""
    return int(event["cursor"].rpartition(".")[2])


def durable(history: History) -> None:
    """Every acknowledged unit is in the log, where the writer was told; or retention took it, and says so."""
    births = {entry.seq: entry for entry in history.log if entry.kind == "unit_put"}
    trimmed = {entry for trim in history.trims for entry in trim.entries}
    for told in history.acknowledged:
        born = births.get(told.seq)
        if born is None and told.seq in trimmed:
            continue
        text = None if born is None else told.key if "redacted" in born.unit else born.unit["text"]
        if born is None or born.unit["id"] != told.id or born.context != told.context or text != told.key:
            raise BrokenError(f"{told} is not in the log: {born}")
    there = {(entry.context, entry.unit["id"]) for entry in history.log}
    for placed in history.placed:
        if (placed.context, placed.id) not in there:
            raise BrokenError(f"{placed} is not in the log")


def atomic(history: History) -> None:
    """The units of a put are in the log one behind the other, or none of them is; and behind them the end of a lease that was to end with
    them."""
    births = {(entry.context, entry.unit["text"]): entry.seq for entry in history.log if entry.kind == "unit_put"}
    ends = {seq_of(event): event["data"]["token"] for event in history.events if event["kind"] == "lock_released"}
    for put in history.puts:
        found = [births.get((put.context, text)) for text in put.texts]
        if found == [None] * len(found):
            continue
        if found[0] is None or found != list(range(found[0], found[0] + len(found))):
            raise BrokenError(f"{put} stands at {found}")
        if put.released and ends.get(found[0] + len(found)) != put.released:
            raise BrokenError(f"{put} stands at {found}, and its lease did not end with it")


def covered(history: History) -> None:
    """Every seq up to the end is in the log, or a trim event says that its entry was taken or that it is missing; and that is so."""
    if history.present is None:
        return
    missing = set(range(1, history.end + 1)) - history.present
    removed = {seq for trim in history.trims for seq in trim.removed}
    unsaid = missing - removed - {seq for trim in history.trims for seq in trim.entries} - history.lost
    if unsaid or not removed <= missing:
        raise BrokenError(f"missing without a trim event: {unsaid}; there all the same: {removed - missing}")


def ordered(history: History) -> None:
    """A subscriber gets entries in the order of their seqs, live or replayed, on each connection and across them."""
    for subscriber in history.subscribers:
        seqs = _seqs(subscriber.received())
        if seqs != sorted(seqs):
            raise BrokenError(f"{subscriber.name} got {seqs}")


def gapless(history: History) -> None:
    """Between where a subscriber began and where it stood in the end, none of what it asked for is missing."""
    for subscriber in history.subscribers:
        got = set(_seqs(subscriber.received()))
        first, last = subscriber.sessions[0].after, subscriber.sessions[-1].until
        skipped = [
            (before.until, then.after) for before, then in zip(subscriber.sessions, subscriber.sessions[1:], strict=False) if then.told
        ]
        missing = [
            entry.seq
            for entry in history.log
            if first < entry.seq <= last
            and subscriber.wants(entry)
            and entry.seq not in got
            and not any(start < entry.seq <= end for start, end in skipped)
        ]
        if missing:
            raise BrokenError(f"{subscriber.name} never got {missing}")


def unique(history: History) -> None:
    """Nothing comes twice to a subscriber that resumes where it stood."""
    for subscriber in history.subscribers:
        seqs = _seqs(subscriber.received())
        twice = sorted(seq for seq, times in Counter(seqs).items() if times > 1)
        if twice:
            raise BrokenError(f"{subscriber.name} got {twice} more than once")


def resumable(history: History) -> None:
    """A connection that resumes at a cursor gets only what stands beyond it, and each cursor it gets is beyond those before."""
    for subscriber in history.subscribers:
        reached = subscriber.sessions[0].after
        for session in subscriber.sessions:
            if session.told:
                if not any(reached < seq <= session.after for trim in history.trims for seq in trim.entries):
                    raise BrokenError(f"{subscriber.name} was told to skip from {reached} to {session.after}, where nothing was removed")
            elif session.after != reached:
                raise BrokenError(f"{subscriber.name} resumed at {session.after}, having stood at {reached}")
            early = [seq for seq in _seqs(session.received) if not session.after < seq <= session.until]
            if early:
                raise BrokenError(f"{subscriber.name} resumed at {session.after} and got {early}, standing at {session.until}")
            reached = session.until


def filtered(history: History) -> None:
    """A subscriber gets nothing but what it asked for, and each entry as it is in the log."""
    log = {entry.seq: entry for entry in history.log}
    for subscriber in history.subscribers:
        for entry in subscriber.received():
            if not subscriber.wants(entry):
                raise BrokenError(f"{subscriber.name} did not ask for {entry}")
            now = log.get(entry.seq)
            if now is None and history.was_trimmed(entry):
                continue
            if now is not None and "redacted" in now.unit and now.unit["id"] == entry.unit["id"]:
                continue
            if entry != now:
                raise BrokenError(f"{subscriber.name} got {entry}, the log has {log.get(entry.seq)}")


def idempotent(history: History) -> None:
    """However often a put with a dedupe key was tried, its units exist at most once, and every answer was the same."""
    births: dict[tuple[str, str], list[int]] = {}
    for entry in history.log:
        if entry.kind == "unit_put":
            births.setdefault((entry.context, entry.unit["text"]), []).append(entry.seq)
    for key in history.attempts:
        if len(births.get(key, ())) > 1:
            raise BrokenError(f"{key} exists at {births[key]}")
    told: dict[tuple[str, str], Acknowledged] = {}
    for answer in history.acknowledged:
        first = told.setdefault((answer.context, answer.key), answer)
        if (first.id, first.seq) != (answer.id, answer.seq):
            raise BrokenError(f"{answer} was answered as {first} before")


def acked(history: History) -> None:
    """A consumer's members get every entry that it wants; none again after its acknowledgement was answered; and none while another has it.
    Of one key, none before those in front of it were acknowledged."""
    for consumer in history.consumers:
        wanted = {entry.seq: entry for entry in history.log if consumer.wants(entry)}
        missing = wanted.keys() - {delivery.entry.seq for delivery in consumer.delivered} - consumer.done
        if missing and history.is_whole:
            raise BrokenError(f"{consumer.name} never got {sorted(missing)}")
        open_: dict[int, Delivery] = {}
        released = consumer.released(wanted.values())
        for delivery in sorted(consumer.delivered, key=lambda delivery: delivery.number):
            seq = delivery.entry.seq
            if delivery.entry != wanted.get(seq):
                raise BrokenError(f"{consumer.name} got {delivery}, the log has {wanted.get(seq)}")
            if consumer.acked.get(seq, delivery.number) < delivery.number:
                raise BrokenError(f"{consumer.name} got {delivery} after its acknowledgement was answered")
            before = open_.get(seq)
            if before is not None and not consumer.is_cut(before, delivery):
                raise BrokenError(f"{consumer.name} got {delivery} while it had {before}")
            open_[seq] = delivery
            if delivery.number < released[seq]:
                raise BrokenError(f"{consumer.name} got {delivery} before those of its key in front of it were done")


def caught_up(history: History) -> None:
    """Every subscriber stands at the end; else the validators above would hold for one that got nothing at all. (Trims go on.)"""
    end = max(entry.seq for entry in history.log) if history.trims else history.end
    for subscriber in history.subscribers:
        if history.is_whole and subscriber.sessions[-1].until < end:
            raise BrokenError(f"{subscriber.name} stands at {subscriber.sessions[-1].until}, the log ends at {end}")


def read_your_writes(history: History) -> None:
    """What was answered before a read was sent is found by it, whoever reads; or a search says how far it is behind."""
    for read in history.reads:
        for told in history.acknowledged:
            if told.answered < read.sent and read.covers(told) and told.id not in read.found:
                raise BrokenError(f"{told} was not found by {read}")


def never_silent(history: History) -> None:
    """A cursor of another history is refused. No stream ends with an error for a reader that is slow or was away."""
    for foreign in history.foreign:
        if foreign.items or foreign.error not in ("cursor", "unavailable", ""):
            raise BrokenError(f"{foreign} was served")
    for subscriber in history.subscribers:
        for session in subscriber.sessions:
            if session.error not in ("", "unavailable", "trimmed", "storage"):
                raise BrokenError(f"{subscriber.name} was told {session.error} after {session.until}")


def fail_stop(history: History) -> None:
    """While nothing could be written, nothing was accepted; a daemon ended as it has to, and said why; and what a damaged store still gives
    is what was there."""
    for outage in history.outages:
        for put in history.puts:
            if outage.began < put.sent and put.answered < outage.ended:
                raise BrokenError(f"{put} was accepted within {outage}")
    for life in history.lives:
        if life.code != life.expected or life.words not in life.said or "Traceback" in life.said:
            raise BrokenError(f"the daemon that was ended by {life.ended_by} ended with {life.code}, not {life.expected}: {life.said}")
    for damaged in history.damaged:
        before = {seq_of(event): event for event in damaged.before}
        for event in damaged.read:
            if _without_cursor(event) != _without_cursor(before.get(seq_of(event))):
                raise BrokenError(f"a damaged store gave {event}, where there was {before.get(seq_of(event))}")


def in_time(history: History) -> None:
    """The times of the log never fall."""
    last = 0
    for event in history.events:
        ts = event["unit"]["ts"] if event["kind"] == "unit_put" else event.get("ts", last)
        if ts < last:
            raise BrokenError(f"the event {event['cursor']} is of {ts}, the one before of {last}")
        last = ts


def exclusive(history: History) -> None:
    """No two conflicting leases at any point of the log, tokens rise, and no unit under a token that is not held."""
    leases(history.events, history.lost)


def held_apart(history: History) -> None:
    """At no moment two clients could both be sure of leases that conflict."""
    current: list[Tenure] = []
    for tenure in sorted(history.tenures, key=lambda tenure: tenure.began):
        current = [other for other in current if other.ended > tenure.began]
        if tenure.ended > tenure.began:
            _check_conflicts(tenure.lease, [other.lease for other in current])
            current.append(tenure)


def restored(history: History) -> None:
    """What was restored is what was there before, up to the seq that the backup names, but for what it says is lost."""
    if history.restored is None:
        return
    upto = history.restored.upto
    before = {seq_of(event): event for event in history.restored.before if seq_of(event) not in history.lost}
    now = {seq_of(event): event for event in history.events}
    for seq in range(1, upto + 1):
        if _without_cursor(before.get(seq)) != _without_cursor(now.get(seq)):
            raise BrokenError(f"at {seq} there was {before.get(seq)}, and now there is {now.get(seq)}")


def _without_cursor(event: dict[str, Any] | None) -> dict[str, Any] | None:
    return event and {name: value for name, value in event.items() if name != "cursor"}


GUARANTEES = (
    *(durable, atomic, covered, ordered, gapless, unique, resumable, filtered, caught_up, acked, never_silent),
    *(read_your_writes, exclusive, held_apart, idempotent, fail_stop, in_time, restored),
)


def check(history: History) -> None:
    """Hold every guarantee against a history."""
    for guarantee in GUARANTEES:
        guarantee(history)


# Locks


@dataclass
class Held:
    """A lease in a history."""

    token: int
    holder: str
    resources: Sequence[str]
    mode: str
    slots: int


@dataclass(frozen=True)
class Tenure:
    """The time, from a moment to another, in which a client could be sure of a lease: from the answer on, until it asked for its end or its
    TTL was over since the grant, or the last renewal, was asked for."""

    lease: Held
    began: float
    ended: float


def leases(events: Iterable[dict[str, Any]], lost: Set[int] = frozenset(), token_label: str = "token") -> dict[int, Held]:
    """No two conflicting leases at any point, tokens rise, and no unit under a token that is not held.

    Args:
        events: every event of the log in order, as a stream of events gives them: `{seq, kind, data}`, or `{kind, unit}`.
        lost: the seqs of events that damage took.
        token_label: the label in which a unit names the token it was written under.

    Returns:
        The leases that are held at the end.
    """
    held: dict[int, Held] = {}
    highest = 0
    for event in events:
        kind = event["kind"]
        if kind == "lock_granted":
            data, token = event["data"], event["seq"]
            lease = Held(token, data["agent"], data["resources"], data["mode"], data["slots"])
            if token <= highest:
                raise BrokenError(f"token {token} after {highest}")
            highest = token
            in_the_way = [one for one in held.values() if not any(one.token < seq < token for seq in lost)]  # else it may have ended there
            _check_conflicts(lease, in_the_way)
            held[token] = lease
        elif kind in ("lock_released", "lock_expired", "lock_stolen"):
            token = event["data"]["token"]
            if held.pop(token, None) is None and token not in lost:
                raise BrokenError(f"{kind} at {event['seq']} of a lease that was not held")
        elif kind == "unit_put" and token_label in event["unit"]["meta"]:
            token = int(event["unit"]["meta"][token_label])
            if token not in held and token not in lost:
                raise BrokenError(f"unit {event['unit']['seq']} was written under token {token}, which was not held")
    return held


def _check_conflicts(new: Held, held: Iterable[Held]) -> None:
    others = [lease for lease in held if any(_meet(a, b) for a in new.resources for b in lease.resources)]
    for lease in others:
        if new.mode != lease.mode or new.mode == "exclusive":
            raise BrokenError(f"token {new.token} was granted beside {lease}: {new}")
    if new.mode == "slots":
        for resource in new.resources:
            here = [lease for lease in others if any(_meet(resource, other) for other in lease.resources)]
            if len(here) >= min([new.slots, *(lease.slots for lease in here)]):
                raise BrokenError(f"token {new.token} has no slot left on {resource}: {here}")


def _meet(a: str, b: str) -> bool:
    """Whether two resources can be the same file, or one beneath the other; where both have wildcards in one component, yes is assumed."""
    if a.startswith("@") or b.startswith("@"):
        return a == b
    return _walk([part for part in a.split("/") if part], [part for part in b.split("/") if part])


def _walk(a: list[str], b: list[str]) -> bool:
    if not a or not b:
        return True
    if a[0] == "**" or b[0] == "**":
        return _walk(a[1:], b) or _walk(a, b[1:])
    return _same(a[0], b[0]) and _walk(a[1:], b[1:])


def _same(a: str, b: str) -> bool:
    wild_a, wild_b = "*" in a or "?" in a, "*" in b or "?" in b
    if wild_a and wild_b:
        return True
    pattern, text = (a, b) if wild_a else (b, a)
    return re.fullmatch("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern), text) is not None
