"""Answers that keep to their bytes, whatever is in them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.mcp.budget import Answer, Place, unit
from engramd.protocol.unit import Relationship, Unit

LEAST = 1024  # what --max-bytes allows

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
labels = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=32), texts, max_size=5)
payloads = st.one_of(
    st.binary(max_size=300),
    texts.map(str.encode),
    st.builds(lambda text, times: (text * times).encode(), texts, st.integers(1, 500)),
)


def made(seq: int, payload: bytes, meta: dict[str, str] | None = None, edges: int = 0) -> Unit:
    """A unit."""
    relationships = tuple(Relationship("causes", "0" * 36, {"why": "y" * 100}) for _ in range(edges))
    return Unit("0" * 36, seq, 10**15, "c", "me", "message", meta or {}, payload, relationships, seq, "c")


units = st.builds(made, st.integers(1, 10**6), payloads, labels, st.integers(0, 64))


@given(st.lists(units, max_size=30), st.integers(LEAST, 20_000), st.sampled_from(["first", "last"]))
def test_an_answer_never_passes_its_budget_and_says_what_it_leaves_out(found: list[Unit], most: int, keep: Any) -> None:
    items = [{**unit(one, most), "place": Place(one.seq)} for one in found]
    text = Answer({"units": items, "after": "end"}, "units", keep).fit(most)
    assert len(text.encode()) <= most
    shown = json.loads(text)
    count = len(shown["units"])
    assert [one["seq"] for one in shown["units"]] == [
        one.seq for one in (found[:count] if keep == "first" else found[len(found) - count :])
    ]
    assert ("omitted" in shown) == (count < len(found))
    if count < len(found) and keep == "first":
        assert shown["after"] == (found[count - 1].seq if count else "end")
    for item, one in zip(shown["units"], found[:count] if keep == "first" else found[len(found) - count :], strict=True):
        if "omitted" in item:
            continue
        whole = item.get("text", "").encode() or base64.b64decode(item.get("payload_base64", ""))
        assert one.payload.startswith(whole)
        assert ("cut" in item) == (whole != one.payload)


@given(payloads, st.integers(LEAST, 3000))
def test_the_pieces_of_a_payload_make_the_whole(payload: bytes, most: int) -> None:
    offset, pieces = 0, b""
    while True:
        text = Answer({"units": [unit(made(7, payload), most, offset)]}, "units").fit(most)
        (shown,) = json.loads(text)["units"]
        pieces += shown["text"].encode() if "text" in shown else base64.b64decode(shown["payload_base64"])
        if "the rest" not in shown.get("cut", ""):
            break
        following = json.loads(shown["cut"].split("get ", 1)[1])
        assert following["ids"] == [7]
        assert following["offset"] > offset
        offset = following["offset"]
    assert pieces == payload


@given(st.binary(max_size=50), st.integers(0, 60))
def test_any_offset_gives_what_lies_behind_it(payload: bytes, offset: int) -> None:
    (shown,) = json.loads(Answer({"units": [unit(made(7, payload), 5000, offset)]}, "units").fit(5000))["units"]
    given = shown["text"].encode() if "text" in shown else base64.b64decode(shown["payload_base64"])
    rest = payload[offset:]
    assert rest.endswith(given)
    assert len(rest) - len(given) < 4, "only the rest of a character is left out"


trees = st.recursive(
    st.one_of(st.none(), st.integers(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=12), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=30,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), trees, max_size=4), st.integers(LEAST, 4000))
def test_anything_else_keeps_to_it_too(members: dict[str, Any], most: int) -> None:
    assert len(Answer(members).fit(most).encode()) <= most


@pytest.mark.parametrize("count", [1, 5, 100])
def test_units_that_are_all_head_are_named(count: int) -> None:
    heavy = made(5, b"text", {f"{number:0100}": "v" * 4000 for number in range(64)}, edges=64)
    text = Answer({"units": [unit(heavy, LEAST)] * count, "after": 9}, "units").fit(LEAST)
    shown = json.loads(text)["units"]
    assert len(text.encode()) <= LEAST
    assert shown[0]["seq"] == 5
    assert "engram get" in shown[0]["omitted"]
