"""Filters against the plain words of their definition."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engramd.state.filters import EVERYTHING, Filter

UNIT: dict[str, Any] = {
    "agent": "ann",
    "type": "error",
    "ts": 100,
    "meta": {"a": "1", "b": "2"},
    "relationships": [{"type": "causes", "target": b"one", "meta": {}}, {"type": "modifies", "target": b"two", "meta": {}}],
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Filter(), True),
        (Filter(agents=frozenset({"ann"})), True),
        (Filter(agents=frozenset({"bob", "ann"})), True),
        (Filter(agents=frozenset({"bob"})), False),
        (Filter(types=frozenset({"error", "message"})), True),
        (Filter(types=frozenset({"message"})), False),
        (Filter(meta=(("a", "1"),)), True),
        (Filter(meta=(("a", "1"), ("b", "2"))), True),
        (Filter(meta=(("a", "1"), ("b", "1"))), False),
        (Filter(meta=(("c", "1"),)), False),
        (Filter(related_to=b"two"), True),
        (Filter(related_to=b"three"), False),
        (Filter(agents=frozenset({"ann"}), types=frozenset({"message"})), False),
    ],
)
def test_what_a_filter_lets_through(condition: Filter, expected: bool) -> None:
    assert condition.matches(UNIT) is expected


few = st.sampled_from(["a", "b", "c"])
filters = st.builds(
    Filter,
    agents=st.frozensets(few, max_size=2),
    types=st.frozensets(few, max_size=2),
    meta=st.dictionaries(few, few, max_size=2).map(lambda meta: tuple(meta.items())),
    related_to=st.none() | st.sampled_from([b"x", b"y"]),
)
units = st.fixed_dictionaries(
    {
        "agent": few,
        "type": few,
        "ts": st.integers(0, 3),
        "meta": st.dictionaries(few, few, max_size=3),
        "relationships": st.lists(st.fixed_dictionaries({"target": st.sampled_from([b"x", b"y", b"z"])}), max_size=2),
    }
)


@given(filters, units)
@settings(deadline=None, max_examples=300)
def test_every_condition_must_hold(condition: Filter, unit: dict[str, Any]) -> None:
    one_at_a_time = [Filter(**{name: value}) for name, value in condition._asdict().items()]
    assert condition.matches(unit) == all(single.matches(unit) for single in one_at_a_time)
    assert condition.matches(unit) == (
        unit["agent"] in (condition.agents or {unit["agent"]})
        and unit["type"] in (condition.types or {unit["type"]})
        and set(condition.meta) <= set(unit["meta"].items())
        and condition.related_to in (None, *(edge["target"] for edge in unit["relationships"]))
    )


@given(filters, units)
@settings(deadline=None, max_examples=100)
def test_an_empty_filter_lets_everything_through(condition: Filter, unit: dict[str, Any]) -> None:
    assert condition.is_empty() == (condition == EVERYTHING)
    assert condition.is_empty() == (not any((condition.agents, condition.types, condition.meta)) and condition.related_to is None)
    assert EVERYTHING.matches(unit)
