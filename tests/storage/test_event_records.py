"""Records: an event as bytes and back, and the keys of its entry."""

from __future__ import annotations

from typing import get_args

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EVENTS, PUTS, SEQS, TIMES

from engramd.protocol.messages import ENTRY_KINDS, KINDS
from engramd.protocol.unit import Unit, tombstone, with_entry
from engramd.state.machine import Event
from engramd.state.units import UnitPut
from engramd.storage import keys, records

ANY_EVENT = st.one_of(*EVENTS.values())


def test_every_event_of_the_log_has_a_strategy_here() -> None:
    assert set(EVENTS) == set(get_args(Event))


@given(SEQS, TIMES, ANY_EVENT)
def test_an_event_survives_its_record(seq: int, ts: int, event: Event) -> None:
    record = records.encode_event(seq, ts, event)
    again = records.unpack(records.pack(record))
    assert again == record
    assert again.ts == ts
    decoded = records.decode_event(again)
    assert type(decoded) is type(event)
    assert decoded == event


@given(SEQS, TIMES, PUTS)
def test_the_body_of_a_put_is_the_unit_as_it_travels(seq: int, ts: int, event: UnitPut) -> None:
    record = records.encode_event(seq, ts, event)
    unit = Unit.from_wire(cbor2.loads(record.body))
    payload = event.payload.encode() if isinstance(event.payload, str) else event.payload
    assert (unit.seq, unit.ts, unit.entry) == (seq, ts, seq)
    assert (unit.context, unit.agent, unit.type, unit.meta, unit.payload) == (
        event.context,
        event.agent,
        event.type,
        event.meta,
        payload,
    )
    assert record.kind == "unit_put"


LOOKALIKES = st.sampled_from((b"gcontext", b"\x67context\x61a", b"context"))


@given(
    SEQS,
    TIMES,
    PUTS,
    st.text(min_size=1, max_size=300),
    st.binary(min_size=16, max_size=16) | LOOKALIKES.map(lambda part: part.ljust(16, b"g")),
)
def test_a_context_is_found_in_an_encoded_unit(seq: int, ts: int, event: UnitPut, context: str, unit_id: bytes) -> None:
    """However long its name, and whatever the id looks like; in what is left of an erased unit, too."""
    unit = records.encode_event(seq, ts, event._replace(context=context, id=unit_id)).body
    assert records.context_in(unit) == context
    assert records.context_in(with_entry(unit, seq + 1, "elsewhere")) == context
    assert records.context_in(tombstone(cbor2.loads(unit), seq + 1, ts, "a", "context")) == context


def test_the_wire_names_every_kind_of_event() -> None:
    assert tuple(kind for kind, _ in records.CODES.values()) == KINDS
    assert {kind for code, (kind, _) in records.CODES.items() if code in records.ENTRIES} == set(ENTRY_KINDS)


@pytest.mark.parametrize("event_type", EVENTS)
def test_each_event_has_a_name_of_its_own(event_type: type) -> None:
    names = {code: name for code, (name, made) in records.CODES.items() if made is event_type}
    assert len(names) == 1
    assert sum(name in names.values() for name, _ in records.CODES.values()) == 1


def put(size: int) -> UnitPut:
    return UnitPut("c", "a", bytes(16), "message", {"k": "v"}, "x" * size, ())


def test_a_small_unit_stands_in_its_entry_and_a_large_one_is_pointed_at() -> None:
    for size, inline in ((10, True), (records.INLINE, False)):
        event = put(size)
        unit = records.encode_event(7, 1, event).body
        found = dict(records.entry_keys(7, event, unit))
        entry = records.read_entry(found[keys.entries("c") + keys.pack_seq(7)])
        assert entry == (unit if inline else 7)


def test_the_keys_of_an_added_unit_point_at_its_birth() -> None:
    unit = cbor2.loads(records.encode_event(7, 1, put(10)).body)
    found = dict(records.added_keys(9, "d", 7, unit))
    assert found.pop(keys.ADDED + keys.pack_seq(7) + keys.pack_seq(9)) == b"d"
    assert records.read_entry(found.pop(keys.entries("d") + keys.pack_seq(9))) == 7
    assert {keys.seq_of(pointer) for pointer in found.values()} == {7}
    assert set(found) == {
        prefix + keys.pack_seq(9) for prefix in (keys.by_agent("d", "a"), keys.by_type("d", "message"), keys.by_meta("d", "k", "v"))
    }
