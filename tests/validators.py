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
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
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
        began: a moment at which it surely had begun: when it got the first item.
    """

    after: int
    until: int
    received: list[Entry] = field(default_factory=list)
    told: bool = False
    error: str = ""
    began: float = math.inf


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

    def wants_all_of(self, context: str) -> bool:
        """Whether it asked for every entry of a context."""
        is_filter = self.agents or self.types or self.meta or self.kinds
        return not is_filter and (not self.contexts or context in self.contexts)

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
class Write:
    """A write that was answered, and not as a retry: the seqs of its first and its last unit, and the moments before and after it."""

    first: int
    last: int
    sent: float
    answered: float


@dataclass(frozen=True)
class RefusedRetry:
    """A put that was refused since retention had removed units of the put with its key, which began at `seq`."""

    put: Put
    seq: int


@dataclass(frozen=True)
class Placed:
    """A unit that was added to a context, which was answered."""

    context: str
    id: bytes


@dataclass(frozen=True)
class Read:
    """What a get, a page of a context's newest units, or a search gave. Of `ids`, `context` and `word`, one says what was asked.

    Attributes:
        sent, answered: moments.
        found: the ids.
        floor: of a page of the newest entries, the seq of its oldest; 0 when it goes down to the first.
        ceiling: of a page of the oldest entries, the seq of its newest.
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
    answered: float = math.inf
    ceiling: float = math.inf

    def covers(self, told: Acknowledged) -> bool:
        """Whether it should have found a unit that is there."""
        if self.word:
            return self.behind == 0 and self.word in told.key.split()
        return told.context == self.context and self.floor < told.seq < self.ceiling if self.context else told.id in self.ids


@dataclass(frozen=True)
class Redaction:
    """Units that somebody asked to redact, and the moment when that was answered."""

    agent: str
    reason: str
    ids: frozenset[bytes]
    answered: float = math.inf


@dataclass(frozen=True)
class Sight:
    """That an answer, or a stream, showed something of a unit's payload or labels, and the moment before it was asked for."""

    client: str
    op: str
    id: bytes
    sent: float


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
        missed: how many entries it said that retention had taken before they were done.
    """

    connection: int
    entry: Entry
    deliveries: int
    number: int
    missed: int = 0


@dataclass
class Consumer:
    """What the members of a consumer saw, all together.

    Attributes:
        key: the label by which units come in order, if there is one.
        asked, acked: the seqs that a member acknowledged, and those whose acknowledgement was answered, with the number of the moment.
        cut: the connections that ended, with the number of the moment.
        restarts: the numbers of the moments when all of them did.
        done: the seqs that were done before the history began.
        missed: how many entries its description says, in the end, that it missed; None where that was not asked.
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
    missed: int | None = None

    def wants(self, entry: Entry) -> bool:
        """Whether an entry is one it asked for."""
        return self.reads(entry.context)

    def reads(self, context: str) -> bool:
        """Whether it asked for a context. (A filter has none of them.)"""
        return not self.contexts or context in self.contexts

    def is_cut(self, before: Delivery, after: Delivery) -> bool:
        """Whether the connection of one delivery ended before another."""
        ends = [*self.restarts, self.cut.get(before.connection, after.number)]
        return any(before.number < number < after.number for number in ends)

    def released(self, wanted: Iterable[Entry], gone: Set[int]) -> dict[int, float]:
        """Of every entry, the number of the moment from which it may come: when all of its key before it were acknowledged, or `gone`."""
        latest: dict[str | None, float] = defaultdict(float)
        found = {}
        for entry in wanted:
            label = None if self.key is None else entry.unit["meta"].get(self.key)
            found[entry.seq] = latest[label]
            if label is not None:
                acknowledged = 0 if entry.seq in self.done or entry.seq in gone else self.asked.get(entry.seq, math.inf)
                latest[label] = max(latest[label], acknowledged)
        return found


@dataclass(frozen=True)
class Trim:
    """A trim event.

    Attributes:
        entries: those of the context that went, in order, with the ids of their units.
        removed: the seqs that are missing since.
    """

    seq: int
    context: str
    entries: Mapping[int, bytes]
    removed: frozenset[int]


