"""Consumers: what their commands lead to, and who has what, against a model on paper."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledger import Ledger

from engramd.state import consumers
from engramd.state.claims import WINDOW, Claims, Pending
from engramd.state.consumers import (
    Acknowledge,
    CreateConsumer,
    DeleteConsumer,
    Park,
    ResetConsumer,
    RetryParked,
    covered,
)
from engramd.state.filters import EVERYTHING, Filter
from engramd.state.view import CONSUMERS, PARKED, PROGRESS, Progress

NAME = "w"
SPANS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 8)).map(lambda span: (span[0], span[0] + span[1])), max_size=8)


@given(st.integers(0, 20), SPANS)
def test_ranges_are_merged_and_the_cursor_moves_over_them(cursor: int, done: list[tuple[int, int]]) -> None:
    members = {seq for first, last in done for seq in range(first, last + 1)} | set(range(cursor + 1))
    after, rest = covered(cursor, done)
    assert after == next(seq for seq in range(100) if seq + 1 not in members)
    assert {seq for first, last in rest for seq in range(first, last + 1)} == {seq for seq in members if seq > after}
    assert all(first <= last for first, last in rest)
    assert all(before[1] + 1 < behind[0] for before, behind in pairwise(rest))


@given(
    st.builds(
        Filter,
        st.frozensets(st.sampled_from("ab")),
        st.frozensets(st.sampled_from("ab")),
        st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")).map(lambda labels: tuple(labels.items())),
        st.none() | st.just(bytes(16)),
    )
)
def test_a_filter_survives_its_map(wanted: Filter) -> None:
    assert Filter.from_map(wanted.to_map()) == wanted
    assert (wanted.to_map() == {}) == (wanted == EVERYTHING)


def create(ledger: Ledger, **asked: Any) -> int:
    """Create the consumer; gives its epoch."""
    return ledger.do(CreateConsumer(NAME, "ann", asked, 0, True))[0][0]


def progress(ledger: Ledger) -> Progress:
    row = ledger.state.get(PROGRESS, NAME)
    assert row is not None
    return row


def test_a_consumer_is_created_once_and_its_settings_stay() -> None:
    ledger = Ledger()
    assert ledger.refused(CreateConsumer(NAME, "ann", {}, 0, False)).code == "busy"
    create(ledger, contexts=("a", "b"), deliveries=2)
    assert ledger.do(CreateConsumer(NAME, "bob", {}, 99, False)) == []
    assert ledger.do(CreateConsumer(NAME, "bob", {"deliveries": 2, "contexts": ("a", "b")}, 99, True)) == []
    refused = ledger.refused(CreateConsumer(NAME, "bob", {"deliveries": 2, "contexts": ()}, 0, True))
    assert (refused.code, refused.details["setting"]) == ("conflict", "contexts")
    assert "contexts a b, not (all)" in refused.message
    assert progress(ledger).cursor == 0


def test_acknowledgements_move_the_cursor_and_count_once() -> None:
    ledger = Ledger()
    epoch = create(ledger)
    assert len(ledger.do(Acknowledge(NAME, epoch, ((5, 7),), (6,)))) == 1
    assert progress(ledger)[:3] == (epoch, 0, ((5, 7),))
    assert ledger.do(Acknowledge(NAME, epoch, ((5, 6),), (5,))) == []
    ledger.do(Acknowledge(NAME, epoch, ((1, 4),), (3,)))
    assert progress(ledger)[:3] == (epoch, 7, ())
    assert ledger.do(Acknowledge(NAME, epoch - 1, ((8, 9),), ())) == [], "of before a reset"
    assert ledger.refused(Acknowledge("x", epoch, ((8, 9),), ())).code == "not_found"


def test_there_is_a_bound_on_what_is_done_out_of_order() -> None:
    ledger = Ledger()
    epoch = create(ledger)
    most = consumers.MAX_RANGES
    ledger.do(Acknowledge(NAME, epoch, tuple((2 * n, 2 * n) for n in range(1, most + 1)), ()))
    assert ledger.refused(Acknowledge(NAME, epoch, ((2 * most + 2, 2 * most + 2),), ())).code == "busy"
    ledger.do(Acknowledge(NAME, epoch, ((1, 1), (2 * most + 2, 2 * most + 2)), ()))


def test_parking_retrying_and_giving_up() -> None:
    ledger = Ledger()
    epoch = create(ledger)
    for entry in (4, 2, 9):
        ledger.do(Park(NAME, epoch, entry, 5))
    assert [row[:2] for row in ledger.state.get(PARKED, NAME) or ()] == [(4, 5), (2, 5), (9, 5)]
    assert progress(ledger).done == ((2, 2), (4, 4), (9, 9))
    ledger.do(Acknowledge(NAME, epoch, ((1, 9),), (1, 3)))
    assert len(ledger.state.get(PARKED, NAME) or ()) == 3, "what lies in a range is not done by that"
    assert ledger.refused(RetryParked(NAME, "ann", (3,))).code == "not_found"
    assert ledger.do(RetryParked(NAME, "ann", (4,)))[0][1].entries == (4,)  # type: ignore[union-attr]
    assert ledger.do(RetryParked(NAME, "ann", (4,))) == []
    assert ledger.do(RetryParked(NAME, "ann", ()))[0][1].entries == (2, 9)  # type: ignore[union-attr]
    ledger.do(Acknowledge(NAME, epoch, (), (4,)))
    ledger.do(Park(NAME, epoch, 2, 6))
    assert [row[:2] + row[3:] for row in ledger.state.get(PARKED, NAME) or ()] == [(9, 5, True), (2, 6, False)]
    ledger.do(ResetConsumer(NAME, "ann", 5))
    assert [row.entry for row in ledger.state.get(PARKED, NAME) or ()] == [2], "what lies beyond comes again by itself"
    assert progress(ledger)[:3] == (ledger.seq, 5, ())
    assert ledger.do(Park(NAME, epoch, 7, 5)) == [], "of before the reset"
    ledger.do(DeleteConsumer(NAME, "ann"))
    assert [ledger.state.get(table, NAME) for table in (CONSUMERS, PROGRESS, PARKED)] == [None, None, None]
    assert ledger.folded().rows == ledger.state.rows


def test_there_is_a_bound_on_what_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "MAX_PARKED", 2)
    ledger = Ledger()
    epoch = create(ledger)
    for entry in (1, 2):
        ledger.do(Park(NAME, epoch, entry, 5))
    assert ledger.refused(Park(NAME, epoch, 3, 5)).code == "busy"
    ledger.do(Park(NAME, epoch, 2, 6))


@pytest.mark.parametrize(
    "command", [RetryParked(NAME, "a", ()), ResetConsumer(NAME, "a", 0), DeleteConsumer(NAME, "a"), Park(NAME, 1, 1, 1)]
)
def test_without_a_consumer_there_is_nothing_to_do(command: Any) -> None:
    assert Ledger().refused(command).code == "not_found"


# Who has what


VISIBILITY, DELIVERIES, PREFETCH = 10.0, 3, 3


class Sharing(RuleBasedStateMachine):
    """Members that come, go, acknowledge and dawdle; the model knows of every entry whether it is done, and who has it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.log: list[str | None] = []  # the key of each entry; its seq is its place, from 1
        self.position = 0
        self.done: set[int] = set()
        self.parked: set[int] = set()
        self.holder: dict[int, int] = {}
        self.members: set[int] = set()
        self.saved = Progress(1, 0, (), 0)
        self.parking: list[Pending] = []
        self.claims = Claims(self.saved, VISIBILITY, DELIVERIES)

    @initialize(keys=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=40))
    def begin(self, keys: list[str | None]) -> None:
        self.log = keys

    @rule(number=st.integers(0, 4))
    def join(self, number: int) -> None:
        if number not in self.members:
            self.members.add(number)
            self.claims.join(number, PREFETCH)

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.members)))
        self.members.remove(number)
        self._take_back(self.claims.leave(number), number)

    def _take_back(self, to_park: list[Pending], *members: int) -> None:
        self.parking += to_park
        assert all(claim.member is None and claim.failures >= DELIVERIES for claim in to_park)
        self.holder = {entry: member for entry, member in self.holder.items() if member not in members}

    @rule(count=st.integers(1, 6))
    def look(self, count: int) -> None:
        room = self.claims.room(self.members)
        for _ in range(min(count, room, len(self.log) - self.position)):
            self.claims.add(self.position + 1, self.log[self.position])
            self.position += 1
            self.claims.reach(self.position)

    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        able = data.draw(st.sets(st.sampled_from(sorted(self.members)))) if self.members else set()
        claim = self.claims.give(self.now, able)
        if claim is None:
            return
        assert claim.member in able
        assert claim.entry not in self.holder
        assert claim.entry not in self.done
        key = self.log[claim.entry - 1]
        assert claim.key == key
        if key is not None:
            before = [entry for entry in range(1, claim.entry) if self.log[entry - 1] == key]
            assert set(before) <= self.done | self.parked, "those of its key before it are done"
        self.holder[claim.entry] = claim.member
        assert sum(member == claim.member for member in self.holder.values()) <= PREFETCH

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        held = sorted(self.holder)
        entry = data.draw(st.sampled_from(held) if held and data.draw(st.booleans()) else st.integers(1, len(self.log)))
        was_done = entry in self.done or (entry in self.parked)
        assert self.claims.ack(self.now, entry) != was_done
        if not was_done:
            self.done.add(entry)
            self.holder.pop(entry, None)

    @rule(seconds=st.floats(0, 2 * VISIBILITY))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        had = dict(self.holder)
        due = self.claims.deadline(self.now) <= self.now
        self._take_back(self.claims.expire(self.now))
        self.holder = {entry: member for entry, member in had.items() if entry in self._held()}
        assert due or self.holder == had, "nothing is overdue before the deadline"
        assert self.claims.deadline(self.now) > self.now

    def _held(self) -> set[int]:
        return {entry for member in self.claims._members.values() for entry in member.held}

    @precondition(lambda self: self.parking)
    @rule(accepted=st.booleans())
    def park(self, accepted: bool) -> None:
        claim = self.parking.pop(0)
        if accepted and claim.entry not in self.done:
            self.claims.parked(self.now, claim.entry)
            self.parked.add(claim.entry)
        else:
            self.claims.not_parked(claim.entry)

    @rule()
    def save(self) -> None:
        done, entries = self.claims.save()
        assert set(entries) <= self.done
        cursor, rest = covered(self.saved.cursor, (*self.saved.done, *done))
        self.saved = Progress(1, cursor, rest, 0)
        written = {seq for first, last in ((1, cursor), *rest) for seq in range(first, last + 1)}
        looked_at = set(range(1, self.position + 1))
        assert written <= self.done | self.parked, "nothing is skipped"
        assert self.done & looked_at <= written | self.parked, "what is done is written down"
        assert self.claims.cursor <= self.position

    @precondition(lambda self: not self.parked)  # these are a matter of the row of parked entries
    @rule()
    def crash(self) -> None:
        """Memory is lost: what is written down is done, everything else comes again."""
        self.claims = Claims(self.saved, VISIBILITY, DELIVERIES)
        self.position = self.saved.cursor
        written = {seq for first, last in ((1, self.saved.cursor), *self.saved.done) for seq in range(first, last + 1)}
        self.done &= written
        self.holder, self.parking = {}, []
        for number in self.members:
            self.claims.join(number, PREFETCH)

    @invariant()
    def who_has_what(self) -> None:
        assert {entry: claim.member for entry, claim in self.claims._open.items() if claim.member is not None} == self.holder
        assert self.claims.held == len(self.holder)
        assert all(self.claims.holding(member) == sum(by == member for by in self.holder.values()) for member in self.members)

    def teardown(self) -> None:
        """In the end, one patient member gets everything that is left, each entry once."""
        for number in sorted(self.members):
            self._take_back(self.claims.leave(number), number)
        for claim in self.parking:
            self.claims.not_parked(claim.entry)
        self.claims.join(99, PREFETCH)
        self.members = {99}
        while True:
            self.look(6)
            claim = self.claims.give(self.now, {99})
            if claim is None:
                if self.position < len(self.log):
                    continue
                break
            assert claim.entry not in self.done | self.parked
            self.claims.ack(self.now, claim.entry)
            self.done.add(claim.entry)
        assert self.done | self.parked == set(range(1, len(self.log) + 1))
        assert len(self.claims) == 0
        self.holder = {}
        self.save()
        assert self.saved.cursor == len(self.log)
        assert self.claims.deadline(self.now) == math.inf


