"""Counting: what every counter must hold for packs to keep their budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engramd.state.sizes import COUNTERS, Counter, estimate

PIECE = st.one_of(st.text(), st.text("aA0 .\n\té中🎉", max_size=60)).map(lambda text: "#" + text + "\n")


@pytest.mark.parametrize("counter", COUNTERS.values(), ids=COUNTERS)
@given(pieces=st.lists(PIECE, max_size=6))
def test_pieces_together_are_no_larger_than_one_by_one(counter: Counter, pieces: list[str]) -> None:
    assert counter.count is not None
    assert counter.count("".join(pieces)) <= sum(map(counter.count, pieces))


@pytest.mark.parametrize("counter", COUNTERS.values(), ids=COUNTERS)
@given(text=st.one_of(st.text(), st.text("a"), st.text(" "), st.text("\n"), st.integers(1, 10_000).map(lambda size: "a" * size)))
def test_a_text_is_not_much_longer_than_its_size(counter: Counter, text: str) -> None:
    assert counter.count is not None
    assert len(text) <= counter.count(text) * counter.most


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("", 0, 0),
        ("The quick brown fox jumps over the lazy dog.\n", 9, 13),
        ("for unit in engram.list('work', type=['task_status', 'error']):\n    print(unit.seq, unit.text)\n", 24, 36),
        ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n", 30, 50),
        ("解析器在遇到空文件时返回空列表。\n", 12, 24),
        ("🎉🔥🧵", 6, 12),
        (" " * 800, 50, 110),
    ],
)
def test_the_estimate_is_near_what_tokenizers_say(text: str, low: int, high: int) -> None:
    assert low <= estimate(text) <= high