@dataclass
class History:
    """Everything that was recorded.

    Attributes:
        log: every entry, as one reader replayed it in the end.
        end: the seq at which the log ended then.
        attempts: how often each dedupe key (context, key) was put.
        present: the seqs of all events that the log has then; None where that was not recorded.
        trims: its trim events, in order.
        events: all events, as a stream of events gives them: `{cursor, kind, seq, ts, data}`, or `{cursor, kind, unit}`.
        sizes: of units, by their ids, what retention counts: the bytes of their payloads and labels.
        born: the seqs of units, by their ids, as far as they are known from elsewhere than the log.
        sights: what was seen of units that somebody asked to redact.
        leftovers: of what was redacted, what was looked for in the files in the end, and where it was found.
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
    writes: list[Write] = field(default_factory=list)
    refused: list[RefusedRetry] = field(default_factory=list)
    sizes: dict[bytes, int] = field(default_factory=dict)
    born: dict[bytes, int] = field(default_factory=dict)
    redactions: list[Redaction] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    leftovers: dict[str, list[str]] = field(default_factory=dict)
    is_whole: bool = True

    @property
    def lost(self) -> frozenset[int]:
        """The seqs of events that damage took before the history began."""
        return frozenset() if self.restored is None else self.restored.lost

    @property
    def upto(self) -> int:
        """Up to where the history has what was before it."""
        return 0 if self.restored is None else self.restored.upto

    def taken(self) -> dict[int, Trim]:
        """Of every entry that retention took, the event that says so."""
        return {seq: trim for trim in self.trims for seq in trim.entries}

    def gone(self) -> dict[int, Trim]:
        """Of every unit that retention removed altogether, by its seq, the event that says so; and of every other seq that is missing."""
        return {seq: trim for trim in self.trims for seq in trim.removed}

    def passed(self, seq: int) -> float:
        """A moment at which the log's end surely had come to a seq."""
        return min((write.answered for write in self.writes if write.last >= seq), default=math.inf)

    def end_at(self, moment: float) -> float:
        """A seq that the log's end surely had not passed at a moment."""
        return min((write.first - 1 for write in self.writes if write.sent > moment), default=math.inf)

    def seen(self) -> Iterator[Entry]:
        """Every entry that anybody saw: in the log in the end, or before."""
        yield from self.log
        for subscriber in self.subscribers:
            yield from subscriber.received()
        for consumer in self.consumers:
            yield from (delivery.entry for delivery in consumer.delivered)


