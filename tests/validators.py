"""The guarantees, each as a function that raises `BrokenError` when a recorded history does not keep it.

A history is what clients saw: the log as one reader replayed it in the end, what writers were told, and what every subscriber received,
connection by connection. Nothing here knows how the daemon works.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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
    """

    after: int
    until: int
    received: list[Entry] = field(default_factory=list)
    told: bool = False


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
    """What a writer was told of one unit."""

    writer: str
    key: str
    context: str
    id: bytes
    seq: int


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
    """

    name: str
    contexts: Sequence[str] = ()
    key: str | None = None
    delivered: list[Delivery] = field(default_factory=list)
    acked: dict[int, int] = field(default_factory=dict)
    asked: dict[int, int] = field(default_factory=dict)
    cut: dict[int, int] = field(default_factory=dict)
    restarts: list[int] = field(default_factory=list)

    def wants(self, entry: Entry) -> bool:
        """Whether an entry is one it asked for."""
        return not self.contexts or entry.context in self.contexts

    def is_cut(self, before: Delivery, after: Delivery) -> bool:
        """Whether the connection of one delivery ended before another."""
        ends = [*self.restarts, self.cut.get(before.connection, after.number)]
        return any(before.number < number < after.number for number in ends)

    def before(self, delivery: Delivery) -> set[int]:
        """What members had acknowledged before a delivery."""
        return {seq for seq, number in self.asked.items() if number < delivery.number}


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
    """

    log: list[Entry] = field(default_factory=list)
    end: int = 0
    acknowledged: list[Acknowledged] = field(default_factory=list)
    attempts: dict[tuple[str, str], int] = field(default_factory=dict)
    subscribers: list[Subscriber] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    present: set[int] | None = None
    trims: list[Trim] = field(default_factory=list)

    def was_trimmed(self, entry: Entry) -> bool:
        """Whether retention took an entry from its context."""
        return any(trim.context == entry.context and entry.seq in trim.entries for trim in self.trims)


def _seqs(entries: Iterable[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


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


def covered(history: History) -> None:
    """Every seq up to the end is in the log, or a trim event says that its entry was taken or that it is missing; and that is so."""
    if history.present is None:
        return
    missing = set(range(1, history.end + 1)) - history.present
    removed = {seq for trim in history.trims for seq in trim.removed}
    unsaid = missing - removed - {seq for trim in history.trims for seq in trim.entries}
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
        twice = sorted({seq for seq in seqs if seqs.count(seq) > 1})
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
        missing = wanted.keys() - {delivery.entry.seq for delivery in consumer.delivered}
        if missing:
            raise BrokenError(f"{consumer.name} never got {sorted(missing)}")
        open_: dict[int, Delivery] = {}
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
            if consumer.key is not None:
                label = delivery.entry.unit["meta"].get(consumer.key)
                for other, entry in wanted.items():
                    if other < seq and entry.unit["meta"].get(consumer.key) == label and other not in consumer.before(delivery):
                        raise BrokenError(f"{consumer.name} got {delivery} before {other} was done")


def caught_up(history: History) -> None:
    """Every subscriber stands at the end; else the validators above would hold for one that got nothing at all. (Trims go on.)"""
    end = max(entry.seq for entry in history.log) if history.trims else history.end
    for subscriber in history.subscribers:
        if subscriber.sessions[-1].until < end:
            raise BrokenError(f"{subscriber.name} stands at {subscriber.sessions[-1].until}, the log ends at {end}")


GUARANTEES = (durable, covered, ordered, gapless, unique, resumable, filtered, idempotent, acked, caught_up)


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


def exclusive(events: Iterable[dict[str, Any]], token_label: str = "token") -> dict[int, Held]:
    """No two conflicting leases at any point, tokens rise, and no unit under a token that is not held.

    Args:
        events: every event of the log in order, as a stream of events gives them: `{seq, kind, data}`, or `{kind, unit}`.
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
            _check_conflicts(lease, held.values())
            held[token] = lease
        elif kind in ("lock_released", "lock_expired", "lock_stolen"):
            if held.pop(event["data"]["token"], None) is None:
                raise BrokenError(f"{kind} at {event['seq']} of a lease that was not held")
        elif "unit" in event and token_label in event["unit"]["meta"]:
            token = int(event["unit"]["meta"][token_label])
            if token not in held:
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
