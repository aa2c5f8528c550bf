"""The validator of messages: valid ones with one value in them that is out of bounds, of another type, or made to hurt."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fuzzing import NASTY, NUMBERS, SURROGATES, fuzz, nasty_text, outcome
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import KINDS, places, records, replaced, valid

from engramd.protocol.messages import HELLO, NOTICES, OPERATIONS
from engramd.protocol.resources import problem
from engramd.protocol.schema import (
    Bool,
    Bytes,
    Choice,
    Const,
    Field,
    Int,
    ListOf,
    MapOf,
    Named,
    Null,
    Number,
    OneOf,
    Record,
    Resource,
    Text,
    Type,
)

pytestmark = pytest.mark.fuzz

RECORDS = {**{op: operation.request for op, operation in OPERATIONS.items()}, **NOTICES, "hello": HELLO}

deep: Any = "deep"
for _ in range(900):
    deep = [deep]

hurting = st.one_of(
    st.sampled_from((*KINDS, *NASTY, *SURROGATES, *NUMBERS, math.nan, math.inf, -math.inf, -0.0, 1e308, 10**400, -(10**5000))),
    st.sampled_from(("", "x" * 5000, "é" * 130, "\0" * 64, "/" * 4096, "@" + "\u202e", "9" * 64, b"", b"\0" * 15, b"\0" * 17, deep)),
    st.sampled_from(
        ([], [[]], {}, {"": ""}, {"\0": "x"}, {"\ud800": 1}, {1: 2}, {b"a": 1}, [None] * 1001, dict.fromkeys(map(str, range(65)), "x"))
    ),
    nasty_text(SURROGATES),
)


def holds(kind: Type, value: Any) -> bool:
    """Whether a value fits a type, by plain words of what each type is."""
    match kind:
        case Text():
            return (
                type(value) is str and utf8(value) and kind.least <= len(value.encode()) <= kind.most and (not kind.plain or plain(value))
            )
        case Resource():
            return holds(Text(4096, least=1), value) and problem(value) is None
        case Bytes():
            return type(value) is bytes and kind.least <= len(value) <= kind.most
        case Int():
            return type(value) is int and kind.least <= value <= kind.most
        case Number():
            return type(value) in (int, float) and kind.least <= value <= kind.most
        case Bool():
            return value is True or value is False
        case Null():
            return value is None
        case Const():
            return type(value) is type(kind.value) and value == kind.value
        case Choice():
            return type(value) is str and value in kind.options
        case ListOf():
            return type(value) is list and kind.least <= len(value) <= kind.most and all(holds(kind.item, one) for one in value)
        case MapOf():
            fits = type(value) is dict and len(value) <= kind.most
            return fits and all(holds(kind.key, key) and holds(kind.value, one) for key, one in value.items())
        case OneOf():
            return any(type(value) is accepted and holds(option, value) for accepted, option in kind.options)
        case Named():
            return holds(kind.type, value)
        case Record():
            if type(value) is not dict or not value.keys() <= kind.fields.keys():
                return False
            needed = {name for name, field in kind.fields.items() if field.required}
            return needed <= value.keys() and all(holds(kind.fields[name].type, one) for name, one in value.items())
    raise NotImplementedError(kind)


def utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def plain(text: str) -> bool:
    return text.isprintable() and not text.isspace()


def held_to_the_model(kind: Record, value: Any) -> None:
    _, code = outcome(lambda: kind.check(value))
    assert code in (("",) if holds(kind, value) else ("invalid", "too_large"))


@given(st.sampled_from(sorted(RECORDS)).flatmap(lambda op: st.tuples(st.just(op), records(RECORDS[op]))), hurting, st.data())
@fuzz(50)
def test_one_value_that_hurts(said: tuple[str, dict[str, Any]], wrong: Any, data: st.DataObject) -> None:
    op, fields = said
    path, _ = data.draw(st.sampled_from(list(places(RECORDS[op], fields))))
    held_to_the_model(RECORDS[op], replaced(fields, path, wrong))


@given(st.sampled_from(sorted(RECORDS)).flatmap(lambda op: st.tuples(st.just(op), records(RECORDS[op]))), st.data())
@fuzz(25)
def test_members_that_are_not_known_or_not_there(said: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    op, fields = said
    for _ in range(data.draw(st.integers(1, 2))):
        if fields and data.draw(st.booleans()):
            fields = {name: value for name, value in fields.items() if name != data.draw(st.sampled_from(sorted(fields)))}
        else:
            name = data.draw(nasty_text(SURROGATES) | st.sampled_from(sorted({*RECORDS["put"].fields, *RECORDS["list"].fields})))
            fields = {**fields, name: data.draw(hurting)}
    held_to_the_model(RECORDS[op], fields)


@given(hurting)
@fuzz(25)
def test_what_is_no_map_at_all(value: Any) -> None:
    for record in RECORDS.values():
        held_to_the_model(record, value)


@pytest.mark.parametrize("value", [10**400, -(10**5000), 2**64, math.nan, math.inf, -(2.0**70)], ids="abcdef")
def test_numbers_without_end(value: float) -> None:
    record = Record({"whole": Field(Int(), ""), "any": Field(Number(0, 1), "")})
    for name in record.fields:
        held_to_the_model(record, {name: value})


@pytest.mark.parametrize("op", sorted(RECORDS))
def test_the_models_fitting_values_fit(op: str) -> None:
    """So that the model cannot be right by refusing everything."""

    @given(valid(RECORDS[op]))  # type: ignore[arg-type]
    @fuzz(1)
    def check(value: Any) -> None:
        assert holds(RECORDS[op], value)  # type: ignore[arg-type]
        held_to_the_model(RECORDS[op], value)

    check()
