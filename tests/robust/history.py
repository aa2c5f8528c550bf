"""What the records of a round come to: for each history of the log, one for the validators.

A round has one history as long as its store lasts. A store that was restored has another: what a client was told before holds for the one
before, and its connections say which that is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from validators import (
    Acknowledged,
    Consumer,
    Damaged,
    Delivery,
    Entry,
    Foreign,
    Held,
    History,
    Life,
    Outage,
    Placed,
    Put,
    Read,
    Redaction,
    RefusedRetry,
    Restored,
    Session,
    Sight,
    Subscriber,
    Tenure,
    Write,
    seq_of,
    trims_of,
)

from .clients import CONSUMERS, FILTERS, READERS
from .record import Line, lines

LIFE = 10**18  # moments of a life of the daemon. What came over a connection belongs to its life, however late the client came to note it
MICROSECOND = 1000  # nanoseconds, which moments are


@dataclass
class Era:
    """The time of one history.

    Attributes:
        events: every event of its log, as it was in the end.
        ended: the moment of its end.
        is_last: whether its readers had time to read to its end.
    """

    history: str
    events: list[dict[str, Any]] = field(default_factory=list)
    ended: float = math.inf
    restored: Restored | None = None
    is_last: bool = False


@dataclass
class Past:
    """What the hand that plays the faults has to say of a round.

    Attributes:
        pids: of the daemon's processes, in order.
        missed: how many entries each consumer had missed in the end, as the daemon says.
        stores: the directories of the last store, and of its backup, which nobody writes to any more.
    """

    eras: list[Era] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)
    missed: dict[str, int] = field(default_factory=dict)
    stores: list[Path] = field(default_factory=list)


@dataclass
class Exchange:
    """A request and all that came of it.

    Attributes:
        life: the number of the daemon's process that it was sent to; of a client that does not know that, 0.
    """

    client: str
    connection: str
    history: str
    life: int
    op: str
    fields: dict[str, Any]
    sent: int
    answered: int = 0
    result: dict[str, Any] | None = None
    error: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    items: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def at(self, moment: int) -> int:
        """A moment on its connection, among those of all lives."""
        return self.life * LIFE + moment


def exchanges(client: str, path: Path, pids: list[int]) -> Iterator[Exchange]:
    """The exchanges of a client, by the time they were sent."""
    opened: dict[str, Line] = {}
    under_way: dict[tuple[str, Any], Exchange] = {}
    for line in lines(path):
        place = line.get("c", ""), line.get("id")
        if line["did"] == "opened":
            opened[line["c"]] = line
        elif line["did"] == "sent":
            on = opened.get(line["c"])
            history, life = ("", 0) if on is None else (on["history"], 1 + pids.index(on["pid"]))
            under_way[place] = Exchange(client, line["c"], history, life, line["op"], line["fields"], line["t"])
        elif line["did"] == "got":
            under_way[place].items.append((line["t"], line["event"]))
        elif line["did"] == "answered" and place in under_way:
            one = under_way[place]
            error = line.get("error", {})
            one.answered, one.result, one.error, one.details = (
                line["t"],
                line.get("result"),
                error.get("code", ""),
                error.get("details", {}),
            )
            one.history = line.get("history", one.history)
    yield from under_way.values()


@dataclass
class Recorded:
    """All records of a round.

    Attributes:
        cuts: of each connection, the moment at which its client hung up or was killed.
    """

    exchanges: list[Exchange]
    cuts: dict[str, int]
    past: Past

    @classmethod
    def read(cls, directory: Path, past: Past) -> Recorded:
        """Read those in a directory."""
        found: list[Exchange] = []
        cuts: dict[str, int] = {}
        for path in sorted(directory.glob("*.jsonl")):
            found += exchanges(path.stem, path, past.pids)
            cuts |= _cuts(path)
        return cls(sorted(found, key=lambda one: one.sent), cuts, past)

    def histories(self) -> Iterator[History]:
        """One for each era. What is the daemon's, and no era's, goes with the last."""
        for era in self.past.eras:
            yield self._history(era)

    def _history(self, era: Era) -> History:
        mine = [one for one in self.exchanges if _era_of(one) == era.history]
        entries = [entry for event in era.events if (entry := entry_of(event)) is not None]
        puts = [one for one in mine if one.op == "put"]
        whole = [one for one in puts if era.restored is None or not self._is_older(one)]
        made = History(entries, seq_of(era.events[-1]))
        made.is_whole = era.is_last
        made.present = {seq_of(event) for event in era.events}
        made.events, made.restored, made.trims = era.events, era.restored, trims_of(era.events)
        made.acknowledged = [told for one in puts for told in acknowledged(one)]
        made.attempts = {(one.fields["context"], text): 1 for one in whole for text in texts(one)}
        made.puts = [put(one) for one in whole]
        made.placed = [Placed(one.fields["context"], one.fields["ids"][0]) for one in mine if one.op == "context_add" and one.result]
        made.reads = [found for one in mine if (found := what_was_read(one)) is not None]
        made.tenures = list(tenures(mine, era.ended))
        made.subscribers, made.foreign = subscribers(self.exchanges, era.history)
        made.consumers = [self._consumer(name, mine, era) for name in CONSUMERS]
        made.writes = [write for one in puts if (write := as_write(one)) is not None]
        made.refused = [RefusedRetry(put(one), one.details["seq"]) for one in whole if one.error == "trimmed"]
        made.sizes, made.born = self._sizes, self._born
        made.redactions = [redaction(one) for one in mine if one.op == "redact"]
        ids = {event["data"]["id"] for event in era.events if event["kind"] == "unit_redacted"}
        made.sights = [sight for one in mine for sight in sights(one) if sight.id in ids]
        made.outages = self.past.outages
        if era.is_last:
            made.lives, made.damaged = self.past.lives, self.past.damaged
            made.leftovers = self._leftovers(ids)
        return made

    @cached_property
    def _sizes(self) -> dict[bytes, int]:
        """Of each unit that its client was told of, what retention counts."""
        return {
            unit_id: size(unit)
            for one in self.exchanges
            if one.op == "put" and one.result
            for unit, unit_id in zip(units(one), ids_of(one), strict=True)
        }

    @cached_property
    def _born(self) -> dict[bytes, int]:
        """The seq of each unit that its client was told of, which it has in every history that has it."""
        return {told.id: told.seq for one in self.exchanges if one.op == "put" for told in acknowledged(one)}

    def _leftovers(self, redacted: set[bytes]) -> dict[str, list[str]]:
        """Of each secret that was redacted, where in the last store and its backup it is found."""
        secrets = [
            word
            for one in self.exchanges
            if one.op == "put" and one.result and one.result["id"] in redacted and "s" in one.fields.get("meta", ())
            for word in (one.fields["text"].split()[-1], one.fields["meta"]["s"])
        ]
        contents = {path: path.read_bytes() for store in self.past.stores for path in store.rglob("*") if path.is_file()}
        return {secret: [str(path) for path, content in contents.items() if secret.encode() in content] for secret in secrets}

    def _is_older(self, one: Exchange) -> bool:
        """Whether a put was tried in an era before, too: then damage may have taken a part of it, and its key."""
        return self._first_tried[texts(one)[0]] != one.history

    @cached_property
    def _first_tried(self) -> dict[str, str]:
        """Of the first payload of each put, the history in which that was tried first."""
        return {texts(one)[0]: one.history for one in reversed(self.exchanges) if one.op == "put"}

    def _consumer(self, name: str, mine: list[Exchange], era: Era) -> Consumer:
        settings = CONSUMERS[name]
        made = Consumer(name, settings.get("contexts", ()), settings.get("key", "").removeprefix("meta:") or None)
        numbers = {one.connection: number for number, one in enumerate(mine)}
        for one in mine:
            if one.op == "consume" and one.fields["consumer"] == name:
                made.delivered += [
                    Delivery(numbers[one.connection], entry, event["deliveries"], one.at(moment), event.get("missed", 0))
                    for moment, event in one.items
                    if (entry := entry_of(event)) is not None
                ]
                if one.connection in self.cuts:
                    made.cut[numbers[one.connection]] = one.at(self.cuts[one.connection])
            elif one.op == "ack" and one.fields["consumer"] == name:
                seq = int(one.fields["entries"][0].rpartition(".")[2])
                made.asked.setdefault(seq, one.at(one.sent))
                if one.result is not None:
                    made.acked.setdefault(seq, one.at(one.answered))
        made.missed = self.past.missed.get(name) if era.is_last else None
        made.restarts = [life * LIFE for life in range(1, len(self.past.pids) + 1)]
        upto = era.restored.upto if era.restored else 0
        made.done = {
            int(one.fields["entries"][0].rpartition(".")[2])
            for one in self.exchanges
            if one.op == "ack" and one.fields["consumer"] == name and _era_of(one) != era.history
        } & set(range(upto + 1))
        return made


def _cuts(path: Path) -> dict[str, int]:
    """When each connection of a client ended, as far as that was its own doing, or that of who killed it."""
    open_: set[str] = set()
    cuts: dict[str, int] = {}
    for line in lines(path):
        ended = {line["c"]} if line["did"] == "cut" else set(open_) if line["did"] == "killed" else set()
        cuts |= dict.fromkeys(ended, line["t"])
        open_ = (open_ | {line["c"]} if line["did"] == "opened" else open_) - ended
    return cuts


def _served(one: Exchange) -> set[str]:
    """The histories that a stream is of: that of its connection, and those of the items it gave."""
    given = {event["cursor"].rpartition(".")[0] for _, event in one.items}
    return given | ({one.history} if one.history else set())


def _asked(one: Exchange) -> str:
    """The history of the cursor at which a stream was to go on; nothing where it was to begin at the start."""
    return str(one.fields["after"]).rpartition(".")[0]


def _era_of(one: Exchange) -> str:
    """The history that an exchange belongs to. A client that was not told has it from the cursors it was given, or gave."""
    return min(_served(one) or {_asked(one)}) if one.op == "tail" else one.history


def entry_of(event: dict[str, Any]) -> Entry | None:
    """The entry of an item of a stream; None for anything else."""
    if "unit" not in event:
        return None
    unit = event["unit"]
    return Entry(seq_of(event), unit.get("entry_context", unit["context"]), event["kind"], unit)


# Writes


def units(one: Exchange) -> list[dict[str, Any]]:
    """The units of a put, as they were sent."""
    return one.fields.get("units", [one.fields])


def texts(one: Exchange) -> tuple[str, ...]:
    """The payloads of a put."""
    return tuple(unit["text"] for unit in units(one))


def ids_of(one: Exchange) -> list[bytes]:
    """The ids that the units of a put got."""
    assert one.result is not None
    return one.result.get("ids", [one.result["id"]])


def size(unit: dict[str, Any]) -> int:
    """The bytes of a unit's payload and labels."""
    return len(unit["text"].encode()) + sum(len(key.encode()) + len(value.encode()) for key, value in unit.get("meta", {}).items())


