"""How what travels is shown, and that nothing which is shown can do anything to a terminal."""

from __future__ import annotations

import json
import re
import unicodedata
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_strategies import units

from engramd.protocol.render import for_terminal, in_line, json_line, plain, unit_line, unit_text
from engramd.protocol.times import MAX_TS, format_ts
from engramd.protocol.unit import unit_json

quick = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
# Everything that a terminal might obey is a control, or invisible: categories Cc, Cf, Zl and Zp of Unicode.
nasty = st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp"]) | st.sampled_from("ab\\é\n\t\x1b\u202e"), max_size=20)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
ID = uuid.UUID("0199c0de-0000-7000-8000-000000000001")


def _safe(text: str, allowed: str = "") -> bool:
    return not any(unicodedata.category(char) in ("Cc", "Zl", "Zp") or char in BIDI for char in text if char not in allowed)


def _read_back(text: str) -> str:
    """The inverse of `in_line`, by the words of its documentation."""
    short = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
    return re.sub(
        r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))",
        lambda found: short[found[4]] if found[4] else chr(int(found[1] or found[2] or found[3], 16)),
        text,
    )


@given(nasty | st.text(max_size=20))
@quick
def test_a_terminal_gets_nothing_that_it_could_obey(text: str) -> None:
    assert _safe(for_terminal(text), "\t\n")
    assert _safe(in_line(text))
    assert _safe(json_line({"text": text, text: 1}))


@given(nasty | st.text(max_size=20))
@quick
def test_a_field_can_be_read_back(text: str) -> None:
    assert _read_back(in_line(text)) == text


FILLERS = "\u115f\u1160\u3164\uffa0"  # letters, to Unicode, that show as nothing at all


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters=FILLERS), max_size=20))
@quick
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert for_terminal(text) == text
    assert in_line(text) == text.replace("\\", "\\\\")
    assert json_line(text) == json.dumps(text, ensure_ascii=False)


def test_what_shows_as_nothing_is_shown() -> None:
    hidden = f"{FILLERS}\u00ad\u034f\U000e0041"
    assert for_terminal(hidden) == "\\u115f\\u1160\\u3164\\uffa0\\u00ad\\u034f\\U000e0041"
    assert json.loads(json_line(hidden)) == hidden
    assert json_line(hidden).isascii()


@pytest.mark.parametrize(
    ("text", "terminal", "line"),
    [
        ("a\tb\nc", "a\tb\nc", "a\\tb\\nc"),
        ("a\\b", "a\\b", "a\\\\b"),
        ("\x1b[2J", "\\x1b[2J", "\\x1b[2J"),
        ("a\rb", "a\\rb", "a\\rb"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\u009b", "\\x00\\x7f\\u009b"),
        ("a\u202eb\u2028", "a\\u202eb\\u2028", "a\\u202eb\\u2028"),
        ("é😀", "é😀", "é😀"),
    ],
)
def test_escapes(text: str, terminal: str, line: str) -> None:
    assert for_terminal(text) == terminal
    assert in_line(text) == line


@given(
    st.recursive(nasty | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(nasty, inner, max_size=3))
)
@quick
def test_json_is_one_line_and_says_the_same(value: Any) -> None:
    line = json_line(value)
    assert len(line.splitlines()) == 1
    assert json.loads(line) == value


# Units


@given(units())
@quick
def test_a_unit_is_one_line_of_five_fields(unit: dict[str, Any]) -> None:
    unit = {**unit, "ts": unit["ts"] % MAX_TS}
    fields = unit_line(unit).split("\t")
    assert fields[:4] == [str(unit.get("entry", unit["seq"])), format_ts(unit["ts"]), unit["agent"], unit["type"]]
    assert len(fields) == 5
    assert _safe(fields[4])
    if "text" in unit:
        assert _read_back(fields[4]) == unit["text"] == unit_text(unit)


def test_bytes_that_are_not_text() -> None:
    unit = {"seq": 7, "ts": 0, "agent": "ann", "type": "error", "payload": b"a\xff\\xff\n\xc3\xa9"}
    assert unit_text(unit) == "a\\xff\\xff\né"
    assert unit_line(unit) == "7\t1970-01-01T00:00:00.000000Z\tann\terror\ta\\xff\\\\xff\\né"  # one of them was a backslash


# Answers


@given(units())
@quick
def test_an_answers_units_are_shown_as_units(unit: dict[str, Any]) -> None:
    unit = {**unit, "ts": unit["ts"] % MAX_TS}
    assert plain({"units": [unit, unit], "next": None}) == {"units": [unit_json(unit)] * 2, "next": None}


def test_ids_and_instants_of_an_answer() -> None:
    answer = {"id": ID.bytes, "ids": [ID.bytes], "seq": 7, "ts": 0, "first_seen": None, "hash": b"\x01\xff", "deduped": False}
    assert plain(answer) == {
        "id": str(ID),
        "ids": [str(ID)],
        "seq": 7,
        "ts": "1970-01-01T00:00:00.000000Z",
        "first_seen": None,
        "hash": "01ff",
        "deduped": False,
    }


def test_labels_may_have_the_names_of_a_units_members() -> None:
    labels = {"seq": "1", "relationships": "many", "ts": "noon", "id": "x"}
    assert plain({"context": {"id": "c", "meta": labels}}) == {"context": {"id": "c", "meta": labels}}
