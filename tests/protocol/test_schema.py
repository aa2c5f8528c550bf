"""Each type's check, and what its error tells the caller."""

from __future__ import annotations

from typing import Any

import pytest

from engramd.protocol.errors import EngramError
from engramd.protocol.schema import Any_, Bool, Bytes, Choice, Field, Int, ListOf, MapOf, Null, OneOf, Record, Text, Type, require_one

NAME = Text(8, least=1, plain=True)
PAIR = Record({"a": Field(Int(), "one", required=True), "b": Field(NAME, "two")})

FITS: list[tuple[Type, Any]] = [
    (Text(4), ""),
    (Text(4), "four"),
    (Text(4), "éé"),
    (Text(4), "😀"),
    (Text(4), "\x00\n"),
    (NAME, "a b"),
    (NAME, "é:/…"),
    (Bytes(3), b""),
    (Bytes(3), b"abc"),
    (Bytes(2, least=2), b"ab"),
    (Int(), 0),
    (Int(), 2**63 - 1),
    (Int(1, 3), 1),
    (Int(1, 3), 3),
    (Bool(), True),
    (Bool(), False),
    (Null(), None),
    (Any_("any"), object()),
    (Choice(("a", "b")), "b"),
    (ListOf(Int(), 2), []),
    (ListOf(Int(), 2), [1, 2]),
    (MapOf(NAME, Int(), 2), {}),
    (MapOf(NAME, Int(), 2), {"a": 1, "b": 2}),
    (OneOf(((str, NAME), (int, Int(1)))), "a"),
    (OneOf(((str, NAME), (int, Int(1)))), 1),
    (OneOf(((str, NAME), (type(None), Null()))), None),
    (PAIR, {"a": 1}),
    (PAIR, {"b": "x", "a": 1}),
]


@pytest.mark.parametrize(("kind", "value"), FITS)
def test_what_fits(kind: Type, value: Any) -> None:
    kind.check(value, "it")


NOT_TEXT = [None, True, 5, 1.5, b"x", [], {}]
REFUSED: list[tuple[Type, Any, str]] = [
    *((Text(4), value, "it: must be text, not ") for value in NOT_TEXT),
    (Text(4, least=1), "", "it: must not be empty"),
    (Text(4), "\ud800", "it: is not valid UTF-8"),
    *(
        (NAME, value, "it: must not contain control or invisible characters")
        for value in ("a\n", "\x00", "\x1b[0m", "a\u200bb", "\u202e", "a\u00a0b")
    ),
    (NAME, "   ", "it: must not be blank"),
    *((Bytes(4), value, "it: must be bytes, not ") for value in (None, True, 5, 1.5, "x", [], {}, bytearray(b"x"))),
    (Bytes(2, least=2), b"a", "it: must "),
    *((Int(), value, "it: must be an integer, not ") for value in (None, True, False, 1.0, "1", b"1", [], {})),
    *((Int(1, 3), value, "it: must be from 1 to 3, not ") for value in (0, 4, -1, 2**64)),
    *((Bool(), value, "it: must be true or false, not ") for value in (None, 0, 1, "true", [])),
    *((Null(), value, "it: must be null, not ") for value in (False, 0, "", [], {})),
    *((Choice(("a", "b")), value, "it: must be one of a, b; not ") for value in ("c", "", "A", None, 5, ["a"])),
    *((ListOf(Int(), 2), value, "it: must be a list, not ") for value in (None, 5, "ab", b"ab", {}, (1, 2))),
    (ListOf(Int(), 2, least=1), [], "it: must not be empty"),
    (ListOf(Int(), 2), [1, "x"], "it[1]: must be an integer, not text"),
    (ListOf(PAIR, 2), [{"a": 1}, {"a": 1, "b": "\n"}], "it[1].b: must not contain"),
    *((MapOf(NAME, Int(), 2), value, "it: must be a map, not ") for value in (None, 5, "ab", [], [("a", 1)])),
    (MapOf(NAME, Int(), 2), {"": 1}, "it, a key: must not be empty"),
    (MapOf(NAME, Int(), 2), {b"a": 1}, "it, a key: must be text, not bytes"),
    (MapOf(NAME, Int(), 2), {"a": "x"}, "it.a: must be an integer, not text"),
    (OneOf(((str, NAME), (int, Int(1)))), None, "it: must be text or an integer, not null"),
    (OneOf(((str, NAME), (int, Int(1)))), True, "it: must be text or an integer, not a boolean"),
    (OneOf(((str, NAME), (int, Int(1)))), 0, "it: must be from 1 to "),
    (OneOf(((str, NAME), (int, Int(1)))), "", "it: must not be empty"),
    *((PAIR, value, "it: must be a map, not ") for value in (None, 5, "ab", [])),
    (PAIR, {}, "it.a: is required"),
    (PAIR, {"a": None}, "it.a: must be an integer, not null"),
    (PAIR, {"a": 1, "c": 2}, "it.c: unknown field; known are a, b"),
    (Record({}), {"c": 2}, "it.c: unknown field; known are none"),
]