Sharing.TestCase.settings = settings(
    deadline=None, max_examples=150, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
TestSharing = Sharing.TestCase


def test_the_work_is_shared_evenly() -> None:
    claims = Claims(Progress(1, 0, (), 0), VISIBILITY, DELIVERIES)
    for number in range(3):
        claims.join(number, 5)
    for entry in range(1, 10):
        claims.add(entry, None)
    claims.reach(9)
    given_to = [claim.member for _ in range(9) if (claim := claims.give(0.0, {0, 1, 2}))]
    assert [given_to.count(number) for number in range(3)] == [3, 3, 3]


def test_who_was_overdue_waits_until_others_had_their_turn() -> None:
    claims = Claims(Progress(1, 0, (), 0), VISIBILITY, DELIVERIES)
    for number in range(2):
        claims.join(number, 2)
    claims.add(1, None)
    claims.reach(1)
    first = claims.give(0.0, {0})
    assert first is not None
    assert claims.expire(VISIBILITY) == []
    assert claims.give(VISIBILITY, {0}) is None, "there is another, if not able now"
    assert claims.deadline(VISIBILITY) == 2 * VISIBILITY
    assert claims.give(2 * VISIBILITY, {0}) is first, "it is trusted again"


def test_a_window_bounds_what_is_looked_at() -> None:
    claims = Claims(Progress(1, 0, (), 0), VISIBILITY, DELIVERIES)
    claims.join(0, 1000)
    looked = 0
    while room := claims.room({0}):
        for _ in range(room):
            looked += 1
            claims.add(looked, "same")
        claims.reach(looked)
        claims.give(0.0, {0})
    assert looked == WINDOW