def as_write(one: Exchange) -> Write | None:
    """A put that was answered as new; None for any other."""
    if one.result is None or one.result["deduped"]:
        return None
    return Write(one.result["seq"] - len(texts(one)) + 1, one.result["seq"], one.sent, one.answered)


def redaction(one: Exchange) -> Redaction:
    """A redaction as the validators have it."""
    answered = math.inf if one.result is None else one.answered
    return Redaction(one.client, one.fields["reason"], frozenset(one.fields["ids"]), answered)


def put(one: Exchange) -> Put:
    """A put as the validators have it."""
    fences, release = one.fields.get("fences", ()), one.fields.get("release", False)
    is_new = one.result is not None and not one.result["deduped"]
    return Put(one.fields["context"], texts(one), fences[0]["token"] if release else 0, one.sent, one.answered if is_new else math.inf)


def acknowledged(one: Exchange) -> Iterator[Acknowledged]:
    """What a put was answered, for each of its units."""
    if one.result is None:
        return
    ids = ids_of(one)
    for at, (text, unit_id) in enumerate(zip(texts(one), ids, strict=True)):
        yield Acknowledged(one.client, text, one.fields["context"], unit_id, one.result["seq"] - len(ids) + 1 + at, one.answered)


# Reads


def what_was_read(one: Exchange) -> Read | None:
    """What a get, a list or a search found; None for any other exchange, and where nobody answered."""
    if one.op == "get" and (one.result or one.error == "not_found"):
        found = _ids((one.result or {}).get("units", ()))
        return Read(one.client, one.sent, found, ids=frozenset(one.fields["ids"]), answered=one.answered)
    if one.op == "list" and one.result:
        found = one.result["units"]
        seqs = [unit.get("entry", unit["seq"]) for unit in found] if one.result["next"] else []
        page = {"floor": min(seqs, default=0)} if one.fields.get("reverse") else {"ceiling": max(seqs, default=math.inf)}
        return Read(one.client, one.sent, _ids(found), context=one.fields["context"], answered=one.answered, **page)
    if one.op == "search" and one.result:
        found, behind = _ids(one.result["hits"]), one.result["behind"]
        return Read(one.client, one.sent, found, word=one.fields["query"], behind=behind, answered=one.answered)
    return None


