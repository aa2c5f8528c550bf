"""Random commands against a plain model of contexts: what a person would write down on paper, entry by entry.

The model shares nothing with the code but the commands and the names of the events. It also keeps what was true after every event, so
every past can be asked for.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ledger import Ledger, draft, unit_id

from engramd.state.contexts import CreateContext, SetContext, SetMember, SetPins, SetPlaces, place
from engramd.state.machine import Command
from engramd.state.units import Put, dedupe_digest
from engramd.state.view import AGENTS, CONTEXTS, DEDUPE, MEMBERS, PAST_MEMBERS, PAST_PINS, PINS, UNITS, UnitHead

CONTEXT_NAMES = ("a", "b", "a:b")
AGENT_NAMES = ("ann", "bob", "eve")
MISSING = 9999  # the number of a unit that there never is

contexts = st.sampled_from(CONTEXT_NAMES)
agents = st.sampled_from(AGENT_NAMES)
picks = st.lists(st.integers(0, 40), min_size=1, max_size=3)
labels = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"), max_size=2)


@dataclass
class Page:
    """One context, on paper."""

    title: str
    labels: dict[str, str]
    created: int
    updated: int
    entries: list[tuple[int, int]] = field(default_factory=list)  # (seq, unit) in order of arrival, those taken out included
    present: dict[int, int] = field(default_factory=dict)  # unit: the seq at which it arrived
    pins: set[int] = field(default_factory=set)
    members: set[str] = field(default_factory=set)

    @property
    def last(self) -> int:
        return self.entries[-1][0] if self.entries else 0


class Engram(RuleBasedStateMachine):
    """Commands as clients send them; each is foretold by the model, carried out, and compared."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.pages: dict[str, Page] = {}
        self.units: dict[int, tuple[int, str]] = {}  # unit: seq and context of its birth
        self.keys: dict[tuple[str, str], list[int]] = {}  # dedupe key: the units it stands for
        self.acts: dict[str, list[int]] = {}  # agent: when it put each of its units
        self.past: list[dict[str, tuple[set[int], set[str]]]] = [{}]  # by seq: each context's pins and members
        self.recorded: list[Any] = []

    def _unit(self, pick: int) -> int:
        """A unit that there is, or now and then one that is missing."""
        return MISSING if pick > 38 else list(self.units)[pick % len(self.units)]

    def _carry_out(self, command: Command, foretold: list[tuple[Any, ...]]) -> None:
        """Do what must be possible, and hold every event against what was foretold for it."""
        events = self.ledger.do(command)
        assert [type(event).__name__ for _, event in events] == [kind for kind, *_ in foretold]
        for (seq, event), (kind, *told) in zip(events, foretold, strict=True):
            assert event.context == command.context
            assert event.agent == command.agent
            if kind in ("UnitAdded", "UnitRemoved", "UnitPinned", "UnitUnpinned"):
                assert event.unit == self.units[told[0]][0]
            if kind == "UnitRemoved":
                assert event.entry == self.pages[command.context].present[told[0]]
            self.recorded.append(deepcopy(event))
            self._note(seq, kind, command.context, *told)
            self.past.append({name: (set(page.pins), set(page.members)) for name, page in self.pages.items()})

    def _note(self, seq: int, kind: str, name: str, *told: Any) -> None:
        now = self.ledger.ts
        if kind == "ContextCreated":
            self.pages[name] = Page(*told, created=now, updated=now)
            return
        page = self.pages[name]
        page.updated = now
        match kind, *told:
            case "ContextChanged", str() | None as title, changes:
                page.title = page.title if title is None else title
                page.labels = {key: value for key, value in {**page.labels, **changes}.items() if value is not None}
            case "UnitPut", int() as unit, str() as author:
                self.units[unit] = seq, name
                page.entries.append((seq, unit))
                page.present[unit] = seq
                page.members.add(author)
                self.acts.setdefault(author, []).append(now)
            case "UnitAdded", int() as unit:
                page.entries.append((seq, unit))
                page.present[unit] = seq
            case "UnitRemoved", int() as unit:
                del page.present[unit]
            case "UnitPinned", int() as unit:
                page.pins.add(unit)
            case "UnitUnpinned", int() as unit:
                page.pins.remove(unit)
            case "AgentJoined", str() as member:
                page.members.add(member)
            case "AgentLeft", str() as member:
                page.members.remove(member)
            case other:
                raise AssertionError(other)

    def _must_be_refused(self, command: Command, code: str, **details: Any) -> None:
        refused = self.ledger.refused(command)
        assert (refused.code, refused.details) == (code, details)

    @initialize(name=contexts)
    def begin(self, name: str) -> None:
        self._carry_out(Put(name, "ann", (draft(0),)), [("ContextCreated", name, {}), ("UnitPut", 0, "ann")])

    @rule(
        name=contexts,
        agent=agents,
        edges=st.lists(st.lists(st.integers(0, 40), max_size=2), min_size=1, max_size=3),
        key=st.none() | st.sampled_from(["k", "l"]),
        expect=st.none() | st.integers(-1, 2) | st.integers(0, 30),
        exact=st.booleans(),
    )
    def put(self, name: str, agent: str, edges: list[list[int]], key: str | None, expect: int | None, exact: bool) -> None:
        page = self.pages.get(name)
        last = page.last if page else 0
        if expect is not None and exact:
            expect = max(0, last + min(expect, 1))  # at the last entry, or beside it
        first = len(self.units)
        links = [[self._unit(pick) for pick in some] for some in edges]
        command = Put(name, agent, tuple(draft(first + n, *some) for n, some in enumerate(links)), key, expect)

        if key is not None and (name, key) in self.keys:
            seen = self.ledger.seen(command).units
            units = self.keys[name, key]
            assert [self.units[unit][0] for unit in units] == list(range(seen.first_seq, seen.first_seq + seen.units))
        elif expect is not None and expect != last:
            self._must_be_refused(command, "conflict", expected=expect, actual=last)
        elif any(MISSING in some for some in links):
            self._must_be_refused(command, "not_found", target=unit_id(MISSING))
        else:
            numbers = list(range(first, first + len(links)))
            told = [("UnitPut", number, agent) for number in numbers]
            self._carry_out(command, told if page else [("ContextCreated", name, {}), *told])
            if key is not None:
                self.keys[name, key] = numbers

    @rule(name=contexts, agent=agents, title=st.sampled_from(["T", "U"]), meta=labels)
    def create(self, name: str, agent: str, title: str, meta: dict[str, str]) -> None:
        command = CreateContext(name, agent, title, meta)
        if name in self.pages:
            self._must_be_refused(command, "exists", context=name)
        else:
            self._carry_out(command, [("ContextCreated", title, dict(meta))])

    @rule(
        name=contexts,
        agent=agents,
        title=st.none() | st.sampled_from(["T", "U", "a"]),
        meta=st.dictionaries(st.sampled_from("xyz"), st.sampled_from([None, "1", "2"]), max_size=3),
    )
    def change(self, name: str, agent: str, title: str | None, meta: dict[str, str | None]) -> None:
        command = SetContext(name, agent, title, meta)
        page = self.pages.get(name)
        if page is None:
            self._must_be_refused(command, "not_found", context=name)
            return
        after = {key: value for key, value in {**page.labels, **meta}.items() if value is not None}
        same = after == page.labels and title in (None, page.title)
        self._carry_out(command, [] if same else [("ContextChanged", title, meta)])

    @rule(name=contexts, agent=agents, member=agents, joined=st.booleans())
    def member(self, name: str, agent: str, member: str, joined: bool) -> None:
        command = SetMember(name, agent, member, joined)
        page = self.pages.get(name)
        if page is None:
            self._must_be_refused(command, "not_found", context=name)
        else:
            told = [("AgentJoined" if joined else "AgentLeft", member)]
            self._carry_out(command, told if (member in page.members) != joined else [])

    @rule(name=contexts, agent=agents, some=picks, pinned=st.booleans())
    def pin(self, name: str, agent: str, some: list[int], pinned: bool) -> None:
        units = [self._unit(pick) for pick in some]
        command = SetPins(name, agent, tuple(map(unit_id, units)), pinned)
        page = self.pages.get(name)
        if page is None:
            self._must_be_refused(command, "not_found", context=name)
        elif MISSING in units:
            self._must_be_refused(command, "not_found", id=unit_id(MISSING))
        elif pinned and (absent := [unit for unit in units if unit not in page.present]):
            self._must_be_refused(command, "not_found", seq=self.units[absent[0]][0])
        else:
            moved = [unit for unit in dict.fromkeys(units) if (unit in page.pins) != pinned]
            self._carry_out(command, [("UnitPinned" if pinned else "UnitUnpinned", unit) for unit in moved])

    @rule(name=contexts, agent=agents, some=picks, present=st.booleans())
    def move(self, name: str, agent: str, some: list[int], present: bool) -> None:
        units = [self._unit(pick) for pick in some]
        command = SetPlaces(name, agent, tuple(map(unit_id, units)), present)
        page = self.pages.get(name)
        told: list[tuple[Any, ...]] = []
        if page is None and not present:
            self._must_be_refused(command, "not_found", context=name)
            return
        if MISSING in units:
            self._must_be_refused(command, "not_found", id=unit_id(MISSING))
            return
        if page is None:
            told.append(("ContextCreated", name, {}))
        for unit in dict.fromkeys(units):
            if (page is not None and unit in page.present) == present:
                continue
            if present:
                told.append(("UnitAdded", unit))
            else:
                assert page is not None
                told += [("UnitUnpinned", unit)] * (unit in page.pins)
                told.append(("UnitRemoved", unit))
        self._carry_out(command, told)

    # What must hold after every command

    @invariant()
    def contexts_are_as_on_paper(self) -> None:
        state = self.ledger.state
        for name in CONTEXT_NAMES:
            row, page = state.get(CONTEXTS, name), self.pages.get(name)
            if page is None:
                assert row is None
                continue
            assert row is not None
            assert (row.display_name, row.meta, row.created_at, row.updated_at) == (page.title, page.labels, page.created, page.updated)
            assert (row.last_entry, row.entries, row.removed) == (page.last, len(page.present), len(page.entries) - len(page.present))

    @invariant()
    def entries_are_in_order(self) -> None:
        for name, page in self.pages.items():
            present = {unit: place(self.ledger.state, name, UnitHead(*head)) for unit, head in self.units.items()}
            assert {unit: entry for unit, entry in present.items() if entry} == page.present

    @invariant()
    def units_keys_and_agents_are_remembered(self) -> None:
        state = self.ledger.state
        assert len([table for table, _ in state.rows if table == UNITS.name]) == len(self.units)
        for unit, (seq, birth) in self.units.items():
            entries = sum(unit == other for page in self.pages.values() for _, other in page.entries)
            head = state.get(UNITS, unit_id(unit))
            assert head is not None
            assert head[:5] == (seq, birth, len(f"unit {unit}"), entries, True)
        assert len([table for table, _ in state.rows if table == DEDUPE.name]) == len(self.keys)
        for (name, key), units in self.keys.items():
            assert state.get(DEDUPE, (name, dedupe_digest(key))) == (self.units[units[0]][0], len(units))
        for agent in AGENT_NAMES:
            times = self.acts.get(agent)
            assert state.get(AGENTS, agent) == ((times[0], times[-1], len(times)) if times else None)

    def _at(self, name: str, seq: int) -> tuple[set[int], set[str]]:
        """A context's pins and members after the event `seq`, from what is so now and what has ended since."""
        units = {born: unit for unit, (born, _) in self.units.items()}
        pins, members = set(), set()
        for (table, key), row in self.ledger.state.rows.items():
            if table in (PINS.name, MEMBERS.name, PAST_PINS.name, PAST_MEMBERS.name) and key[0] == name and row.since <= seq:
                if table == PINS.name:
                    pins.add(units[key[1]])
                elif table == MEMBERS.name:
                    members.add(key[1])
                elif key[1] > seq:
                    (pins if table == PAST_PINS.name else members).add(units[row.unit] if table == PAST_PINS.name else row.agent)
        return pins, members

    @invariant()
    def the_present_is_as_on_paper(self) -> None:
        for name, page in self.pages.items():
            assert self._at(name, self.ledger.seq) == (page.pins, page.members)
            assert page.pins <= set(page.present)

    def teardown(self) -> None:
        for seq, pages in enumerate(self.past):
            for name in self.pages:
                assert self._at(name, seq) == pages.get(name, (set(), set()))
        assert [event for _, _, event in self.ledger.events] == self.recorded, "an event was changed after it was recorded"
        assert self.ledger.folded().rows == self.ledger.state.rows


Engram.TestCase.settings = settings(deadline=None, max_examples=100, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow])
TestStateMachine = Engram.TestCase
