"""Contexts: titles, labels, members, pins and places, and what is remembered of those that ended."""

from __future__ import annotations

import pytest
from ledger import START, Ledger, unit_id

from engramd.protocol.messages import MAX_META
from engramd.state.contexts import (
    MAX_LABELS,
    AgentJoined,
    AgentLeft,
    ContextChanged,
    ContextCreated,
    CreateContext,
    SetContext,
    SetMember,
    SetPins,
    SetPlaces,
    UnitAdded,
    UnitPinned,
    UnitRemoved,
    UnitUnpinned,
    place,
)
from engramd.state.view import (
    MEMBERS,
    PAST_MEMBERS,
    PAST_PINS,
    PINS,
    PLACES,
    UNITS,
    Context,
    Member,
    PastMember,
    PastPin,
    Pin,
    Place,
    UnitHead,
)

MISSING = unit_id(99)


@pytest.fixture
def ledger() -> Ledger:
    """Three units: 1 and 2 in `c` (seqs 2 and 3), 3 in `d` (seq 5)."""
    ledger = Ledger()
    ledger.put("c", 1, 2)
    ledger.put("d", 3)
    return ledger


def _pins(*numbers: int, pinned: bool = True, context: str = "c") -> SetPins:
    return SetPins(context, "bob", tuple(map(unit_id, numbers)), pinned)


def _places(*numbers: int, present: bool = True, context: str = "c") -> SetPlaces:
    return SetPlaces(context, "bob", tuple(map(unit_id, numbers)), present)


# Creation, title and labels


def test_a_context_is_created_once(ledger: Ledger) -> None:
    command = CreateContext("new", "ann", "New", {"k": "v"})
    assert ledger.decide(command) == [ContextCreated("new", "ann", "New", {"k": "v"})]
    ledger.do(command)
    assert ledger.context("new") == Context("New", {"k": "v"}, ledger.ts, ledger.ts)
    refused = ledger.refused(command)
    assert (refused.code, refused.details) == ("exists", {"context": "new"})
    assert ledger.refused(CreateContext("c", "ann", "", {})).code == "exists"  # a put had created it


def test_labels_are_bounded_however_many_requests_set_them(ledger: Ledger) -> None:
    assert MAX_LABELS == MAX_META
    ledger.do(SetContext("c", "ann", None, {str(number): "" for number in range(MAX_LABELS)}))
    assert ledger.refused(SetContext("c", "ann", None, {"more": ""})).code == "too_large"
    ledger.do(SetContext("c", "ann", None, {"more": "", "0": None}))


def test_a_context_is_changed(ledger: Ledger) -> None:
    ledger.do(SetContext("c", "ann", "Title", {"a": "1", "b": "2"}))
    assert ledger.context("c")[:4] == ("Title", {"a": "1", "b": "2"}, START + 1000, ledger.ts)
    ledger.do(SetContext("c", "ann", None, {"a": None, "b": "3", "c": "4"}))
    assert ledger.context("c")[:2] == ("Title", {"b": "3", "c": "4"})
    ledger.do(SetContext("c", "ann", "", {}))
    assert ledger.context("c")[:2] == ("", {"b": "3", "c": "4"})
    assert ledger.context("c")[4:7] == (3, 2, 0)


def test_only_what_differs_is_an_event(ledger: Ledger) -> None:
    ledger.do(SetContext("c", "ann", "Title", {"a": "1", "b": "2"}))
    same = SetContext("c", "ann", "Title", {"a": "1", "absent": None})
    assert ledger.decide(same) == []
    assert ledger.decide(SetContext("c", "ann", None, {})) == []
    assert ledger.decide(same._replace(meta={"a": "9", "b": "2", "absent": None})) == [ContextChanged("c", "ann", None, {"a": "9"})]
    assert ledger.decide(same._replace(display_name="Other")) == [ContextChanged("c", "ann", "Other", {})]


def test_what_is_not_there_is_not_found(ledger: Ledger) -> None:
    for command in (
        SetContext("x", "ann", "Title", {}),
        SetMember("x", "ann", "bob", True),
        SetMember("x", "ann", "bob", False),
        _pins(1, context="x"),
        _pins(1, context="x", pinned=False),
        _places(1, context="x", present=False),
    ):
        refused = ledger.refused(command)
        assert (refused.code, refused.details) == ("not_found", {"context": "x"})
    for wrong in (
        SetPins("c", "ann", (unit_id(1), MISSING), True),
        SetPins("c", "ann", (unit_id(1), MISSING), False),
        SetPlaces("c", "ann", (unit_id(3), MISSING), True),
        SetPlaces("x", "ann", (unit_id(3), MISSING), True),
        SetPlaces("c", "ann", (unit_id(1), MISSING), False),
    ):
        refused = ledger.refused(wrong)
        assert (refused.code, refused.details) == ("not_found", {"id": MISSING})


# Members