def sights(one: Exchange) -> Iterator[Sight]:
    """The units of which an exchange showed something of the payload or the labels."""
    read = (one.result or {}).get({"get": "units", "list": "units", "search": "hits"}.get(one.op, ""), ())
    shown = [unit["id"] for unit in read if unit["shown"]]
    given = [event["unit"] for _, event in one.items if "unit" in event]
    shown += [unit["id"] for unit in given if unit["text"] or unit["meta"]]
    yield from (Sight(one.client, one.op, unit_id, one.sent) for unit_id in shown)


def _ids(units: Iterable[dict[str, Any]]) -> frozenset[bytes]:
    return frozenset(unit["id"] for unit in units)


def subscribers(found: list[Exchange], history: str) -> tuple[list[Subscriber], list[Foreign]]:
    """The streams of a history by reader, and those that were asked to go on at a cursor of another one."""
    made: dict[str, Subscriber] = {}
    foreign: list[Foreign] = []
    told: dict[str, str] = {}  # where each reader was told to go on
    for one in found:
        if one.op != "tail" or one.client not in READERS:
            continue
        if _asked(one) and _served(one) - {_asked(one)}:
            if history in _served(one):
                foreign.append(Foreign(one.client, one.fields["after"], len(one.items), one.error))
        elif _era_of(one) == history:
            made.setdefault(one.client, _subscriber(one.client)).sessions.append(_session(one))
            made[one.client].sessions[-1].told = told.get(one.client, "") == one.fields["after"]
            told[one.client] = one.details["cursor"] if one.error == "trimmed" else ""
    return list(made.values()), foreign