def _seqs(entries: Iterable[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


def seq_of(event: dict[str, Any]) -> int:
    """The seq of an event, as a stream gives it."""
    return int(event["cursor"].rpartition(".")[2])


def trims_of(events: Iterable[dict[str, Any]]) -> list[Trim]:
    """The trim events among events."""
    return [
        Trim(seq_of(event), event["data"]["context"], dict(event["data"]["entries"]), frozenset(event["data"]["removed"]))
        for event in events
        if event["kind"] == "units_trimmed"
    ]


def _bare(unit: Unit) -> Unit:
    """What redaction keeps of a unit."""
    edges = [{**edge, "meta": {}} for edge in unit.get("relationships", ())]
    return {**{name: value for name, value in unit.items() if name not in ("text", "payload", "meta", "redacted")}, "relationships": edges}


class _Explained:
    """What became of entries that somebody saw: they are in the log as they were, or redaction or retention says why not."""

    def __init__(self, history: History) -> None:
        self._log = {entry.seq: entry for entry in history.log}
        self._taken = history.taken()

    def check(self, who: str, entry: Entry) -> None:
        """Raises BrokenError when an entry is another now, and nothing says why."""
        now, trim = self._log.get(entry.seq), self._taken.get(entry.seq)
        if now is None and trim is not None and (trim.context, trim.entries[entry.seq]) == (entry.context, entry.unit["id"]):
            return
        if now is not None and "redacted" in now.unit:
            entry = Entry(entry.seq, entry.context, entry.kind, _bare(entry.unit))
            now = Entry(now.seq, now.context, now.kind, _bare(now.unit))
        if entry != now:
            raise BrokenError(f"{who} got {entry}, the log has {now}")


def durable(history: History) -> None:
    """Every acknowledged unit is in the log, where the writer was told; or retention took it, and says so."""
    births = {entry.seq: entry for entry in history.log if entry.kind == "unit_put"}
    taken = {(trim.context, seq): unit for trim in history.trims for seq, unit in trim.entries.items()}
    for told in history.acknowledged:
        born = births.get(told.seq)
        if born is None and taken.get((told.context, told.seq)) == told.id:
            continue
        text = None if born is None else told.key if "redacted" in born.unit else born.unit["text"]
        if born is None or born.unit["id"] != told.id or born.context != told.context or text != told.key:
            raise BrokenError(f"{told} is not in the log: {born}")
    there = {(entry.context, entry.unit["id"]) for entry in history.log}
    there |= {(context, unit) for (context, _), unit in taken.items()}
    for placed in history.placed:
        if (placed.context, placed.id) not in there:
            raise BrokenError(f"{placed} is not in the log")


def atomic(history: History) -> None:
    """The units of a put are in the log one behind the other, or none of them is; and behind them the end of a lease that was to end with
    them. In the place of one may be what redaction left of it, or nothing where retention took it."""
    births = {(entry.context, entry.unit["text"]): entry.seq for entry in history.seen() if entry.kind == "unit_put"}
    ends = {seq_of(event): event["data"]["token"] for event in history.events if event["kind"] == "lock_released"}
    tombs = {(entry.context, entry.seq) for entry in history.log if entry.kind == "unit_put" and "redacted" in entry.unit}
    explained = tombs | {(trim.context, seq) for trim in history.trims for seq in trim.entries}
    for put in history.puts:
        found = [births.get((put.context, text)) for text in put.texts]
        first = next((seq - at for at, seq in enumerate(found) if seq is not None), None)
        if first is None:
            continue
        if any(seq != first + at and (seq, (put.context, first + at) in explained) != (None, True) for at, seq in enumerate(found)):
            raise BrokenError(f"{put} stands at {found}")
        if put.released and ends.get(first + len(found)) != put.released:
            raise BrokenError(f"{put} stands at {found}, and its lease did not end with it")


def covered(history: History) -> None:
    """Every seq up to the end is in the log, or a trim event behind it says that its entry was taken or that it is missing; and that is so.
    No entry is taken twice, and what is missing was an entry that was taken."""
    if history.present is None:
        return
    missing = set(range(1, history.end + 1)) - history.present
    removed, taken = history.gone().keys(), history.taken().keys()
    unsaid = missing - removed - taken - history.lost
    still = (removed - missing) | (taken & set(_seqs(history.log)))
    if unsaid or still:
        raise BrokenError(f"missing without a trim event: {unsaid}; there all the same: {still}")
    said: set[int] = set()
    for trim in history.trims:
        again, said = said & trim.entries.keys(), said | trim.entries.keys()
        if again or max(said | trim.removed) >= trim.seq:
            raise BrokenError(f"{trim} takes what was taken already, or not yet there: {again}")
        if not trim.removed <= said and not history.lost:
            raise BrokenError(f"{trim} removes what was no entry: {trim.removed - said}")


def ordered(history: History) -> None:
    """A subscriber gets entries in the order of their seqs, live or replayed, on each connection and across them."""
    for subscriber in history.subscribers:
        seqs = _seqs(subscriber.received())
        if seqs != sorted(seqs):
            raise BrokenError(f"{subscriber.name} got {seqs}")


def gapless(history: History) -> None:
    """Between where a subscriber began and where it stood in the end, none of what it asked for is missing; but what it was told is gone,
    and, where it asked for what is there, what was gone then."""
    taken = history.taken()
    bare = {event["data"]["id"] for event in history.events if event["kind"] == "unit_redacted"}  # whose labels may have gone first
    seen = {entry.seq: _unlabelled(entry) if entry.unit["id"] in bare else entry for entry in history.seen() if entry.seq in taken}
    for subscriber in history.subscribers:
        got = set(_seqs(subscriber.received()))
        wanted = {entry.seq for entry in [*history.log, *seen.values()] if subscriber.wants(entry)}
        wanted |= {seq for seq, trim in taken.items() if subscriber.wants_all_of(trim.context)}
        missing = sorted(seq for seq in wanted - got if _is_due(history, subscriber, seq, taken.get(seq)))
        if missing:
            raise BrokenError(f"{subscriber.name} never got {missing}")


def _unlabelled(entry: Entry) -> Entry:
    return Entry(entry.seq, entry.context, entry.kind, {**entry.unit, "meta": {}})


def _is_due(history: History, subscriber: Subscriber, seq: int, trim: Trim | None) -> bool:
    """Whether a subscriber should have got an entry, which a trim event may have taken since."""
    sessions = subscriber.sessions
    if not sessions[0].after < seq <= sessions[-1].until:
        return False
    for before, session in zip([None, *sessions], sessions, strict=False):
        if before is not None and session.told and before.until < seq <= session.after:
            return False
        if trim is not None and session.after == 0 and seq <= session.until:
            return trim.seq > history.end_at(session.began)
    return True


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
                trims = [trim for trim in history.trims if not subscriber.contexts or trim.context in subscriber.contexts]
                if session.after <= reached or not any(session.after in trim.entries for trim in trims):
                    raise BrokenError(f"{subscriber.name} was told to skip from {reached} to {session.after}, where nothing was removed")
            elif session.after != reached:
                raise BrokenError(f"{subscriber.name} resumed at {session.after}, having stood at {reached}")
            early = [seq for seq in _seqs(session.received) if not session.after < seq <= session.until]
            if early:
                raise BrokenError(f"{subscriber.name} resumed at {session.after} and got {early}, standing at {session.until}")
            reached = session.until


def filtered(history: History) -> None:
    """A subscriber gets nothing but what it asked for, and each entry as it is in the log."""
    explained = _Explained(history)
    for subscriber in history.subscribers:
        for entry in subscriber.received():
            if not subscriber.wants(entry):
                raise BrokenError(f"{subscriber.name} did not ask for {entry}")
            explained.check(subscriber.name, entry)


def idempotent(history: History) -> None:
    """However often a put with a dedupe key was tried, its units exist at most once, and every answer was the same; until retention has
    removed the first of them. A retry is refused only where others of them are gone."""
    births: dict[tuple[str, str], set[int]] = defaultdict(set)
    for entry in history.seen():
        if entry.kind == "unit_put" and (entry.context, entry.unit["text"]) in history.attempts:
            births[entry.context, entry.unit["text"]].add(entry.seq)
    ids: dict[tuple[str, str, int], bytes] = {}
    for told in history.acknowledged:
        births[told.context, told.key].add(told.seq)
        if ids.setdefault((told.context, told.key, told.seq), told.id) != told.id:
            raise BrokenError(f"{told} was answered with another id before")
    place = {(put.context, text): at for put in history.puts for at, text in enumerate(put.texts)}
    gone = history.gone()
    for key, seqs in births.items():
        for first, then in pairwise(seq - place.get(key, 0) for seq in sorted(seqs)):
            if first not in gone or gone[first].seq >= then:
                raise BrokenError(f"{key} exists at {seqs}")
    for refused in history.refused:
        rest = range(refused.seq + 1, refused.seq + len(refused.put.texts))
        if not history.lost and not any(seq in gone for seq in rest):
            raise BrokenError(f"{refused} was refused, and nothing of it is gone")


def acked(history: History) -> None:
    """A consumer's members get every entry that it wants, unless retention took it and says that it was missed; none again after its
    acknowledgement was answered; and none while another has it. Of one key, none before those in front of it were acknowledged."""
    taken, explained = history.taken(), _Explained(history)
    for consumer in history.consumers:
        wanted = {entry.seq: entry for entry in history.log if consumer.wants(entry)}
        delivered = {delivery.entry.seq: delivery.entry for delivery in consumer.delivered}
        missing = wanted.keys() - delivered.keys() - consumer.done
        if not history.lost:
            gone = {seq for seq, trim in taken.items() if consumer.reads(trim.context)}
            missing |= gone - delivered.keys() - consumer.done - {seq for seqs in _missed(history, consumer.name).values() for seq in seqs}
        if missing and history.is_whole:
            raise BrokenError(f"{consumer.name} never got {sorted(missing)}")
        open_: dict[int, Delivery] = {}
        released = consumer.released([one for _, one in sorted({**delivered, **wanted}.items())], taken.keys())
        for delivery in sorted(consumer.delivered, key=lambda delivery: delivery.number):
            seq = delivery.entry.seq
            if not consumer.wants(delivery.entry):
                raise BrokenError(f"{consumer.name} did not ask for {delivery}")
            explained.check(consumer.name, delivery.entry)
            if consumer.acked.get(seq, delivery.number) < delivery.number:
                raise BrokenError(f"{consumer.name} got {delivery} after its acknowledgement was answered")
            before = open_.get(seq)
            if before is not None and not consumer.is_cut(before, delivery):
                raise BrokenError(f"{consumer.name} got {delivery} while it had {before}")
            open_[seq] = delivery
            if delivery.number < released[seq]:
                raise BrokenError(f"{consumer.name} got {delivery} before those of its key in front of it were done")


def _missed(history: History, name: str) -> dict[int, list[int]]:
    """What the log says that a consumer missed since its creation, by the seqs of the events that say so."""
    missed: dict[int, list[int]] = {}
    for event in history.events:
        if event.get("data", {}).get("consumer") != name:
            continue
        if event["kind"] == "consumer_created":  # another one, where damage took the first
            missed = {}
        elif event["kind"] == "consumer_missed":
            missed[seq_of(event)] = event["data"]["entries"]
    return missed


class _Done:
    """What of a consumer is done at a point of the log."""

    def __init__(self) -> None:
        self._cursor = 0
        self._entries: set[int] = set()

    def see(self, event: dict[str, Any]) -> None:
        """Go on by an event of the consumer."""
        data = event["data"]
        if event["kind"] == "consumer_created":
            self._cursor = data["cursor"]
        elif event["kind"] == "consumer_acked":
            self._entries.update(seq for first, last in data["done"] for seq in range(first, last + 1))
        elif event["kind"] == "consumer_parked":
            self._entries.add(data["entry"])

    def has(self, entry: int) -> bool:
        """Whether an entry is done."""
        return entry <= self._cursor or entry in self._entries


def counted(history: History) -> None:
    """Of what retention takes from what a consumer wants, an event right behind says what was not done, and nothing else does. A consumer's
    number of what it missed is in its description, and in what it is given."""
    for consumer in history.consumers:
        missed = _missed(history, consumer.name)
        if not history.lost:
            _check_missed(history, consumer)
        all_ = sum(len(entries) for entries in missed.values())
        if consumer.missed not in (None, all_):
            raise BrokenError(f"{consumer.name} is said to have missed {consumer.missed}, the log says {all_}")
        for delivery in consumer.delivered:  # what was missed before an entry was put was so before that could be delivered
            least = sum(len(entries) for at, entries in missed.items() if at < delivery.entry.seq)
            if not least <= delivery.missed <= all_:
                raise BrokenError(f"{consumer.name} got {delivery}, having missed from {least} to {all_}")


def _check_missed(history: History, consumer: Consumer) -> None:
    done, due = None, list[int]()
    for event in history.events:
        of = event.get("data", {}).get("consumer")
        if event["kind"] == "consumer_missed" and of == consumer.name:
            if event["data"]["entries"] != due or not due:
                raise BrokenError(f"{consumer.name} missed {due}, and {event} says so")
            due = []
        elif event["kind"] != "consumer_missed" and due:
            raise BrokenError(f"{consumer.name} missed {due}, and no event in front of {event} says so")
        elif event["kind"] == "units_trimmed" and done is not None and consumer.reads(event["data"]["context"]):
            due = [entry for entry, _ in event["data"]["entries"] if not done.has(entry)]
        elif of == consumer.name:
            done = done or _Done()
            done.see(event)
    if due:
        raise BrokenError(f"{consumer.name} missed {due}, and no event says so")


def caught_up(history: History) -> None:
    """Every subscriber stands at the end; else the validators above would hold for one that got nothing at all. (Trims go on.)"""
    end = max(entry.seq for entry in history.log) if history.trims else history.end
    for subscriber in history.subscribers:
        if history.is_whole and subscriber.sessions[-1].until < end:
            raise BrokenError(f"{subscriber.name} stands at {subscriber.sessions[-1].until}, the log ends at {end}")


def read_your_writes(history: History) -> None:
    """What was answered before a read was sent is found by it, whoever reads; or a search says how far it is behind. What retention or
    redaction took before the read was answered may be missing."""
    taken, gone = history.taken(), history.gone()
    erased = {event["data"]["id"]: seq_of(event) for event in history.events if event["kind"] == "unit_redacted"}
    for read in history.reads:
        for told in history.acknowledged:
            if told.answered < read.sent and read.covers(told) and told.id not in read.found:
                trim = (taken if read.context else gone).get(told.seq)
                excuses = [trim.seq if trim else math.inf, erased.get(told.id, math.inf) if read.word else math.inf]
                if min(excuses) > min(history.end_at(read.answered), history.end):
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
        before, known = {seq_of(event): event for event in damaged.before}, {seq_of(event) for event in damaged.read}
        undone = {seq: unit for trim in trims_of(damaged.before) if trim.seq not in known for seq, unit in trim.entries.items()}
        for event in damaged.read:
            was = before.get(seq_of(event))
            if was is None and undone.get(seq_of(event), b"") == event.get("unit", {}).get("id"):
                continue  # what was taken by an event that is lost was never taken
            is_ = event
            if was is not None and was.get("unit", {}).get("redacted", {}).get("seq", seq_of(was)) not in known:
                was, is_ = _bare_event(was), _bare_event(event)
            if _without_cursor(is_) != _without_cursor(was):
                raise BrokenError(f"a damaged store gave {event}, where there was {was}")


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
    """What was restored is what was there before, up to the seq that the backup names, but for what it says is lost. What retention and
    redaction took by an event that is behind that seq, or lost, may be there again; what they have taken since is not."""
    if history.restored is None:
        return
    upto, lost = history.restored.upto, history.lost
    before = {seq_of(event): event for event in history.restored.before if seq_of(event) not in history.lost}
    now = {seq_of(event): event for event in history.events}
    trims = trims_of(history.restored.before)
    undone = {seq for trim in trims if trim.seq > upto or trim.seq in lost for seq in (*trim.entries, *trim.removed)}
    taken = {seq for trim in history.trims if trim.seq > upto for seq in (*trim.entries, *trim.removed)}
    for seq in range(1, upto + 1):
        was, is_ = before.get(seq), now.get(seq)
        if (was is None and seq in undone) or (is_ is None and seq in taken):
            continue
        if any(seq > upto or seq in lost for seq in map(_erased_at, (was, is_))):
            was, is_ = _bare_event(was), _bare_event(is_)
        if _without_cursor(was) != _without_cursor(is_):
            raise BrokenError(f"at {seq} there was {was}, and now there is {is_}")


def _erased_at(event: dict[str, Any] | None) -> int:
    """The seq of the event that redacted an entry's unit; 0 where none did."""
    return 0 if event is None else int(event.get("unit", {}).get("redacted", {}).get("seq", 0))


def _bare_event(event: dict[str, Any] | None) -> dict[str, Any] | None:
    return event and {**event, "unit": _bare(event["unit"])}


def retained(history: History) -> None:
    """Retention takes of a context what is over a limit, the oldest first, and nothing that is pinned. What it has removed, nobody gets."""
    if not history.lost:
        _Kept(history).check()
    gone = {told.id: history.passed(trim.seq) for told in history.acknowledged if (trim := history.gone().get(told.seq))}
    for read in history.reads:
        again = [unit for unit in read.found if gone.get(unit, math.inf) < read.sent]
        if again:
            raise BrokenError(f"{read} found {again}, which retention had removed")


class _Kept:
    """What contexts are to keep, as the log goes on, and what there is in them.

    Attributes:
        entries: of each context, its entries with the ids of their units, in order, whether they are there yet or not.
    """

    def __init__(self, history: History) -> None:
        self._events = history.events
        self._trims = {trim.seq: trim for trim in history.trims}
        self._sizes = history.sizes
        self._units = history.born | {entry.unit["id"]: entry.unit.get("seq", entry.seq) for entry in history.seen()}
        self._times = {entry.seq: entry.unit["ts"] for entry in history.seen() if entry.kind == "unit_put" and "ts" in entry.unit}
        self._limits: dict[str, dict[str, Any]] = {}
        self._pins: set[tuple[str, int]] = set()
        self._unpinned: set[tuple[str, int]] = set()  # retention may not have noticed
        entries = [(entry.context, entry.seq, entry.unit["id"]) for entry in history.log]
        entries += [(trim.context, seq, unit) for trim in history.trims for seq, unit in trim.entries.items()]
        self.entries: dict[str, dict[int, bytes]] = defaultdict(dict)
        for context, seq, unit in sorted(entries, key=lambda entry: entry[1]):
            self.entries[context][seq] = unit

    def check(self) -> None:
        """Go through the log. Raises BrokenError."""
        for event in self._events:
            data = event.get("data", {})
            if event["kind"] == "retention_set":
                self._limits[data["context"]] = {name: data[name] for name in ("age", "units", "bytes") if data[name] is not None}
            elif event["kind"] == "unit_pinned":
                self._pins.add((data["context"], data["unit"]))
            elif event["kind"] == "unit_unpinned":
                self._pins.discard((data["context"], data["unit"]))
                self._unpinned.add((data["context"], data["unit"]))
            elif event["kind"] == "units_trimmed":
                self._check(self._trims[seq_of(event)], event["ts"])

    def _check(self, trim: Trim, ts: int) -> None:
        there = self.entries[trim.context]
        pinned = [seq for seq, unit in trim.entries.items() if self._place(trim, seq, unit) in self._pins]
        if pinned:
            raise BrokenError(f"{trim} takes {pinned}, which are pinned")
        last = max(trim.entries)
        spared = [seq for seq, unit in there.items() if seq < last and seq not in trim.entries]
        passed = [seq for seq in spared if self._place(trim, seq, there[seq]) not in self._pins | self._unpinned]
        if passed:
            raise BrokenError(f"{trim} takes what is younger than {passed}")
        for seq in [*trim.entries][:-1]:
            del there[seq]
        if not self._is_over(trim, last, ts):
            raise BrokenError(f"{trim} takes {last}, which is over no limit of {self._limits.get(trim.context)}")
        del there[last]

    def _place(self, trim: Trim, seq: int, unit: bytes) -> tuple[str, int]:
        """The context and the seq of the unit, by which a pin knows it."""
        return trim.context, self._units.get(unit, seq)

    def _is_over(self, trim: Trim, seq: int, ts: int) -> bool:
        """Whether a limit says that an entry is to be taken, as far as its size and time are known."""
        limits = self._limits.get(trim.context, {})
        there = [unit for at, unit in self.entries[trim.context].items() if at < trim.seq]
        size = sum(self._sizes.get(unit, math.inf) for unit in there)
        age = ts - self._times.get(seq, -math.inf)
        return len(there) > limits.get("units", math.inf) or size > limits.get("bytes", math.inf) or age > limits.get("age", math.inf)


def redacted(history: History) -> None:
    """Of a unit whose redaction was answered, nobody who asks after that gets the payload or the labels, and the log has at its seq what is
    left of it and who redacted it; or retention took it. Nothing is redacted that nobody asked for."""
    events = {event["data"]["id"]: event for event in history.events if event["kind"] == "unit_redacted"}
    _check_tombstones(history, events)
    there = {entry.unit["id"] for entry in history.log}
    since = {unit: history.passed(seq_of(event)) if seq_of(event) > history.upto else -math.inf for unit, event in events.items()}
    for redaction in history.redactions:
        for unit in redaction.ids if redaction.answered < math.inf else ():
            since[unit] = min(since.get(unit, math.inf), redaction.answered)
            if unit not in events or not (unit in there or any(unit in trim.entries.values() for trim in history.trims)):
                raise BrokenError(f"{redaction} was answered, and {unit.hex()} is not in the log as redacted")
    asked = {(redaction.agent, redaction.reason, unit) for redaction in history.redactions for unit in redaction.ids}
    for unit, event in events.items():
        if seq_of(event) > history.upto and (event["data"]["agent"], event["data"]["reason"], unit) not in asked:
            raise BrokenError(f"{event} is what nobody asked for")
    for sight in history.sights:
        if since.get(sight.id, math.inf) < sight.sent:
            raise BrokenError(f"{sight} is of what had been redacted")


def _check_tombstones(history: History, events: Mapping[bytes, dict[str, Any]]) -> None:
    """The units that events redacted are tombstones, which name the event, and no others are."""
    for entry in history.log:
        unit, event = entry.unit, events.get(entry.unit["id"])
        told = event and {"seq": seq_of(event), "ts": event["ts"], **{name: event["data"][name] for name in ("agent", "reason")}}
        if unit.get("redacted") != told and unit.get("redacted", {}).get("seq") not in history.lost:
            raise BrokenError(f"{entry} is a tombstone or is not, and the log says {told}")
        if "redacted" in unit and (unit["text"], unit["meta"]) != ("", {}):
            raise BrokenError(f"{entry} is a tombstone that tells")


def erased(history: History) -> None:
    """When erasures have finished, nothing of what was redacted is in a file of the store."""
    found = {what: files for what, files in history.leftovers.items() if files}
    if found:
        raise BrokenError(f"redacted, and in files: {found}")


def _without_cursor(event: dict[str, Any] | None) -> dict[str, Any] | None:
    return event and {name: value for name, value in event.items() if name != "cursor"}


GUARANTEES = (
    *(durable, atomic, covered, retained, ordered, gapless, unique, resumable, filtered, caught_up, acked, counted, never_silent),
    *(redacted, erased, read_your_writes, exclusive, held_apart, idempotent, fail_stop, in_time, restored),
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
