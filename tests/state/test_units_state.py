"""Putting units: what is refused, what is recognised, and what a put leaves behind."""

from __future__ import annotations

import pytest
from ledger import START, Ledger, draft, unit_id

from engramd.state.contexts import ContextCreated, CreateContext, SetMember, SetPins, SetPlaces
from engramd.state.units import Edge, Put, UnitPut, dedupe_digest, size_of
from engramd.state.view import AGENTS, CONTEXTS, DEDUPE, MEMBERS, PLACES, UNITS, Agent, Context, Deduped, Member, UnitHead

KEY = dedupe_digest("k")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_the_first_put_creates_its_context(ledger: Ledger) -> None:
    unit = draft(1, meta={"k": "v"}, type="error", payload=b"\xff")
    assert ledger.decide(Put("c", "ann", (unit,))) == [
        ContextCreated("c", "ann", "c", {}),
        UnitPut("c", "ann", unit_id(1), "error", {"k": "v"}, b"\xff", ()),
    ]
    ledger.do(Put("c", "ann", (unit,)))
    assert ledger.decide(Put("c", "ann", (draft(2),))) == [UnitPut("c", "ann", unit_id(2), "message", {}, "unit 2", ())]


def test_a_put_leaves_its_rows(ledger: Ledger) -> None:
    ledger.put("c", 1)
    at = START + 1000
    assert ledger.context("c") == Context("c", {}, at, at, last_entry=2, entries=1, removed=0, size=6)
    assert ledger.state.get(UNITS, unit_id(1)) == UnitHead(2, "c", 6)
    assert ledger.state.get(MEMBERS, ("c", "ann")) == Member(2, at)
    assert ledger.state.get(AGENTS, "ann") == Agent(at, at, 1)
    assert ledger.state.get(PLACES, ("c", 2)) is None  # a unit that never moved has no row of its own

    ledger.put("c", 2, agent="bob")
    ledger.put("d", 3)
    assert ledger.context("c")[2:7] == (at, at + 1000, 3, 2, 0)
    assert ledger.context("d")[2:7] == (at + 2000, at + 2000, 5, 1, 0)
    assert ledger.state.get(AGENTS, "ann") == Agent(at, at + 2000, 2)
    assert ledger.state.get(AGENTS, "bob") == Agent(at + 1000, at + 1000, 1)
    assert ledger.state.get(MEMBERS, ("c", "bob")) == Member(3, at + 1000)


def test_several_units_are_all_put_or_none(ledger: Ledger) -> None:
    assert ledger.put("c", 1, 2, 3) == [2, 3, 4]
    assert ledger.context("c").entries == 3
    refused = ledger.refused(Put("c", "ann", (draft(4), draft(5, 99), draft(6))))
    assert (refused.code, refused.details) == ("not_found", {"target": unit_id(99)})


def test_a_relationship_leads_to_an_earlier_unit_anywhere(ledger: Ledger) -> None:
    ledger.put("c", 1)
    edge = Edge("responds_to", unit_id(1), {"why": "so"})
    ((_, event),) = ledger.do(Put("c", "ann", (draft(2)._replace(relationships=(edge,)),)))
    assert isinstance(event, UnitPut)
    assert event.relationships == (edge,)
    ledger.do(Put("other", "ann", (draft(3, 1, 2),)))


def test_a_relationship_may_not_lead_to_the_unit_itself_or_a_later_one(ledger: Ledger) -> None:
    for units in ((draft(1, 1),), (draft(1, 2), draft(2)), (draft(1), draft(2, 1))):
        assert ledger.refused(Put("c", "ann", units)).code == "not_found"


def test_a_put_brings_its_author_back(ledger: Ledger) -> None:
    ledger.put("c", 1)
    ledger.do(SetMember("c", "bob", "ann", False))
    ledger.put("c", 2)
    ledger.put("c", 3)
    assert ledger.state.get(MEMBERS, ("c", "ann")) == Member(4, ledger.ts - 1000)


# Dedupe keys


def test_a_dedupe_key_stands_for_its_first_units(ledger: Ledger) -> None:
    first = ledger.do(Put("c", "ann", (draft(1), draft(2)), dedupe="k"))
    assert [getattr(event, "dedupe", None) for _, event in first] == [None, KEY, None]
    assert ledger.state.get(DEDUPE, ("c", KEY)) == Deduped(2, 2)
    ledger.put("c", 3)
    assert ledger.seen(Put("c", "bob", (draft(4),), dedupe="k")).units == Deduped(2, 2)
    assert ledger.state.get(DEDUPE, ("c", KEY)) == Deduped(2, 2)