def test_members_join_and_leave(ledger: Ledger) -> None:
    join, leave = SetMember("c", "ann", "bob", True), SetMember("c", "ann", "bob", False)
    assert ledger.decide(leave) == []
    assert ledger.decide(join) == [AgentJoined("c", "ann", "bob")]
    ledger.do(join)
    assert ledger.decide(join) == []
    assert ledger.decide(leave) == [AgentLeft("c", "ann", "bob")]
    ledger.do(leave)
    ledger.do(join)
    assert ledger.state.get(MEMBERS, ("c", "bob")) == Member(8, ledger.ts)
    assert ledger.state.get(PAST_MEMBERS, ("c", 7)) == PastMember("bob", 6)
    assert ledger.state.get(MEMBERS, ("d", "bob")) is None
    assert ledger.context("c").updated_at == ledger.ts
    assert ledger.context("c").last_entry == 3


# Pins


def test_units_are_pinned_and_unpinned(ledger: Ledger) -> None:
    assert ledger.decide(_pins(1, 2, 1)) == [UnitPinned("c", "bob", 2), UnitPinned("c", "bob", 3)]
    ledger.do(_pins(1))
    assert ledger.decide(_pins(1, 2)) == [UnitPinned("c", "bob", 3)]
    assert ledger.decide(_pins(1, 2, pinned=False)) == [UnitUnpinned("c", "bob", 2)]
    ledger.do(_pins(1, pinned=False))
    ledger.do(_pins(1))
    assert ledger.state.get(PINS, ("c", 2)) == Pin(8)
    assert ledger.state.get(PAST_PINS, ("c", 7)) == PastPin(2, 6)
    assert ledger.context("c").updated_at == ledger.ts


def test_only_a_unit_of_the_context_can_be_pinned(ledger: Ledger) -> None:
    for numbers in ((3,), (1, 3)):
        refused = ledger.refused(_pins(*numbers))
        assert (refused.code, refused.details) == ("not_found", {"seq": 5})
    assert ledger.decide(_pins(3, pinned=False)) == []
    ledger.do(_places(3))
    assert ledger.decide(_pins(3)) == [UnitPinned("c", "bob", 5)]


def test_a_removed_unit_loses_its_pin(ledger: Ledger) -> None:
    ledger.do(_pins(1))
    assert ledger.decide(_places(1, 2, present=False)) == [
        UnitUnpinned("c", "bob", 2),
        UnitRemoved("c", "bob", 2, 2, "c"),
        UnitRemoved("c", "bob", 3, 3, "c"),
    ]
    ledger.do(_places(1, 2, present=False))
    assert ledger.state.get(PAST_PINS, ("c", 7)) == PastPin(2, 6)
    ledger.do(_places(1))
    assert ledger.state.get(PINS, ("c", 2)) is None  # and does not get it back


# Places


def test_a_unit_is_added_and_removed(ledger: Ledger) -> None:
    add, remove = _places(3), _places(3, present=False)
    assert ledger.decide(remove) == []
    assert ledger.decide(add) == [UnitAdded("c", "bob", 5, "d", unit_id(3))]
    ledger.do(add)
    assert ledger.context("c")[3:7] == (ledger.ts, 6, 3, 0)
    assert ledger.context("c").size == 3 * len("unit 1")
    assert ledger.state.get(UNITS, unit_id(3)) == UnitHead(5, "d", 6, entries=2)
    assert ledger.decide(add) == []
    assert ledger.decide(remove) == [UnitRemoved("c", "bob", 5, 6, "d")]
    ledger.do(remove)
    assert ledger.context("c")[3:7] == (ledger.ts, 6, 2, 1)
    assert ledger.state.get(PLACES, ("c", 5)) is None
    ledger.do(add)
    assert ledger.decide(remove) == [UnitRemoved("c", "bob", 5, 8, "d")]  # the entry that is there now
    assert ledger.state.get(PLACES, ("c", 5)) == Place(8)
    assert place(ledger.state, "d", UnitHead(5, "d")) == 5  # at home nothing has changed


def test_a_unit_leaves_the_context_it_was_born_in_and_comes_back(ledger: Ledger) -> None:
    home = UnitHead(2, "c")
    assert place(ledger.state, "c", home) == 2
    assert ledger.decide(_places(1)) == []
    ledger.do(_places(1, present=False))
    assert place(ledger.state, "c", home) == 0
    assert ledger.decide(_places(1, present=False)) == []
    assert ledger.decide(_places(1)) == [UnitAdded("c", "bob", 2, "c", unit_id(1))]
    ledger.do(_places(1))
    assert place(ledger.state, "c", home) == 7
    assert ledger.context("c")[4:7] == (7, 2, 1)
    assert place(ledger.state, "d", home) == 0


def test_an_added_unit_creates_its_context(ledger: Ledger) -> None:
    assert ledger.decide(_places(1, 3, 1, context="new")) == [
        ContextCreated("new", "bob", "new", {}),
        UnitAdded("new", "bob", 2, "c", unit_id(1)),
        UnitAdded("new", "bob", 5, "d", unit_id(3)),
    ]
    ledger.do(_places(1, 3, context="new"))
    assert ledger.context("new")[4:7] == (8, 2, 0)
    assert ledger.state.get(MEMBERS, ("new", "bob")) is None  # who adds does not join