@pytest.mark.parametrize(("kind", "value", "message"), REFUSED)
def test_what_is_refused(kind: Type, value: Any, message: str) -> None:
    with pytest.raises(EngramError) as caught:
        kind.check(value, "it")
    error = caught.value
    assert error.code == "invalid"
    assert error.message.startswith(message)
    assert error.details == {"field": error.message.partition(":")[0]}


LARGE: list[tuple[Type, Any, int, int]] = [
    (Text(4), "fives", 4, 5),
    (Text(4), "ééé", 4, 6),
    (NAME, "x" * 9, 8, 9),
    (Bytes(3), b"four", 3, 4),
    (ListOf(Int(), 2), [1, 2, 3], 2, 3),
    (MapOf(NAME, Int(), 2), {"a": 1, "b": 2, "c": 3}, 2, 3),
]


@pytest.mark.parametrize(("kind", "value", "limit", "size"), LARGE)
def test_what_is_too_large_names_the_limit(kind: Type, value: Any, limit: int, size: int) -> None:
    with pytest.raises(EngramError) as caught:
        kind.check(value, "it")
    assert caught.value.code == "too_large"
    assert caught.value.message.startswith("it: ")
    assert caught.value.details == {"field": "it", "limit": limit, "size": size}


def test_a_refused_choice_is_quoted_in_part_only() -> None:
    with pytest.raises(EngramError) as caught:
        Choice(("a",)).check("x" * 5000, "it")
    assert len(caught.value.message) < 100


def test_without_a_name_a_records_errors_start_with_the_member() -> None:
    with pytest.raises(EngramError, match=r"^a: is required"):
        PAIR.check({})
    with pytest.raises(EngramError, match=r"^request: must be a map"):
        PAIR.check([])


def test_the_schema_as_cddl() -> None:
    assert Text(4, least=1).cddl() == "tstr .size (1..4)"
    assert Bytes(4).cddl() == "bstr .size (0..4)"
    assert Int(1, 3).cddl() == "1..3"
    assert (Bool().cddl(), Null().cddl(), Any_("unit").cddl()) == ("bool", "nil", "unit")
    assert Choice(("a", "b")).cddl() == '"a" / "b"'
    assert ListOf(Int(1, 3), 9, least=1).cddl() == "[1*9 (1..3)]"
    assert MapOf(Text(4), Bool(), 9).cddl() == "{ 0*9 (tstr .size (0..4)) => (bool) }"
    assert OneOf(((bool, Bool()), (type(None), Null()))).cddl() == "(bool) / (nil)"
    assert Record({"a": Field(Bool(), "doc", required=True), "b": Field(Null(), "doc")}).cddl() == "{ a: bool, ? b: nil }"


def test_require_one() -> None:
    require_one({"a": 1, "c": 2}, "a", "b")
    with pytest.raises(EngramError, match="a or b: exactly one of these is needed"):
        require_one({"c": 2}, "a", "b")
    with pytest.raises(EngramError, match="a or b: only one of these may be given"):
        require_one({"a": None, "b": 2}, "a", "b")
