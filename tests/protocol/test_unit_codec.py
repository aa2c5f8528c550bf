"""The unit's codec: what is written once, stored and sent as it is."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_strategies import SEQ, encoded, units

from engramd.protocol.errors import EngramError
from engramd.protocol.framing import decode, encode
from engramd.protocol.times import MAX_TS, format_ts
from engramd.protocol.unit import Relationship, Unit, encode_unit, format_id, new_id, parse_ref, unit_json, with_entry

quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
ID = uuid.UUID("0199c0de-0000-7000-8000-000000000001")
TARGET = uuid.UUID("0199c0de-0000-7000-8000-000000000002")
TS = 1_767_323_045_678_901


def _example(payload: str | bytes = "hi") -> bytes:
    return encode_unit(ID.bytes, 7, TS, "c", "ann", "message", {"k": "v"}, payload, [("responds_to", TARGET.bytes, {"why": "so"})])


def test_the_members_stand_in_their_documented_order() -> None:
    order = ["id", "seq", "ts", "context", "agent", "type", "meta", "text", "relationships"]
    assert list(decode(_example())) == order
    assert list(decode(_example(b"\xff"))) == [*order[:7], "payload", order[8]]
    assert list(decode(with_entry(_example(), 9, "b"))) == [*order, "entry", "entry_context"]


@given(units())
@quick
def test_a_unit_comes_back_as_it_was_put(unit: dict[str, Any]) -> None:
    bare = {key: value for key, value in unit.items() if key not in ("entry", "entry_context")}
    assert decode(encoded(unit)) == bare
    shown = Unit.from_wire(decode(encoded(unit)))
    assert shown == Unit(
        str(uuid.UUID(bytes=unit["id"])),
        unit["seq"],
        unit["ts"],
        unit["context"],
        unit["agent"],
        unit["type"],
        unit["meta"],
        unit["text"].encode() if "text" in unit else unit["payload"],
        tuple(Relationship(edge["type"], str(uuid.UUID(bytes=edge["target"])), edge["meta"]) for edge in unit["relationships"]),
        unit["seq"],
        unit["context"],
    )


@given(units(), SEQ)
@quick
def test_an_entry_is_added_as_if_encoded_anew(unit: dict[str, Any], entry: int) -> None:
    body = encoded(unit)
    assert with_entry(body, entry, "b") == encode({**decode(body), "entry": entry, "entry_context": "b"})
    shown = Unit.from_wire(decode(with_entry(body, entry, "b")))
    assert (shown.entry, shown.entry_context) == (entry, "b")


def test_text_shows_bytes_that_are_not_utf8_as_escapes() -> None:
    assert Unit.from_wire(decode(_example("é"))).text == "é"
    assert Unit.from_wire(decode(_example(b"a\xffb"))).text == "a\\xffb"


@pytest.mark.parametrize(
    "change",
    [
        {"id": b"short"},
        {"id": "text"},
        {"id": None},
        {"text": 5},
        {"relationships": None},
        {"relationships": [5]},
        {"relationships": [{"type": "causes", "target": b"short", "meta": {}}]},
        {"relationships": [{"type": "causes"}]},
        *({name: ...} for name in ("id", "seq", "ts", "context", "agent", "type", "meta", "text", "relationships")),
    ],
)
def test_a_map_that_is_no_unit_is_a_protocol_error(change: dict[str, Any]) -> None:
    unit = {key: value for key, value in {**decode(_example()), **change}.items() if value is not ...}
    with pytest.raises(EngramError) as caught:
        Unit.from_wire(unit)
    assert caught.value.code == "protocol"


# JSON


def test_a_unit_in_json() -> None:
    assert unit_json(decode(_example())) == {
        "id": str(ID),
        "seq": 7,
        "ts": "2026-01-02T03:04:05.678901Z",
        "context": "c",
        "agent": "ann",
        "type": "message",
        "meta": {"k": "v"},
        "text": "hi",
        "relationships": [{"type": "responds_to", "target": str(TARGET), "meta": {"why": "so"}}],
    }
    assert list(unit_json(decode(_example())))[-2:] == ["text", "relationships"]


@given(units())
@quick
def test_json_loses_nothing(unit: dict[str, Any]) -> None:
    unit = {**unit, "ts": unit["ts"] % MAX_TS}
    shown = json.loads(json.dumps(unit_json(unit)))
    assert ("text" in shown) != ("payload_base64" in shown)
    payload = {"text": shown["text"]} if "text" in shown else {"payload": base64.b64decode(shown["payload_base64"], validate=True)}
    assert {
        **{name: shown[name] for name in ("seq", "context", "agent", "type", "meta", "entry", "entry_context") if name in shown},
        **payload,
        "id": uuid.UUID(shown["id"]).bytes,
        "ts": unit["ts"],
        "relationships": [{**edge, "target": uuid.UUID(edge["target"]).bytes} for edge in shown["relationships"]],
    } == unit
    assert shown["ts"] == format_ts(unit["ts"])


# Ids


@given(st.integers(0, MAX_TS))
@quick
def test_an_id_is_a_uuid_of_version_7_for_its_instant(ts: int) -> None:
    made = uuid.UUID(bytes=new_id(ts))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == ts // 1000
    assert (made.int >> 64 & 0xFFF) * 1000 // 4096 in (ts % 1000 - 1, ts % 1000)  # the fraction of the millisecond, rounded down


@given(st.integers(0, MAX_TS), st.integers(1, 5_000) | st.integers(1, 10**12))
@quick
def test_ids_sort_by_time_to_the_microsecond(ts: int, later: int) -> None:
    assert new_id(ts) < new_id(ts + later)
    assert str(uuid.UUID(bytes=new_id(ts))) < str(uuid.UUID(bytes=new_id(ts + later)))


def test_ids_of_one_instant_differ() -> None:
    assert len({new_id(TS) for _ in range(1000)}) == 1000


@given(st.binary(min_size=16, max_size=16))
@quick
def test_an_id_as_text_refers_to_it(unit_id: bytes) -> None:
    assert parse_ref(format_id(unit_id)) == unit_id
    assert parse_ref(format_id(unit_id).upper()) == unit_id
    assert parse_ref(unit_id) == unit_id


@pytest.mark.parametrize(("text", "seq"), [("1", 1), ("42", 42), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_digits_are_a_seq(text: str, seq: int) -> None:
    assert parse_ref(text) == seq
    assert parse_ref(seq) == seq


def test_32_digits_are_an_id() -> None:
    assert parse_ref("1" * 32) == uuid.UUID("1" * 32).bytes


@pytest.mark.parametrize("text", ["", " ", "-1", "1.5", "9" * 19, "x", "٣", str(ID)[:-1], str(ID) + "0", "z" * 32, "x" * 5000])
def test_other_text_is_no_reference(text: str) -> None:
    with pytest.raises(EngramError, match="neither a unit's id nor a seq") as caught:
        parse_ref(text)
    assert caught.value.code == "invalid"
    assert len(caught.value.message) < 150