def test_a_dedupe_key_belongs_to_its_context(ledger: Ledger) -> None:
    ledger.do(Put("c", "ann", (draft(1),), dedupe="k"))
    ledger.do(Put("d", "ann", (draft(2),), dedupe="k"))
    assert ledger.seen(Put("d", "ann", (draft(3),), dedupe="k")).units == Deduped(4, 1)
    assert ledger.seen(Put("c", "ann", (draft(3),), dedupe="k")).units == Deduped(2, 1)


def test_a_seen_put_is_answered_before_its_preconditions_are_judged(ledger: Ledger) -> None:
    """Else the retry of a put that had worked would be told of a conflict with itself."""
    put = Put("c", "ann", (draft(1),), dedupe="k", expect_seq=0)
    ledger.do(put)
    assert ledger.seen(put).units == Deduped(2, 1)
    assert ledger.seen(put._replace(units=(draft(5, 99),))).units == Deduped(2, 1)


def test_a_refused_put_leaves_its_dedupe_key_unused(ledger: Ledger) -> None:
    ledger.refused(Put("c", "ann", (draft(1),), dedupe="k", expect_seq=9))
    assert len(ledger.do(Put("c", "ann", (draft(1),), dedupe="k"))) == 2


def test_a_dedupe_key_outlives_its_units_place(ledger: Ledger) -> None:
    ledger.do(Put("c", "ann", (draft(1),), dedupe="k"))
    ledger.do(SetPlaces("c", "ann", (unit_id(1),), False))
    assert ledger.seen(Put("c", "ann", (draft(2),), dedupe="k")).units == Deduped(2, 1)


# The expected seq


def test_the_expected_seq_is_that_of_the_last_entry(ledger: Ledger) -> None:
    for expected in (1, 2):
        refused = ledger.refused(Put("c", "ann", (draft(1),), expect_seq=expected))
        assert (refused.code, refused.details) == ("conflict", {"expected": expected, "actual": 0})
    ledger.do(Put("c", "ann", (draft(1),), expect_seq=0))
    ledger.do(Put("c", "ann", (draft(2),), expect_seq=2))
    refused = ledger.refused(Put("c", "ann", (draft(3),), expect_seq=2))
    assert (refused.code, refused.details) == ("conflict", {"expected": 2, "actual": 3})
    assert "3, not 2" in refused.message


def test_an_empty_context_has_no_last_entry(ledger: Ledger) -> None:
    ledger.do(CreateContext("c", "ann", "c", {}))
    assert ledger.refused(Put("c", "ann", (draft(1),), expect_seq=1)).details == {"expected": 1, "actual": 0}
    ledger.do(Put("c", "ann", (draft(1),), expect_seq=0))


def test_only_entries_move_the_expected_seq(ledger: Ledger) -> None:
    ledger.put("c", 1)
    ledger.put("d", 2)
    ledger.do(SetPins("c", "ann", (unit_id(1),), True))
    ledger.do(SetMember("c", "ann", "bob", True))
    assert isinstance(ledger.decide(Put("c", "ann", (draft(3),), expect_seq=2)), list)

    ((added, _),) = ledger.do(SetPlaces("c", "ann", (unit_id(2),), True))
    assert ledger.refused(Put("c", "ann", (draft(3),), expect_seq=2)).details == {"expected": 2, "actual": added}

    ledger.do(SetPlaces("c", "ann", (unit_id(2),), False))  # a removal is no entry, and takes none back
    assert isinstance(ledger.decide(Put("c", "ann", (draft(3),), expect_seq=added)), list)


def test_a_put_of_the_future_changes_nothing_now(ledger: Ledger) -> None:
    ledger.decide(Put("c", "ann", (draft(1),), dedupe="k"))
    assert ledger.state.rows == {}
    assert ledger.state.get(CONTEXTS, "c") is None


# Sizes


def test_the_size_of_a_unit_is_that_of_its_payload_and_labels() -> None:
    assert size_of("", {}) == 0
    assert size_of("é", {"k": "é"}) == size_of("é".encode(), {"k": "é"}) == 5
