"""Retention and redaction among everything else that is done to contexts, with restarts, against lists on paper."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stores import checked, execute, restored, saved

from engramd.state.consumers import CreateConsumer, DeleteConsumer
from engramd.state.contexts import SetContext, SetMember, SetPins, SetPlaces
from engramd.state.filters import EVERYTHING, Filter
from engramd.state.redaction import FinishErasures, Redact
from engramd.state.retention import SetRetention, TrimContext, TrimEvents
from engramd.state.tokens import IssueToken, RevokeToken
from engramd.state.units import Draft, Edge, Put
from engramd.state.view import (
    CONSUMERS,
    CONTEXTS,
    DEDUPE,
    ERASURES,
    MEMBERS,
    PINS,
    PLACES,
    RETENTION,
    TOKENS,
    TRIMMED,
    UNITS,
    Token,
    Trimmed,
)
from engramd.storage import keys, records
from engramd.storage.log import Log
from engramd.storage.query import Range, step
from engramd.storage.trim import old_events, oldest

CONTEXTS_, TYPES = ("a", "ab", "b"), ("message", "file_change")
contexts = st.sampled_from(CONTEXTS_)
picks = st.integers(0, 60)
limit = st.none() | st.integers(1, 12)


@dataclass
class Unit:
    """A unit on paper: where it was born, and what is left of it."""

    seq: int
    context: str
    text: str
    meta: dict[str, str]
    key: str | None
    targets: list[bytes]
    size: int
    redacted: bool = False


@dataclass
class Page:
    """A context on paper: its entries that are kept, as (seq, unit), those taken out, and what is pinned."""

    entries: dict[int, bytes] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    pins: set[bytes] = field(default_factory=set)
    keep: dict[str, int | None] = field(default_factory=dict)

    def place(self, unit: bytes) -> int:
        """Where the unit is in the context; 0 if it is not."""
        return max((entry for entry, other in self.entries.items() if other == unit and entry not in self.gone), default=0)


class Store(RuleBasedStateMachine):
    """Each command is carried out, done on paper, and everything that can be read is compared."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="engram-test-"))
        self.log = Log(self.directory / "log")
        self.ts = 1000
        self.units: dict[bytes, Unit] = {}
        self.born = 0
        self.pages: dict[str, Page] = {}
        self.times: dict[int, int] = {}  # of every entry there ever was
        self.covered: set[int] = set()
        self.erasing: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
            shutil.rmtree(self.directory)

    def do(self, *commands: Any) -> list[Any]:
        self.ts += 10
        return execute(self.log, self.ts, *commands)

    def unit(self, pick: int) -> bytes | None:
        return list(self.units)[pick % len(self.units)] if self.units else None

    @rule(
        name=contexts,
        texts=st.lists(st.sampled_from(("", "x", "long " * 900)), min_size=1, max_size=3),
        meta=st.dictionaries(st.sampled_from(("k", "path")), st.sampled_from(("/f", "v")), max_size=2),
        key=st.none() | st.sampled_from("de"),
        to=picks,
        kind=st.sampled_from(TYPES),
    )
    def put(self, name: str, texts: list[str], meta: dict[str, str], key: str | None, to: int, kind: str) -> None:
        targets = [found] if (found := self.unit(to)) else []
        edges = tuple(Edge("references", target, {"note": "secret"}) for target in targets)
        drafts = tuple(Draft((self.born + n).to_bytes(16), kind, meta, text, edges) for n, text in enumerate(texts, 1))
        self.born += len(texts)
        first = {unit.key: unit for unit in self.units.values() if unit.key and unit.context == name}
        appended = self.do(Put(name, "me", drafts, key))
        if key in first:
            assert not appended, "a key is remembered as long as the first unit of its put"
            return
        page = self.pages.setdefault(name, Page())
        for at, (draft, done) in enumerate(zip(drafts, appended[-len(drafts) :], strict=True)):
            size = len(draft.payload) + sum(len(name) + len(value) for name, value in meta.items())
            self.units[draft.id] = Unit(done.seq, name, str(draft.payload), meta, None if at else key, targets, size)
            page.entries[done.seq] = draft.id
            self.times[done.seq] = self.ts

    @rule(name=contexts, pick=picks, present=st.booleans())
    def move(self, name: str, pick: int, present: bool) -> None:
        unit = self.unit(pick)
        if unit is None:
            return
        appended = self.do(SetPlaces(name, "me", (unit,), present))
        page = self.pages.setdefault(name, Page()) if present else self.pages.get(name, Page())
        if present and not page.place(unit):
            page.entries[appended[-1].seq] = unit
            self.times[appended[-1].seq] = self.ts
        elif not present and page.place(unit):
            page.gone.add(page.place(unit))
            page.pins.discard(unit)

    @rule(name=contexts, pick=picks, pinned=st.booleans())
    def pin(self, name: str, pick: int, pinned: bool) -> None:
        unit, page = self.unit(pick), self.pages.get(name, Page())
        if unit is not None:
            self.do(SetPins(name, "me", (unit,), pinned))
            if pinned and page.place(unit):
                page.pins.add(unit)
            elif not pinned:
                page.pins.discard(unit)

    @rule(pick=picks)
    def redact(self, pick: int) -> None:
        unit = self.unit(pick)
        if unit is not None:
            before = self.units[unit]
            assert len(self.do(Redact("me", (unit,), "why"))) == (not before.redacted)
            if not before.redacted:
                self.erasing.add(before.seq)
            before.redacted, before.text, before.meta = True, "", {}

    @rule()
    def finish_erasures(self) -> None:
        self.do(FinishErasures(tuple(self.erasing)))
        self.erasing.clear()

    @rule(name=contexts, units=limit, size=st.none() | st.integers(1, 9000), age=st.none() | st.integers(1, 200))
    def retain(self, name: str, units: int | None, size: int | None, age: int | None) -> None:
        changes = {"units": units, "bytes": size, "age": age}
        if name in self.pages:
            self.pages[name].keep = changes
        self.do(SetRetention(name, "me", dict(changes)))

    @rule(name=contexts, step=st.integers(1, 5))
    def trim(self, name: str, step: int) -> None:
        """All that the context does not keep, a few at a time."""
        self.ts += 10
        after = 0
        while after is not None:
            found, after = oldest(self.log, name, after, step)
            for done in execute(self.log, self.ts, TrimContext(name, self.ts, tuple(found))) if found else ():
                self.covered |= set(done.event.removed)
        page = self.pages.get(name)
        if page is None:
            return
        for entry in sorted(page.entries):
            unit = page.entries[entry]
            size = sum(self.units[of].size for of in page.entries.values())
            keep = {what: value if value is not None else 2**60 for what, value in page.keep.items()}
            over = keep and (len(page.entries) > keep["units"] or size > keep["bytes"] or self.ts - self.times[entry] > keep["age"])
            if unit in page.pins and page.place(unit) == entry:
                continue
            if not over:
                break
            del page.entries[entry]
            page.gone.discard(entry)
            if not any(unit in other.entries.values() for other in self.pages.values()):
                del self.units[unit]

    @rule(age=st.integers(0, 300))
    def trim_events(self, age: int) -> None:
        found, reached = old_events(self.log, 0, self.ts - age)
        for done in self.do(TrimEvents(reached, tuple(found))):
            self.covered |= set(done.event.removed)

    @rule(name=contexts, title=st.sampled_from(("", "one", "other")), label=st.none() | st.sampled_from("vw"))
    def describe(self, name: str, title: str, label: str | None) -> None:
        self.do(SetContext(name, "me", title or None, {"l": label}))

    @rule(name=contexts, member=st.sampled_from(("me", "you")), joined=st.booleans())
    def join(self, name: str, member: str, joined: bool) -> None:
        self.do(SetMember(name, "me", member, joined))

    @rule(name=st.sampled_from("tu"), issued=st.booleans())
    def token(self, name: str, issued: bool) -> None:
        grant = Token("you", name.encode(), ("read",), (), (), None, "", 0)
        self.do(IssueToken("me", name, grant) if issued else RevokeToken("me", name))

    @rule(name=st.sampled_from("kl"), there=st.booleans())
    def consumer(self, name: str, there: bool) -> None:
        self.do(CreateConsumer(name, "me", {}, 0, True) if there else DeleteConsumer(name, "me"))

    @rule()
    def restore(self) -> None:
        """What is restored is as it was, however much of what led to it was removed."""
        with tempfile.TemporaryDirectory() as made:
            restored(saved(self.log, Path(made, "backup")), Path(made, "data"))
            assert [found.message for found in checked(Path(made, "data/log")).findings] == []
            with closing(Log(Path(made, "data/log"))) as again:
                assert standing(again) == standing(self.log)
                members = [set(log.durable.keys(MEMBERS)) for log in (again, self.log)]
                assert members[0] <= members[1], "who became one by a put that is gone, is none"

    @rule(flush=st.booleans())
    def restart(self, flush: bool) -> None:
        if flush:
            self.log.flush()
            self.log.compact(b"", b"\xff")
        self.log.close()
        self.log = Log(self.directory / "log")

    # What must hold after every command

    @invariant()
    def every_seq_is_there_or_covered(self) -> None:
        if hasattr(self, "log"):
            there = {seq for seq, _ in self.log.records(1, keys.LAST_SEQ)}
            trimmed = self.log.durable.get(TRIMMED, "") or Trimmed()
            told = max(trimmed.entries, trimmed.gone)  # behind this no reader misses anything
            assert all(seq <= told for seq in self.covered), "a reader of events would not be told"
            assert there | self.covered == set(range(1, self.log.last_seq + 1))
            assert not there & self.covered

    @invariant()
    def contexts_are_as_on_paper(self) -> None:
        for name, page in getattr(self, "pages", {}).items():
            row = self.log.durable.get(CONTEXTS, name)
            assert row is not None
            assert (row.entries, row.removed) == (len(page.entries) - len(page.gone), len(page.gone))
            assert row.size == sum(self.units[unit].size for unit in page.entries.values())
            kept = {self.units[unit].seq for unit in page.pins}
            assert {keys.seq_of(key) for key in self.log.durable.keys(PINS, keys.name(name))} == kept

    @invariant()
    def units_are_as_on_paper(self) -> None:
        if not hasattr(self, "log"):
            return
        assert set(self.log.durable.keys(UNITS)) == set(self.units)
        for unit_id, unit in self.units.items():
            stored = cbor2.loads(self.log.unit(unit.seq) or b"")
            assert (stored["text"], stored["meta"], "redacted" in stored) == (unit.text, unit.meta, unit.redacted)
            assert [edge["target"] for edge in stored["relationships"]] == unit.targets
            assert {bool(edge["meta"]) for edge in stored["relationships"]} <= {not unit.redacted}
            head = self.log.durable.get(UNITS, unit_id)
            assert head is not None
            assert head.entries == sum(other == unit_id for page in self.pages.values() for other in page.entries.values())
        assert sum(1 for _ in self.log.durable.keys(DEDUPE)) == sum(unit.key is not None for unit in self.units.values())
        assert {keys.seq_of(key) for key in self.log.durable.keys(ERASURES)} == self.erasing

    @invariant()
    def reading_gives_what_is_on_paper(self) -> None:
        everything = sorted((entry, name) for name, page in getattr(self, "pages", {}).items() for entry in page.entries)
        if everything:
            assert self.read(Range(None, EVERYTHING, 1, keys.LAST_SEQ)) == everything
        for name, page in getattr(self, "pages", {}).items():
            assert self.read(Range([name], EVERYTHING, 1, keys.LAST_SEQ)) == [(entry, name) for entry in sorted(page.entries)]
            present = [(entry, name) for entry in sorted(page.entries) if entry not in page.gone]
            assert self.read(Range([name], EVERYTHING, 1, keys.LAST_SEQ, present=True)) == present
            labelled = [(entry, name) for entry, unit in sorted(page.entries.items()) if self.units[unit].meta.get("k") == "v"]
            assert self.read(Range([name], Filter(meta=(("k", "v"),)), 1, keys.LAST_SEQ)) == labelled
            of = [(entry, name) for entry, unit in sorted(page.entries.items()) if self.units[unit].context == "a"]
            assert [entry for entry in self.read(Range([name], Filter(agents=frozenset({"me"})), 1, keys.LAST_SEQ)) if entry in of] == of

    def read(self, wanted: Range) -> list[tuple[int, str]]:
        found = []
        while wanted.first <= wanted.last:
            done = step(self.log, wanted)
            found += [(entry.seq, entry.context) for entry in done.entries]
            wanted = wanted._replace(first=done.reached + 1)
        return found

    @invariant()
    def no_key_leads_nowhere(self) -> None:
        if not hasattr(self, "log"):
            return
        entries = {(name, entry) for name, page in self.pages.items() for entry in page.entries}
        seqs = {unit.seq for unit in self.units.values()}
        for key, value in self.log._store.scan(b"a", b"z"):
            prefix, seq = key[:1], keys.seq_of(key)
            if prefix in (keys.ENTRY, keys.GONE):
                assert (key[1:-9].decode(), seq) in entries
            elif prefix == keys.ADDED:
                assert keys.seq_of(key[:-8]) in seqs
                assert (value.decode(), seq) in entries
            elif prefix == keys.BY_PATH:
                assert seq in seqs
            elif prefix != keys.LOG:
                assert seq in {entry for _, entry in entries}
        places = {(key[:-9].decode(), keys.seq_of(key)) for key in self.log.durable.keys(PLACES)}
        assert {seq for _, seq in places} <= seqs
        for record in (record for _, record in self.log.records(1, keys.LAST_SEQ) if record.code == records.UNIT_PUT):
            records.decode_event(record)


def standing(log: Log) -> dict[Any, Any]:
    """What a log says of what there is, by keys and rows; without when something began that is over, and what erasures have still to do."""
    exact = {PINS, PLACES, UNITS, DEDUPE, RETENTION, TOKENS}
    found: dict[Any, Any] = {key: value for key, value in log._store.scan(b"a", b"z") if key[:1] != keys.LOG}
    found |= {(table.name, key): row for table in exact for key, row in log.durable.scan(table)}
    found |= {("consumer", key): None for key in log.durable.keys(CONSUMERS)}
    changing = {"created_at": 0, "updated_at": 0}
    found |= {("context", key): row._replace(**changing) for key, row in log.durable.scan(CONTEXTS)}
    trimmed = log.durable.get(TRIMMED, "")
    return found | {"trimmed": trimmed and (trimmed.entries, trimmed.events)}


Store.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
TestRetention = Store.TestCase
