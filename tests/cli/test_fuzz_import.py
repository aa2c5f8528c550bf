"""What `engram import` reads: files that were exported, with faults in them. What it takes, the daemon's own validator takes too."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from fuzzing import NASTY, NUMBERS, SURROGATES, fuzz, mutated, nasty_text
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import LABELS, NAMES, units

from engram_cli.commands.import_ import CONTEXT_ITEM, UNIT, Item, _read
from engramd.protocol.errors import EngramError
from engramd.protocol.framing import decode, encode
from engramd.protocol.messages import OPERATIONS
from engramd.protocol.render import plain
from engramd.protocol.unit import is_id, new_id

pytestmark = pytest.mark.fuzz

Line = dict[str, Any]


@st.composite
def exported(draw: st.DrawFn) -> list[Line]:
    """Decoded items of an export."""
    items: list[Line] = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.integers(0, 5)) == 0:
            items.append({"context": {"id": draw(NAMES), "display_name": draw(st.text(max_size=5)), "meta": draw(LABELS)}})
            continue
        unit = draw(units()) | {"id": new_id(draw(st.integers(0, 2**48)))}
        unit["ts"] %= 2**50
        for edge in unit["relationships"]:
            edge["target"] = new_id(draw(st.integers(0, 2**48)))
        if draw(st.booleans()):
            unit |= {"contexts": draw(st.lists(NAMES, max_size=2)), "pinned": draw(st.lists(NAMES, max_size=1))}
        items.append(unit)
    return items


def as_lines(items: list[Line]) -> bytes:
    return b"".join(json.dumps(as_json(item)).encode() + b"\n" for item in items)


def as_json(item: Line) -> Line:
    return {**plain(item), **{name: item[name] for name in ("contexts", "pinned") if name in item}}


def as_cbor(items: list[Line]) -> bytes:
    return b"".join(map(encode, items))


def taken(data: bytes, format: str | None) -> tuple[list[Item], EngramError | None]:
    """The items that a file gives, and the error that ends it."""
    items: list[Item] = []
    try:
        for item in _read(io.BytesIO(data), format, lambda done: None):
            items.append(item)  # noqa: PERF402
    except EngramError as error:
        return items, error
    return items, None


def held(items: list[Item], error: EngramError | None) -> None:
    """Everything that was taken may be sent, and what was wrong is said so that it can be found and read."""
    for item in items:
        if "id" in item.fields:
            UNIT.check(item.fields)
            assert is_id(item.fields["id"])
            draft = {name: value for name, value in item.fields.items() if name not in ("context", "agent", "contexts", "pinned")}
            request = {"context": item.fields["context"], "agent": item.fields["agent"], "units": [draft]}
            OPERATIONS["put"].request.check(request)
            encode(request)
        else:
            CONTEXT_ITEM.check(item.fields)
            described = dict(item.fields["context"])
            OPERATIONS["context_create"].request.check({"context": described.pop("id"), **described})
    if error is not None:
        assert error.code in ("invalid", "too_large", "protocol")
        assert error.message.startswith(f"item {error.details['item']}: ")
        assert error.details["item"] > len(items)
        assert len(error.message) < 2000
        encode(error.to_wire())


FORMS = {"jsonl": as_lines, "cbor": as_cbor}
WORDS = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\ud800", b"\\u0000", b"\n", b"\r", b"\xff", b"\xef\xbb\xbf", b"null", b"true"),
    *(
        b"NaN",
        b"1e400",
        b"-0",
        b"9" * 5000,
        b"[" * 600 + b"]" * 600,
        b'{"a":' * 600 + b"1" + b"}" * 600,
        b'"payload_base64": "!"',
        b'"id": "1", ',
    ),
)


@given(exported(), st.sampled_from(sorted(FORMS)), st.booleans())
@fuzz(8)
def test_a_sound_export_is_taken_whole(items: list[Line], form: str, told: bool) -> None:
    found, error = taken(FORMS[form](items), form if told else None)
    assert error is None, error.message
    assert len(found) == len(items)
    held(found, error)
    other, _ = taken(FORMS["cbor" if form == "jsonl" else "jsonl"](items), None)
    assert [item.fields for item in other] == [item.fields for item in found], "both forms say the same"


@given(
    st.sampled_from(sorted(FORMS)).flatmap(lambda form: st.tuples(st.just(form), mutated(exported().map(FORMS[form]), WORDS))),
    st.booleans(),
)
@fuzz(30)
def test_a_fault_anywhere_is_found_or_does_no_harm(said: tuple[str, bytes], told: bool) -> None:
    form, data = said
    held(*taken(data, form if told else None))


@given(exported(), st.sampled_from(sorted(FORMS)))
@fuzz(3)
def test_a_file_cut_short_anywhere_gives_the_items_before_the_cut(items: list[Line], form: str) -> None:
    whole = FORMS[form](items)
    expected, _ = taken(whole, form)
    for end in range(0, len(whole), max(1, len(whole) // 200)):
        found, error = taken(whole[:end], form)
        held(found, error)
        assert [item.fields for item in found] == [item.fields for item in expected][: len(found)]
        assert len(found) == len(expected) or error is not None or end == 0 or whole[:end].endswith((b"\n", b"}")) or form == "cbor"


hurting = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from((*NASTY, *SURROGATES, *NUMBERS, 10**4000, 1e308, "", "x" * 5000, [], {}, [[]], {"\ud800": "x"}, {"a": {}})),
    nasty_text(SURROGATES),
)


@given(exported(), st.data())
@fuzz(30)
def test_a_member_that_hurts_is_refused_in_words(items: list[Line], data: st.DataObject) -> None:
    lines = [as_json(item) for item in items]
    at = data.draw(st.integers(0, len(lines) - 1))
    path = data.draw(st.sampled_from(sorted(lines[at]))) if data.draw(st.booleans()) else data.draw(nasty_text(SURROGATES))
    lines[at] = {**lines[at], path: data.draw(hurting)}
    held(*taken(b"".join(json.dumps(line).encode() + b"\n" for line in lines), None))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_is_refused_in_words_wherever_it_ends(opening: str) -> None:
    """Without Hypothesis, which gives more of a stack than programs have."""
    closing = "]" if opening == "[" else "}"
    for depth in (17, *range(100, 1100, 100), 100_000):
        _, error = taken(f'{{"a": {opening * depth}1{closing * depth}}}\n'.encode(), None)
        assert error is not None
        held([], error)


def test_a_member_that_is_there_twice_among_very_many_is_found_in_one_go() -> None:
    """This would not end if each were looked for among all others."""
    members = ", ".join(f'"{number}": 0' for number in range(300_000))
    _, error = taken(f'{{{members}, "299999": 1}}\n'.encode(), None)
    assert error is not None
    assert "'299999' is there twice" in error.message


@given(mutated(exported().map(as_cbor)))
@fuzz(15)
def test_items_of_a_cbor_file_end_where_the_strict_decoder_says(data: bytes) -> None:
    """Differential: the walker that cuts items off, and the decoder that reads them."""
    found, error = taken(data, "cbor")
    at = 0
    for item in found:
        decode(data[at : at + item.size])
        at += item.size
    if error is None:
        assert at == len(data)