def _subscriber(client: str) -> Subscriber:
    asked = FILTERS.get(client, {})
    return Subscriber(
        client, asked.get("contexts", ()), asked.get("agent", ()), asked.get("type", ()), asked.get("meta", {}), asked.get("kinds", ())
    )


def _session(one: Exchange) -> Session:
    after = int(str(one.fields["after"]).rpartition(".")[2])
    cursors = [seq_of(event) for _, event in one.items]
    entries = [entry for _, event in one.items if (entry := entry_of(event)) is not None]
    error = "" if one.error == "cursor" and not one.history else one.error  # the client went on by itself, on another history
    began = min((moment for moment, _ in one.items), default=math.inf)
    return Session(after, max([after, *cursors]), entries, error=error, began=began)


# Leases


def tenures(found: list[Exchange], end: float) -> Iterator[Tenure]:
    """When each client that got a lease could be sure of it."""
    began: dict[int, tuple[Held, int]] = {}
    sure: dict[int, float] = {}  # until when
    given_up: dict[int, float] = {}
    for one in found:
        if one.op in ("lock", "renew") and one.result is not None:
            token = one.result["token"]
            lease = Held(token, one.client, one.result["resources"], one.result["mode"], one.fields.get("slots", 0))
            began.setdefault(token, (lease, one.answered))
            sure[token] = max(sure.get(token, 0), one.sent + one.result["ttl"] * MICROSECOND)
        elif one.op == "unlock":
            given_up.setdefault(one.fields["token"], one.sent)
        elif one.op == "put" and one.fields.get("release"):
            given_up.setdefault(one.fields["fences"][0]["token"], one.sent)
    for token, (lease, answered) in began.items():
        yield Tenure(lease, answered, min(sure[token], given_up.get(token, math.inf), end))
